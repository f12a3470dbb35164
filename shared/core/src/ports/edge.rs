//! Pushes frames to connections.

use async_trait::async_trait;
use kschat_protocol::ConnectionId;

use super::error::Unavailable;

/// Why a frame did not reach a connection.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// There is no such connection (any more, or yet).
    #[error("the connection is gone")]
    Gone,
    /// The edge may take it later.
    #[error(transparent)]
    Retryable(Unavailable),
    /// The edge will never take this frame.
    #[error("the edge refused the frame")]
    Rejected(#[source] Unavailable),
}

/// The edge's management API: pushes frames to connections.
#[async_trait]
pub trait ConnectionsApi: Send + Sync {
    /// Pushes a text frame; returns once the edge has taken it. The adapter bounds the time until then.
    ///
    /// # Errors
    /// [`PostError`].
    async fn post(&self, connection: &ConnectionId, frame: &str) -> Result<(), PostError>;

    /// Closes a connection, so that its client reconnects; does nothing for one that is gone. The adapter bounds the
    /// time until then.
    ///
    /// # Errors
    /// [`Unavailable`]: it may still be open.
    async fn close_connection(&self, connection: &ConnectionId) -> Result<(), Unavailable>;

    /// Whether the edge has such a connection. The adapter bounds the time until then.
    ///
    /// # Errors
    /// [`Unavailable`] when the lookup fails.
    async fn is_open(&self, connection: &ConnectionId) -> Result<bool, Unavailable>;
}
