//! Handles ended connections.

use std::sync::Arc;

use kschat_protocol::ConnectionId;

use crate::ports::{ConnectionRegistry, OwnerChannel, OwnerMessage, Unavailable};

/// The dependencies of [`disconnect`].
#[derive(Clone)]
pub struct Deps {
    /// Removes the connection.
    pub registry: Arc<dyn ConnectionRegistry>,
    /// Sends messages to the user's owner.
    pub owners: Arc<dyn OwnerChannel>,
}

/// Removes a connection and notifies its user's owner. Idempotent; an unknown connection is no error.
///
/// # Errors
/// [`Unavailable`]: the owner notices at the first push that fails.
pub async fn disconnect(deps: &Deps, connection: &ConnectionId) -> Result<(), Unavailable> {
    match deps.registry.end_connection(connection).await? {
        Some(user) => deps.owners.send(&user, OwnerMessage::Refresh).await,
        None => Ok(()),
    }
}
