//! Serves a connection that has not authenticated yet. It has no queue and gets no messages: its client gets the
//! handshake packets and some time to authenticate.

use std::time::Duration;

use kschat_protocol::{ConnectionId, UserId, dialect::NAMESPACE_JOIN_TIMEOUT};
use tokio::time::Instant;

use super::{
    connections::NEW_CONNECTION_GRACE_PERIOD,
    deps::Deps,
    inbox::{Item, Wanted},
    pending_auth::PendingAuthSlot,
    signals::{DeliveryEnd, DeliverySignals},
};
use crate::{
    Session,
    backoff::Backoff,
    ports::{PostError, RegisteredConnection},
};

/// Waits between attempts to send the handshake packets.
const HANDSHAKE_RETRY_BACKOFF: Backoff = Backoff { base: Duration::from_millis(20), cap: Duration::from_secs(1) };

/// Sends the handshake packets to the connection of a provisional user, and closes it unless it authenticates in time.
pub(crate) async fn serve_unauthenticated(deps: &Deps, user: &UserId, signals: &DeliverySignals) -> DeliveryEnd {
    let mut handshake = Handshake { sent: false, attempts: 0, began: Instant::now() };
    let mut slot: Option<PendingAuthSlot> = None;
    loop {
        let RegisteredConnection { connection, session } = match only_connection(deps, user).await {
            Ok(registered) => registered,
            Err(end) => return end,
        };
        let evicted = slot.get_or_insert_with(|| deps.pending_auth.reserve(session.source.as_deref())).evicted.clone();
        let now = deps.clock.now();
        let left = session.connected.plus(NAMESPACE_JOIN_TIMEOUT).millis().saturating_sub(now.millis());
        if left == 0 || evicted.is_cancelled() {
            return close_unauthenticated(deps, user, &connection).await;
        }
        let Ok(retry) = handshake.send(deps, &connection, &session).await else {
            return close_unauthenticated(deps, user, &connection).await;
        };
        let left = Duration::from_millis(left);
        tokio::select! {
            () = signals.stop.cancelled() => return DeliveryEnd::Stopped,
            item = signals.inbox.next(Wanted { refresh: true, close: true, ..Wanted::default() }) => {
                if matches!(item, Item::Close(_)) {
                    return close_unauthenticated(deps, user, &connection).await;
                }
            }
            () = evicted.cancelled() => {}
            () = tokio::time::sleep(retry.map_or(left, |wait| wait.min(left))) => {}
        }
    }
}

/// The connection of a provisional user, who has one at most.
async fn only_connection(deps: &Deps, user: &UserId) -> Result<RegisteredConnection, DeliveryEnd> {
    match deps.registry.connections(user, deps.clock.now()).await {
        Ok(reachable) => reachable.into_iter().next().ok_or(DeliveryEnd::Offline),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "reading an unauthenticated connection failed");
            Err(DeliveryEnd::Failed)
        }
    }
}

/// Tracks the handshake packets of one connection.
struct Handshake {
    sent: bool,
    attempts: u32,
    /// When the connection was first seen.
    began: Instant,
}

/// The edge no longer knows the connection.
struct ConnectionGone;

impl Handshake {
    /// Sends the packets unless that is done. Returns after which delay to try again, if the edge did not take them.
    async fn send(
        &mut self,
        deps: &Deps,
        connection: &ConnectionId,
        session: &Session,
    ) -> Result<Option<Duration>, ConnectionGone> {
        if self.sent {
            return Ok(None);
        }
        match post_all(deps, connection, &session.dialect.handshake_packets(connection, deps.heartbeat)).await {
            Ok(()) => {
                self.sent = true;
                Ok(None)
            }
            Err(PostError::Gone) if self.began.elapsed() >= NEW_CONNECTION_GRACE_PERIOD => Err(ConnectionGone),
            Err(_) => {
                self.attempts += 1;
                Ok(Some(HANDSHAKE_RETRY_BACKOFF.wait(self.attempts)))
            }
        }
    }
}

async fn post_all(deps: &Deps, connection: &ConnectionId, packets: &[String]) -> Result<(), PostError> {
    for packet in packets {
        deps.edge.post(connection, packet).await?;
    }
    Ok(())
}

/// Closes the connection first: while it may be open, it still counts.
async fn close_unauthenticated(deps: &Deps, user: &UserId, connection: &ConnectionId) -> DeliveryEnd {
    tracing::info!("closing a connection that has not authenticated");
    if let Err(error) = deps.edge.close_connection(connection).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "closing an unauthenticated connection failed");
        return DeliveryEnd::Failed;
    }
    if let Err(error) = deps.registry.remove(user, connection).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "unregistering an unauthenticated connection failed");
    }
    DeliveryEnd::Offline
}
