//! The queues of offline users.
//!
//! A queue is needed only while its user is online or messages wait in it. An empty one is removed some time after the
//! user has gone, and created again when the user returns or a sender requests it. A queue that stays is checked now
//! and then: that keeps the broker from expiring it together with its messages, and shows when the last message has
//! expired. An empty queue stays if its user is in a room. Nobody is told of messages that enter it, so it is checked
//! as if messages waited.

use std::time::Duration;

use futures_util::{
    FutureExt,
    future::{BoxFuture, try_join},
};
use kschat_protocol::UserId;
use tokio::time::sleep;

use super::inbox::Wanted;
use crate::{
    Partition,
    delivery::{DeliverySignals, Deps},
    limits::NEW_BACKLOG_CHECK_DELAY,
    ports::{QueueStatus, Unavailable, UserRooms},
    rooms,
};

/// How long a user is offline until its queue is removed: most return at once, for example after a page reload.
///
/// It must also exceed the time that a sender spends on one message. A sender creates the queue itself when the user
/// has no owner. It must be done before a new owner could remove the queue.
const QUEUE_REMOVAL_DELAY: Duration = Duration::from_secs(10);

/// Queues of one partition that are checked in one sweep.
const BACKLOG_SWEEP_BATCH_SIZE: usize = 256;

/// Creates the queue of an offline user if a sender requests it; otherwise removes it if it is empty, or schedules its
/// next check. Ends early when the user returns or the partition is lost. Only the user's owner may call this, and not
/// while it serves the user.
pub(crate) async fn settle_offline_queue(deps: &Deps, user: &UserId, signals: &DeliverySignals) {
    if let Some(status) = create_or_remove(deps, user, signals).await {
        record_status(deps, user, status).await;
    }
}

/// Returns `None` when the user's connections must be read first, or another owner takes over.
async fn create_or_remove(
    deps: &Deps,
    user: &UserId,
    signals: &DeliverySignals,
) -> Option<Result<QueueStatus, Unavailable>> {
    let cancelled = async {
        let wanted = Wanted { refresh: true, queue_request: true, ..Wanted::default() };
        tokio::select! {
            _ = signals.inbox.next(wanted) => {}
            () = signals.stop.cancelled() => {}
        }
    };
    let mut cancelled = cancelled.boxed().shared();
    tokio::select! {
        biased;
        () = signals.stop.cancelled() => None,
        () = &mut cancelled => create_queue(deps, user, signals).await,
        // A started removal is completed, even when the partition is lost. The broker might otherwise execute an
        // abandoned removal after the next owner has created the queue.
        () = sleep(QUEUE_REMOVAL_DELAY) => Some(remove_queue(deps, user, cancelled.boxed()).await),
    }
}

/// Schedules the next check of a queue, or forgets its backlog.
async fn record_status(deps: &Deps, user: &UserId, status: Result<QueueStatus, Unavailable>) {
    let check_in = |span| deps.backlogs.schedule_check(user, deps.clock.now().plus(span));
    let recorded = match status {
        Ok(QueueStatus::Gone) => try_join(deps.backlogs.clear(user), clear_sender_shares(deps, user)).await.map(|_| ()),
        Ok(QueueStatus::Kept) => check_in(NEW_BACKLOG_CHECK_DELAY).await,
        Ok(QueueStatus::Empty(safe)) => try_join(check_in(safe / 2), clear_sender_shares(deps, user)).await.map(|_| ()),
        // Long before the broker expires the queue.
        Ok(QueueStatus::Backlogged(safe)) => check_in(safe / 2).await,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "checking a queue failed; retrying later");
            check_in(NEW_BACKLOG_CHECK_DELAY).await
        }
    };
    if let Err(error) = recorded {
        tracing::warn!(error = &error as &dyn std::error::Error, "recording a backlog failed");
    }
}

/// Clears all shares: no sender's messages wait in the queue.
async fn clear_sender_shares(deps: &Deps, user: &UserId) -> Result<(), Unavailable> {
    match &deps.shares {
        Some(shares) => shares.clear_shares(user).await,
        None => Ok(()),
    }
}

/// Creates the queue for a sender when it is the sender's turn. Returns `None` when the user's connections must be read
/// first, or another owner takes over.
async fn create_queue(
    deps: &Deps,
    user: &UserId,
    signals: &DeliverySignals,
) -> Option<Result<QueueStatus, Unavailable>> {
    let _turn = match signals.inbox.requester() {
        None => None,
        Some(requester) => tokio::select! {
            biased;
            () = signals.stop.cancelled() => return None,
            // The user has returned, which needs no turn.
            _ = signals.inbox.next(Wanted { refresh: true, ..Wanted::default() }) => return None,
            slot = deps.queue_creation_slots.acquire(requester) => match slot {
                Some(slot) => Some(slot),
                // An existing queue is checked.
                None => return Some(Ok(QueueStatus::Kept)),
            },
        },
    };
    Some(deps.queue_manager.ensure(user).await.map(|()| QueueStatus::Kept))
}

/// Removes the queue, unless its user is in a room: messages to the room must not be lost.
async fn remove_queue(deps: &Deps, user: &UserId, cancelled: BoxFuture<'_, ()>) -> Result<QueueStatus, Unavailable> {
    let Some(memberships) = deps.rooms.as_deref() else { return deps.queue_manager.retire(user, cancelled).await };
    let UserRooms { rooms, left } = memberships.rooms_and_left(user).await?;
    let state = if rooms.is_empty() { None } else { Some(deps.queue_manager.queue_status(user).await?) };
    if !left.is_empty() && state != Some(QueueStatus::Gone) {
        // Messages of rooms that were left would otherwise keep the queue.
        rooms::reconcile_all_bindings(memberships, &*deps.queue_manager, user).await?;
    }
    if let Some(state) = state {
        return Ok(state);
    }
    let retired = deps.queue_manager.retire(user, cancelled).await?;
    if retired != QueueStatus::Gone || memberships.rooms(user).await?.is_empty() {
        return Ok(retired);
    }
    // A user who joined a room at that very moment has bound the removed queue.
    deps.queue_manager.ensure(user).await?;
    rooms::reconcile_all_bindings(memberships, &*deps.queue_manager, user).await?;
    Ok(QueueStatus::Kept)
}

/// Counts the offline users of these partitions who keep their queues.
///
/// # Errors
/// [`Unavailable`] when the store can't be read.
pub async fn count_backlogs(deps: &Deps, partitions: impl IntoIterator<Item = Partition>) -> Result<u64, Unavailable> {
    let mut count = 0;
    for partition in partitions {
        count += deps.backlogs.count(partition).await?;
    }
    Ok(count)
}

/// The users of a partition whose queues are due for a check: a bounded number, and the rest next time.
///
/// # Errors
/// [`Unavailable`] when the store can't be read.
pub async fn due_backlogs(deps: &Deps, partition: Partition) -> Result<Vec<UserId>, Unavailable> {
    deps.backlogs.due(partition, deps.clock.now(), BACKLOG_SWEEP_BATCH_SIZE).await
}
