//! The consumer's side: consumes many users' queues over one connection.
//!
//! The connection is the one that holds the partitions' locks (see [`super::ownership`]): if it ends, the locks and all
//! unacked messages are released almost at the same time.
//!
//! It never publishes: a broker that is out of memory or disk reads nothing from connections that do, so acks would
//! wait, and only they free memory.
//!
//! Source: RabbitMQ documentation, "Memory and Disk Alarms".

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, join_all},
};
use kschat_core::{
    Partitions,
    ports::{
        BindOutcome, BoxError, DeadLetterReason, Delivery, DeliveryTag, QueueConsumer, QueueManager, QueueStatus,
        Unavailable,
    },
};
use kschat_protocol::{RoomId, UserId};
use lapin::{
    Channel, Connection, Consumer,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{sync::Mutex, time::timeout};

use super::{
    BrokerUrl, PartitionOwnership, QueueKind, QueueSettings,
    connection::BROKER_REPLY_TIMEOUT,
    dead_letters::DeadLetters,
    headers::{sender_connection_from_properties, trace_from_properties},
    pause_guard::PauseGuard,
    queues::UserQueues,
    topology::{declare_partitions, declare_shared, user_queue},
    unavailable,
};

/// Users on one channel. RabbitMQ 4 on Amazon MQ allows ten consumers per channel unless a configuration raises the
/// limit, and closes the connection of whoever exceeds it. More would not help either: to find an acked message, the
/// broker walks through all unacked messages of the channel. Fewer would exceed the number of channels.
///
/// Source: RabbitMQ, `rabbit_channel:collect_acks`; Amazon MQ, "Resource limit defaults": consumers per channel.
const MAX_USERS_PER_CHANNEL: usize = 10;

/// How long the broker may take to requeue all unacked messages of a closed connection: while it answers heartbeats,
/// order matters more than speed.
pub(super) const CONNECTION_CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the broker may take to requeue the unacked messages of a dead owner.
const PREVIOUS_OWNER_TIMEOUT: Duration = Duration::from_secs(3);

/// One consumer process's access to the broker.
#[derive(Clone, Debug)]
pub struct RabbitMqConsumer {
    pub(super) url: BrokerUrl,
    pub(super) partitions: Partitions,
    prefetch: u16,
    queues: QueueSettings,
    // A std lock: no guard is held across an await.
    current: Arc<RwLock<Option<Arc<ConsumerConnection>>>>,
}

/// One connection, for as long as it lasts.
#[derive(Debug)]
pub(super) struct ConsumerConnection {
    pub(super) amqp: Connection,
    pub(super) pause_guard: Arc<PauseGuard>,
    prefetch: u16,
    queues: UserQueues,
    dead: DeadLetters,
    shared_channels: Mutex<Vec<Arc<SharedChannel>>>,
}

#[derive(Debug)]
struct SharedChannel {
    channel: Channel,
    /// Each open queue holds one clone.
    slots: Arc<()>,
}

impl SharedChannel {
    fn has_room(&self, max_users: usize) -> bool {
        // One of the clones is the channel's own.
        self.channel.status().connected() && Arc::strong_count(&self.slots) <= max_users
    }
}

impl ConsumerConnection {
    async fn open(url: &BrokerUrl, partitions: Partitions, prefetch: u16) -> Result<Self, BoxError> {
        let connection = url.connect("kschat consumer").await?;
        let declare_channel = connection.create_channel().await?;
        declare_shared(&declare_channel).await?;
        declare_partitions(&declare_channel, partitions).await?;
        declare_channel.close(200, "done".into()).await?;
        let (pause_guard, dead) = (PauseGuard::start(url.heartbeat()), DeadLetters::new(url.clone()));
        let queues = UserQueues::with_pause_guard(Arc::clone(&pause_guard));
        Ok(Self { amqp: connection, pause_guard, prefetch, queues, dead, shared_channels: Mutex::default() })
    }

    pub(super) fn is_up(&self) -> bool {
        self.pause_guard.is_intact() && self.amqp.status().connected()
    }

    /// Closes the connection: first the channels with unacked messages, then those of the locks. A cancelled consumer
    /// with unacked messages no longer counts as a consumer of the queue, so a successor could not notice it.
    pub(super) async fn close(&self) -> Result<(), lapin::Error> {
        let channels = std::mem::take(&mut *self.shared_channels.lock().await);
        let closing = channels.iter().map(|shared| shared.channel.close(200, "done".into()));
        // A channel that can't be closed is closed already, and its messages are requeued.
        join_all(closing).await;
        self.amqp.close(200, "done".into()).await
    }

    /// A channel with room for one more consumer, of `max_users` at most, and the slot on it.
    async fn acquire_channel_slot(&self, max_users: usize) -> Result<(Channel, Arc<()>), lapin::Error> {
        let mut channels = self.shared_channels.lock().await;
        channels.retain(|shared| shared.channel.status().connected());
        if let Some(shared) = channels.iter().find(|shared| shared.has_room(max_users)) {
            return Ok((shared.channel.clone(), Arc::clone(&shared.slots)));
        }
        let channel = self.amqp.create_channel().await?;
        // Per consumer, not global: newer brokers refuse a global limit.
        channel.basic_qos(self.prefetch, BasicQosOptions { global: false }).await?;
        let shared = Arc::new(SharedChannel { channel: channel.clone(), slots: Arc::default() });
        let slot = Arc::clone(&shared.slots);
        channels.push(shared);
        Ok((channel, slot))
    }

    async fn open_queue(
        self: Arc<Self>,
        user: &UserId,
        settings: &QueueSettings,
    ) -> Result<RabbitMqQueueConsumer, BoxError> {
        // Consuming from a missing queue would close the channel with every other user's consumer.
        let consumers = self.queues.ensure(&self.amqp, user, settings).await?;
        // The count of a quorum queue may be missing.
        if consumers > 0 || settings.kind == QueueKind::Quorum {
            // A partition is free as soon as its lock's channel has ended, which may be sooner than the dead owner's
            // channels with unacked messages.
            let free =
                timeout(PREVIOUS_OWNER_TIMEOUT, self.queues.wait_until_unconsumed(&self.amqp, user, settings.kind))
                    .await;
            free.map_err(|_| "another consumer still consumes from it")??;
        }
        let max_users = match settings.kind {
            QueueKind::Classic => MAX_USERS_PER_CHANNEL,
            // It requeues by closing its channel: see `requeue_by_closing_channel`.
            QueueKind::Quorum => 1,
        };
        let (channel, slot) = self.acquire_channel_slot(max_users).await?;
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(user_queue(user), "".into(), options, FieldTable::default()).await?;
        let (user, kind) = (user.clone(), settings.kind);
        Ok(RabbitMqQueueConsumer {
            connection: self,
            channel,
            user,
            kind,
            _slot: slot,
            consumer,
            unacked_tags: Vec::new(),
            ended: false,
        })
    }
}

impl RabbitMqConsumer {
    /// Consumes from the broker at `url`, up to `prefetch` messages of one user at a time, once [`Self::ownership`] has
    /// connected. Beyond [`MAX_PREFETCH_PER_USER`](kschat_core::delivery::MAX_PREFETCH_PER_USER), some would wait
    /// unread while the broker counts the time.
    #[must_use]
    pub fn new(url: BrokerUrl, partitions: Partitions, prefetch: u16, queues: QueueSettings) -> Self {
        Self { url, partitions, prefetch, queues, current: Arc::default() }
    }

    /// Starts to take part in partition ownership; this is what connects, and reconnects.
    #[must_use]
    pub fn ownership(&self) -> PartitionOwnership {
        PartitionOwnership::start(self.clone())
    }

    /// Whether there is a connection at present.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.current().is_some()
    }

    pub(super) async fn connect(&self) -> Result<Arc<ConsumerConnection>, BoxError> {
        let connection =
            timeout(BROKER_REPLY_TIMEOUT, ConsumerConnection::open(&self.url, self.partitions, self.prefetch))
                .await??;
        let connection = Arc::new(connection);
        self.set_current(Some(Arc::clone(&connection)));
        Ok(connection)
    }

    /// Drops the connection, and returns it if there was one.
    pub(super) fn disconnect(&self) -> Option<Arc<ConsumerConnection>> {
        self.set_current(None)
    }

    fn set_current(&self, connection: Option<Arc<ConsumerConnection>>) -> Option<Arc<ConsumerConnection>> {
        std::mem::replace(&mut *self.current.write().unwrap_or_else(std::sync::PoisonError::into_inner), connection)
    }

    /// The connection, unless it has failed or is about to be closed.
    fn current(&self) -> Option<Arc<ConsumerConnection>> {
        let connection = self.current.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        connection.filter(|connection| connection.is_up())
    }

    /// The connection for this action.
    fn connection(&self, action: &'static str) -> Result<Arc<ConsumerConnection>, Unavailable> {
        self.current().ok_or_else(|| unavailable(action, "not connected"))
    }
}

