//! Publishes over one connection that is made when first needed: for functions, and for what a consumer sends to
//! owners. The connection that consumes never publishes (see [`super::consumer`]).
//!
//! A function may have been frozen since the last call, its heartbeats missed and its socket dead unnoticed. So nothing
//! here checks whether the connection is alive: each operation has a deadline, and a failed one is retried once on a
//! new connection, under the same message id.

use std::{
    sync::{
        Arc, Mutex as SyncMutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use kschat_core::{
    Partitions,
    backoff::Backoff,
    metrics,
    ports::{
        BindOutcome, BoxError, OwnerChannel, OwnerMessage, PublishError, Publisher, QueueProvisioner,
        QueueRequestOutcome, RoomBindings, Unavailable,
    },
};
use kschat_protocol::{Message, RoomId, UserId};
use lapin::{BasicProperties, Channel, Connection, types::ShortString};
use tokio::{
    sync::{Mutex, OnceCell, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    ACCESS_REFUSED, BrokerUrl, DELIVERY_MODE_PERSISTENT, NOT_FOUND, QueueSettings,
    connection::{open_channel, reply_code},
    headers::with_message_headers,
    owner_message,
    publish_channel::{AttemptError, Publish, PublishChannel, PublishOutcome},
    queues::UserQueues,
    topology::{
        CONTROL_EXCHANGE, DIRECT_EXCHANGE, ROOMS_EXCHANGE, check_exchanges, control_queue, declare_partitions,
        declare_shared, room_key, routing_key,
    },
    unavailable,
};

/// The time for one call with all attempts.
const BROKER_OPERATION_TIMEOUT: Duration = Duration::from_millis(2_500);

/// The time for one attempt, after which the connection counts as dead.
const BROKER_ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_000);

/// The second attempt is on a new connection.
const BROKER_MAX_ATTEMPTS: u32 = 2;

/// Publishes in flight at once. A function on Lambda never has a second one.
const MAX_IN_FLIGHT_PUBLISHES: usize = 512;

/// The wait for the queue of a user who has connected, where this broker user may not create it.
const ENROLLED_QUEUE_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits between two looks for it.
const ENROLLED_QUEUE_BACKOFF: Backoff = Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(320) };

/// The action in errors of owner messages.
const OWNER_ACTION: &str = "notify the owner";

/// How long a partition that was seen to have an owner is assumed to have one.
const OWNER_SEEN_TTL: Duration = Duration::from_secs(1);

/// How long a blocked connection is kept, before a new one is tried.
const MAX_BLOCKED_TIME: Duration = Duration::from_secs(60);

/// The error while the broker reads nothing from a connection that publishes.
///
/// Source: RabbitMQ documentation, "Memory and Disk Alarms".
pub(super) const BLOCKED: &str = "the broker takes no messages at present: its memory or disk alarm is set";

/// Publishes over a connection that recovers from failures of the broker and freezes of a function.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use kschat_adapters::rabbitmq::{QueueSettings, RabbitMqPublisher};
/// use kschat_core::{Partitions, ports::Publisher};
/// use kschat_protocol::{Message, UserId};
///
/// let url = "amqp://guest:guest@127.0.0.1:5672".parse()?;
/// let publisher = RabbitMqPublisher::new(url, Partitions::default(), QueueSettings::default());
/// let message = Message::from_slice(br#"{"uId":"alice","pId":"bob","msg":"hi","mId":"m-1"}"#)?;
/// // Returns once the broker has confirmed the message.
/// publisher.publish(&UserId::try_from("bob")?, &message).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RabbitMqPublisher {
    url: BrokerUrl,
    partitions: Partitions,
    queues: QueueSettings,
    // A std mutex: no guard is held across an await.
    connection: SyncMutex<Option<Arc<PublisherConnection>>>,
    /// Held while connecting.
    connecting: Mutex<()>,
    /// Whether there was a connection before.
    has_connected: AtomicBool,
    /// Whether the broker has refused to declare a queue, as it should.
    declare_is_refused: AtomicBool,
    /// When each partition was last seen to have an owner.
    owner_seen_at: Vec<Mutex<Option<Instant>>>,
    slots: Semaphore,
}

