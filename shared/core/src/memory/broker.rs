//! Queues in a map.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use kschat_protocol::{AckFrame, ConnectionId, Message, Notice, RoomId, TraceContext, UserId};
use tokio::sync::{Notify, mpsc};

use crate::{
    Partition, Partitions,
    ports::{
        Acks, Bound, Deliveries, Delivery, Mailbox, Notices, Ownership, OwnershipEvent, Pokes, PublishError, Publisher,
        Queues, Replies, Requested, Retired, RoomBindings, Supervision, Tag, Unavailable, Undeliverable,
    },
};

/// How many messages wait for one user at most.
const CAPACITY: usize = 100_000;

/// A queue in memory is kept for as long as its process runs: longer than that.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Holds queues until the process ends, and owns every partition itself.
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
    on_loan: VecDeque<Entry>,
    last_tag: u64,
    taken: bool,
    arrival: Arc<Notify>,
    rooms: HashSet<RoomId>,
}

#[derive(Debug)]
struct Entry {
    tag: u64,
    body: Vec<u8>,
    redelivered: bool,
    trace: Option<TraceContext>,
    via: Option<ConnectionId>,
}

impl Queue {
    fn lend(&mut self) -> Option<Delivery> {
        let entry = self.ready.pop_front()?;
        let Entry { tag, body, redelivered, trace, via } = &entry;
        let (body, trace, via) = (body.clone(), trace.clone(), via.clone());
        let delivery = Delivery { tag: Tag(*tag), body, redelivered: *redelivered, trace, via };
        self.on_loan.push_back(entry);
        Some(delivery)
    }

    fn put(&mut self, message: &Message) -> Result<(), PublishError> {
        if self.ready.len() >= CAPACITY {
            return Err(PublishError::Full);
        }
        self.last_tag += 1;
        let (body, trace, via) = (message.to_vec(), message.trace.clone(), message.via.clone());
        self.ready.push_back(Entry { tag: self.last_tag, body, redelivered: false, trace, via });
        self.arrival.notify_one();
        Ok(())
    }

    fn give_back(&mut self) {
        while let Some(mut entry) = self.on_loan.pop_back() {
            entry.redelivered = true;
            self.ready.push_front(entry);
        }
        self.taken = false;
    }
}

impl MemoryBroker {
    /// A broker without any queue, and its one consumer's side of it.
    #[must_use]
    pub fn new(partitions: Partitions) -> (Self, MemoryOwnership) {
        let (changes, changed) = mpsc::unbounded_channel();
        let ownership = MemoryOwnership { unclaimed: partitions.all().collect(), changed };
        (Self { queues: Arc::default(), changes, keeps_empty: false }, ownership)
    }

    /// The same, but the empty queues of those who are away stay: where strangers are refused, they tell users from them.
    #[must_use]
    pub fn keeping_empty_queues(self) -> Self {
        Self { keeps_empty: true, ..self }
    }

    fn tell(&self, event: OwnershipEvent) -> Result<(), Unavailable> {
        self.changes.send(event).map_err(|_| Unavailable::new("memory broker", "tell the owner", "it is gone"))
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
        // Whoever's queue is full misses it.
        let count = members.map(|queue| queue.put(message)).count();
        if count == 0 { Err(PublishError::NoRoute) } else { Ok(()) }
    }
}

#[async_trait]
impl RoomBindings for MemoryBroker {
    async fn bind(&self, user: &UserId, room: &RoomId) -> Result<Bound, Unavailable> {
        let mut queues = self.queues();
        let Some(queue) = queues.get_mut(user) else { return Ok(Bound::NoQueue) };
        queue.rooms.insert(room.clone());
        Ok(Bound::Done)
    }

    async fn unbind(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
        if let Some(queue) = self.queues().get_mut(user) {
            queue.rooms.remove(room);
        }
        Ok(())
    }
}

#[async_trait]
impl Queues for MemoryBroker {
    async fn enrol(&self, user: &UserId) -> Result<(), Unavailable> {
        self.ensure(user).await
    }

    async fn request(&self, user: &UserId, _asker: &UserId) -> Result<Requested, Unavailable> {
        self.ensure(user).await.map(|()| Requested::Made)
    }
}

