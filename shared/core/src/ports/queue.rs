//! Users' queues, as the consumer uses them.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use kschat_protocol::{ConnectionId, RoomId, TraceContext, UserId};

use super::error::Unavailable;

/// Identifies a delivery until it is acked, dead-lettered or requeued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryTag(pub u64);

/// A message that was delivered from its queue and is not acked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its tag.
    pub tag: DeliveryTag,
    /// The body as it was published.
    pub body: Vec<u8>,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// The trace context in its headers.
    pub trace: Option<TraceContext>,
    /// The connection that sent it, if its headers name one.
    pub sender_connection: Option<ConnectionId>,
}

/// Manages users' queues.
#[async_trait]
pub trait QueueManager: Send + Sync {
    /// Starts to consume a user's queue, which is created if necessary. At most one consumer at a time.
    ///
    /// # Errors
    /// [`Unavailable`] when it can't be opened for now.
    async fn open(&self, user: &UserId) -> Result<Box<dyn QueueConsumer>, Unavailable>;

    /// Makes sure that the queue of a user with a pending message exists and is bound. Users who connect do not wait
    /// behind these calls.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not exist.
    async fn ensure(&self, user: &UserId) -> Result<(), Unavailable>;

    /// Binds a user's existing queue to rooms.
    ///
    /// # Errors
    /// [`Unavailable`]: it may be bound to some.
    async fn bind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable>;

    /// Unbinds a user's queue from rooms. Idempotent; the queue may not exist.
    ///
    /// # Errors
    /// [`Unavailable`]: it may be bound to some.
    async fn unbind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable>;

    /// Checks the queue of an offline user, without changing it.
    ///
    /// # Errors
    /// [`Unavailable`] when the check fails.
    async fn queue_status(&self, user: &UserId) -> Result<QueueStatus, Unavailable>;

    /// Removes the queue of an offline user, if it is empty and empty queues are not kept. It may take a while, and
    /// leaves the queue unchanged when `cancelled` completes first.
    ///
    /// Only the creator of users' queues may remove them: a message that another process publishes to a queue at the
    /// moment of its removal is confirmed, and lost.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be removed, and may be out of the routing.
    async fn retire(&self, user: &UserId, cancelled: BoxFuture<'_, ()>) -> Result<QueueStatus, Unavailable>;
}

/// The result of checking or removing a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueStatus {
    /// There is no queue: a sender gets no route, and requests one.
    Gone,
    /// The queue is empty but kept, and nobody is notified of new messages. Unchecked, the broker keeps it for at least
    /// this long.
    Empty(Duration),
    /// The queue exists, and is not known to be empty: its removal was cancelled, or a sender has just requested it.
    Kept,
    /// Messages wait. Unchecked, the broker keeps their queue for at least this long.
    Backlogged(Duration),
}

/// Why a message can never be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterReason {
    /// Its body can't be parsed: a foreign process has published it.
    NotAMessage,
    /// No frame can hold it.
    TooLarge,
    /// The edge refused it for good.
    Rejected,
}

impl DeadLetterReason {
    /// The name for operators.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotAMessage => "not-a-message",
            Self::TooLarge => "too-large",
            Self::Rejected => "refused-by-the-edge",
        }
    }
}

/// Consumes one user's queue, in its order.
#[async_trait]
pub trait QueueConsumer: Send + Sync {
    /// Waits for the next message; `None` when the broker has requeued the messages.
    ///
    /// Cancellation-safe: no message is lost.
    async fn next(&mut self) -> Option<Delivery>;

    /// The next message, if it is buffered already.
    fn try_next(&mut self) -> Option<Delivery>;

    /// Whether the unacked messages still belong to this process. They do not after a pause long enough for the
    /// broker to drop it.
    fn owns_unacked(&self) -> bool;

    /// Acks messages, which removes them from the queue: the promise to the sender is kept.
    ///
    /// # Errors
    /// [`Unavailable`]: some may be redelivered.
    async fn ack(&mut self, tags: &[DeliveryTag]) -> Result<(), Unavailable>;

    /// Dead-letters a message with this body that can never be delivered.
    ///
    /// # Errors
    /// [`Unavailable`]: it may be redelivered.
    async fn dead_letter(&mut self, tag: DeliveryTag, body: &[u8], why: DeadLetterReason) -> Result<(), Unavailable>;

    /// Stops, and requeues in order everything that is not acked.
    async fn close(self: Box<Self>);
}
