//! Publishes messages to the broker, and requests users' queues.

use async_trait::async_trait;
use kschat_protocol::{Message, RoomId, UserId};

use super::error::Unavailable;

/// Why the broker has not accepted a message, or why that is unknown.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No queue is bound for the recipient.
    #[error("no queue is bound for the recipient")]
    NoRoute,
    /// The recipient's queue is full.
    #[error("the recipient's queue is full")]
    Full,
    /// The broker certainly does not have it.
    #[error(transparent)]
    Unavailable(Unavailable),
    /// The broker may have it: a repetition must carry the same id.
    #[error("the broker did not confirm in time")]
    Unconfirmed(#[source] Unavailable),
}

/// Publishes messages to the broker.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// Returns once the broker has confirmed the message, with its trace headers, for its recipient.
    ///
    /// # Errors
    /// [`PublishError`]; the adapter bounds the time until then.
    async fn publish(&self, to: &UserId, message: &Message) -> Result<(), PublishError>;

    /// Returns once the broker has confirmed the message for the members of the room. A member whose queue is full
    /// misses it: that must not silence the room.
    ///
    /// # Errors
    /// [`PublishError`]; no route means that no queue is bound to the room.
    async fn publish_to_room(&self, room: &RoomId, message: &Message) -> Result<(), PublishError>;
}

/// Binds users' queues to rooms: the broker copies each message of a room to them.
#[async_trait]
pub trait RoomBindings: Send + Sync {
    /// Binds a user's queue to a room. Idempotent.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be bound.
    async fn bind(&self, user: &UserId, room: &RoomId) -> Result<BindOutcome, Unavailable>;

    /// Unbinds a user's queue from a room. Idempotent; the queue may not exist.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be bound.
    async fn unbind(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable>;
}

/// The result of binding a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindOutcome {
    /// It is bound.
    Done,
    /// There is no such queue.
    NoQueue,
}

/// Creates queues on behalf of functions.
#[async_trait]
pub trait QueueProvisioner: Send + Sync {
    /// Makes a connected user known, where an existing queue is what makes a recipient known.
    ///
    /// # Errors
    /// [`Unavailable`]: the user may stay unknown.
    async fn enroll_user(&self, user: &UserId) -> Result<(), Unavailable>;

    /// Requests the queue of a user for whom there is a message. The user's owner creates it, as only the owner may
    /// remove it; without an owner it is created here. The owner creates few at once, and requesters take turns.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not exist.
    async fn request_queue(&self, user: &UserId, requester: &UserId) -> Result<QueueRequestOutcome, Unavailable>;
}

/// The result of a queue request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueRequestOutcome {
    /// The queue exists.
    Created,
    /// The owner was asked. It creates the queue as soon as its load permits; without an owner, the next one does.
    Pending {
        /// Whether there is an owner.
        has_owner: bool,
    },
}
