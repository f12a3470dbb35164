//! The consumer's side: many users' queues, taken from over one connection.
//!
//! The connection is the one that holds the partitions' locks (see [`super::ownership`]): if it goes, the
//! locks and all that was on loan go back, within a moment of one another.

use std::{
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, join_all},
};
use kschat_core::{
    Partitions,
    ports::{Bound, BoxError, Deliveries, Delivery, Mailbox, Notices, Retired, Tag, Unavailable, Undeliverable},
};
use kschat_protocol::{Notice, RoomId, UserId};
use lapin::{
    Channel, Connection, Consumer,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions,
        BasicQosOptions,
    },
    types::FieldTable,
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    BrokerUrl, PartitionOwnership, QueueKind, QueueSettings,
    dead::DeadLetters,
    notices::with_notice,
    queues::{UserQueues, reopened},
    topology::{CONTROL, control_queue, declare_partitions, declare_shared, user_queue},
    traces::{trace_of, via_of},
    unavailable,
};

/// Users on one channel. To find what is acked, the broker goes through all that is on loan over the channel: with 200
/// users' full windows on one, an ack took it five times longer than with 29 on each of seven, and a backlog fed itself.
/// Amazon MQ allows 1,000 consumers a channel, but not as many channels as users.
///
/// Source: RabbitMQ, `rabbit_channel:collect_acks`; Amazon MQ quotas, "Consumers per channel" and "Channels".
const USERS_A_CHANNEL: usize = 32;

/// How long the broker may take to do one thing before its connection counts as dead.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long the broker may take to take all loans back of a connection that is given up: while it answers heartbeats,
/// order is worth more than haste.
pub(super) const FAREWELL: Duration = Duration::from_secs(30);

/// How long the broker may take to find out all that a dead owner had on loan.
const FORMER_OWNER: Duration = Duration::from_secs(3);

/// One consumer process's access to the broker.
#[derive(Clone, Debug)]
pub struct Consuming {
    pub(super) url: BrokerUrl,
    pub(super) partitions: Partitions,
    prefetch: u16,
    queues: QueueSettings,
    // A std lock: no guard is held across an await.
    link: Arc<RwLock<Option<Arc<Link>>>>,
}

/// One connection, for as long as it lasts.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) lease: Arc<Lease>,
    prefetch: u16,
    queues: UserQueues,
    dead: DeadLetters,
    /// For what is written to other owners, without waiting for confirms.
    notices: Mutex<Option<Channel>>,
    drains: Mutex<Vec<Arc<DrainChannel>>>,
}

#[derive(Debug)]
struct DrainChannel {
    channel: Channel,
    /// Each open queue holds one clone.
    seats: Arc<()>,
}

impl DrainChannel {
    fn has_room(&self, seats: usize) -> bool {
        // One of the clones is the channel's own.
        self.channel.status().connected() && Arc::strong_count(&self.seats) <= seats
    }
}

/// Notices when this process was stopped for longer than the broker waits.
///
/// After such a pause others own our partitions, while what was buffered here looks as fresh as ever.
#[derive(Debug)]
pub(super) struct Lease {
    start: Instant,
    heartbeat: Duration,
    last_beat: AtomicU64,
    ended: AtomicBool,
}

impl Lease {
    /// A lease that is kept up for as long as this process runs without too long a pause.
    fn start(heartbeat: Duration) -> Arc<Self> {
        let lease = Arc::new(Self::new(heartbeat));
        let beats = Arc::clone(&lease);
        tokio::spawn(async move {
            while beats.beat() {
                tokio::time::sleep(heartbeat / 8).await;
            }
        });
        lease
    }

