//! A panic in one user's delivery does not affect other users.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use kschat_consumer::run;
use kschat_core::{
    Partition, Partitions, Session, Timestamp,
    contract::{ManualClock, message, register, session, unique_connection, unique_user},
    delivery::Deps,
    memory::{MemoryBroker, MemoryRegistry},
    ports::{
        ConnectionsApi, DeadLetterReason, Delivery, DeliveryTag, Ownership, OwnershipEvent, PostError, Publisher,
        QueueConsumer, QueueManager, QueueStatus, Unavailable,
    },
};
use kschat_protocol::{ConnectionId, ProtocolVersion, RoomId, UserId};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// Where the panic occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PanicPoint {
    Open,
    Next,
    Ack,
}

/// Takes every frame, and records its connection.
#[derive(Default)]
struct Edge(Mutex<Vec<(ConnectionId, String)>>);

impl Edge {
    fn count(&self, connection: &ConnectionId) -> usize {
        self.0.lock().expect("no test panics here").iter().filter(|(to, _)| to == connection).count()
    }
}

#[async_trait]
impl ConnectionsApi for Edge {
    async fn post(&self, connection: &ConnectionId, frame: &str) -> Result<(), PostError> {
        self.0.lock().expect("no test panics here").push((connection.clone(), frame.to_owned()));
        Ok(())
    }

    async fn close_connection(&self, _connection: &ConnectionId) -> Result<(), Unavailable> {
        Ok(())
    }

    async fn is_open(&self, _connection: &ConnectionId) -> Result<bool, Unavailable> {
        Ok(true)
    }
}

/// Panics for one user, a few times.
#[derive(Clone)]
struct Faulty {
    inner: MemoryBroker,
    victim: UserId,
    place: PanicPoint,
    panics: Arc<AtomicU32>,
}

impl Faulty {
    fn pass(&self, user: &UserId, place: PanicPoint) {
        if *user == self.victim && place == self.place && self.panics.load(Ordering::Relaxed) > 0 {
            self.panics.fetch_sub(1, Ordering::Relaxed);
            panic!("on purpose, in {place:?}");
        }
    }
}

#[async_trait]
impl QueueManager for Faulty {
    async fn open(&self, user: &UserId) -> Result<Box<dyn QueueConsumer>, Unavailable> {
        self.pass(user, PanicPoint::Open);
        let inner = self.inner.open(user).await?;
        Ok(Box::new(FaultyDeliveries { inner, of: self.clone(), user: user.clone() }))
    }

    async fn ensure(&self, user: &UserId) -> Result<(), Unavailable> {
        self.inner.ensure(user).await
    }

    async fn bind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable> {
        self.inner.bind_rooms(user, rooms).await
    }

    async fn unbind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable> {
        self.inner.unbind_rooms(user, rooms).await
    }

    async fn queue_status(&self, user: &UserId) -> Result<QueueStatus, Unavailable> {
        self.inner.queue_status(user).await
    }

    async fn retire(&self, user: &UserId, cancelled: BoxFuture<'_, ()>) -> Result<QueueStatus, Unavailable> {
        self.inner.retire(user, cancelled).await
    }
}

struct FaultyDeliveries {
    inner: Box<dyn QueueConsumer>,
    of: Faulty,
    user: UserId,
}

#[async_trait]
impl QueueConsumer for FaultyDeliveries {
    async fn next(&mut self) -> Option<Delivery> {
        let next = self.inner.next().await;
        // It is unacked by now.
        self.of.pass(&self.user, PanicPoint::Next);
        next
    }

    fn try_next(&mut self) -> Option<Delivery> {
        self.inner.try_next()
    }

    fn owns_unacked(&self) -> bool {
        self.inner.owns_unacked()
    }

    async fn ack(&mut self, tags: &[DeliveryTag]) -> Result<(), Unavailable> {
        self.of.pass(&self.user, PanicPoint::Ack);
        self.inner.ack(tags).await
    }

    async fn dead_letter(&mut self, tag: DeliveryTag, body: &[u8], why: DeadLetterReason) -> Result<(), Unavailable> {
        self.inner.dead_letter(tag, body, why).await
    }

    async fn close(self: Box<Self>) {
        self.inner.close().await;
    }
}

/// Owns scripted partitions, and records the released ones.
struct ScriptedOwnership {
    first: VecDeque<OwnershipEvent>,
    more: mpsc::UnboundedReceiver<OwnershipEvent>,
    released: Arc<Mutex<Vec<Partition>>>,
}

#[async_trait]
impl Ownership for ScriptedOwnership {
    async fn next(&mut self) -> OwnershipEvent {
        match self.first.pop_front() {
            Some(event) => event,
            None => match self.more.recv().await {
                Some(event) => event,
                None => std::future::pending().await,
            },
        }
    }

    async fn release(&mut self, partition: Partition) {
        self.released.lock().expect("no test panics here").push(partition);
    }

    async fn resign(&mut self) {}
}

#[tokio::test(start_paused = true)]
async fn panic_delays_only_its_user() {
    for place in [PanicPoint::Open, PanicPoint::Next, PanicPoint::Ack] {
        let partitions = Partitions::default();
        let broker = MemoryBroker::new(partitions).0;
        let (registry, edge) = (Arc::new(MemoryRegistry::new(partitions)), Arc::new(Edge::default()));
        let (victim, other) = (unique_user(), unique_user());
        let devices = [&victim, &other].map(|user| (user.clone(), unique_connection()));
        for (user, device) in &devices {
            let session = session(user, NOW, Duration::from_secs(3_600));
            let session = Session { version: ProtocolVersion::V1, ..session };
            register(&*registry, device, &session).await.expect("memory");
            broker.ensure(user).await.expect("memory");
            broker.publish(user, &message(user, "one")).await.expect("memory");
        }
        let panics = Arc::new(AtomicU32::new(2));
        let queue_manager = Faulty { inner: broker.clone(), victim: victim.clone(), place, panics: panics.clone() };
        let clock = Arc::new(ManualClock::new(NOW));
        let deps =
            Deps::new(registry.clone(), Arc::new(queue_manager), registry.clone(), edge.clone(), clock, partitions);
        let (tell, more) = mpsc::unbounded_channel();
        let first = partitions.all().map(OwnershipEvent::Acquired).collect();
        let released = Arc::default();
        let ownership = ScriptedOwnership { first, more, released: Arc::clone(&released) };
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(deps, ownership, stop.clone()));
        sleep(Duration::from_secs(1)).await;
        let heard = |n: usize| edge.count(&devices[n].1);
        assert_eq!((heard(1), panics.load(Ordering::Relaxed)), (1, 1), "{place:?}: the other is served");
        sleep(Duration::from_secs(12)).await;
        assert!(heard(0) >= 1 && panics.load(Ordering::Relaxed) == 0, "{place:?}: the user is served after the rest");
        broker.publish(&victim, &message(&victim, "two")).await.expect("memory");
        sleep(Duration::from_secs(1)).await;
        let last = edge.0.lock().expect("no test panics here").last().cloned().expect("a frame");
        assert!(last.0 == devices[0].1 && last.1.contains("two") && !last.1.contains("one"), "{place:?}: {last:?}");
        for partition in partitions.all() {
            tell.send(OwnershipEvent::ReleaseRequested(partition)).expect("somebody listens");
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(released.lock().expect("no test panics here").len(), 16, "{place:?}: all can be released");
        stop.cancel();
        running.await.expect("the task does not panic");
    }
}
