//! A connection has ended.

use std::sync::Arc;

use kschat_protocol::ConnectionId;

use crate::ports::{ConnectionRegistry, Pokes, Unavailable};

/// What [`disconnect`] needs.
#[derive(Clone)]
pub struct Deps {
    /// Forgets the connection.
    pub registry: Arc<dyn ConnectionRegistry>,
    /// Tells the user's owner.
    pub pokes: Arc<dyn Pokes>,
}

/// Forgets a connection and tells its user's owner. May be repeated; an unknown connection is no error.
///
/// # Errors
/// [`Unavailable`]: the owner will find out by the first push that fails.
pub async fn disconnect(deps: &Deps, connection: &ConnectionId) -> Result<(), Unavailable> {
    match deps.registry.end(connection).await? {
        Some(user) => deps.pokes.poke(&user).await,
        None => Ok(()),
    }
}
