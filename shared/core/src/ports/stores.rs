//! Stores of users' data beside their connections.

use async_trait::async_trait;
use kschat_protocol::{MessageId, RoomId, UserId};

use super::error::Unavailable;
use crate::{Partition, Timestamp};

/// The outcome of the first send with an `rno`, which holds for every repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The message's id.
    pub id: MessageId,
    /// When it was accepted.
    pub time: Timestamp,
    /// A hash of recipient and text, by which functions of the previous release recognize repetitions.
    pub digest: u128,
    /// A collision-resistant hash of sender, recipient and text; claims of the previous release have none.
    pub content: Option<u128>,
}

/// The result of claiming an `rno`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// It is the first claim.
    New,
    /// There is a claim, and it is unknown whether the broker has the message.
    Pending(Claim),
    /// There is a claim, and the broker has the message.
    Done(Claim),
}

/// Stores which `rno` of which user stands for which message.
#[async_trait]
pub trait IdempotencyStore: Send + Sync {
    /// Claims an `rno` for a message, unless it is claimed.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be claimed now.
    async fn claim(&self, user: &UserId, rno: &str, claim: &Claim) -> Result<ClaimOutcome, Unavailable>;

    /// Records that the broker has the message.
    ///
    /// # Errors
    /// [`Unavailable`]: a repetition will be published again, under the same id.
    async fn mark_published(&self, user: &UserId, rno: &str, claim: &Claim) -> Result<(), Unavailable>;
}

/// The rooms that a user's queue must be bound to, and those that it must not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserRooms {
    /// The user's rooms, in the order of their ids.
    pub rooms: Vec<RoomId>,
    /// The rooms that the user has left lately, in the order of their ids.
    pub left: Vec<RoomId>,
}

/// Stores the members of rooms.
#[async_trait]
pub trait RoomMemberships: Send + Sync {
    /// Adds a user to a room, unless the user is in `limit` others; returns whether the user is a member now.
    ///
    /// # Errors
    /// [`Unavailable`]: the user may or may not be a member.
    async fn join(&self, user: &UserId, room: &RoomId, limit: usize) -> Result<bool, Unavailable>;

    /// Removes a user from a room, and remembers for a while that the user has left it.
    ///
    /// # Errors
    /// [`Unavailable`]: the user may or may not be a member.
    async fn leave(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable>;

    /// The rooms of a user, and the left rooms whose bindings may remain after a crash. Both are read at one moment.
    ///
    /// # Errors
    /// [`Unavailable`] when the lookup fails.
    async fn rooms_and_left(&self, user: &UserId) -> Result<UserRooms, Unavailable>;

    /// Records that a user's queue is bound to no left room. Rooms that were left within the last minute stay recorded:
    /// an attempt to bind them may still be on its way to the broker.
    ///
    /// # Errors
    /// [`Unavailable`]: they may be unbound once more.
    async fn clear_left_rooms(&self, user: &UserId) -> Result<(), Unavailable>;

    /// The rooms of a user, in the order of their ids.
    ///
    /// # Errors
    /// [`Unavailable`] when the lookup fails.
    async fn rooms(&self, user: &UserId) -> Result<Vec<RoomId>, Unavailable>;

    /// Whether a user is in a room.
    ///
    /// # Errors
    /// [`Unavailable`] when the lookup fails.
    async fn is_member(&self, user: &UserId, room: &RoomId) -> Result<bool, Unavailable>;
}

/// A delivered or read position in what one user sent to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The sender of the messages.
    pub author: UserId,
    /// The recipient of the messages.
    pub reader: UserId,
    /// The stage that they have reached.
    pub stage: ReceiptStage,
    /// The last message that the receipt covers; it covers all before it.
    pub message: MessageId,
}

/// The stage of a message at its recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptStage {
    /// A client of the recipient has it.
    Delivered,
    /// The recipient has read it.
    Read,
}

/// The positions in what one user sent to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiptPositions {
    /// The last message that was delivered.
    pub delivered: Option<MessageId>,
    /// The last message that was read.
    pub read: Option<MessageId>,
}

/// Stores receipts.
#[async_trait]
pub trait ReceiptStore: Send + Sync {
    /// Records receipts. A position never moves back, by the order of message ids as texts.
    ///
    /// # Errors
    /// [`Unavailable`]: some may be recorded.
    async fn record_receipts(&self, receipts: &[Receipt]) -> Result<(), Unavailable>;

    /// The positions of each of the readers in what the author sent, in the readers' order.
    ///
    /// # Errors
    /// [`Unavailable`] when the lookup fails.
    async fn receipt_positions(
        &self,
        author: &UserId,
        readers: &[UserId],
    ) -> Result<Vec<ReceiptPositions>, Unavailable>;
}

/// When a user was last online.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastSeen {
    /// Unknown.
    Never,
    /// The user came online, and no departure is recorded.
    Online,
    /// The user went offline then.
    OfflineSince(Timestamp),
}

/// The presence of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Whether a connection is registered.
    pub is_reachable: bool,
    /// When the user was last online.
    pub seen: LastSeen,
}

/// Stores presence and its watchers.
#[async_trait]
pub trait PresenceStore: Send + Sync {
    /// Subscribes a watcher to these users until then; returns the present state of each, in their order. Of too many
    /// watchers of one user, those that expire first are removed.
    ///
    /// # Errors
    /// [`Unavailable`]: the watcher may be subscribed to some.
    async fn watch(
        &self,
        watcher: &UserId,
        users: &[UserId],
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Presence>, Unavailable>;

    /// Records that a user is online; returns what was recorded before.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be recorded.
    async fn mark_online(&self, user: &UserId) -> Result<LastSeen, Unavailable>;

    /// Records that a user is offline.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be recorded.
    async fn mark_offline(&self, user: &UserId, now: Timestamp) -> Result<(), Unavailable>;

    /// The watchers of a user at that moment.
    ///
    /// # Errors
    /// [`Unavailable`] when the lookup fails.
    async fn watchers(&self, user: &UserId, now: Timestamp) -> Result<Vec<UserId>, Unavailable>;
}

/// Stores which offline users keep their queues, most of them with messages: these must be checked now and then, and
/// are counted.
#[async_trait]
pub trait BacklogStore: Send + Sync {
    /// Schedules the next check of a user's queue.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be scheduled.
    async fn schedule_check(&self, user: &UserId, look_at: Timestamp) -> Result<(), Unavailable>;

    /// Records that a user has no queue any more, or is online.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be recorded.
    async fn clear(&self, user: &UserId) -> Result<(), Unavailable>;

    /// The users of a partition whose queues are due for a check, at most `limit`.
    ///
    /// # Errors
    /// [`Unavailable`] when the lookup fails.
    async fn due(&self, partition: Partition, now: Timestamp, limit: usize) -> Result<Vec<UserId>, Unavailable>;

    /// The number of recorded users of a partition.
    ///
    /// # Errors
    /// [`Unavailable`] when the lookup fails.
    async fn count(&self, partition: Partition) -> Result<u64, Unavailable>;
}
