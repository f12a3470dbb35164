//! Handles requests other than sends and acks.
//!
//! Each kind of request has a module, whose function takes the session and returns the reply, if there is one.

use kschat_protocol::{AuthReply, ErrorCode, ErrorFrame, Request, RoomOp, RoomReply, ServerFrame};

use super::{caller::Caller, presence, receipts, renew, rooms, typing};

pub use super::context::{Deps, RequestError};

/// Handles a request. Returns the outcome, and the reply, if there is one.
pub async fn handle_request(deps: &Deps, caller: &Caller, request: &Request) -> (ErrorCode, Option<ServerFrame>) {
    match execute(deps, caller, request).await {
        Ok(reply) => (ErrorCode::Ok, reply),
        Err(error) => (error.code(), Some(error.into_reply(|code| failure_reply(request, code)))),
    }
}

/// The reply to a request that failed.
#[must_use]
pub fn failure_reply(request: &Request, code: ErrorCode) -> ServerFrame {
    match request {
        Request::Auth { .. } => AuthReply::failed(code),
        Request::Join { gid, .. } => RoomReply::of(RoomOp::Join, Some(gid.clone()), code),
        Request::Leave { gid, .. } => RoomReply::of(RoomOp::Leave, Some(gid.clone()), code),
        Request::Rooms => RoomReply::of(RoomOp::List, None, code),
        _ => ErrorFrame::new(code).into(),
    }
}

async fn execute(deps: &Deps, caller: &Caller, request: &Request) -> Result<Option<ServerFrame>, RequestError> {
    match request {
        // An expired session may be renewed, too.
        Request::Auth { .. } => caller.check_limits()?,
        _ => caller.authorize(deps.clock.now())?,
    }
    let session = &caller.session;
    match request {
        Request::Auth { token } => renew::renew(deps, caller, token).await.map(Some),
        Request::Typing { to, on } => typing::typing(deps, session, to, *on).await.map(|()| None),
        Request::Read { peer, pid, message } => {
            receipts::mark_read(deps, session, peer, pid, message).await.map(|()| None)
        }
        Request::Status { peers } => receipts::receipt_status(deps, session, peers).await.map(Some),
        Request::Presence { users } => presence::presence(deps, session, users).await.map(Some),
        Request::Join { room, gid } => rooms::join(&deps.rooms, session, room, gid).await.map(Some),
        Request::Leave { room, gid } => rooms::leave(&deps.rooms, session, room, gid).await.map(Some),
        Request::Rooms => rooms::list(&deps.rooms, session).await.map(Some),
    }
}
