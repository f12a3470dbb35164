//! A client acknowledges what it has got.

use std::sync::Arc;

use kschat_protocol::{AckFrame, Er, Version};

use crate::{
    Clock,
    inbound::{Caller, Refused},
    ports::{Acks, Unavailable},
};

/// What [`ack`] needs.
#[derive(Clone)]
pub struct Deps {
    /// Tells the user's owner.
    pub acks: Arc<dyn Acks>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// Why an ack was not passed on.
#[derive(Debug, thiserror::Error)]
pub enum AckError {
    /// The user acknowledges too often.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The session's token has ended.
    #[error("the session has expired")]
    Expired,
    /// The owner can't be told.
    #[error("the user's owner is out of reach")]
    Broker(#[source] Unavailable),
}

impl AckError {
    /// The code for the client.
    #[must_use]
    pub const fn code(&self) -> Er {
        match self {
            Self::Refused(refused) => refused.code(),
            Self::Expired => Er::TokenExpired,
            Self::Broker(_) => Er::BrokerUnavailable,
        }
    }
}

/// Passes an ack on to whoever serves the connection's user. Only that user's messages can be meant: the owner
/// looks for the id among those that it has pushed to them.
///
/// # Errors
/// [`AckError`]; the client acknowledges again when the message comes again.
pub async fn ack(deps: &Deps, caller: &Caller, ack: &AckFrame) -> Result<(), AckError> {
    let session = &caller.session;
    if session.is_expired(deps.clock.now()) {
        return Err(AckError::Expired);
    }
    caller.check()?;
    // A client of the seed's kind that calls every callback it gets: for it the edge's word has counted.
    let is_callback = ack.message.is_none() && !ack.again;
    if is_callback && session.version == Version::Seed {
        return Ok(());
    }
    deps.acks.acked(&session.user, ack).await.map_err(AckError::Broker)
}
