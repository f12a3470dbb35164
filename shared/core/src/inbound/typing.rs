//! Handles typing events.

use kschat_protocol::{EphemeralEvent, JsonId, UserId};

use crate::{
    Session,
    inbound::context::{Deps, RequestError},
    ports::OwnerMessage,
};

/// Forwards the event to the other user, who may be offline: then it is dropped.
pub(crate) async fn typing(deps: &Deps, session: &Session, to: &UserId, on: bool) -> Result<(), RequestError> {
    let event = EphemeralEvent::Typing { from: JsonId::from(&session.user), on };
    deps.owners.send(to, OwnerMessage::Event(event)).await.map_err(RequestError::Broker)
}
