//! How users' queues are made and removed.
//!
//! A change that the broker makes late may undo what was done since: a removal that comes after the queue was made anew
//! takes messages with it, and a consumer on a queue that has gone loses its channel. Declarations do not wait for
//! removals, and so have a channel of their own; over two channels the broker keeps no order. So whoever asks for a change
//! waits for its answer, and when there is none in time nothing more is done over that connection: it is given up, and its
//! locks are held until the broker has ended it (see `Term::close` in [`super::ownership`]). A future that waits for a
//! change is not to be dropped.
//!
//! Functions have no locks. What they leave behind when a try of theirs is late, and may be done once more after the second
//! one, is harmless: a queue that is declared late is one that nobody needs, as its user's owner looks after those alone
//! that it knows; the broker gives it up with [`QueueSettings::expiry`], and whoever sends to its user or connects takes it
//! into use again. A late binding to a room that was left since is removed by the owner, when it opens the queue: what was
//! left is remembered (see `Memberships::rooms_and_left`). A late unbinding from a room that was joined since is mended by
//! the owner likewise, and by the next member who finds no route.

use std::{io, num::NonZero, str::FromStr, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, try_join_all};
use kschat_core::{
    Partition,
    ports::{Bound, Retired},
};
use kschat_protocol::{RoomId, UserId};
use lapin::{
    Channel, Connection, ErrorKind,
    options::{BasicGetOptions, QueueDeleteOptions},
    types::ShortString,
};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::{
    ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED, QueueKind,
    consuming::{Lease, PATIENCE},
    topology::{adopt_user, bind_room, control_queue, declare_user, look_at, unbind_room, unbind_user, user_queue},
};

/// How often a declaration is tried that others on the same channel may have spoiled.
const TRIES: u32 = 3;

/// How often a queue is looked at that is about to take messages back.
const GLANCE: Duration = Duration::from_millis(10);

/// How long a message may take from the routing to its queue: microseconds within a node, more within a cluster.
const ARRIVAL: Duration = Duration::from_secs(1);

/// How users' queues are, and for how long they keep what waits in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// The broker's type of queue.
    pub kind: QueueKind,
    /// How long a message waits for its receiver; then it is dead-lettered.
    pub retention: Duration,
    /// How many messages wait for one user at most; then senders are told that the queue is full.
    pub max_messages: NonZero<u32>,
    /// How many bytes of bodies wait for one user at most, likewise.
    pub max_bytes: NonZero<u64>,
    /// Whether the queue of a user who is away stays when it is empty: where strangers are refused, it is what tells a
    /// user from a stranger.
    pub keeps_empty: bool,
}

impl QueueSettings {
    /// The longest retention: the broker counts milliseconds in 32 bits, and a queue lives twice as long.
    ///
    /// Source: RabbitMQ, `rabbit_misc:check_expiry`.
    pub const MAX_RETENTION: Duration = Duration::from_secs(24 * 24 * 60 * 60);

    /// The shortest retention: who is away is looked after every half a minute.
    pub const MIN_RETENTION: Duration = Duration::from_secs(60);

    /// For how long the broker keeps a queue that nobody uses or looks at. Publishing is no use, so it is twice what
    /// the last message needs.
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
    /// What the broker calls it.
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
    /// Ends when the broker does not do in time what it was asked to. Whoever has none has a deadline of its own.
    lease: Option<Arc<Lease>>,
    declares: Mutex<Option<Channel>>,
    /// Declarations of queues that senders ask for: however many these are, nobody who comes waits for them.
    requests: Mutex<Option<Channel>>,
    looks: Mutex<Option<Channel>>,
    removals: Mutex<Option<Channel>>,
    bindings: Mutex<Option<Channel>>,
}

impl UserQueues {
    /// Those of a connection that is given up when the broker is late with one of them.
    pub(super) fn of(lease: Arc<Lease>) -> Self {
        Self { lease: Some(lease), ..Self::default() }
    }

    /// Waits for the broker to do something, and gives the connection up when that takes too long. The time spent waiting
    /// for one's turn does not count.
    async fn in_time<T>(&self, done: impl Future<Output = Result<T, lapin::Error>>) -> Result<T, lapin::Error> {
        let Some(lease) = &self.lease else { return done.await };
        timeout(PATIENCE, done).await.unwrap_or_else(|_| {
            tracing::warn!("the broker does not answer; reconnecting");
            lease.end();
            Err(io::Error::from(io::ErrorKind::TimedOut).into())
        })
    }

