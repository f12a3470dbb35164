//! Declares, checks and removes users' queues.
//!
//! A change that the broker makes late may undo later ones: a removal after the queue was created again takes messages
//! with it, and a consumer on a removed queue loses its channel. Declarations do not wait for removals, and so have a
//! channel of their own; over two channels the broker keeps no order. So every change waits for its reply. Without a
//! timely reply nothing more is done over that connection: it is dropped, and its locks are held until the broker has
//! ended it (see `OwnershipSession::close` in [`super::ownership`]). A future that waits for a change must not be
//! dropped.
//!
//! Functions have no locks. Their late attempts, which may take effect even after the second attempt, are harmless.
//! Nobody needs a queue that is declared late, as its user's owner only checks queues that it knows; the broker expires
//! it after [`QueueSettings::expiry`], and the next send or connection uses it again. The owner removes a late binding
//! to a room that was left since, when it opens the queue: left rooms are recorded (see
//! `RoomMemberships::rooms_and_left`). A late unbinding from a room that was joined since is repaired by the owner
//! likewise, and by the next member who gets no route.

use std::{io, num::NonZero, str::FromStr, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, try_join_all};
use kschat_core::{
    Partition,
    ports::{BindOutcome, QueueStatus},
};
use kschat_protocol::{RoomId, UserId};
use lapin::{
    Channel, Connection,
    options::{BasicGetOptions, QueueDeleteOptions},
    types::ShortString,
};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::{
    ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED, QueueKind,
    connection::{BROKER_REPLY_TIMEOUT, open_channel, reply_code},
    pause_guard::PauseGuard,
    topology::{
        QueueCounts, adopt_user_queue, bind_room, control_queue, declare_user_queue, queue_counts, unbind_room,
        unbind_user_queue, user_queue,
    },
};

/// Attempts to declare a queue on a channel that other declarations may have closed.
const QUEUE_DECLARE_MAX_ATTEMPTS: u32 = 3;

/// How often a queue is checked whose messages are being requeued.
const REQUEUE_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long a message may take from the routing to its queue: microseconds within a node, more within a cluster.
const ROUTING_SETTLE_TIME: Duration = Duration::from_secs(1);

/// The settings of users' queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// The broker's type of queue.
    pub kind: QueueKind,
    /// How long a message waits for its recipient; then it is dead-lettered.
    pub retention: Duration,
    /// How many messages wait for one user at most; beyond that senders learn that the queue is full.
    pub max_messages: NonZero<u32>,
    /// How many bytes of bodies wait for one user at most, likewise.
    pub max_bytes: NonZero<u64>,
    /// Whether the empty queue of an offline user is kept: where unknown recipients are rejected, it makes the user
    /// known.
    pub keeps_empty: bool,
}

impl QueueSettings {
    /// The longest retention: the broker counts milliseconds in 32 bits, and a queue lives twice as long.
    ///
    /// Source: RabbitMQ, `rabbit_misc:check_expiry`.
    pub const MAX_RETENTION: Duration = Duration::from_secs(24 * 24 * 60 * 60);

    /// The shortest retention: queues of offline users are checked every 30 seconds.
    pub const MIN_RETENTION: Duration = Duration::from_secs(60);

    /// How long the broker keeps an unused queue. Publishing does not count as use, so it is twice what the last
    /// message needs.
    pub(super) fn expiry(&self) -> Duration {
        self.retention * 2
    }
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            kind: QueueKind::Classic,
            retention: Duration::from_secs(14 * 24 * 60 * 60),
            max_messages: NonZero::new(100_000).unwrap_or(NonZero::<u32>::MIN),
            max_bytes: NonZero::new(64 << 20).unwrap_or(NonZero::<u64>::MIN),
            keeps_empty: false,
        }
    }
}

impl QueueKind {
    /// The broker's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }
}

