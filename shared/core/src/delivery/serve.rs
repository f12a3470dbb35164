//! Serves one user, from the first connection until the queue is no longer needed.

use futures_util::future::join3;
use kschat_protocol::UserId;
use tokio::time::Instant;

use super::{
    connections::Connections,
    deps::Deps,
    queue_retirement::retire,
    signals::{DeliveryEnd, DeliverySignals},
    unauthenticated::serve_unauthenticated,
    user_delivery::{UserDelivery, rebind_rooms},
};
use crate::{job, metrics, ports::QueueConsumer};

/// Serves a user until it is offline, or delivery is stopped, lost or failed. The empty queue of an offline user is
/// removed, unless a sender requests it.
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
        retire(deps, user, signals).await;
    }
    end
}

/// The connections, the queue, and when to bind the queue to the user's rooms again if that failed.
type OpenedQueue = (Connections, Box<dyn QueueConsumer>, Option<Instant>);

async fn open(deps: &Deps, user: &UserId, signals: &DeliverySignals) -> Result<OpenedQueue, DeliveryEnd> {
    // A user whose queue is requested is most likely offline. Then only the registry is read, and the sender waits for
    // its slot.
    let is_wanted = signals.inbox.requester().is_some();
    // The semaphore is never closed, so a permit comes in the end.
    let mut _permit = if is_wanted { None } else { deps.queue_open_slots.acquire().await.ok() };
    if signals.stop.is_cancelled() {
        return Err(DeliveryEnd::Stopped);
    }
    let reachable = deps.registry.connections(user, deps.clock.now()).await.map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "reading a user's connections failed");
        DeliveryEnd::Failed
    })?;
    let mut connections = Connections::new(deps.heartbeat);
    connections.replace(reachable);
    if connections.is_empty() {
        return Err(DeliveryEnd::Offline);
    }
    if is_wanted {
        _permit = deps.queue_open_slots.acquire().await.ok();
    }
    // The partition may have a new owner by now, which must be the only consumer of the queue.
    if signals.stop.is_cancelled() {
        return Err(DeliveryEnd::Stopped);
    }
    let deliveries = deps.queue_manager.open(user).await.map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "opening a user's queue failed");
        DeliveryEnd::Failed
    })?;
    let came = async {
        if let Some(notifier) = &deps.presence {
            notifier.user_came_online(user).await;
        }
    };
    // Concurrently, as they go to the same service.
    let (cleared, (), rebind_at) = join3(deps.backlogs.clear(user), came, rebind_rooms(deps, user)).await;
    if let Err(error) = cleared {
        tracing::warn!(error = &error as &dyn std::error::Error, "clearing the backlog of an online user failed");
    }
    Ok((connections, deliveries, rebind_at))
}