    fn new(heartbeat: Duration) -> Self {
        let (last_beat, ended) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { start: Instant::now(), heartbeat, last_beat, ended }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn is_valid(&self) -> bool {
        let silence = self.elapsed().saturating_sub(self.last_beat.load(Ordering::Acquire));
        !self.ended.load(Ordering::Acquire) && u128::from(silence) < self.heartbeat.as_millis()
    }

    /// Says that the process runs; returns whether it has run without too long a pause.
    fn beat(&self) -> bool {
        if !self.is_valid() {
            self.end();
            return false;
        }
        self.last_beat.store(self.elapsed(), Ordering::Release);
        true
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

impl Link {
    async fn open(url: &BrokerUrl, partitions: Partitions, prefetch: u16) -> Result<Self, lapin::Error> {
        let connection = url.connect("kschat consumer").await?;
        let declares = connection.create_channel().await?;
        declare_shared(&declares).await?;
        declare_partitions(&declares, partitions).await?;
        declares.close(200, "done".into()).await?;
        let (lease, dead) = (Lease::start(url.heartbeat()), DeadLetters::default());
        let queues = UserQueues::of(Arc::clone(&lease));
        let (notices, drains) = Default::default();
        Ok(Self { connection, lease, prefetch, queues, dead, notices, drains })
    }

    pub(super) fn is_up(&self) -> bool {
        self.lease.is_valid() && self.connection.status().connected()
    }

    /// Ends the connection: first the channels over which messages are on loan, then those of the locks. Whoever has
    /// cancelled and has loans left is no consumer of the queue any more, so a successor could not tell.
    pub(super) async fn close(&self) -> Result<(), lapin::Error> {
        let drains = std::mem::take(&mut *self.drains.lock().await);
        let closing = drains.iter().map(|drain| drain.channel.close(200, "done".into()));
        // One that can't be closed has been closed, and its loans are back.
        join_all(closing).await;
        self.connection.close(200, "done".into()).await
    }

    /// A channel of so many seats with room for one more consumer, and the seat on it.
    async fn seat(&self, seats: usize) -> Result<(Channel, Arc<()>), lapin::Error> {
        let mut drains = self.drains.lock().await;
        drains.retain(|drain| drain.channel.status().connected());
        if let Some(drain) = drains.iter().find(|drain| drain.has_room(seats)) {
            return Ok((drain.channel.clone(), Arc::clone(&drain.seats)));
        }
        let channel = self.connection.create_channel().await?;
        // Per consumer, not global: newer brokers refuse a global limit.
        channel.basic_qos(self.prefetch, BasicQosOptions { global: false }).await?;
        let drain = Arc::new(DrainChannel { channel: channel.clone(), seats: Arc::default() });
        let seat = Arc::clone(&drain.seats);
        drains.push(drain);
        Ok((channel, seat))
    }

    async fn open_queue(self: Arc<Self>, user: &UserId, settings: &QueueSettings) -> Result<OpenQueue, BoxError> {
        // A consume on a queue that is not there would close the channel with every other user's consumer.
        if self.queues.ensure(&self.connection, user, settings).await? > 0 {
            // A partition is free as soon as the channel of its lock has ended, which may be sooner than the channels of
            // the same dead owner over which messages are on loan.
            let free = timeout(FORMER_OWNER, self.queues.wait_until_given_back(&self.connection, user)).await;
            free.map_err(|_| "somebody else takes from it")??;
        }
        let seats = match settings.kind {
            QueueKind::Classic => USERS_A_CHANNEL,
            // It goes back with its channel: see `give_back_with_the_channel`.
            QueueKind::Quorum => 1,
        };
        let (channel, seat) = self.seat(seats).await?;
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(user_queue(user), "".into(), options, FieldTable::default()).await?;
        let (user, kind) = (user.clone(), settings.kind);
        Ok(OpenQueue { link: self, channel, user, kind, _seat: seat, consumer, on_loan: Vec::new(), ended: false })
    }
}

impl Consuming {
    /// Takes from the broker at `url`, up to `prefetch` messages of one user at a time, once
    /// [`Self::ownership`] has connected. Of more than [`MAX_PREFETCH`](kschat_core::deliver::MAX_PREFETCH) some would wait
    /// unread, while the broker counts the time.
    #[must_use]
    pub fn new(url: BrokerUrl, partitions: Partitions, prefetch: u16, queues: QueueSettings) -> Self {
        Self { url, partitions, prefetch, queues, link: Arc::default() }
    }

    /// Starts to take part in the sharing of partitions; this is what connects, and reconnects.
    #[must_use]
    pub fn ownership(&self) -> PartitionOwnership {
        PartitionOwnership::start(self.clone())
    }

    /// Whether there is a connection just now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link().is_some()
    }

    pub(super) async fn connect(&self) -> Result<Arc<Link>, BoxError> {
        let link = timeout(PATIENCE, Link::open(&self.url, self.partitions, self.prefetch)).await??;
        let link = Arc::new(link);
        self.set_link(Some(Arc::clone(&link)));
        Ok(link)
    }

    /// Forgets the connection, and returns it if there was one.
    pub(super) fn disconnect(&self) -> Option<Arc<Link>> {
        self.set_link(None)
    }

    fn set_link(&self, link: Option<Arc<Link>>) -> Option<Arc<Link>> {
        std::mem::replace(&mut *self.link.write().unwrap_or_else(std::sync::PoisonError::into_inner), link)
    }

    /// The connection, unless it has failed or is about to be closed.
    fn link(&self) -> Option<Arc<Link>> {
        let link = self.link.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        link.filter(|link| link.is_up())
    }
}

#[async_trait]
impl Mailbox for Consuming {
    async fn open(&self, user: &UserId) -> Result<Box<dyn Deliveries>, Unavailable> {
        let link = self.link().ok_or_else(|| unavailable("open a queue", "not connected"))?;
        let opened = timeout(PATIENCE, Arc::clone(&link).open_queue(user, &self.queues)).await;
        match opened {
            Ok(Ok(queue)) => Ok(Box::new(queue)),
            Ok(Err(error)) => Err(unavailable("open a queue", error)),
            Err(late) => {
                // A consumer may come to life on a channel to which nobody listens: start all over.
                link.lease.end();
                Err(unavailable("open a queue", late))
            }
        }
    }

    async fn ensure(&self, user: &UserId) -> Result<(), Unavailable> {
        const ACTION: &str = "make a queue";
        let link = self.link().ok_or_else(|| unavailable(ACTION, "not connected"))?;
        let made = link.queues.ensure_for_sender(&link.connection, user, &self.queues).await;
        made.map(drop).map_err(|error| unavailable(ACTION, error))
    }

    async fn bind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable> {
        const ACTION: &str = "bind a queue to rooms";
        let link = self.link().ok_or_else(|| unavailable(ACTION, "not connected"))?;
        let bound = link.queues.bind_rooms(&link.connection, user, rooms).await;
        match bound.map_err(|error| unavailable(ACTION, error))? {
            Bound::Done => Ok(()),
            Bound::NoQueue => Err(unavailable(ACTION, "the queue is gone")),
        }
    }

    async fn unbind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable> {
        const ACTION: &str = "take a queue out of rooms";
        let link = self.link().ok_or_else(|| unavailable(ACTION, "not connected"))?;
        let unbound = link.queues.unbind_rooms(&link.connection, user, rooms).await;
        unbound.map_err(|error| unavailable(ACTION, error))
    }

    async fn look(&self, user: &UserId) -> Result<Retired, Unavailable> {
        const ACTION: &str = "look at a queue";
        let link = self.link().ok_or_else(|| unavailable(ACTION, "not connected"))?;
        let looked = link.queues.look_in(&link.connection, user, &self.queues).await;
        looked.map_err(|error| unavailable(ACTION, error))
    }

    async fn retire(&self, user: &UserId, called_back: BoxFuture<'_, ()>) -> Result<Retired, Unavailable> {
        const ACTION: &str = "remove a queue";
        let link = self.link().ok_or_else(|| unavailable(ACTION, "not connected"))?;
        let retired = link.queues.retire(&link.connection, user, &self.queues, called_back).await;
        retired.map_err(|error| unavailable(ACTION, error))
    }
}

#[async_trait]
impl Notices for Consuming {
    async fn notify(&self, user: &UserId, notice: &Notice) -> Result<(), Unavailable> {
        const ACTION: &str = "pass on a notice";
        let link = self.link().ok_or_else(|| unavailable(ACTION, "not connected"))?;
        let queue = control_queue(self.partitions.of(user));
        let sent = timeout(PATIENCE, async {
            let channel = reopened(&link.connection, &mut *link.notices.lock().await).await?;
            let (options, body) = (BasicPublishOptions::default(), user.as_str().as_bytes());
            channel.basic_publish(CONTROL.into(), queue, options, body, with_notice(notice)).await.map(drop)
        });
        sent.await.map_err(|late| unavailable(ACTION, late))?.map_err(|error| unavailable(ACTION, error))
    }
}

struct OpenQueue {
    link: Arc<Link>,
    channel: Channel,
    user: UserId,
    kind: QueueKind,
    _seat: Arc<()>,
    consumer: Consumer,
    /// In the order of the queue.
    on_loan: Vec<u64>,
    /// lapin's stream says only once that it has ended.
    ended: bool,
}

impl OpenQueue {
    fn lend(&mut self, item: Option<lapin::Result<lapin::message::Delivery>>) -> Option<Delivery> {
        match item {
            Some(Ok(delivery)) => {
                self.on_loan.push(delivery.delivery_tag);
                let (trace, via) = (trace_of(&delivery.properties), via_of(&delivery.properties));
                let (tag, redelivered) = (Tag(delivery.delivery_tag), delivery.redelivered);
                Some(Delivery { tag, body: delivery.data, redelivered, trace, via })
            }
            Some(Err(error)) => {
                let error = unavailable("deliver", error);
                tracing::warn!(error = &error as &dyn std::error::Error, "a user's queue was lost");
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                None
            }
        }
    }

    async fn give_back(&mut self) -> Result<(), BoxError> {
        match self.kind {
            QueueKind::Classic => self.give_back_one_by_one().await,
            QueueKind::Quorum => self.give_back_with_the_channel().await,
        }
    }

    /// What is given back to a quorum queue one by one does not come to its place again; what goes back with its channel
    /// does.
    ///
    /// Source: tried on RabbitMQ 3.10; `a_long_backlog_keeps_its_order_through_every_loan` fails otherwise.
    async fn give_back_with_the_channel(&mut self) -> Result<(), BoxError> {
        self.channel.close(200, "done".into()).await?;
        Ok(self.link.queues.wait_until_given_back(&self.link.connection, &self.user).await?)
    }

    async fn give_back_one_by_one(&mut self) -> Result<(), BoxError> {
        let tag = self.consumer.tag();
        self.channel.basic_cancel(tag, BasicCancelOptions::default()).await?;
        // What was under way to us when we cancelled is on loan, too.
        while !self.ended {
            let item = self.consumer.next().await;
            self.lend(item);
        }
        for tag in std::mem::take(&mut self.on_loan) {
            self.channel.basic_nack(tag, BasicNackOptions { requeue: true, multiple: false }).await?;
        }
        // A nack has no answer, but this has: once it is here, all is back in the queue for whoever is next.
        self.channel.basic_qos(self.link.prefetch, BasicQosOptions { global: false }).await?;
        Ok(())
    }
}

impl Drop for OpenQueue {
    fn drop(&mut self) {
        // Nobody will give back what is on loan any more: it goes back with the connection.
        if std::thread::panicking() && !self.ended && !self.on_loan.is_empty() {
            self.link.lease.end();
        }
    }
}

#[async_trait]
impl Deliveries for OpenQueue {
    async fn next(&mut self) -> Option<Delivery> {
        if self.ended {
            return None;
        }
        let item = self.consumer.next().await;
        self.lend(item)
    }

    fn try_next(&mut self) -> Option<Delivery> {
        if self.ended {
            return None;
        }
        let item = self.consumer.next().now_or_never()?;
        self.lend(item)
    }

    fn is_ours(&self) -> bool {
        self.link.lease.is_valid()
    }

    async fn ack(&mut self, tags: &[Tag]) -> Result<(), Unavailable> {
        for tag in tags {
            // One by one: tags count per channel, so `multiple` would ack other users' messages.
            let acked = self.channel.basic_ack(tag.0, BasicAckOptions::default()).await;
            acked.map_err(|error| unavailable("ack", error))?;
        }
        self.on_loan.retain(|tag| !tags.contains(&Tag(*tag)));
        Ok(())
    }

    async fn discard(&mut self, tag: Tag, body: &[u8], why: Undeliverable) -> Result<(), Unavailable> {
        const ACTION: &str = "dead-letter a message";
        let kept = timeout(PATIENCE, self.link.dead.keep(&self.link.connection, body, why)).await;
        kept.map_err(|late| unavailable(ACTION, late))?.map_err(|error| unavailable(ACTION, error))?;
        self.ack(&[tag]).await
    }

    async fn close(mut self: Box<Self>) {
        // What was on loan over a dead channel has gone back with it.
        if !self.link.is_up() || self.ended || !self.channel.status().connected() {
            return;
        }
        let given_back = timeout(PATIENCE, self.give_back()).await;
        if !matches!(given_back, Ok(Ok(()))) {
            // Loans that can't be given back one by one go back with their connection.
            tracing::warn!("a user's queue can't be closed in good order; reconnecting");
            // The partition's lock is kept from now on until that connection has ended.
            self.link.lease.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_for_good_with_a_pause_longer_than_the_heartbeat() {
        let lease = Lease::new(Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(lease.is_valid() && lease.beat());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(lease.is_valid());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!lease.is_valid() && !lease.beat());
        assert!(!lease.beat(), "it must not come back to life");
    }
}
