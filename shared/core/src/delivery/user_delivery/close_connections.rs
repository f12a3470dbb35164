//! Closes connections, and checks them against the edge.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use kschat_protocol::{ConnectionId, Control, ServerFrame};
use tokio::time::{Instant, timeout};

use super::{DeliveryEnd, UserDelivery};
use crate::{
    delivery::{connections::MAX_CONCURRENT_POSTS_PER_USER, inbox::CloseRequest},
    limits::BLOCK_DURATION,
};

/// The shortest interval between two checks of a user's connections: a request in between has just been answered.
const MIN_CONNECTION_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The post timeout of the last frame to a connection that is about to be closed.
const FINAL_FRAME_TIMEOUT: Duration = Duration::from_secs(1);

impl UserDelivery<'_> {
    /// Closes connections and drops the closed ones: one that may still be open counts on.
    pub(super) async fn close_connections(&mut self, closing: CloseRequest) -> Result<(), DeliveryEnd> {
        let known: Vec<ConnectionId> = self.connections.ids().cloned().collect();
        let targets: Vec<ConnectionId> =
            known.into_iter().filter(|id| closing.all || closing.some.contains(id)).collect();
        if closing.all {
            tracing::warn!(connections = targets.len(), "disconnecting a user that exceeded its rate limits");
            self.push_blocked_frame(&targets).await;
        }
        let closed = stream::iter(targets)
            .map(|id| async {
                let closed = self.deps.edge.close_connection(&id).await;
                (id, closed)
            })
            .buffer_unordered(MAX_CONCURRENT_POSTS_PER_USER)
            .collect::<Vec<_>>()
            .await;
        for (id, closed) in closed {
            match closed {
                Ok(()) => self.unregister(&id).await,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "closing a connection failed");
                }
            }
        }
        self.refresh_if_empty().await
    }

    async fn push_blocked_frame(&self, targets: &[ConnectionId]) {
        let frame: ServerFrame = Control::blocked(u64::try_from(BLOCK_DURATION.as_millis()).unwrap_or(u64::MAX)).into();
        let now = self.deps.clock.now();
        let ready = targets.iter().filter(|id| self.connections.is_ready(id, now));
        let frames = ready.map(|id| (id.clone(), &frame)).collect();
        // A connection that does not take the frame is closed without it.
        let _ = timeout(FINAL_FRAME_TIMEOUT, self.connections.post(&*self.deps.edge, frames)).await;
    }

    /// Asks the edge about each connection and drops those that are gone: a disconnect may have been lost.
    pub(super) async fn check_connections(&mut self) -> Result<(), DeliveryEnd> {
        if self.checked_at.is_some_and(|last| last.elapsed() < MIN_CONNECTION_CHECK_INTERVAL) {
            return Ok(());
        }
        self.checked_at = Some(Instant::now());
        self.refresh_connections().await?;
        for id in self.connections.find_gone(&*self.deps.edge).await {
            // If the edge is wrong, the client must reconnect.
            self.drop_connection(&id).await;
        }
        self.refresh_if_empty().await
    }
}