/// A connection with its channels; dropped as a whole when anything on it fails.
#[derive(Debug)]
struct PublisherConnection {
    amqp: Connection,
    confirmed: OnceCell<PublishChannel>,
    /// For messages that may get lost: nothing is confirmed on it.
    unconfirmed: Mutex<Option<Channel>>,
    /// When the broker last answered here. By the wall clock, as the monotonic one may stand still in a freeze.
    last_confirmed_at: SyncMutex<SystemTime>,
    /// When it was first seen blocked, by the wall clock.
    blocked_since: SyncMutex<Option<SystemTime>>,
    /// How long after an answer the connection is assumed alive: the broker drops no peer sooner.
    trust_window: Duration,
    queues: UserQueues,
}

impl PublisherConnection {
    async fn open(url: &BrokerUrl, partitions: Partitions) -> Result<Self, BoxError> {
        let connection = url.connect("kschat publisher").await?;
        let passive_channel = connection.create_channel().await?;
        match check_exchanges(&passive_channel).await {
            Ok(()) => passive_channel.close(200, "done".into()).await?,
            // The first process ever. A user without permission to declare has to wait for a consumer, which may.
            Err(error) if reply_code(&error) == Some(NOT_FOUND) => {
                let declare_channel = connection.create_channel().await?;
                declare_shared(&declare_channel).await?;
                declare_partitions(&declare_channel, partitions).await?;
                declare_channel.close(200, "done".into()).await?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Self {
            amqp: connection,
            confirmed: OnceCell::new(),
            unconfirmed: Mutex::default(),
            last_confirmed_at: SyncMutex::new(SystemTime::now()),
            blocked_since: SyncMutex::default(),
            trust_window: url.heartbeat(),
            queues: UserQueues::default(),
        })
    }

    /// Whether the broker reads nothing from it. It is alive, and a new one would be blocked as well.
    ///
    /// lapin keeps that mark on a connection that has ended, and a frozen function can't learn that it has. So a mark
    /// counts for a connected one only, and for a limited time.
    fn is_blocked(&self) -> bool {
        let status = self.amqp.status();
        let mut since = self.blocked_since.lock().unwrap_or_else(PoisonError::into_inner);
        if !status.connected() || !status.blocked() {
            *since = None;
            return false;
        }
        since.get_or_insert_with(SystemTime::now).elapsed().is_ok_and(|span| span < MAX_BLOCKED_TIME)
    }

    /// Whether the last answer is so recent that the broker can't have dropped the connection for its silence.
    fn was_confirmed_recently(&self) -> bool {
        let answered = *self.last_confirmed_at.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back proves nothing.
        answered.elapsed().is_ok_and(|silence| silence < self.trust_window)
    }

    async fn publish(&self, publish: Arc<Publish>) -> Result<PublishOutcome, AttemptError> {
        let channel = self.confirmed.get_or_try_init(|| PublishChannel::open(&self.amqp));
        let confirmed = channel.await.map_err(AttemptError::definite)?.publish(publish).await?;
        *self.last_confirmed_at.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
        Ok(confirmed)
    }

    /// Writes a publish to the socket, without waiting for the broker's confirm.
    async fn publish_unconfirmed(&self, publish: &Publish) -> Result<(), AttemptError> {
        let channel = open_channel(&self.amqp, &mut *self.unconfirmed.lock().await).await?;
        publish.write(&channel).await?;
        Ok(())
    }
}

impl RabbitMqPublisher {
    /// Publishes to the broker at `url`; connects at the first publish.
    #[must_use]
    pub fn new(url: BrokerUrl, partitions: Partitions, queues: QueueSettings) -> Self {
        Self {
            url,
            partitions,
            queues,
            connection: SyncMutex::default(),
            connecting: Mutex::default(),
            has_connected: AtomicBool::new(false),
            declare_is_refused: AtomicBool::new(false),
            owner_seen_at: partitions.all().map(|_| Mutex::default()).collect(),
            slots: Semaphore::new(MAX_IN_FLIGHT_PUBLISHES),
        }
    }

