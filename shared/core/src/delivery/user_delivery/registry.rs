//! Keeps the connections in step with the registry.

use futures_util::FutureExt;
use kschat_protocol::ConnectionId;
use tokio::time::Instant;

use super::{DeliveryEnd, REGISTRY_RETRY_DELAY, UserDelivery};
use crate::{
    delivery::{expired_connections::ExpiredConnection, post_outcome::PostVerdict},
    job,
    limits::MAX_CONNECTIONS_PER_USER,
    ports::{CreateOutcome, OwnerMessage},
};

impl UserDelivery<'_> {
    /// Reads the connections from the registry. Those that the registry has lost are still served, and restored.
    pub(super) async fn refresh_connections(&mut self) -> Result<(), DeliveryEnd> {
        let now = self.deps.clock.now();
        self.drop_expired();
        match self.deps.registry.connections(self.user, now).await {
            Ok(reachable) if self.connections.is_subset_of(&reachable) || self.confirm_departure().await => {
                self.refresh_at = None;
                self.connections.replace(reachable);
            }
            Ok(reachable) => {
                self.refresh_at = None;
                self.connections.add(reachable);
                self.restore().await;
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "reading a user's connections failed");
                self.refresh_at = Some(Instant::now() + REGISTRY_RETRY_DELAY);
            }
        }
        match (self.connections.is_empty(), self.refresh_at) {
            (false, _) => Ok(()),
            (true, None) => Err(DeliveryEnd::Offline),
            (true, Some(_)) => Err(DeliveryEnd::Failed),
        }
    }

    /// Reads the registry once more if no connection is left: a new one may have come.
    pub(super) async fn refresh_if_empty(&mut self) -> Result<(), DeliveryEnd> {
        if self.connections.is_empty() { self.refresh_connections().await } else { Ok(()) }
    }

    /// Whether a connection that is not in the registry has left, and was not lost by the registry. Consumes a pending
    /// request to restore: the caller restores if this returns false.
    async fn confirm_departure(&self) -> bool {
        // While the registry is unavailable, no connection is dropped.
        let is_marked = self.deps.registry.has_epoch_marker(self.deps.partitions.of(self.user)).await.unwrap_or(false);
        // A lost epoch marker is set again once every delivery task has been told to restore. A task that was told and
        // has not restored yet must not take the new marker for the old one.
        let was_told = self.signals.restore.notified().now_or_never().is_some();
        is_marked && !was_told
    }

    /// Restores all known connections after the registry has lost its data. Connections registered since then have
    /// priority: those that do not fit beside them are closed. Ended connections are found by a check against the edge.
    pub(super) async fn restore(&mut self) {
        let mut over = Vec::new();
        for (connection, session) in self.connections.sessions() {
            match self.deps.registry.restore(connection, session, MAX_CONNECTIONS_PER_USER).await {
                Ok(CreateOutcome::Done) => {}
                Ok(_) => over.push(connection.clone()),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "restoring a session failed; retrying");
                    self.refresh_at = Some(Instant::now() + REGISTRY_RETRY_DELAY);
                    break;
                }
            }
        }
        for connection in over {
            self.drop_connection(&connection).await;
        }
        self.signals.inbox.put(OwnerMessage::CheckConnections);
    }

    /// Drops the connections that the edge reports as gone.
    pub(super) async fn drop_gone(&mut self, verdicts: &[(ConnectionId, PostVerdict)]) {
        for (id, _) in verdicts.iter().filter(|(_, verdict)| *verdict == PostVerdict::Gone) {
            self.drop_connection(id).await;
        }
    }

    /// Drops a connection that the edge reports as gone. If the edge is wrong, the client must learn that nothing more
    /// comes: the connection is closed, and the client reconnects.
    pub(super) async fn drop_connection(&mut self, id: &ConnectionId) {
        self.unregister(id).await;
        if let Err(error) = self.deps.edge.close_connection(id).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "closing a gone connection failed");
        }
    }

    /// Drops a connection that is closed.
    pub(super) async fn unregister(&mut self, id: &ConnectionId) {
        self.connections.remove(id);
        if let Err(error) = self.deps.registry.remove(self.user, id).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "unregistering a connection failed");
        }
    }

    /// Stops pushing to connections whose tokens have expired.
    pub(super) fn drop_expired(&mut self) {
        let now = self.deps.clock.now();
        for (connection, session) in self.connections.take_expired(now) {
            if session.is_expired(now)
                && let Some(farewell) = ExpiredConnection::begin(self.deps, connection, session)
            {
                job::spawn("see_off", farewell.warn_and_close());
            }
        }
    }
}