impl FromStr for QueueKind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "classic" => Ok(Self::Classic),
            "quorum" => Ok(Self::Quorum),
            _ => Err("must be `classic` or `quorum`"),
        }
    }
}

/// Declares and removes queues over a connection. A refusal closes its channel, so these have channels of their own.
#[derive(Debug, Default)]
pub(super) struct UserQueues {
    /// Abandoned when a reply of the broker is late. Without it, the caller has a deadline of its own.
    pause_guard: Option<Arc<PauseGuard>>,
    declare_channel: Mutex<Option<Channel>>,
    /// Declarations that senders request: however many there are, a connecting user does not wait for them.
    requests: Mutex<Option<Channel>>,
    passive_channel: Mutex<Option<Channel>>,
    delete_channel: Mutex<Option<Channel>>,
    bindings: Mutex<Option<Channel>>,
}

impl UserQueues {
    /// For a connection that is dropped when a reply of the broker is late.
    pub(super) fn with_pause_guard(pause_guard: Arc<PauseGuard>) -> Self {
        Self { pause_guard: Some(pause_guard), ..Self::default() }
    }

    /// Waits for a reply of the broker, and drops the connection when it is late. The time spent waiting for a turn
    /// does not count.
    async fn within_reply_timeout<T>(
        &self,
        done: impl Future<Output = Result<T, lapin::Error>>,
    ) -> Result<T, lapin::Error> {
        let Some(pause_guard) = &self.pause_guard else { return done.await };
        timeout(BROKER_REPLY_TIMEOUT, done).await.unwrap_or_else(|_| {
            tracing::warn!("the broker did not reply in time; reconnecting");
            pause_guard.abandon();
            Err(io::Error::from(io::ErrorKind::TimedOut).into())
        })
    }

    /// Makes sure that a user's queue exists; returns its number of consumers. A queue with other settings is used as
    /// it is: it is created again once it has been empty while its user was offline.
    pub(super) async fn ensure(
        &self,
        connection: &Connection,
        user: &UserId,
        settings: &QueueSettings,
    ) -> Result<u32, lapin::Error> {
        self.declare(&self.declare_channel, connection, user, settings).await
    }

    /// The same, for a sender.
    pub(super) async fn ensure_for_sender(
        &self,
        connection: &Connection,
        user: &UserId,
        settings: &QueueSettings,
    ) -> Result<u32, lapin::Error> {
        self.declare(&self.requests, connection, user, settings).await
    }

    async fn declare(
        &self,
        channel: &Mutex<Option<Channel>>,
        connection: &Connection,
        user: &UserId,
        settings: &QueueSettings,
    ) -> Result<u32, lapin::Error> {
        let mut tries = 1;
        loop {
            let channel = self.within_reply_timeout(open_channel(connection, &mut *channel.lock().await)).await?;
            let error = match self.within_reply_timeout(declare_user_queue(&channel, user, settings)).await {
                Ok(consumers) => return Ok(consumers),
                Err(error) if reply_code(&error) == Some(ACCESS_REFUSED) => return Err(error),
                Err(error) => error,
            };
            // The refusal may concern another declaration: all that are in flight on the channel fail with it.
            let own = self.within_reply_timeout(connection.create_channel()).await?;
            match self.within_reply_timeout(adopt_user_queue(&own, user)).await {
                Ok(consumers) => {
                    tracing::debug!("using an existing queue with different settings");
                    own.close(200, "done".into()).await?;
                    return Ok(consumers);
                }
                Err(missing) if reply_code(&missing) == Some(NOT_FOUND) && tries < QUEUE_DECLARE_MAX_ATTEMPTS => {
                    tries += 1;
                }
                Err(_) => return Err(error),
            }
        }
    }

    /// Whether a user has a queue.
    pub(super) async fn exists(&self, connection: &Connection, user: &UserId) -> Result<bool, lapin::Error> {
        Ok(self.message_count(connection, user, QueueKind::Classic).await?.is_some())
    }

