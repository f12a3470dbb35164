//! The claims of a verified token.

use async_trait::async_trait;
use kschat_protocol::{ErrorCode, UserId};

use crate::Timestamp;

/// The claims of a verified token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// When the token expires, if it does.
    pub expires: Option<Timestamp>,
    /// The rooms that the token lists, where the deployment reads such a list.
    pub rooms: Option<Vec<String>>,
}

/// Why a token was refused. It never holds the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It doesn't verify, or a claim is missing.
    #[error("the token is invalid")]
    Invalid,
    /// It has expired.
    #[error("the token has expired")]
    Expired,
    /// It can't be verified now: the keys are unavailable.
    #[error("the token verification keys are unreachable")]
    NoKeys,
}

impl TokenError {
    /// The error code for the client.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Invalid => ErrorCode::TokenInvalid,
            Self::Expired => ErrorCode::TokenExpired,
            Self::NoKeys => ErrorCode::Internal,
        }
    }
}

/// Verifies tokens.
#[async_trait]
pub trait TokenVerifier: Send + Sync {
    /// Checks signature and claims.
    ///
    /// # Errors
    /// [`TokenError`] when the token is not valid.
    async fn verify(&self, token: &str) -> Result<Identity, TokenError>;
}