#[async_trait]
impl Pokes for MemoryBroker {
    async fn poke(&self, user: &UserId) -> Result<(), Unavailable> {
        self.tell(OwnershipEvent::Poked(user.clone()))
    }
}

#[async_trait]
impl Acks for MemoryBroker {
    async fn acked(&self, user: &UserId, ack: &AckFrame) -> Result<(), Unavailable> {
        self.tell(OwnershipEvent::Acked(user.clone(), ack.clone()))
    }
}

#[async_trait]
impl Notices for MemoryBroker {
    async fn notify(&self, user: &UserId, notice: &Notice) -> Result<(), Unavailable> {
        self.tell(OwnershipEvent::Noticed(user.clone(), notice.clone()))
    }
}

#[async_trait]
impl Supervision for MemoryBroker {
    async fn close(&self, user: &UserId, connection: Option<&ConnectionId>) -> Result<(), Unavailable> {
        self.tell(OwnershipEvent::Closing(user.clone(), connection.cloned()))
    }

    async fn check(&self, user: &UserId) -> Result<(), Unavailable> {
        self.tell(OwnershipEvent::Checking(user.clone()))
    }
}

#[async_trait]
impl Replies for MemoryBroker {
    async fn reply(&self, user: &UserId, connection: &ConnectionId, frame: &str) -> Result<(), Unavailable> {
        self.tell(OwnershipEvent::Replied(user.clone(), connection.clone(), frame.to_owned()))
    }
}

#[async_trait]
impl Mailbox for MemoryBroker {
    async fn open(&self, user: &UserId) -> Result<Box<dyn Deliveries>, Unavailable> {
        let mut queues = self.queues();
        let queue = queues.entry(user.clone()).or_default();
        if queue.taken {
            return Err(Unavailable::new("memory broker", "open a queue", "it is open already"));
        }
        queue.taken = true;
        let arrival = Arc::clone(&queue.arrival);
        Ok(Box::new(MemoryDeliveries { broker: self.clone(), user: user.clone(), arrival }))
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

    async fn look(&self, user: &UserId) -> Result<Retired, Unavailable> {
        Ok(state(self.queues().get(user)))
    }

    async fn retire(&self, user: &UserId, _called_back: BoxFuture<'_, ()>) -> Result<Retired, Unavailable> {
        let mut queues = self.queues();
        let state = state(queues.get(user));
        if self.keeps_empty || !matches!(state, Retired::Idle(_)) {
            return Ok(state);
        }
        queues.remove(user);
        Ok(Retired::Gone)
    }
}

/// How the queue of a user is who is away.
fn state(queue: Option<&Queue>) -> Retired {
    match queue {
        None => Retired::Gone,
        Some(queue) if queue.taken || !queue.ready.is_empty() => Retired::Waiting(FOR_EVER),
        Some(_) => Retired::Idle(FOR_EVER),
    }
}

struct MemoryDeliveries {
    broker: MemoryBroker,
    user: UserId,
    arrival: Arc<Notify>,
}

impl MemoryDeliveries {
    fn on_queue<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> Option<T> {
        self.broker.queues().get_mut(&self.user).map(act)
    }

    fn settle(&self, tag: Tag) {
        self.on_queue(|queue| queue.on_loan.retain(|entry| entry.tag != tag.0));
    }
}

#[async_trait]
impl Deliveries for MemoryDeliveries {
    async fn next(&mut self) -> Option<Delivery> {
        loop {
            if let Some(delivery) = self.try_next() {
                return Some(delivery);
            }
            self.arrival.notified().await;
        }
    }

    fn try_next(&mut self) -> Option<Delivery> {
        self.on_queue(Queue::lend).flatten()
    }

    fn is_ours(&self) -> bool {
        true
    }

    async fn ack(&mut self, tags: &[Tag]) -> Result<(), Unavailable> {
        tags.iter().for_each(|tag| self.settle(*tag));
        Ok(())
    }

    async fn discard(&mut self, tag: Tag, _body: &[u8], _why: Undeliverable) -> Result<(), Unavailable> {
        self.settle(tag);
        Ok(())
    }

    async fn close(self: Box<Self>) {
        self.on_queue(Queue::give_back);
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
