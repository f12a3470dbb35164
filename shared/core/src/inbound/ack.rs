//! Handles acks of clients.

use kschat_protocol::{AckFrame, ProtocolVersion};

use super::{
    caller::Caller,
    context::{Deps, RequestError},
};
use crate::ports::OwnerMessage;

/// Forwards an ack to the owner of the caller's user. It can only concern that user's messages: the owner looks for the
/// id among those that it has pushed to the user. If it gets lost, the client acknowledges again after a redelivery.
pub(crate) async fn acknowledge(deps: &Deps, caller: &Caller, ack: AckFrame) -> Result<(), RequestError> {
    caller.authorize(deps.clock.now())?;
    let session = &caller.session;
    // A v1 client that calls every callback: for it the edge's answer has settled the message.
    let is_callback = ack.message.is_none() && !ack.redelivery_requested;
    if is_callback && session.version == ProtocolVersion::V1 {
        return Ok(());
    }
    deps.owners.send(&session.user, OwnerMessage::Ack(ack)).await.map_err(RequestError::Broker)
}