    /// Whether a partition has an owner, which creates its users' queues.
    pub(super) async fn has_owner(&self, connection: &Connection, partition: Partition) -> Result<bool, lapin::Error> {
        // Without a control queue no consumer process has ever run.
        let counts = self.queue_counts(connection, control_queue(partition), QueueKind::Classic).await?;
        Ok(counts.is_some_and(|counts| counts.consumers > 0))
    }

    /// Removes a user's queue if it is empty, as far as that is possible without losing a message.
    ///
    /// The broker confirms a message that it has routed to a queue which is removed at that moment, `if-empty` or not.
    /// So the queue is first unbound, and messages on their way to it get time to arrive. Only the owner, which is the
    /// caller, binds it again.
    pub(super) async fn retire(
        &self,
        connection: &Connection,
        user: &UserId,
        settings: &QueueSettings,
        cancelled: BoxFuture<'_, ()>,
    ) -> Result<QueueStatus, lapin::Error> {
        let state = self.status(connection, user, settings).await?;
        if !settings.is_removable() || !matches!(state, QueueStatus::Empty(_)) {
            return Ok(state);
        }
        self.unbind(connection, user).await?;
        let is_cancelled = timeout(ROUTING_SETTLE_TIME, cancelled).await.is_ok();
        let kept = if is_cancelled {
            QueueStatus::Kept
        } else if self.message_count(connection, user, settings.kind).await? == Some(0)
            && self.delete(connection, user).await?
        {
            return Ok(QueueStatus::Gone);
        } else {
            QueueStatus::Backlogged(settings.expiry())
        };
        self.ensure(connection, user, settings).await?;
        Ok(kept)
    }

