//! An in-memory broker.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use kschat_protocol::{ConnectionId, Message, RoomId, TraceContext, UserId};
use tokio::sync::{Notify, mpsc};

use crate::{
    Partition, Partitions,
    ports::{
        BindOutcome, DeadLetterReason, Delivery, DeliveryTag, OwnerChannel, OwnerMessage, Ownership, OwnershipEvent,
        PublishError, Publisher, QueueConsumer, QueueManager, QueueProvisioner, QueueRequestOutcome, QueueStatus,
        RoomBindings, Unavailable,
    },
};

/// Messages that wait for one user at most.
const MAX_QUEUED_MESSAGES: usize = 100_000;

/// A queue in memory lives as long as its process: longer than that.
const QUEUE_EXPIRY: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Holds queues until the process ends, and owns every partition itself.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use kschat_core::{Partitions, memory::MemoryBroker, ports::{PublishError, Publisher, QueueConsumer, QueueManager}};
/// use kschat_protocol::{Message, UserId};
///
/// let (broker, _ownership) = MemoryBroker::new(Partitions::default());
/// let bob = UserId::try_from("bob")?;
/// let message = Message::from_slice(br#"{"uId":"alice","pId":"bob","msg":"hi","mId":"m-1"}"#)?;
/// // Without a queue there is no route.
/// assert!(matches!(broker.publish(&bob, &message).await, Err(PublishError::NoRoute)));
///
/// let mut queue = broker.open(&bob).await?;
/// broker.publish(&bob, &message).await?;
/// let delivery = queue.next().await.expect("a message");
/// assert_eq!(delivery.body, message.to_vec());
/// queue.ack(&[delivery.tag]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MemoryBroker {
    // A std mutex: no guard is held across an await.
    queues: Arc<Mutex<HashMap<UserId, Queue>>>,
    changes: mpsc::UnboundedSender<OwnershipEvent>,
    keeps_empty: bool,
}

#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<Entry>,
    unacked: VecDeque<Entry>,
    last_tag: u64,
    has_consumer: bool,
    arrival: Arc<Notify>,
    rooms: HashSet<RoomId>,
}

#[derive(Debug)]
struct Entry {
    tag: u64,
    body: Vec<u8>,
    redelivered: bool,
    trace: Option<TraceContext>,
    sender_connection: Option<ConnectionId>,
}

impl Queue {
    fn take_next(&mut self) -> Option<Delivery> {
        let entry = self.ready.pop_front()?;
        let Entry { tag, body, redelivered, trace, sender_connection } = &entry;
        let (body, trace, sender_connection) = (body.clone(), trace.clone(), sender_connection.clone());
        let delivery = Delivery { tag: DeliveryTag(*tag), body, redelivered: *redelivered, trace, sender_connection };
        self.unacked.push_back(entry);
        Some(delivery)
    }

    fn put(&mut self, message: &Message) -> Result<(), PublishError> {
        if self.ready.len() >= MAX_QUEUED_MESSAGES {
            return Err(PublishError::Full);
        }
        self.last_tag += 1;
        let (body, trace, sender_connection) =
            (message.to_vec(), message.trace.clone(), message.sender_connection.clone());
        self.ready.push_back(Entry { tag: self.last_tag, body, redelivered: false, trace, sender_connection });
        self.arrival.notify_one();
        Ok(())
    }

    fn requeue_unacked(&mut self) {
        while let Some(mut entry) = self.unacked.pop_back() {
            entry.redelivered = true;
            self.ready.push_front(entry);
        }
        self.has_consumer = false;
    }
}

impl MemoryBroker {
    /// A broker without any queue, and the ownership for its one consumer.
    #[must_use]
    pub fn new(partitions: Partitions) -> (Self, MemoryOwnership) {
        let (changes, changed) = mpsc::unbounded_channel();
        let ownership = MemoryOwnership { unclaimed: partitions.all().collect(), changed };
        (Self { queues: Arc::default(), changes, keeps_empty: false }, ownership)
    }