    /// The connection, made again if necessary. Concurrent callers wait for the same one.
    async fn connection(&self) -> Result<Arc<PublisherConnection>, BoxError> {
        if let Some(connection) = &*self.current() {
            return Ok(Arc::clone(connection));
        }
        let _turn = self.connecting.lock().await;
        if let Some(connection) = &*self.current() {
            return Ok(Arc::clone(connection));
        }
        let new = Arc::new(PublisherConnection::open(&self.url, self.partitions).await?);
        if self.has_connected.swap(true, Ordering::Relaxed) {
            metrics::BROKER_RECONNECTS.add(1);
        }
        *self.current() = Some(Arc::clone(&new));
        Ok(new)
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<PublisherConnection>>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops a failed connection, unless a new one has replaced it.
    fn drop_connection(&self, failed: &Arc<PublisherConnection>) {
        self.current().take_if(|connection| Arc::ptr_eq(connection, failed));
    }

    /// Runs `act` on the connection, and once more on a new one, within the time for one call.
    async fn attempt<T, F, Fut>(&self, act: F) -> Result<T, AttemptError>
    where
        F: Fn(Arc<PublisherConnection>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, AttemptError>> + Send,
    {
        self.attempt_until(Instant::now() + BROKER_OPERATION_TIMEOUT, act).await
    }

    /// The same, until the deadline.
    async fn attempt_until<T, F, Fut>(&self, deadline: Instant, act: F) -> Result<T, AttemptError>
    where
        F: Fn(Arc<PublisherConnection>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, AttemptError>> + Send,
    {
        let mut earlier = false;
        let mut last = AttemptError::definite("no time left for an attempt");
        for _ in 0..BROKER_MAX_ATTEMPTS {
            let connection = match timeout_at(deadline, self.connection()).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => return Err(AttemptError { may_have_succeeded: earlier, source: error }),
                Err(late) => return Err(AttemptError { may_have_succeeded: earlier, source: late.into() }),
            };
            if connection.is_blocked() {
                return Err(AttemptError { may_have_succeeded: earlier, source: BLOCKED.into() });
            }
            let end = deadline.min(Instant::now() + BROKER_ATTEMPT_TIMEOUT);
            last = match timeout_at(end, act(Arc::clone(&connection))).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(failure)) => failure,
                Err(late) => AttemptError::uncertain(late),
            };
            earlier |= last.may_have_succeeded;
            if connection.is_blocked() {
                last.source = BLOCKED.into();
                break;
            }
            self.drop_connection(&connection);
        }
        Err(AttemptError { may_have_succeeded: earlier, ..last })
    }

    /// Connects now, to find out whether that works.
    ///
    /// # Errors
    /// [`Unavailable`] when it does not.
    pub async fn check(&self) -> Result<(), Unavailable> {
        let connected = timeout(BROKER_OPERATION_TIMEOUT, self.connection()).await.map_err(BoxError::from);
        connected.and_then(|connection| connection.map(drop)).map_err(|error| unavailable("connect", error))
    }

    async fn publish_confirmed(&self, publish: Publish) -> Result<PublishOutcome, AttemptError> {
        let publish = Arc::new(publish);
        let deadline = Instant::now() + BROKER_OPERATION_TIMEOUT;
        let _slot = match self.slots.try_acquire() {
            Ok(slot) => slot,
            // The semaphore is never closed, so a permit comes in time or not at all.
            Err(_) => match timeout_at(deadline, self.slots.acquire()).await.map_err(AttemptError::definite)? {
                Ok(slot) => slot,
                Err(closed) => return Err(AttemptError::definite(closed)),
            },
        };
        self.attempt_until(deadline, |connection| {
            let publish = Arc::clone(&publish);
            async move { connection.publish(publish).await }
        })
        .await
    }
}

#[async_trait]
impl Publisher for RabbitMqPublisher {
    async fn publish(&self, to: &UserId, message: &Message) -> Result<(), PublishError> {
        self.publish_by(DIRECT_EXCHANGE, routing_key(to), message).await
    }

