//! Distributes partitions among consumers.

use async_trait::async_trait;
use kschat_protocol::UserId;

use super::owner::OwnerMessage;
use crate::Partition;

/// A change for the owner of partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnershipEvent {
    /// This process owns the partition now: serve its online users.
    Acquired(Partition),
    /// The partition is lost: stop serving it. Its unacked messages are requeued once that is done, or once the broker has
    /// ended the connection.
    Lost(Partition),
    /// Another process waits for the partition: stop serving it, then [`Ownership::release`] it.
    ReleaseRequested(Partition),
    /// A message to the owner of that user.
    Message(UserId, OwnerMessage),
}

/// Distributes partitions among consumers, so that each has one owner at most.
#[async_trait]
pub trait Ownership: Send {
    /// Waits for the next change. Cancellation-safe.
    async fn next(&mut self) -> OwnershipEvent;

    /// Unsubscribes from messages that a successor can receive instead. For a process that is about to leave: it reads no
    /// more of them.
    fn stop_messages(&mut self) {}

    /// Releases a partition to another owner. It must have no unacked messages any more.
    async fn release(&mut self, partition: Partition);

    /// Releases every partition and leaves.
    async fn resign(&mut self);
}

#[async_trait]
impl<T: Ownership + ?Sized> Ownership for Box<T> {
    async fn next(&mut self) -> OwnershipEvent {
        (**self).next().await
    }

    fn stop_messages(&mut self) {
        (**self).stop_messages();
    }

    async fn release(&mut self, partition: Partition) {
        (**self).release(partition).await;
    }

    async fn resign(&mut self) {
        (**self).resign().await;
    }
}