    /// Keeps empty queues of offline users: where unknown recipients are rejected, a queue makes a user known.
    #[must_use]
    pub fn keeping_empty_queues(self) -> Self {
        Self { keeps_empty: true, ..self }
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<UserId, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Publisher for MemoryBroker {
    async fn publish(&self, to: &UserId, message: &Message) -> Result<(), PublishError> {
        let mut queues = self.queues();
        queues.get_mut(to).ok_or(PublishError::NoRoute)?.put(message)
    }

    async fn publish_to_room(&self, room: &RoomId, message: &Message) -> Result<(), PublishError> {
        let mut queues = self.queues();
        let members = queues.values_mut().filter(|queue| queue.rooms.contains(room));
        // A member whose queue is full misses it.
        let count = members.map(|queue| queue.put(message)).count();
        if count == 0 { Err(PublishError::NoRoute) } else { Ok(()) }
    }
}

#[async_trait]
impl RoomBindings for MemoryBroker {
    async fn bind(&self, user: &UserId, room: &RoomId) -> Result<BindOutcome, Unavailable> {
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(user) else { return Ok(BindOutcome::NoQueue) };
        queue.rooms.insert(room.clone());
        Ok(BindOutcome::Done)
    }

    async fn unbind(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
        if let Some(queue) = self.queues().get_mut(user) {
            queue.rooms.remove(room);
        }
        Ok(())
    }
}

#[async_trait]
impl QueueProvisioner for MemoryBroker {
    async fn enroll_user(&self, user: &UserId) -> Result<(), Unavailable> {
        self.ensure(user).await
    }

    async fn request_queue(&self, user: &UserId, _asker: &UserId) -> Result<QueueRequestOutcome, Unavailable> {
        self.ensure(user).await.map(|()| QueueRequestOutcome::Created)
    }
}

#[async_trait]
impl OwnerChannel for MemoryBroker {
    async fn send(&self, user: &UserId, message: OwnerMessage) -> Result<(), Unavailable> {
        let sent = self.changes.send(OwnershipEvent::Message(user.clone(), message));
        sent.map_err(|_| Unavailable::new("memory broker", "notify the owner", "it is gone"))
    }
}

#[async_trait]
impl QueueManager for MemoryBroker {
    async fn open(&self, user: &UserId) -> Result<Box<dyn QueueConsumer>, Unavailable> {
        let mut queues = self.queues();
        let queue = queues.entry(user.clone()).or_default();
        if queue.has_consumer {
            return Err(Unavailable::new("memory broker", "open a queue", "it is open already"));
        }
        queue.has_consumer = true;
        let arrival = Arc::clone(&queue.arrival);
        Ok(Box::new(MemoryQueueConsumer { broker: self.clone(), user: user.clone(), arrival }))
    }

    async fn ensure(&self, user: &UserId) -> Result<(), Unavailable> {
        self.queues().entry(user.clone()).or_default();
        Ok(())
    }

    async fn bind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable> {
        self.queues().entry(user.clone()).or_default().rooms.extend(rooms.iter().cloned());
        Ok(())
    }

    async fn unbind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable> {
        if let Some(queue) = self.queues().get_mut(user) {
            queue.rooms.retain(|room| !rooms.contains(room));
        }
        Ok(())
    }

    async fn queue_status(&self, user: &UserId) -> Result<QueueStatus, Unavailable> {
        Ok(state(self.queues().get(user)))
    }

    async fn retire(&self, user: &UserId, _cancelled: BoxFuture<'_, ()>) -> Result<QueueStatus, Unavailable> {
        let mut queues = self.queues();
        let state = state(queues.get(user));
        if self.keeps_empty || !matches!(state, QueueStatus::Empty(_)) {
            return Ok(state);
        }
        queues.remove(user);
        Ok(QueueStatus::Gone)
    }
}

/// The state of an offline user's queue.
fn state(queue: Option<&Queue>) -> QueueStatus {
    match queue {
        None => QueueStatus::Gone,
        Some(queue) if queue.has_consumer || !queue.ready.is_empty() => QueueStatus::Backlogged(QUEUE_EXPIRY),
        Some(_) => QueueStatus::Empty(QUEUE_EXPIRY),
    }
}

struct MemoryQueueConsumer {
    broker: MemoryBroker,
    user: UserId,
    arrival: Arc<Notify>,
}

impl MemoryQueueConsumer {
    fn on_queue<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> Option<T> {
        self.broker.queues().get_mut(&self.user).map(act)
    }

    fn settle(&self, tag: DeliveryTag) {
        self.on_queue(|queue| queue.unacked.retain(|entry| entry.tag != tag.0));
    }
}

#[async_trait]
impl QueueConsumer for MemoryQueueConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        loop {
            if let Some(delivery) = self.try_next() {
                return Some(delivery);
            }
            self.arrival.notified().await;
        }
    }

    fn try_next(&mut self) -> Option<Delivery> {
        self.on_queue(Queue::take_next).flatten()
    }

    fn owns_unacked(&self) -> bool {
        true
    }

    async fn ack(&mut self, tags: &[DeliveryTag]) -> Result<(), Unavailable> {
        tags.iter().for_each(|tag| self.settle(*tag));
        Ok(())
    }

    async fn dead_letter(&mut self, tag: DeliveryTag, _body: &[u8], _why: DeadLetterReason) -> Result<(), Unavailable> {
        self.settle(tag);
        Ok(())
    }

    async fn close(self: Box<Self>) {
        self.on_queue(Queue::requeue_unacked);
    }
}

/// The one owner of every partition of a [`MemoryBroker`].
#[derive(Debug)]
pub struct MemoryOwnership {
    unclaimed: Vec<Partition>,
    changed: mpsc::UnboundedReceiver<OwnershipEvent>,
}

#[async_trait]
impl Ownership for MemoryOwnership {
    async fn next(&mut self) -> OwnershipEvent {
        if let Some(partition) = self.unclaimed.pop() {
            return OwnershipEvent::Acquired(partition);
        }
        match self.changed.recv().await {
            Some(event) => event,
            // The broker is gone: nothing will ever change again.
            None => std::future::pending().await,
        }
    }

    async fn release(&mut self, partition: Partition) {
        self.unclaimed.push(partition);
    }

    async fn resign(&mut self) {
        self.unclaimed.clear();
    }
}