    async fn publish_to_room(&self, room: &RoomId, message: &Message) -> Result<(), PublishError> {
        match self.publish_by(ROOMS_EXCHANGE, room_key(room), message).await {
            // One member's queue is full: the others have it.
            Err(PublishError::Full) => {
                tracing::warn!("a room member's queue is full; it misses a message");
                Ok(())
            }
            outcome => outcome,
        }
    }
}

#[async_trait]
impl RoomBindings for RabbitMqPublisher {
    async fn bind(&self, user: &UserId, room: &RoomId) -> Result<BindOutcome, Unavailable> {
        let bound = self.attempt(|connection| {
            let (user, rooms) = (user.clone(), [room.clone()]);
            async move { Ok(connection.queues.bind_rooms(&connection.amqp, &user, &rooms).await?) }
        });
        bound.await.map_err(|failure| unavailable("bind a queue to a room", failure.source))
    }

    async fn unbind(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
        let unbound = self.attempt(|connection| {
            let (user, rooms) = (user.clone(), [room.clone()]);
            async move { Ok(connection.queues.unbind_rooms(&connection.amqp, &user, &rooms).await?) }
        });
        unbound.await.map_err(|failure| unavailable("unbind a queue from a room", failure.source))
    }
}

impl RabbitMqPublisher {
    async fn publish_by(
        &self,
        exchange: &'static str,
        routing_key: ShortString,
        message: &Message,
    ) -> Result<(), PublishError> {
        let properties = BasicProperties::default()
            .with_delivery_mode(DELIVERY_MODE_PERSISTENT)
            .with_content_type("application/json".into())
            .with_message_id(message.id.as_str().into());
        let (properties, body) = (with_message_headers(properties, message), message.to_vec());
        match self.publish_confirmed(Publish { exchange, routing_key, mandatory: true, properties, body }).await {
            Ok(PublishOutcome::Accepted) => Ok(()),
            Ok(PublishOutcome::Unroutable) => Err(PublishError::NoRoute),
            // A broker nacks because a full queue rejects the message.
            Ok(PublishOutcome::Rejected) => Err(PublishError::Full),
            Err(failure) if failure.may_have_succeeded => {
                Err(PublishError::Unconfirmed(unavailable("confirm", failure.source)))
            }
            Err(failure) => Err(PublishError::Unavailable(unavailable("publish", failure.source))),
        }
    }
}

#[async_trait]
impl QueueProvisioner for RabbitMqPublisher {
    async fn enroll_user(&self, user: &UserId) -> Result<(), Unavailable> {
        // Otherwise the owner creates it: it learns of every connection.
        if !self.queues.keeps_empty || self.make_queue(user).await? {
            return Ok(());
        }
        self.send_queue_request(user, user).await?;
        self.wait_for_queue(user).await
    }

