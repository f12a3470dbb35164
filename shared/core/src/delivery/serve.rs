//! Serves one user, from the first connection until the queue is no longer needed.

use futures_util::future::join3;
use kschat_protocol::UserId;
use tokio::time::Instant;

use super::{
    connections::Connections,
    deps::Deps,
    offline_queue::settle_offline_queue,
    signals::{DeliveryEnd, DeliverySignals},
    unauthenticated::serve_unauthenticated,
    user_delivery::{UserDelivery, rebind_rooms},
};
use crate::{job, metrics, ports::QueueConsumer};

/// Serves a user until it is offline, or delivery is stopped, lost or failed. Then the queue of an offline user is
/// created if a sender requests it, and removed if it stays empty.
pub async fn serve(deps: &Deps, user: &UserId, signals: &DeliverySignals) -> DeliveryEnd {
    if user.is_provisional() {
        return serve_unauthenticated(deps, user, signals).await;
    }
    let end = match open(deps, user, signals).await {
        Ok((connections, queue_consumer, rebind_at)) => {
            let _open = metrics::QUEUES.increment_guard_for("online");
            let mut delivery = UserDelivery::new(deps, user, signals, connections, queue_consumer, rebind_at);
            let end = job::catch_panic("deliver", Box::pin(delivery.run())).await.unwrap_or(DeliveryEnd::Panicked);
            // Whatever went wrong, nothing stays unacknowledged.
            delivery.close().await;
            if let Some(notifier) = deps.presence.as_ref().filter(|_| end == DeliveryEnd::Offline) {
                notifier.user_went_offline(user).await;
            }
            end
        }
        Err(end) => end,
    };
    if end == DeliveryEnd::Offline {
        settle_offline_queue(deps, user, signals).await;
    }
    end
}

/// The connections, the queue, and when to bind the queue to the user's rooms again if that failed.
type OpenedQueue = (Connections, Box<dyn QueueConsumer>, Option<Instant>);

async fn open(deps: &Deps, user: &UserId, signals: &DeliverySignals) -> Result<OpenedQueue, DeliveryEnd> {
    // A user whose queue is requested is most likely offline. Then only the registry is read, and the sender waits for
    // its slot.
    let is_requested = signals.inbox.requester().is_some();
    // The semaphore is never closed, so a permit comes in the end.
    let mut _permit = if is_requested { None } else { deps.queue_open_slots.acquire().await.ok() };
    let connections = read_connections(deps, user, signals).await?;
    if is_requested {
        _permit = deps.queue_open_slots.acquire().await.ok();
    }
    // The partition may have a new owner by now, which must be the only consumer of the queue.
    if signals.stop.is_cancelled() {
        return Err(DeliveryEnd::Stopped);
    }
    let queue_consumer = deps.queue_manager.open(user).await.map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "opening a user's queue failed");
        DeliveryEnd::Failed
    })?;
    let rebind_at = announce(deps, user).await;
    Ok((connections, queue_consumer, rebind_at))
}

async fn read_connections(deps: &Deps, user: &UserId, signals: &DeliverySignals) -> Result<Connections, DeliveryEnd> {
    if signals.stop.is_cancelled() {
        return Err(DeliveryEnd::Stopped);
    }
    let reachable = deps.registry.connections(user, deps.clock.now()).await.map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "reading a user's connections failed");
        DeliveryEnd::Failed
    })?;
    let mut connections = Connections::new(deps.heartbeat);
    connections.replace(reachable);
    if connections.is_empty() { Err(DeliveryEnd::Offline) } else { Ok(connections) }
}

/// Records that a user is online. Returns when to bind the queue to the user's rooms again, if that failed.
async fn announce(deps: &Deps, user: &UserId) -> Option<Instant> {
    let notified = async {
        if let Some(notifier) = &deps.presence {
            notifier.user_came_online(user).await;
        }
    };
    // Concurrently, as they go to the same service.
    let (cleared, (), rebind_at) = join3(deps.backlogs.clear(user), notified, rebind_rooms(deps, user)).await;
    if let Err(error) = cleared {
        tracing::warn!(error = &error as &dyn std::error::Error, "clearing the backlog of an online user failed");
    }
    rebind_at
}