#[async_trait]
impl QueueManager for RabbitMqConsumer {
    async fn open(&self, user: &UserId) -> Result<Box<dyn QueueConsumer>, Unavailable> {
        const ACTION: &str = "open a queue";
        let connection = self.connection(ACTION)?;
        let opened = timeout(BROKER_REPLY_TIMEOUT, Arc::clone(&connection).open_queue(user, &self.queues)).await;
        match opened {
            Ok(Ok(queue)) => Ok(Box::new(queue)),
            Ok(Err(error)) => Err(unavailable(ACTION, error)),
            Err(late) => {
                // A consumer may start on a channel that nobody reads: reconnect.
                connection.pause_guard.abandon();
                Err(unavailable(ACTION, late))
            }
        }
    }

    async fn ensure(&self, user: &UserId) -> Result<(), Unavailable> {
        const ACTION: &str = "create a queue";
        let connection = self.connection(ACTION)?;
        let made = connection.queues.ensure_for_sender(&connection.amqp, user, &self.queues).await;
        made.map(drop).map_err(|error| unavailable(ACTION, error))
    }

    async fn bind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable> {
        const ACTION: &str = "bind a queue to rooms";
        let connection = self.connection(ACTION)?;
        let bound = connection.queues.bind_rooms(&connection.amqp, user, rooms).await;
        match bound.map_err(|error| unavailable(ACTION, error))? {
            BindOutcome::Done => Ok(()),
            BindOutcome::NoQueue => Err(unavailable(ACTION, "the queue is gone")),
        }
    }

