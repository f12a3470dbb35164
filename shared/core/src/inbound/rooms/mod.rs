//! Handles joins and leaves of rooms.

use kschat_protocol::{ErrorCode, JsonId, RoomId, RoomOp, RoomReply, ServerFrame};

use super::context::RequestError;
use crate::{
    Session,
    rooms::{Deps, ensure_bound, reconcile_binding},
};

/// Maximum rooms per user.
const MAX_ROOMS_PER_USER: usize = 100;

/// Adds the session's user to a room.
pub(crate) async fn join(
    deps: &Deps,
    session: &Session,
    room: &RoomId,
    gid: &JsonId,
) -> Result<ServerFrame, RequestError> {
    if !deps.policy.may_join(session, room).await.map_err(RequestError::Registry)? {
        return Err(RequestError::Forbidden);
    }
    // The registry is written first: an owner that finds the membership does not remove the queue.
    if !deps.memberships.join(&session.user, room, MAX_ROOMS_PER_USER).await.map_err(RequestError::Registry)? {
        return Err(RequestError::TooManyRooms);
    }
    ensure_bound(deps, &session.user, room).await?;
    Ok(RoomReply::of(RoomOp::Join, Some(gid.clone()), ErrorCode::Ok))
}

/// Removes the session's user from a room. The membership changes first here, too: a concurrent bind reads it once more
/// afterwards. If this process dies before the queue is unbound, the client gets no reply and tries again. The owner
/// also unbinds left rooms when it next opens the queue.
pub(crate) async fn leave(
    deps: &Deps,
    session: &Session,
    room: &RoomId,
    gid: &JsonId,
) -> Result<ServerFrame, RequestError> {
    deps.memberships.leave(&session.user, room).await.map_err(RequestError::Registry)?;
    reconcile_binding(deps, &session.user, room, false).await?;
    Ok(RoomReply::of(RoomOp::Leave, Some(gid.clone()), ErrorCode::Ok))
}

/// Lists the rooms of the session's user.
pub(crate) async fn list(deps: &Deps, session: &Session) -> Result<ServerFrame, RequestError> {
    let rooms = deps.memberships.rooms(&session.user).await.map_err(RequestError::Registry)?;
    Ok(RoomReply::list(rooms))
}

#[cfg(test)]
mod races;
