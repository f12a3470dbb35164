//! A client acknowledges what it has got.

use std::sync::Arc;

use kschat_protocol::{AckFrame, ConnectionId, Er, Version};

use crate::{
    Clock,
    ports::{Acks, ConnectionRegistry, Unavailable},
};

/// What [`ack`] needs.
#[derive(Clone)]
pub struct Deps {
    /// Tells who is behind the connection.
    pub registry: Arc<dyn ConnectionRegistry>,
    /// Tells the user's owner.
    pub acks: Arc<dyn Acks>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// Why an ack was not passed on.
#[derive(Debug, thiserror::Error)]
pub enum AckError {
    /// Nobody is known behind the connection.
    #[error("the connection has no session")]
    NoSession,
    /// The session's token has ended.
    #[error("the session has expired")]
    Expired,
    /// The session can't be looked up.
    #[error("the registry is out of reach")]
    Registry(#[source] Unavailable),
    /// The owner can't be told.
    #[error("the user's owner is out of reach")]
    Broker(#[source] Unavailable),
}

impl AckError {
    /// The code for the client.
    #[must_use]
    pub const fn code(&self) -> Er {
        match self {
            // The registry may have lost it, and its user's owner is about to restore it.
            Self::NoSession => Er::RegistryUnavailable,
            Self::Expired => Er::TokenExpired,
            Self::Registry(_) => Er::RegistryUnavailable,
            Self::Broker(_) => Er::BrokerUnavailable,
        }
    }
}

/// Passes an ack on to whoever serves the connection's user. Only that user's messages can be meant: the owner
/// looks for the id among those that it has pushed to them.
///
/// # Errors
/// [`AckError`]; the client acknowledges again when the message comes again.
pub async fn ack(deps: &Deps, connection: &ConnectionId, ack: &AckFrame) -> Result<(), AckError> {
    let session = deps.registry.session(connection).await.map_err(AckError::Registry)?;
    let session = session.ok_or(AckError::NoSession)?;
    if session.is_expired(deps.clock.now()) {
        return Err(AckError::Expired);
    }
    // A client of the seed's kind that calls every callback it gets: for it the edge's word has counted.
    let is_callback = ack.message.is_none() && !ack.again;
    if is_callback && session.version == Version::Seed {
        return Ok(());
    }
    deps.acks.acked(&session.user, ack).await.map_err(AckError::Broker)
}
