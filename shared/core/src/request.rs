//! A client asks for something else than to send or to acknowledge.

use std::sync::Arc;

use kschat_protocol::{AuthReply, Er, ErrorFrame, Request, RoomOp, RoomReply};

use crate::{
    Clock, Session,
    inbound::{Caller, Refused},
    ports::{ConnectionRegistry, Notices, Pokes, Presences, Receipts, TokenError, TokenVerifier, Unavailable},
    presence::presence,
    receipts,
    renew::renew,
    rooms,
    typing::typing,
};

/// So many users whom a request asks about count as one more request: the registry looks up each of them.
const USERS_A_REQUEST: usize = 10;

/// What [`answer`] needs.
#[derive(Clone)]
pub struct Deps {
    /// Renews sessions.
    pub registry: Arc<dyn ConnectionRegistry>,
    /// Tells who bears a fresh token.
    pub verifier: Arc<dyn TokenVerifier>,
    /// Tells the user's owner to look again.
    pub pokes: Arc<dyn Pokes>,
    /// Remembers who has got and read what.
    pub receipts: Arc<dyn Receipts>,
    /// Remembers who is there.
    pub presences: Arc<dyn Presences>,
    /// Rooms.
    pub rooms: rooms::Deps,
    /// Tells other users.
    pub notices: Arc<dyn Notices>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// Why a well-formed request was not granted.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The connection has ended meanwhile, or the registry has just lost it.
    #[error("the connection has no session any more")]
    NoSession,
    /// The session's token has ended.
    #[error("the session has expired")]
    Expired,
    /// The fresh token must not be believed.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The fresh token is another user's.
    #[error("the token is another user's")]
    NotYou,
    /// The user asks too often.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It is not allowed to this user.
    #[error("the user may not do that")]
    Forbidden,
    /// The user is in as many rooms as one may be in.
    #[error("the user is in too many rooms")]
    TooManyRooms,
    /// Nobody can be looked up, or nothing noted.
    #[error("the registry is out of reach")]
    Registry(#[source] Unavailable),
    /// The owner of a user can't be told.
    #[error("a user's owner is out of reach")]
    Broker(#[source] Unavailable),
}

impl RequestError {
    /// The code for the client.
    #[must_use]
    pub const fn code(&self) -> Er {
        match self {
            // The registry may have lost it, and its user's owner is about to restore it.
            Self::NoSession => Er::RegistryUnavailable,
            Self::Expired => Er::TokenExpired,
            Self::Token(error) => error.code(),
            Self::NotYou => Er::NotYou,
            Self::Refused(refused) => refused.code(),
            Self::Forbidden => Er::Forbidden,
            Self::TooManyRooms => Er::TooManyRooms,
            Self::Registry(_) => Er::RegistryUnavailable,
            Self::Broker(_) => Er::BrokerUnavailable,
        }
    }
}

/// Does what a client asks for. Says how it went, and what the client hears of it, if anything.
pub async fn answer(deps: &Deps, caller: &Caller, request: &Request) -> (Er, Option<String>) {
    let error = match grant(deps, caller, request).await {
        Ok(frame) => return (Er::Ok, frame),
        Err(error) => error,
    };
    let code = error.code();
    if code.is_ours() {
        tracing::warn!(er = code.number(), error = &error as &dyn std::error::Error, "a request failed");
    } else {
        tracing::info!(er = code.number(), %error, "a request is refused");
    }
    let frame = match error {
        RequestError::Refused(refused) => ErrorFrame::rate_limited(refused.retry().unwrap_or_default()).to_text(),
        _ => refusal(request, code),
    };
    (code, Some(frame))
}

/// The frame that tells a client that its request has failed.
#[must_use]
pub fn refusal(request: &Request, code: Er) -> String {
    match request {
        Request::Auth { .. } => AuthReply::failed(code),
        Request::Join { gid, .. } => RoomReply::of(RoomOp::Join, Some(gid.clone()), code),
        Request::Leave { gid, .. } => RoomReply::of(RoomOp::Leave, Some(gid.clone()), code),
        Request::Rooms => RoomReply::of(RoomOp::List, None, code),
        _ => ErrorFrame::new(code).to_text(),
    }
}

/// As how many requests one counts.
pub(crate) fn weight(request: &Request) -> u32 {
    let asked = match request {
        Request::Status { peers } => peers.len(),
        Request::Presence { users } => users.len(),
        _ => 0,
    };
    u32::try_from(asked / USERS_A_REQUEST).unwrap_or(u32::MAX).saturating_add(1)
}

async fn grant(deps: &Deps, caller: &Caller, request: &Request) -> Result<Option<String>, RequestError> {
    caller.check()?;
    if let Request::Auth { token } = request {
        return renew(deps, caller, token).await.map(Some);
    }
    if caller.session.is_expired(deps.clock.now()) {
        return Err(RequestError::Expired);
    }
    grant_to(deps, &caller.session, request).await
}

async fn grant_to(deps: &Deps, session: &Session, request: &Request) -> Result<Option<String>, RequestError> {
    match request {
        // It was dealt with before, as it needs no good session.
        Request::Auth { .. } => Ok(None),
        Request::Typing { to, on } => typing(deps, session, to, *on).await.map(|()| None),
        Request::Read { peer, pid, message } => receipts::read(deps, session, peer, pid, message).await.map(|()| None),
        Request::Status { peers } => receipts::status(deps, session, peers).await.map(Some),
        Request::Presence { users } => presence(deps, session, users).await.map(Some),
        Request::Join { room, gid } => rooms::join(&deps.rooms, session, room, gid).await.map(Some),
        Request::Leave { room, gid } => rooms::leave(&deps.rooms, session, room, gid).await.map(Some),
        Request::Rooms => rooms::list(&deps.rooms, session).await.map(Some),
    }
}
