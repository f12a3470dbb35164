//! Connections and their users, and the limits of each user.

use std::time::Duration;

use async_trait::async_trait;
use kschat_protocol::{ConnectionId, UserId};

use super::error::Unavailable;
use crate::{Partition, Session, Timestamp, limits::Rate, limits::Share};

/// A connection over which a user can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredConnection {
    /// Its id.
    pub connection: ConnectionId,
    /// Its session. The delivery task keeps a copy, in case the registry loses it.
    pub session: Session,
}

/// The conditions for creating a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The provisional user of the connection, if it has one: the connection moves from that user to the new one in the
    /// same step.
    pub replaced_user: Option<UserId>,
    /// The maximum number of connections of a user.
    pub limit: usize,
    /// How often a user may connect.
    pub rate: Option<Rate>,
    /// The present time.
    pub now: Timestamp,
}

/// The result of creating a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// It is registered.
    Done,
    /// The user has the maximum number of connections, as far as the registry knows.
    LimitReached {
        /// Whether the caller should have them checked against the edge; otherwise another caller has requested that.
        check: bool,
    },
    /// The user connects too often, or is blocked, for this long.
    Limited(Duration),
    /// It belongs to another user.
    Taken,
    /// It has ended already, or never existed.
    Gone,
}

/// The result of updating a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// It is updated.
    Done,
    /// The session differs from the expected one and is this; nothing is updated.
    Changed(Session),
    /// There is no such connection (any more).
    Gone,
}

/// The cost of a frame. Everything that a client sends is counted by the same round trip that reads its session.
#[derive(Clone, Debug)]
pub struct Charge<'a> {
    /// The class under which it is counted.
    pub class: RateClass,
    /// The amount.
    pub cost: u32,
    /// The rate limit of the class.
    pub rate: Option<Rate>,
    /// The message that it sends, if any, or the peer whose messages it marks as read.
    pub message: Option<MessageCharge<'a>>,
}

/// A group of frames that share one rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateClass {
    /// Messages.
    Sends,
    /// Acks.
    Acks,
    /// Everything else, including unreadable frames.
    Requests,
}

/// A message on its way to a recipient.
#[derive(Clone, Debug)]
pub struct MessageCharge<'a> {
    /// The recipient; `None` for a room.
    pub to: Option<&'a UserId>,
    /// The length of its text as JSON, in bytes.
    pub bytes: usize,
    /// How often a user may write to a new recipient.
    pub new_recipients: Option<Rate>,
    /// How much of one sender may wait.
    pub share: Option<Share>,
}

/// The session behind a frame, and whether the limits allow the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChargedSession {
    /// The session of the connection.
    pub session: Session,
    /// Whether the user has another v2 connection. Only looked up for a message.
    pub has_other_devices: bool,
    /// Whether the limits allow the frame.
    pub verdict: ChargeVerdict,
}

/// Whether the limits allow a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeVerdict {
    /// They do.
    Granted,
    /// The rate limit is exceeded for this long.
    Limited(Duration),
    /// The sender's share of the recipient's queue is full.
    ShareFull,
    /// The user continued in spite of refusals, and is blocked.
    Blocked {
        /// The remaining time.
        left: Duration,
        /// Whether the owner should be asked to close the user's connections.
        should_disconnect: bool,
    },
}

/// Stores connections and their users. Every change is one atomic, conditional and idempotent step.
#[async_trait]
pub trait ConnectionRegistry: Send + Sync {
    /// Stores a connection until [`Session::retained_until`], if it is admitted. A connection that its user has already
    /// stays unchanged.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be stored.
    async fn create(
        &self,
        connection: &ConnectionId,
        session: &Session,
        admission: &Admission,
    ) -> Result<CreateOutcome, Unavailable>;

    /// Replaces a session by another one of the same user, if it equals the expected one.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be replaced.
    async fn update(
        &self,
        connection: &ConnectionId,
        old: &Session,
        new: &Session,
    ) -> Result<UpdateOutcome, Unavailable>;

    /// Stores a connection again after the registry has lost its data, unless its user has `limit` others by now. A
    /// known connection stays unchanged, and so does an ended one.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be stored.
    async fn restore(
        &self,
        connection: &ConnectionId,
        session: &Session,
        limit: usize,
    ) -> Result<CreateOutcome, Unavailable>;

    /// The session of a connection.
    ///
    /// # Errors
    /// [`Unavailable`] when the lookup fails.
    async fn session(&self, connection: &ConnectionId) -> Result<Option<Session>, Unavailable>;

    /// Returns the session of a connection and whether the limits allow the frame; counts the frame. A repetition
    /// counts twice.
    ///
    /// # Errors
    /// [`Unavailable`] when the lookup fails.
    async fn charge_session(
        &self,
        connection: &ConnectionId,
        charge: &Charge<'_>,
        now: Timestamp,
    ) -> Result<Option<ChargedSession>, Unavailable>;

    /// Removes an ended connection, and returns its user, if it was known. For a while after that it can't be created
    /// or restored: a step that creates it may still be under way.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be removed.
    async fn end_connection(&self, connection: &ConnectionId) -> Result<Option<UserId>, Unavailable>;

    /// Removes a connection, if it still belongs to that user; does nothing for an unknown one.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be removed.
    async fn remove(&self, user: &UserId, connection: &ConnectionId) -> Result<(), Unavailable>;

    /// The connections over which a user can be reached at that moment.
    ///
    /// # Errors
    /// [`Unavailable`] when the lookup fails.
    async fn connections(&self, user: &UserId, now: Timestamp) -> Result<Vec<RegisteredConnection>, Unavailable>;

    /// The users of a partition who can be reached at that moment. It may contain a few who no longer can.
    ///
    /// # Errors
    /// [`Unavailable`] when the lookup fails.
    async fn online_users(&self, partition: Partition, now: Timestamp) -> Result<Vec<UserId>, Unavailable>;

    /// Sets the epoch marker of a partition; returns whether it was set already. A missing marker shows that the
    /// registry has lost its data.
    ///
    /// # Errors
    /// [`Unavailable`]: it may or may not be set.
    async fn set_epoch_marker(&self, partition: Partition) -> Result<bool, Unavailable>;

    /// Whether the partition's epoch marker is still set.
    ///
    /// # Errors
    /// [`Unavailable`] when the lookup fails.
    async fn has_epoch_marker(&self, partition: Partition) -> Result<bool, Unavailable>;
}

/// Counts how much of each sender waits for a recipient; [`ConnectionRegistry::charge_session`] adds to it.
#[async_trait]
pub trait SenderShares: Send + Sync {
    /// Clears all shares: nothing waits for the user any more.
    ///
    /// # Errors
    /// [`Unavailable`]: some may still count.
    async fn clear_shares(&self, user: &UserId) -> Result<(), Unavailable>;

    /// Releases what was counted of a sender for a message that did not enter the queue.
    ///
    /// # Errors
    /// [`Unavailable`]: it may still count.
    async fn release_share(&self, user: &UserId, sender: &UserId, weight: u64) -> Result<(), Unavailable>;

    /// Forgets what was counted before the previous call: those messages have left the queue. Later counts remain.
    ///
    /// # Errors
    /// [`Unavailable`]: some may count for longer.
    async fn rotate_shares(&self, user: &UserId) -> Result<(), Unavailable>;
}
