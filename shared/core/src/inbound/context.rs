//! Dependencies and errors of requests and acks.

use std::sync::Arc;

use kschat_protocol::{ErrorCode, ServerFrame};

use super::caller::AuthError;
use crate::{
    Clock,
    ports::{ConnectionRegistry, OwnerChannel, PresenceStore, ReceiptStore, TokenError, TokenVerifier, Unavailable},
    rooms::{self, BindingError},
};

/// The dependencies of requests and acks.
#[derive(Clone)]
pub struct Deps {
    /// Renews sessions.
    pub registry: Arc<dyn ConnectionRegistry>,
    /// Verifies renewed tokens.
    pub verifier: Arc<dyn TokenVerifier>,
    /// Sends messages to the owners of users.
    pub owners: Arc<dyn OwnerChannel>,
    /// Stores delivered and read positions.
    pub receipts: Arc<dyn ReceiptStore>,
    /// Stores presence.
    pub presences: Arc<dyn PresenceStore>,
    /// The dependencies of rooms.
    pub rooms: rooms::Deps,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// Why a well-formed request failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The connection has ended meanwhile, or the registry has just lost it.
    #[error("the connection no longer has a session")]
    NoSession,
    /// The session or a limit refuses it.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The new token is not valid.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The new token belongs to another user.
    #[error("the token belongs to another user")]
    NotYou,
    /// The user is not allowed to do this.
    #[error("the user is not allowed to do that")]
    Forbidden,
    /// The user is in the maximum number of rooms.
    #[error("the user is in too many rooms")]
    TooManyRooms,
    /// The registry or another store is unavailable.
    #[error("the registry is unreachable")]
    Registry(#[source] Unavailable),
    /// The owner of a user can't be reached.
    #[error("a user's owner is unreachable")]
    Broker(#[source] Unavailable),
}

impl RequestError {
    /// The error code for the client.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            // The registry may have lost it, and its user's owner is about to restore it.
            Self::NoSession => ErrorCode::RegistryUnavailable,
            Self::Auth(error) => error.code(),
            Self::Token(error) => error.code(),
            Self::NotYou => ErrorCode::UserMismatch,
            Self::Forbidden => ErrorCode::Forbidden,
            Self::TooManyRooms => ErrorCode::TooManyRooms,
            Self::Registry(_) => ErrorCode::RegistryUnavailable,
            Self::Broker(_) => ErrorCode::BrokerUnavailable,
        }
    }

    /// Logs the error. Returns the reply: the usual one to a user beyond a limit, else the request's own.
    pub(crate) fn into_reply(self, failure: impl FnOnce(ErrorCode) -> ServerFrame) -> ServerFrame {
        let code = self.code();
        if code.is_server_fault() {
            tracing::warn!(er = code.number(), error = &self as &dyn std::error::Error, "a request failed");
        } else {
            tracing::info!(er = code.number(), error = %self, "a request was refused");
        }
        match self {
            Self::Auth(error @ AuthError::TooOften { .. }) => error.reply().into(),
            _ => failure(code),
        }
    }
}

impl From<BindingError> for RequestError {
    fn from(error: BindingError) -> Self {
        match error {
            BindingError::Registry(error) => Self::Registry(error),
            BindingError::Broker(error) => Self::Broker(error),
        }
    }
}