    async fn unbind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable> {
        const ACTION: &str = "unbind a queue from rooms";
        let connection = self.connection(ACTION)?;
        let unbound = connection.queues.unbind_rooms(&connection.amqp, user, rooms).await;
        unbound.map_err(|error| unavailable(ACTION, error))
    }

    async fn queue_status(&self, user: &UserId) -> Result<QueueStatus, Unavailable> {
        const ACTION: &str = "inspect a queue";
        let connection = self.connection(ACTION)?;
        let status = connection.queues.status(&connection.amqp, user, &self.queues).await;
        status.map_err(|error| unavailable(ACTION, error))
    }

    async fn retire(&self, user: &UserId, cancelled: BoxFuture<'_, ()>) -> Result<QueueStatus, Unavailable> {
        const ACTION: &str = "delete a queue";
        let connection = self.connection(ACTION)?;
        let retired = connection.queues.retire(&connection.amqp, user, &self.queues, cancelled).await;
        retired.map_err(|error| unavailable(ACTION, error))
    }
}

struct RabbitMqQueueConsumer {
    connection: Arc<ConsumerConnection>,
    channel: Channel,
    user: UserId,
    kind: QueueKind,
    _slot: Arc<()>,
    consumer: Consumer,
    /// In the order of the queue.
    unacked_tags: Vec<u64>,
    /// lapin's stream reports only once that it has ended.
    ended: bool,
}

