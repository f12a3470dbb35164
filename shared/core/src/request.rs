//! A client asks for something else than to send or to acknowledge.

use std::sync::Arc;

use kschat_protocol::{AuthReply, ConnectionId, Er, Request};

use crate::{
    Clock, Session,
    ports::{ConnectionRegistry, Pokes, TokenError, TokenVerifier, Unavailable},
    renew,
};

/// What [`answer`] needs.
#[derive(Clone)]
pub struct Deps {
    /// Tells who is behind the connection.
    pub registry: Arc<dyn ConnectionRegistry>,
    /// Tells who bears a fresh token.
    pub verifier: Arc<dyn TokenVerifier>,
    /// Tells the user's owner to look again.
    pub pokes: Arc<dyn Pokes>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// Why a well-formed request was not granted.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nobody is known behind the connection.
    #[error("the connection has no session")]
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
            Self::Registry(_) => Er::RegistryUnavailable,
            Self::Broker(_) => Er::BrokerUnavailable,
        }
    }
}

/// Does what a client asks for. Says how it went, and what the client hears of it, if anything.
pub async fn answer(deps: &Deps, connection: &ConnectionId, request: &Request) -> (Er, Option<String>) {
    let answered = match request {
        Request::Auth { token } => renew::renew(deps, connection, token).await.map(Some),
    };
    let error = match answered {
        Ok(frame) => return (Er::Ok, frame),
        Err(error) => error,
    };
    let code = error.code();
    if code.is_ours() {
        tracing::warn!(er = code.number(), error = &error as &dyn std::error::Error, "a request failed");
    } else {
        tracing::info!(er = code.number(), %error, "a request is refused");
    }
    let frame = match request {
        Request::Auth { .. } => AuthReply::failed(code),
    };
    (code, Some(frame))
}

/// Who is behind the connection, whether or not the token has ended.
pub(crate) async fn session(deps: &Deps, connection: &ConnectionId) -> Result<Session, RequestError> {
    let session = deps.registry.session(connection).await.map_err(RequestError::Registry)?;
    session.ok_or(RequestError::NoSession)
}
