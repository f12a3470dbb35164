//! Identifies callers: the only place where the session behind a frame is read.
//!
//! One round trip returns the session, the user's rate limits and whether the user has other devices. What follows gets
//! a [`Caller`] and asks for none of this again.

use std::{sync::Arc, time::Duration};

use kschat_protocol::{ConnectionId, ErrorCode, ErrorFrame};

use crate::{
    Clock, Session, Timestamp,
    limits::Limits,
    ports::{Charge, ChargeVerdict, ConnectionRegistry, OwnerChannel, OwnerMessage, Unavailable},
};

/// The dependencies of [`identify_caller`].
#[derive(Clone)]
pub struct Deps {
    /// Stores sessions, and counts frames.
    pub registry: Arc<dyn ConnectionRegistry>,
    /// Requests that the connections of a blocked user are closed.
    pub owners: Arc<dyn OwnerChannel>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The limits of one user.
    pub limits: Limits,
}

/// The author of a frame.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The connection that the frame came from.
    pub connection: ConnectionId,
    /// Its session.
    pub session: Session,
    /// Whether the user has another v2 connection. Only looked up for a message.
    pub has_other_devices: bool,
    /// Whether the rate limits allow the frame.
    pub verdict: ChargeVerdict,
    /// How much the message counts towards its sender's share.
    pub share_weight: u64,
}

/// Why a frame does not reach its handler.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The connection has no session.
    #[error("the connection has no session")]
    NoSession,
    /// The registry is unavailable.
    #[error("the registry is unreachable")]
    Registry(#[source] Unavailable),
    /// The session's token has expired.
    #[error("the session has expired")]
    Expired,
    /// The user exceeds a rate limit.
    #[error("the user's rate limit is exceeded")]
    TooOften {
        /// How long the user has to wait.
        retry: Duration,
    },
    /// The sender's share of the recipient's queue is full.
    #[error("the sender's share of the recipient's queue is used up")]
    ShareFull,
}

/// Identifies the user of a connection, and counts the frame. Closes the connections of a user who has continued for
/// long in spite of refusals.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
///
/// use kschat_core::{Partitions, SystemClock, limits::Limits, memory::{MemoryBroker, MemoryRegistry}};
/// use kschat_core::inbound::{caller::{AuthError, Deps, identify_caller}, cost::charge_for};
/// use kschat_protocol::{ClientFrame, ConnectionId};
///
/// let partitions = Partitions::default();
/// let limits = Limits::default();
/// let deps = Deps {
///     registry: Arc::new(MemoryRegistry::new(partitions)),
///     owners: Arc::new(MemoryBroker::new(partitions).0),
///     clock: Arc::new(SystemClock),
///     limits,
/// };
/// let frame = ClientFrame::parse(r#"{"action":"rooms"}"#);
/// let unknown = ConnectionId::try_from("L0SM9cOFvHcCIhw=")?;
/// let caller = identify_caller(&deps, &unknown, &charge_for(&limits, Some(&frame))).await;
/// assert!(matches!(caller, Err(AuthError::NoSession)));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`AuthError::NoSession`] and [`AuthError::Registry`].
pub async fn identify_caller(deps: &Deps, connection: &ConnectionId, charge: &Charge<'_>) -> Result<Caller, AuthError> {
    let entered =
        deps.registry.charge_session(connection, charge, deps.clock.now()).await.map_err(AuthError::Registry)?;
    let entered = entered.ok_or(AuthError::NoSession)?;
    if let ChargeVerdict::Blocked { should_disconnect: true, .. } = entered.verdict
        && let Err(error) = deps.owners.send(&entered.session.user, OwnerMessage::Close { connection: None }).await
    {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "requesting the close of a blocked user's connections failed"
        );
    }
    let share = charge.message.as_ref().and_then(|message| Some(message.share?.weight(message.bytes)));
    let is_counted = entered.verdict == ChargeVerdict::Granted;
    Ok(Caller {
        share_weight: share.filter(|_| is_counted).unwrap_or_default(),
        connection: connection.clone(),
        session: entered.session,
        has_other_devices: entered.has_other_devices,
        verdict: entered.verdict,
    })
}

impl AuthError {
    /// The error code for the client.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            // The registry may have lost the session, and its user's owner is about to restore it.
            Self::NoSession | Self::Registry(_) => ErrorCode::RegistryUnavailable,
            Self::Expired => ErrorCode::TokenExpired,
            Self::TooOften { .. } => ErrorCode::RateLimited,
            Self::ShareFull => ErrorCode::BacklogFull,
        }
    }

    /// The wait before a retry in milliseconds, if it is known.
    #[must_use]
    pub fn retry(&self) -> Option<u64> {
        match self {
            Self::TooOften { retry } => Some(u64::try_from(retry.as_millis()).unwrap_or(u64::MAX)),
            _ => None,
        }
    }

    /// The reply to a frame that has no reply of its own.
    #[must_use]
    pub fn reply(&self) -> ErrorFrame {
        self.retry().map_or_else(|| ErrorFrame::new(self.code()), ErrorFrame::rate_limited)
    }
}

impl Caller {
    /// Checks whether the session and the limits allow the frame.
    ///
    /// # Errors
    /// [`AuthError::Expired`], and those of [`Self::check_limits`].
    pub fn authorize(&self, now: Timestamp) -> Result<(), AuthError> {
        if self.session.is_expired(now) {
            return Err(AuthError::Expired);
        }
        self.check_limits()
    }

    /// Checks whether the limits allow the frame, for what an expired session may do, too.
    ///
    /// # Errors
    /// [`AuthError::TooOften`] and [`AuthError::ShareFull`].
    pub const fn check_limits(&self) -> Result<(), AuthError> {
        match self.verdict {
            ChargeVerdict::Granted => Ok(()),
            ChargeVerdict::Limited(retry) | ChargeVerdict::Blocked { left: retry, .. } => {
                Err(AuthError::TooOften { retry })
            }
            ChargeVerdict::ShareFull => Err(AuthError::ShareFull),
        }
    }
}