    /// Makes sure that a user's queue is there; says how many consumers it has. One that was made with other settings is
    /// taken as it is: it is made anew once it has been empty while its user was away.
    pub(super) async fn ensure(
        &self,
        connection: &Connection,
        user: &UserId,
        settings: &QueueSettings,
    ) -> Result<u32, lapin::Error> {
        self.declare(&self.declares, connection, user, settings).await
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
            let channel = self.in_time(reopened(connection, &mut *channel.lock().await)).await?;
            let error = match self.in_time(declare_user(&channel, user, settings)).await {
                Ok(consumers) => return Ok(consumers),
                Err(error) if code(&error) == Some(ACCESS_REFUSED) => return Err(error),
                Err(error) => error,
            };
            // The refusal may be our neighbour's: all that was under way on the channel hears it.
            let own = self.in_time(connection.create_channel()).await?;
            match self.in_time(adopt_user(&own, user)).await {
                Ok(consumers) => {
                    tracing::debug!("a queue with other settings is used as it is");
                    own.close(200, "done".into()).await?;
                    return Ok(consumers);
                }
                Err(missing) if code(&missing) == Some(NOT_FOUND) && tries < TRIES => tries += 1,
                Err(_) => return Err(error),
            }
        }
    }

    /// Whether a user has a queue.
    pub(super) async fn exists(&self, connection: &Connection, user: &UserId) -> Result<bool, lapin::Error> {
        Ok(self.waiting(connection, user).await?.is_some())
    }

    /// Whether somebody owns a partition, and so makes its users' queues.
    pub(super) async fn has_owner(&self, connection: &Connection, partition: Partition) -> Result<bool, lapin::Error> {
        // Without a control queue no consumer process has ever run.
        Ok(self.look(connection, control_queue(partition)).await?.is_some_and(|(_, consumers)| consumers > 0))
    }

    /// Removes a user's queue if nothing waits in it, as far as that can be done without losing a message.
    ///
    /// The broker confirms a message that it has routed to a queue which is removed at that moment, `if-empty` or not. So
    /// the queue is first taken out of the routing, and what is on its way to it is given time to arrive. Nobody but
    /// the owner, who is here, puts it back.
    pub(super) async fn retire(
        &self,
        connection: &Connection,
        user: &UserId,
        settings: &QueueSettings,
        called_back: BoxFuture<'_, ()>,
    ) -> Result<Retired, lapin::Error> {
        let state = self.look_in(connection, user, settings).await?;
        if !settings.is_removable() || !matches!(state, Retired::Idle(_)) {
            return Ok(state);
        }
        self.unbind(connection, user).await?;
        let is_called_back = timeout(ARRIVAL, called_back).await.is_ok();
        let kept = if is_called_back {
            Retired::Kept
        } else if self.waiting(connection, user).await? == Some(0) && self.delete(connection, user).await? {
            return Ok(Retired::Gone);
        } else {
            Retired::Waiting(settings.expiry())
        };
        self.ensure(connection, user, settings).await?;
        Ok(kept)
    }

    /// Waits until a queue has no consumer: one whose channel has ended counts until all that it had on loan is back. Whoever
    /// opens the queue sooner is given the later messages first.
    ///
    /// Source: RabbitMQ, `rabbit_amqqueue_process:handle_ch_down`, which drops a consumer and requeues its loans in one step;
    /// of quorum queues, tried on RabbitMQ 3.10.
    pub(super) async fn wait_until_given_back(
        &self,
        connection: &Connection,
        user: &UserId,
    ) -> Result<(), lapin::Error> {
        while self.look(connection, user_queue(user)).await?.is_some_and(|(_, consumers)| consumers > 0) {
            sleep(GLANCE).await;
        }
        Ok(())
    }

    /// Whether a user who is away has a queue, and messages wait in it. Renews the queue's expiry.
    pub(super) async fn look_in(
        &self,
        connection: &Connection,
        user: &UserId,
        settings: &QueueSettings,
    ) -> Result<Retired, lapin::Error> {
        let Some(waiting) = self.waiting(connection, user).await? else { return Ok(Retired::Gone) };
        if settings.kind == QueueKind::Quorum {
            self.touch(connection, user).await?;
        }
        let safe = settings.expiry();
        Ok(if waiting == 0 { Retired::Idle(safe) } else { Retired::Waiting(safe) })
    }

    /// Renews the expiry of a quorum queue, for which a look is no use: a message is taken, and goes back to its place
    /// with its channel.
    ///
    /// Source: RabbitMQ 3.10, `rabbit_fifo`, where `last_active` is set.
    async fn touch(&self, connection: &Connection, user: &UserId) -> Result<(), lapin::Error> {
        let taken = self.in_time(async {
            let channel = connection.create_channel().await?;
            let taken = channel.basic_get(user_queue(user), BasicGetOptions::default()).await?;
            channel.close(200, "done".into()).await?;
            Ok(taken)
        });
        let taken = taken.await?;
        if taken.is_some() { self.wait_until_given_back(connection, user).await } else { Ok(()) }
    }

    /// Binds a user's queue to rooms.
    pub(super) async fn bind_rooms(
        &self,
        connection: &Connection,
        user: &UserId,
        rooms: &[RoomId],
    ) -> Result<Bound, lapin::Error> {
        // One user at a time, likewise.
        let mut bindings = self.bindings.lock().await;
        let channel = self.in_time(reopened(connection, &mut bindings)).await?;
        let bound = try_join_all(rooms.iter().map(|room| bind_room(&channel, user, room)));
        match self.in_time(bound).await {
            Ok(_) => Ok(Bound::Done),
            Err(error) if code(&error) == Some(NOT_FOUND) => Ok(Bound::NoQueue),
            Err(error) => Err(error),
        }
    }

    /// Takes a user's queue, which may not be there, out of rooms.
    pub(super) async fn unbind_rooms(
        &self,
        connection: &Connection,
        user: &UserId,
        rooms: &[RoomId],
    ) -> Result<(), lapin::Error> {
        let mut bindings = self.bindings.lock().await;
        let channel = self.in_time(reopened(connection, &mut bindings)).await?;
        let unbound = try_join_all(rooms.iter().map(|room| unbind_room(&channel, user, room)));
        match self.in_time(unbound).await {
            Err(error) if code(&error) != Some(NOT_FOUND) => Err(error),
            _ => Ok(()),
        }
    }

    /// How many messages a user's queue holds, if there is one.
    async fn waiting(&self, connection: &Connection, user: &UserId) -> Result<Option<u32>, lapin::Error> {
        Ok(self.look(connection, user_queue(user)).await?.map(|(messages, _)| messages))
    }

    /// How many messages and consumers a queue has, if there is one.
    async fn look(&self, connection: &Connection, queue: ShortString) -> Result<Option<(u32, u32)>, lapin::Error> {
        // One look at a time: two on one channel would share a refusal.
        let mut looks = self.looks.lock().await;
        let channel = self.in_time(reopened(connection, &mut looks)).await?;
        match self.in_time(look_at(&channel, queue)).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if code(&error) == Some(NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn unbind(&self, connection: &Connection, user: &UserId) -> Result<(), lapin::Error> {
        let mut removals = self.removals.lock().await;
        let channel = self.in_time(reopened(connection, &mut removals)).await?;
        self.in_time(unbind_user(&channel, user)).await
    }

    /// Deletes a queue if nothing waits in it; says whether it did.
    async fn delete(&self, connection: &Connection, user: &UserId) -> Result<bool, lapin::Error> {
        // One removal at a time, likewise.
        let mut removals = self.removals.lock().await;
        let channel = self.in_time(reopened(connection, &mut removals)).await?;
        let options = QueueDeleteOptions { if_unused: true, if_empty: true, ..QueueDeleteOptions::default() };
        match self.in_time(channel.queue_delete(user_queue(user), options)).await {
            Ok(_) => Ok(true),
            Err(error) if code(&error) == Some(PRECONDITION_FAILED) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl QueueSettings {
    /// Quorum queues know no conditional removal; a condition that we check ourselves could lose a message.
    ///
    /// Source: RabbitMQ, `rabbit_quorum_queue:delete`, which answers 540 to `if-empty` and `if-unused`.
    fn is_removable(&self) -> bool {
        self.kind == QueueKind::Classic && !self.keeps_empty
    }
}

/// The channel, or a new one in its place.
pub(super) async fn reopened(connection: &Connection, channel: &mut Option<Channel>) -> Result<Channel, lapin::Error> {
    match channel {
        Some(open) if open.status().connected() => Ok(open.clone()),
        _ => Ok(channel.insert(connection.create_channel().await?).clone()),
    }
}

/// The reply code with which the broker has refused something.
pub(super) fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(refused) => Some(refused.get_id()),
        _ => None,
    }
}
