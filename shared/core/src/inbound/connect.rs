//! Handles new connections.

use futures_util::future::try_join;
use kschat_protocol::{ConnectionId, Handshake, UserId};

use super::{
    join_namespace,
    registration::{register, session_from_token},
};
use crate::ports::OwnerMessage;

pub use super::registration::{ConnectError, Deps};

/// Accepts or refuses a connection. Nothing is pushed here: the edge does not know the connection yet.
///
/// # Errors
/// [`ConnectError`]; then the connection is removed again as far as possible.
pub async fn connect(deps: &Deps, connection: &ConnectionId, handshake: &Handshake) -> Result<UserId, ConnectError> {
    if handshake.token.is_none() && !deps.requires_token && handshake.dialect.allows_late_authentication() {
        return join_namespace::connect_unauthenticated(deps, connection, handshake).await;
    }
    let session = session_from_token(deps, handshake).await?;
    register(deps, connection, &session, None).await?;
    // The registry is written first, so that an owner that gets the refresh finds the connection there.
    let ready =
        try_join(deps.queues.enroll_user(&session.user), deps.owners.send(&session.user, OwnerMessage::Refresh)).await;
    if let Err(error) = ready {
        unregister_refused(deps, &session.user, connection).await;
        return Err(ConnectError::Broker(error));
    }
    Ok(session.user)
}

/// The handshake is going to fail, so no disconnect will ever come for it.
async fn unregister_refused(deps: &Deps, user: &UserId, connection: &ConnectionId) {
    if let Err(error) = deps.registry.remove(user, connection).await {
        tracing::warn!(%error, "unregistering a refused connection failed; it stays registered until it expires");
    }
}