    /// Waits until a queue has no consumer: one whose channel has ended counts until all its unacked messages are
    /// requeued. Opening the queue sooner would deliver later messages first.
    ///
    /// Source: RabbitMQ, `rabbit_amqqueue_process:handle_ch_down`, which drops a consumer and requeues its unacked
    /// messages in one step; of quorum queues, tried on RabbitMQ 3.10.
    pub(super) async fn wait_until_unconsumed(
        &self,
        connection: &Connection,
        user: &UserId,
        kind: QueueKind,
    ) -> Result<(), lapin::Error> {
        let is_consumed = async || {
            let counts = self.queue_counts(connection, user_queue(user), kind).await?;
            Ok::<_, lapin::Error>(counts.is_some_and(|counts| counts.consumers > 0))
        };
        while is_consumed().await? {
            sleep(REQUEUE_POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Whether an offline user has a queue, and messages wait in it. Renews the queue's expiry.
    pub(super) async fn status(
        &self,
        connection: &Connection,
        user: &UserId,
        settings: &QueueSettings,
    ) -> Result<QueueStatus, lapin::Error> {
        let Some(waiting) = self.message_count(connection, user, settings.kind).await? else {
            return Ok(QueueStatus::Gone);
        };
        if settings.kind == QueueKind::Quorum {
            self.renew_expiry(connection, user).await?;
        }
        let safe = settings.expiry();
        Ok(if waiting == 0 { QueueStatus::Empty(safe) } else { QueueStatus::Backlogged(safe) })
    }

    /// Renews the expiry of a quorum queue, for which a passive declare does not count as use: a message is taken, and
    /// requeued in its place by closing the channel.
    ///
    /// Source: RabbitMQ 3.10, `rabbit_fifo`, where `last_active` is set.
    async fn renew_expiry(&self, connection: &Connection, user: &UserId) -> Result<(), lapin::Error> {
        let taken = self.within_reply_timeout(async {
            let channel = connection.create_channel().await?;
            let taken = channel.basic_get(user_queue(user), BasicGetOptions::default()).await?;
            channel.close(200, "done".into()).await?;
            Ok(taken)
        });
        let taken = taken.await?;
        if taken.is_some() { self.wait_until_unconsumed(connection, user, QueueKind::Quorum).await } else { Ok(()) }
    }

    /// Binds a user's queue to rooms.
    pub(super) async fn bind_rooms(
        &self,
        connection: &Connection,
        user: &UserId,
        rooms: &[RoomId],
    ) -> Result<BindOutcome, lapin::Error> {
        // One user at a time: others on the channel would share a refusal.
        let mut bindings = self.bindings.lock().await;
        let channel = self.within_reply_timeout(open_channel(connection, &mut bindings)).await?;
        let bound = try_join_all(rooms.iter().map(|room| bind_room(&channel, user, room)));
        match self.within_reply_timeout(bound).await {
            Ok(_) => Ok(BindOutcome::Done),
            Err(error) if reply_code(&error) == Some(NOT_FOUND) => Ok(BindOutcome::NoQueue),
            Err(error) => Err(error),
        }
    }

    /// Unbinds a user's queue, which may not exist, from rooms.
    pub(super) async fn unbind_rooms(
        &self,
        connection: &Connection,
        user: &UserId,
        rooms: &[RoomId],
    ) -> Result<(), lapin::Error> {
        let mut bindings = self.bindings.lock().await;
        let channel = self.within_reply_timeout(open_channel(connection, &mut bindings)).await?;
        let unbound = try_join_all(rooms.iter().map(|room| unbind_room(&channel, user, room)));
        match self.within_reply_timeout(unbound).await {
            Err(error) if reply_code(&error) != Some(NOT_FOUND) => Err(error),
            _ => Ok(()),
        }
    }

    /// The number of messages in a user's queue, if it exists.
    async fn message_count(
        &self,
        connection: &Connection,
        user: &UserId,
        kind: QueueKind,
    ) -> Result<Option<u32>, lapin::Error> {
        Ok(self.queue_counts(connection, user_queue(user), kind).await?.map(|counts| counts.messages))
    }

    /// The counts of a queue, if it exists.
    async fn queue_counts(
        &self,
        connection: &Connection,
        queue: ShortString,
        kind: QueueKind,
    ) -> Result<Option<QueueCounts>, lapin::Error> {
        // One check at a time: two on one channel would share a refusal.
        let mut passive_channel = self.passive_channel.lock().await;
        let channel = self.within_reply_timeout(open_channel(connection, &mut passive_channel)).await?;
        match self.within_reply_timeout(queue_counts(&channel, queue, kind)).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if reply_code(&error) == Some(NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn unbind(&self, connection: &Connection, user: &UserId) -> Result<(), lapin::Error> {
        let mut delete_channel = self.delete_channel.lock().await;
        let channel = self.within_reply_timeout(open_channel(connection, &mut delete_channel)).await?;
        self.within_reply_timeout(unbind_user_queue(&channel, user)).await
    }

    /// Deletes a queue if it is empty; returns whether it did.
    async fn delete(&self, connection: &Connection, user: &UserId) -> Result<bool, lapin::Error> {
        // One removal at a time: two on one channel would share a refusal.
        let mut delete_channel = self.delete_channel.lock().await;
        let channel = self.within_reply_timeout(open_channel(connection, &mut delete_channel)).await?;
        let options = QueueDeleteOptions { if_unused: true, if_empty: true, ..QueueDeleteOptions::default() };
        match self.within_reply_timeout(channel.queue_delete(user_queue(user), options)).await {
            Ok(_) => Ok(true),
            Err(error) if reply_code(&error) == Some(PRECONDITION_FAILED) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl QueueSettings {
    /// Quorum queues have no conditional removal; a condition checked here could lose a message.
    ///
    /// Source: RabbitMQ, `rabbit_quorum_queue:delete`, which answers 540 to `if-empty` and `if-unused`.
    fn is_removable(&self) -> bool {
        self.kind == QueueKind::Classic && !self.keeps_empty
    }
}
