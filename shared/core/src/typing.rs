//! A client says that its user is writing to somebody.

use kschat_protocol::{JsonId, Notice, UserId};

use crate::{
    Session,
    request::{Deps, RequestError},
};

/// Has it shown to the other one, who may not be there: then nobody misses it.
pub(crate) async fn typing(deps: &Deps, session: &Session, to: &UserId, on: bool) -> Result<(), RequestError> {
    let notice = Notice::Typing { from: JsonId::from(&session.user), on };
    deps.notices.notify(to, &notice).await.map_err(RequestError::Broker)
}
