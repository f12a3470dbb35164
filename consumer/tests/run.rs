//! The consumer over the in-memory ports, with test-controlled time.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kschat_consumer::run;
use kschat_core::{
    Partitions, Timestamp,
    contract::{ManualClock, message, unique_user},
    delivery::Deps,
    memory::{MemoryBroker, MemoryRegistry},
    ports::{BacklogStore, ConnectionsApi, PostError, PublishError, Publisher, QueueManager, Unavailable},
};
use kschat_protocol::{ConnectionId, UserId};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// Nobody is connected, so nothing is posted.
struct NoEdge;

#[async_trait]
impl ConnectionsApi for NoEdge {
    async fn post(&self, _connection: &ConnectionId, _frame: &str) -> Result<(), PostError> {
        Err(PostError::Gone)
    }

    async fn close_connection(&self, _connection: &ConnectionId) -> Result<(), Unavailable> {
        Ok(())
    }

    async fn is_open(&self, _connection: &ConnectionId) -> Result<bool, Unavailable> {
        Ok(false)
    }
}

#[tokio::test(start_paused = true)]
async fn offline_user_queues_are_checked_when_due() {
    let partitions = Partitions::default();
    let (broker, ownership) = MemoryBroker::new(partitions);
    let (registry, clock) = (Arc::new(MemoryRegistry::new(partitions)), Arc::new(ManualClock::new(NOW)));
    let queue_manager = Arc::new(broker.clone());
    let deps =
        Deps::new(registry.clone(), queue_manager, registry.clone(), Arc::new(NoEdge), clock.clone(), partitions);
    let waits = unique_user();
    // Backlogs are counted by partition.
    let elsewhere = |user: &UserId| partitions.of(user) != partitions.of(&waits);
    let drained = std::iter::repeat_with(unique_user).find(elsewhere).expect("there are many");
    let later = NOW.plus(Duration::from_secs(60 * 60));
    for user in [&waits, &drained] {
        broker.ensure(user).await.expect("memory");
        registry.schedule_check(user, later).await.expect("memory");
    }
    let publish = async |user| broker.publish(user, &message(user, "waiting")).await;
    publish(&waits).await.expect("memory");

    let stop = CancellationToken::new();
    let running = tokio::spawn(run(deps, ownership, stop.clone()));
    sleep(Duration::from_secs(60)).await;
    publish(&waits).await.expect("the queue is not checked yet");
    clock.set(later);
    sleep(Duration::from_secs(60)).await;
    let noted = async |user| registry.count(partitions.of(user)).await.expect("memory");
    assert_eq!((noted(&waits).await, noted(&drained).await), (1, 0));
    publish(&waits).await.expect("a backlog is kept");
    assert!(matches!(publish(&drained).await, Err(PublishError::NoRoute)), "an empty queue stays");
    let due = registry.due(partitions.of(&waits), later, 1).await.expect("memory");
    assert!(due.is_empty(), "the queue is checked again at once");
    stop.cancel();
    running.await.expect("the task does not panic");
}