impl RabbitMqQueueConsumer {
    fn track_delivery(&mut self, item: Option<lapin::Result<lapin::message::Delivery>>) -> Option<Delivery> {
        match item {
            Some(Ok(delivery)) => {
                self.unacked_tags.push(delivery.delivery_tag);
                let (trace, sender_connection) = (
                    trace_from_properties(&delivery.properties),
                    sender_connection_from_properties(&delivery.properties),
                );
                let (tag, redelivered) = (DeliveryTag(delivery.delivery_tag), delivery.redelivered);
                Some(Delivery { tag, body: delivery.data, redelivered, trace, sender_connection })
            }
            Some(Err(error)) => {
                let error = unavailable("deliver", error);
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the consumer of a user's queue was cancelled"
                );
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                None
            }
        }
    }

    async fn requeue_all(&mut self) -> Result<(), BoxError> {
        match self.kind {
            QueueKind::Classic => self.requeue_one_by_one().await,
            QueueKind::Quorum => self.requeue_by_closing_channel().await,
        }
    }

    /// A quorum queue loses the order of messages that are requeued one by one, but not of those requeued by closing
    /// the channel.
    ///
    /// Source: tried on RabbitMQ 3.10; `long_backlog_keeps_order_across_requeues` fails otherwise.
    async fn requeue_by_closing_channel(&mut self) -> Result<(), BoxError> {
        self.channel.close(200, "done".into()).await?;
        Ok(self.connection.queues.wait_until_unconsumed(&self.connection.amqp, &self.user, self.kind).await?)
    }

    async fn requeue_one_by_one(&mut self) -> Result<(), BoxError> {
        let tag = self.consumer.tag();
        self.channel.basic_cancel(tag, BasicCancelOptions::default()).await?;
        // Messages in flight at the cancellation are unacked, too.
        while !self.ended {
            let item = self.consumer.next().await;
            self.track_delivery(item);
        }
        for tag in std::mem::take(&mut self.unacked_tags) {
            self.channel.basic_nack(tag, BasicNackOptions { requeue: true, multiple: false }).await?;
        }
        // A nack has no reply, but this has: when it is here, everything is requeued for the next consumer.
        self.channel.basic_qos(self.connection.prefetch, BasicQosOptions { global: false }).await?;
        Ok(())
    }
}

impl Drop for RabbitMqQueueConsumer {
    fn drop(&mut self) {
        // Nobody will requeue the unacked messages any more, and the channel would get its next user before this
        // consumer is cancelled: closing the connection settles both.
        if std::thread::panicking() && !self.ended {
            self.connection.pause_guard.abandon();
        }
    }
}

#[async_trait]
impl QueueConsumer for RabbitMqQueueConsumer {
    async fn next(&mut self) -> Option<Delivery> {
        if self.ended {
            return None;
        }
        let item = self.consumer.next().await;
        self.track_delivery(item)
    }

    fn try_next(&mut self) -> Option<Delivery> {
        if self.ended {
            return None;
        }
        let item = self.consumer.next().now_or_never()?;
        self.track_delivery(item)
    }

    fn owns_unacked(&self) -> bool {
        self.connection.pause_guard.is_intact()
    }

    async fn ack(&mut self, tags: &[DeliveryTag]) -> Result<(), Unavailable> {
        for tag in tags {
            // One by one: tags count per channel, so `multiple` would ack other users' messages. Queued, and not
            // awaited until it is written: what the channel sends later follows it, and if the connection ends first,
            // the message is redelivered.
            let queued = self.channel.basic_ack(tag.0, BasicAckOptions::default()).now_or_never();
            queued.unwrap_or(Ok(())).map_err(|error| unavailable("ack", error))?;
        }
        self.unacked_tags.retain(|tag| !tags.contains(&DeliveryTag(*tag)));
        Ok(())
    }

    async fn dead_letter(&mut self, tag: DeliveryTag, body: &[u8], why: DeadLetterReason) -> Result<(), Unavailable> {
        const ACTION: &str = "dead-letter a message";
        let kept = timeout(BROKER_REPLY_TIMEOUT, self.connection.dead.publish(body, why)).await;
        kept.map_err(|late| unavailable(ACTION, late))?.map_err(|error| unavailable(ACTION, error))?;
        self.ack(&[tag]).await
    }

    async fn close(mut self: Box<Self>) {
        // The broker has requeued the unacked messages of a dead channel.
        if !self.connection.is_up() || self.ended || !self.channel.status().connected() {
            return;
        }
        let given_back = timeout(BROKER_REPLY_TIMEOUT, self.requeue_all()).await;
        if !matches!(given_back, Ok(Ok(()))) {
            // Messages that can't be requeued one by one are requeued with their connection.
            tracing::warn!("closing a user's queue consumer failed; reconnecting");
            // The partition's lock is kept from now on until that connection has ended.
            self.connection.pause_guard.abandon();
        }
    }
}
