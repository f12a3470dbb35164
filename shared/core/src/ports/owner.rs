//! Messages to the owners of users.

use async_trait::async_trait;
use kschat_protocol::{AckFrame, ConnectionId, EphemeralEvent, ServerFrame, UserId};

use super::error::Unavailable;

/// A message to the owner of a user. The owner may change or die at any moment, so each of these may get lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerMessage {
    /// The user's connections have changed: read them from the registry again. It carries no state, so a lost, late or
    /// repeated one does no harm.
    Refresh,
    /// What a client has received, or what it misses. After a lost one the message is redelivered, and acknowledged
    /// again.
    Ack(AckFrame),
    /// An ephemeral event for those of the user's present connections that know of events.
    Event(EphemeralEvent),
    /// A frame for one connection, besides the response of its function.
    Reply {
        /// The connection.
        connection: ConnectionId,
        /// The frame.
        frame: ServerFrame,
    },
    /// A sender has found no queue for the user.
    QueueRequest {
        /// The sender, if its function names it: one of an earlier release does not.
        requester: Option<UserId>,
    },
    /// Close one or all connections of the user. If all, the user has exceeded its rate limits, and its clients are told.
    Close {
        /// The connection; all of them if `None`.
        connection: Option<ConnectionId>,
    },
    /// Check the user's connections against the edge, and drop those that are gone.
    CheckConnections,
}

impl OwnerMessage {
    /// Whether the sender need not wait for the broker's confirm, as a loss is made up for by itself.
    #[must_use]
    pub const fn is_best_effort(&self) -> bool {
        matches!(self, Self::Ack(_) | Self::Event(_))
    }
}

/// Sends messages to the owners of users' partitions.
#[async_trait]
pub trait OwnerChannel: Send + Sync {
    /// Sends a message to the owner of the user. Without an owner, the next one reads it within two minutes, or an
    /// event within seconds.
    ///
    /// # Errors
    /// [`Unavailable`]: the owner may not get it.
    async fn send(&self, user: &UserId, message: OwnerMessage) -> Result<(), Unavailable>;
}