    async fn request_queue(&self, user: &UserId, requester: &UserId) -> Result<QueueRequestOutcome, Unavailable> {
        // Regardless of our own setting, the owner's may remove the queue.
        let has_owner = self.has_owner(user).await?;
        if !has_owner && self.make_queue(user).await? {
            return Ok(QueueRequestOutcome::Created);
        }
        // The request waits in the control queue for the next owner.
        self.send_queue_request(user, requester).await?;
        Ok(QueueRequestOutcome::Pending { has_owner })
    }
}

#[async_trait]
impl OwnerChannel for RabbitMqPublisher {
    async fn send(&self, user: &UserId, message: OwnerMessage) -> Result<(), Unavailable> {
        let (properties, body) = owner_message::encode(user, &message);
        let publish = Publish {
            exchange: CONTROL_EXCHANGE,
            routing_key: control_queue(self.partitions.of(user)),
            // A partition that has never had an owner has no such queue: its first owner reads the registry by itself.
            mandatory: false,
            properties,
            body,
        };
        let is_best_effort = message.is_best_effort();
        let sent = if is_best_effort {
            self.publish_best_effort(publish).await
        } else {
            self.publish_confirmed(publish).await
        };
        match sent {
            Ok(PublishOutcome::Rejected) if !is_best_effort => {
                Err(unavailable(OWNER_ACTION, "the broker has rejected it"))
            }
            Ok(_) => Ok(()),
            Err(failure) => Err(unavailable(OWNER_ACTION, failure.source)),
        }
    }
}

impl RabbitMqPublisher {
    /// Declares a user's queue; returns whether the broker permits it. With the permissions that functions should have
    /// it does not: then only owners create queues.
    async fn make_queue(&self, user: &UserId) -> Result<bool, Unavailable> {
        if self.declare_is_refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let made = self.attempt(|connection| {
            let user = user.clone();
            async move {
                match connection.queues.ensure(&connection.amqp, &user, &self.queues).await {
                    Ok(_) => Ok(true),
                    Err(error) if reply_code(&error) == Some(ACCESS_REFUSED) => Ok(false),
                    Err(error) => Err(error.into()),
                }
            }
        });
        let is_made = made.await.map_err(|failure| unavailable("declare a queue", failure.source))?;
        self.declare_is_refused.store(!is_made, Ordering::Relaxed);
        Ok(is_made)
    }

    async fn send_queue_request(&self, user: &UserId, requester: &UserId) -> Result<(), Unavailable> {
        self.send(user, OwnerMessage::QueueRequest { requester: Some(requester.clone()) }).await
    }

    /// Waits until the owner has created a user's queue. A slow owner creates it all the same.
    async fn wait_for_queue(&self, user: &UserId) -> Result<(), Unavailable> {
        let (deadline, mut looks) = (Instant::now() + ENROLLED_QUEUE_TIMEOUT, 0);
        loop {
            let answer = self.attempt(|connection| {
                let user = user.clone();
                async move { Ok(connection.queues.exists(&connection.amqp, &user).await?) }
            });
            let is_there = answer.await.map_err(|failure| unavailable("look for a queue", failure.source))?;
            if is_there || Instant::now() >= deadline {
                return Ok(());
            }
            sleep(ENROLLED_QUEUE_BACKOFF.longest_wait(looks)).await;
            looks += 1;
        }
    }

    /// Whether the user's partition has an owner. One look per partition at a time answers all who ask meanwhile: in a
    /// flood of senders, waiting for a turn would look like a broker that does not answer.
    async fn has_owner(&self, user: &UserId) -> Result<bool, Unavailable> {
        const ACTION: &str = "look for an owner";
        let partition = self.partitions.of(user);
        let turn = timeout(BROKER_OPERATION_TIMEOUT, self.owner_seen_at[usize::from(partition.number())].lock());
        let mut seen_at = turn.await.map_err(|late| unavailable(ACTION, late))?;
        if seen_at.is_some_and(|seen| seen.elapsed() < OWNER_SEEN_TTL) {
            return Ok(true);
        }
        let answer = self
            .attempt(|connection| async move { Ok(connection.queues.has_owner(&connection.amqp, partition).await?) });
        let has_owner = answer.await.map_err(|failure| unavailable(ACTION, failure.source))?;
        *seen_at = has_owner.then(Instant::now);
        Ok(has_owner)
    }

    /// Publishes without waiting for the broker's confirm.
    ///
    /// A message over a connection that has died unnoticed would be lost. So after a long silence the confirm is
    /// awaited all the same.
    async fn publish_best_effort(&self, publish: Publish) -> Result<PublishOutcome, AttemptError> {
        let publish = Arc::new(publish);
        self.attempt(|connection| {
            let publish = Arc::clone(&publish);
            async move {
                if connection.was_confirmed_recently() {
                    return connection.publish_unconfirmed(&publish).await.map(|()| PublishOutcome::Accepted);
                }
                let _slot = self.slots.acquire().await.map_err(AttemptError::definite)?;
                connection.publish(publish).await
            }
        })
        .await
    }
}
