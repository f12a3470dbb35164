//! The functions' side: publishes over one connection that is made when first needed.
//!
//! A function may have been frozen since the last call, its heartbeats missed and its socket dead without
//! anybody noticing. So nothing here asks whether the connection is alive: each operation gets a deadline,
//! and what fails is tried once more on a new connection, under the same message id.

use std::{
    sync::{
        Arc, Mutex as SyncMutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use kschat_core::{
    Partitions, metrics,
    ports::{
        Acks, Bound, BoxError, Notices, Pokes, PublishError, Publisher, Queues, Replies, Requested, RoomBindings,
        Supervision, Unavailable,
    },
};
use kschat_protocol::{AckFrame, ConnectionId, Message, Notice, RoomId, UserId};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    ACCESS_REFUSED, BrokerUrl, NOT_FOUND, QueueSettings,
    notices::with_notice,
    queues::{UserQueues, code, reopened},
    topology::{
        ACK, AGAIN, CHECK, CLOSE, CONTROL, EXCHANGE, REPLY, ROOMS, WANTED, control_queue, declare_partitions,
        declare_shared, look_for_exchanges, room_key, routing_key,
    },
    traces::beside,
    unavailable,
};

/// From the call to its answer, whatever happens.
const DEADLINE: Duration = Duration::from_millis(2_500);

/// How long one try may take before the connection counts as dead.
const TRY: Duration = Duration::from_millis(1_000);

/// The second try is on a new connection.
const TRIES: u32 = 2;

/// Publishes under way at once; each has a channel to itself. A function on Lambda never needs a second one.
const LANES: usize = 32;

/// Waiting for the queue of a user who has connected, where this user of the broker may not make it.
const FOR_A_QUEUE: Duration = Duration::from_secs(2);

/// The first part of that, doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// How long a poke or an ack waits for an owner, in milliseconds. A new owner looks for itself, and what is not
/// acknowledged comes again, so none is missed.
const NOTE_LIFE: &str = "120000";

const TRANSIENT: u8 = 1;
const PERSISTENT: u8 = 2;

/// Publishes over a connection that survives what a broker and a function's platform do to it.
#[derive(Debug)]
pub struct Publishing {
    url: BrokerUrl,
    partitions: Partitions,
    queues: QueueSettings,
    link: Mutex<Option<Arc<Link>>>,
    /// Whether there was a link before.
    has_connected: AtomicBool,
    /// Whether the broker has refused to let us make a queue, as it should.
    makes_no_queues: AtomicBool,
    lanes: Semaphore,
}

/// A connection with its channels; thrown away as a whole when anything on it fails.
#[derive(Debug)]
struct Link {
    connection: Connection,
    /// Channels that confirm, and on which nothing is under way.
    ///
    /// lapin does not tie a returned message to its publish: with two under way on one channel, the wrong one
    /// may be told that it had no route.
    // A std mutex: no guard is held across an await.
    idle: SyncMutex<Vec<Channel>>,
    /// For what may get lost: nothing is confirmed on it.
    unconfirmed: Mutex<Option<Channel>>,
    /// When the broker has last answered here. By the wall clock, as the other one may stand still in a freeze.
    answered: SyncMutex<SystemTime>,
    /// For how long after an answer the connection is taken to be alive: the broker gives nobody up sooner.
    trusted: Duration,
    queues: UserQueues,
}

/// A try that did not succeed.
struct Failure {
    /// Whether the broker may have got it all the same.
    maybe_done: bool,
    source: BoxError,
}

impl Failure {
    fn surely(source: impl Into<BoxError>) -> Self {
        Self { maybe_done: false, source: source.into() }
    }

    fn perhaps(source: impl Into<BoxError>) -> Self {
        Self { maybe_done: true, source: source.into() }
    }
}

impl From<lapin::Error> for Failure {
    fn from(error: lapin::Error) -> Self {
        Self::perhaps(error)
    }
}

impl Link {
    async fn open(url: &BrokerUrl, partitions: Partitions) -> Result<Self, lapin::Error> {
        let connection = url.connect("kschat function").await?;
        let looks = connection.create_channel().await?;
        match look_for_exchanges(&looks).await {
            Ok(()) => looks.close(200, "done".into()).await?,
            // Nobody was here before us. Who may not declare has to wait for a consumer, which may.
            Err(error) if code(&error) == Some(NOT_FOUND) => {
                let declares = connection.create_channel().await?;
                declare_shared(&declares).await?;
                declare_partitions(&declares, partitions).await?;
                declares.close(200, "done".into()).await?;
            }
            Err(error) => return Err(error),
        }
        Ok(Self {
            connection,
            idle: SyncMutex::default(),
            unconfirmed: Mutex::default(),
            answered: SyncMutex::new(SystemTime::now()),
            trusted: url.heartbeat(),
            queues: UserQueues::default(),
        })
    }

    /// Whether the broker was heard of so lately that nobody can have given the connection up for its silence.
    fn is_fresh(&self) -> bool {
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back proves nothing.
        answered.elapsed().is_ok_and(|silence| silence < self.trusted)
    }

    /// A channel that the caller has to itself until it puts it back.
    async fn take_lane(&self) -> Result<Channel, lapin::Error> {
        let idle = self.idle().pop();
        if let Some(channel) = idle {
            return Ok(channel);
        }
        let channel = self.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn publish(&self, letter: &Letter) -> Result<Confirmation, Failure> {
        let options = BasicPublishOptions { mandatory: letter.mandatory, ..BasicPublishOptions::default() };
        let (exchange, key) = (letter.exchange.into(), letter.routing_key.clone());
        let properties = letter.properties.clone();
        let lane = self.take_lane().await.map_err(Failure::surely)?;
        // Until this has succeeded, not all of the message was written: the broker can't have it.
        let sent = lane.basic_publish(exchange, key, options, &letter.body, properties).await;
        let confirmation = sent.map_err(Failure::surely)?.await?;
        self.idle().push(lane);
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = SystemTime::now();
        Ok(confirmation)
    }

    /// Hands a letter to the socket, and does not wait for the broker to say that it has it.
    async fn write(&self, letter: &Letter) -> Result<(), Failure> {
        let channel = reopened(&self.connection, &mut *self.unconfirmed.lock().await).await?;
        let (exchange, key) = (letter.exchange.into(), letter.routing_key.clone());
        let (options, properties) = (BasicPublishOptions::default(), letter.properties.clone());
        channel.basic_publish(exchange, key, options, &letter.body, properties).await?;
        Ok(())
    }
}

/// What is published, the same on every try.
struct Letter {
    exchange: &'static str,
    routing_key: lapin::types::ShortString,
    mandatory: bool,
    properties: BasicProperties,
    body: Vec<u8>,
}

impl Publishing {
    /// Publishes to the broker at `url`, once there is something to publish.
    #[must_use]
    pub fn new(url: BrokerUrl, partitions: Partitions, queues: QueueSettings) -> Self {
        Self {
            url,
            partitions,
            queues,
            link: Mutex::default(),
            has_connected: AtomicBool::new(false),
            makes_no_queues: AtomicBool::new(false),
            lanes: Semaphore::new(LANES),
        }
    }

    /// The link, made anew if need be. Those who come meanwhile wait for the same one.
    async fn link(&self) -> Result<Arc<Link>, lapin::Error> {
        let mut link = self.link.lock().await;
        if let Some(link) = &*link {
            return Ok(Arc::clone(link));
        }
        let new = Arc::new(Link::open(&self.url, self.partitions).await?);
        if self.has_connected.swap(true, Ordering::Relaxed) {
            metrics::BROKER_RECONNECTS.add(1);
        }
        *link = Some(Arc::clone(&new));
        Ok(new)
    }

    /// Forgets a link that failed, unless somebody has put a new one in its place.
    async fn drop_link(&self, failed: &Arc<Link>) {
        let mut link = self.link.lock().await;
        if link.as_ref().is_some_and(|link| Arc::ptr_eq(link, failed)) {
            *link = None;
        }
    }

    /// Does `act` on the link, and once more on a new one, within the deadline.
    async fn attempt<T, F, Fut>(&self, deadline: Instant, act: F) -> Result<T, Failure>
    where
        F: Fn(Arc<Link>) -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, Failure>> + Send,
    {
        let mut earlier = false;
        let mut last = Failure::surely("no time was left for a try");
        for _ in 0..TRIES {
            let link = match timeout_at(deadline, self.link()).await {
                Ok(Ok(link)) => link,
                Ok(Err(error)) => return Err(Failure { maybe_done: earlier, source: error.into() }),
                Err(late) => return Err(Failure { maybe_done: earlier, source: late.into() }),
            };
            let end = deadline.min(Instant::now() + TRY);
            last = match timeout_at(end, act(Arc::clone(&link))).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(failure)) => failure,
                Err(late) => Failure::perhaps(late),
            };
            earlier |= last.maybe_done;
            // The lock may be held by somebody who connects: that is not worth waiting for past the deadline.
            if timeout_at(deadline, self.drop_link(&link)).await.is_err() {
                break;
            }
        }
        Err(Failure { maybe_done: earlier, ..last })
    }

    /// Makes the connection now, to find out whether it can be made.
    ///
    /// # Errors
    /// [`Unavailable`] when it can't.
    pub async fn check(&self) -> Result<(), Unavailable> {
        let connected = timeout(DEADLINE, self.link()).await.map_err(BoxError::from);
        connected.and_then(|link| link.map(drop).map_err(BoxError::from)).map_err(|error| unavailable("connect", error))
    }

    async fn deliver(&self, letter: Letter) -> Result<Confirmation, Failure> {
        let letter = Arc::new(letter);
        let deadline = Instant::now() + DEADLINE;
        // It is never closed, so there is a permit in time or not at all.
        let _lane = timeout_at(deadline, self.lanes.acquire()).await.map_err(Failure::surely)?;
        self.attempt(deadline, |link| {
            let letter = Arc::clone(&letter);
            async move { link.publish(&letter).await }
        })
        .await
    }
}

#[async_trait]
impl Publisher for Publishing {
    async fn publish(&self, to: &UserId, message: &Message) -> Result<(), PublishError> {
        self.publish_by(EXCHANGE, routing_key(to), message).await
    }

    async fn publish_to_room(&self, room: &RoomId, message: &Message) -> Result<(), PublishError> {
        match self.publish_by(ROOMS, room_key(room), message).await {
            // Somebody's queue is: the others have it.
            Err(PublishError::Full) => {
                tracing::warn!("somebody in a room misses a message, as a queue is full");
                Ok(())
            }
            outcome => outcome,
        }
    }
}

#[async_trait]
impl RoomBindings for Publishing {
    async fn bind(&self, user: &UserId, room: &RoomId) -> Result<Bound, Unavailable> {
        let bound = self.attempt(Instant::now() + DEADLINE, |link| {
            let (user, rooms) = (user.clone(), [room.clone()]);
            async move { Ok(link.queues.bind_rooms(&link.connection, &user, &rooms).await?) }
        });
        bound.await.map_err(|failure| unavailable("bind a queue to a room", failure.source))
    }

    async fn unbind(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
        let unbound = self.attempt(Instant::now() + DEADLINE, |link| {
            let (user, rooms) = (user.clone(), [room.clone()]);
            async move { Ok(link.queues.unbind_rooms(&link.connection, &user, &rooms).await?) }
        });
        unbound.await.map_err(|failure| unavailable("take a queue out of a room", failure.source))
    }
}

impl Publishing {
    async fn publish_by(
        &self,
        exchange: &'static str,
        routing_key: ShortString,
        message: &Message,
    ) -> Result<(), PublishError> {
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_message_id(message.id.as_str().into());
        let (properties, body) = (beside(properties, message), message.to_vec());
        let letter = Letter { exchange, routing_key, mandatory: true, properties, body };
        match self.deliver(letter).await {
            Ok(Confirmation::Ack(None)) => Ok(()),
            // Returned and then acked is how a broker says that nobody was there to take it.
            Ok(Confirmation::Ack(Some(_))) => Err(PublishError::NoRoute),
            // A queue that rejects what it has no room for is why a broker nacks.
            Ok(Confirmation::Nack(_)) => Err(PublishError::Full),
            Ok(Confirmation::NotRequested) => {
                Err(PublishError::Unconfirmed(unavailable("confirm", "the channel does not confirm")))
            }
            Err(failure) if failure.maybe_done => {
                Err(PublishError::Unconfirmed(unavailable("confirm", failure.source)))
            }
            Err(failure) => Err(PublishError::Unavailable(unavailable("publish", failure.source))),
        }
    }
}

#[async_trait]
impl Queues for Publishing {
    async fn enrol(&self, user: &UserId) -> Result<(), Unavailable> {
        // Otherwise the owner makes it, who is told of every connection.
        if !self.queues.keeps_empty || self.make_queue(user).await? {
            return Ok(());
        }
        self.ask_for_queue(user, user).await?;
        self.wait_for_queue(user).await
    }

    async fn request(&self, user: &UserId, asker: &UserId) -> Result<Requested, Unavailable> {
        // Whatever is set here: the owner may be set to remove it.
        if !self.has_owner(user).await? && self.make_queue(user).await? {
            return Ok(Requested::Made);
        }
        // If there is no owner, the next one reads it.
        self.ask_for_queue(user, asker).await?;
        Ok(Requested::Asked)
    }
}

#[async_trait]
impl Pokes for Publishing {
    async fn poke(&self, user: &UserId) -> Result<(), Unavailable> {
        self.tell_owner(user, note(), "poke").await
    }
}

#[async_trait]
impl Acks for Publishing {
    async fn acked(&self, user: &UserId, ack: &AckFrame) -> Result<(), Unavailable> {
        let properties = note().with_type(if ack.again { AGAIN } else { ACK }.into());
        let properties = match &ack.message {
            Some(message) => properties.with_message_id(message.as_str().into()),
            None => properties,
        };
        let properties = match ack.position {
            Some(position) => properties.with_correlation_id(position.to_string().into()),
            None => properties,
        };
        self.mention(user, properties, "pass on an ack").await
    }
}

#[async_trait]
impl Notices for Publishing {
    async fn notify(&self, user: &UserId, notice: &Notice) -> Result<(), Unavailable> {
        self.mention(user, with_notice(notice), "pass on a notice").await
    }
}

#[async_trait]
impl Replies for Publishing {
    async fn reply(&self, user: &UserId, connection: &ConnectionId, frame: &str) -> Result<(), Unavailable> {
        let properties = note()
            .with_type(REPLY.into())
            .with_message_id(user.as_str().into())
            .with_correlation_id(connection.as_str().into());
        self.write_to_owner(user, properties, frame.as_bytes().to_vec(), "pass on a reply").await
    }
}

#[async_trait]
impl Supervision for Publishing {
    async fn close(&self, user: &UserId, connection: Option<&ConnectionId>) -> Result<(), Unavailable> {
        let properties = note().with_type(CLOSE.into());
        let properties = match connection {
            Some(connection) => properties.with_correlation_id(connection.as_str().into()),
            None => properties,
        };
        self.tell_owner(user, properties, "have a connection closed").await
    }

    async fn check(&self, user: &UserId) -> Result<(), Unavailable> {
        self.tell_owner(user, note().with_type(CHECK.into()), "have connections checked").await
    }
}

/// What control messages have in common.
fn note() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(TRANSIENT).with_expiration(NOTE_LIFE.into())
}

impl Publishing {
    /// Makes a user's queue; says whether the broker lets us. With the permissions that functions should have it does not:
    /// then only owners make queues.
    async fn make_queue(&self, user: &UserId) -> Result<bool, Unavailable> {
        if self.makes_no_queues.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let made = self.attempt(Instant::now() + DEADLINE, |link| {
            let user = user.clone();
            async move {
                match link.queues.ensure(&link.connection, &user, &self.queues).await {
                    Ok(_) => Ok(true),
                    Err(error) if code(&error) == Some(ACCESS_REFUSED) => Ok(false),
                    Err(error) => Err(error.into()),
                }
            }
        });
        let is_made = made.await.map_err(|failure| unavailable("declare a queue", failure.source))?;
        self.makes_no_queues.store(!is_made, Ordering::Relaxed);
        Ok(is_made)
    }

    async fn ask_for_queue(&self, user: &UserId, asker: &UserId) -> Result<(), Unavailable> {
        let properties = note().with_type(WANTED.into()).with_message_id(asker.as_str().into());
        self.tell_owner(user, properties, "ask for a queue").await
    }

    /// Waits until the owner has made a user's queue. One that takes long makes it all the same.
    async fn wait_for_queue(&self, user: &UserId) -> Result<(), Unavailable> {
        let (deadline, mut wait) = (Instant::now() + FOR_A_QUEUE, FIRST_WAIT);
        loop {
            let looked = self.attempt(Instant::now() + DEADLINE, |link| {
                let user = user.clone();
                async move { Ok(link.queues.exists(&link.connection, &user).await?) }
            });
            let is_there = looked.await.map_err(|failure| unavailable("look for a queue", failure.source))?;
            if is_there || Instant::now() >= deadline {
                return Ok(());
            }
            sleep(wait).await;
            wait *= 2;
        }
    }

    async fn has_owner(&self, user: &UserId) -> Result<bool, Unavailable> {
        let partition = self.partitions.of(user);
        let looked = self.attempt(Instant::now() + DEADLINE, |link| async move {
            Ok(link.queues.has_owner(&link.connection, partition).await?)
        });
        looked.await.map_err(|failure| unavailable("look for an owner", failure.source))
    }

    /// Writes to whoever owns the user's partition.
    async fn tell_owner(
        &self,
        user: &UserId,
        properties: BasicProperties,
        action: &'static str,
    ) -> Result<(), Unavailable> {
        self.write_to_owner(user, properties, user.as_str().as_bytes().to_vec(), action).await
    }

    /// Tells whoever owns the user's partition what may get lost on the way: an ack comes again with what it acknowledges,
    /// and a notice that is not heard is no harm. So nobody waits for the broker's word.
    ///
    /// Over a connection that has died meanwhile it would get lost without anybody noticing: one that was silent for long is
    /// therefore tried by waiting for the word all the same.
    async fn mention(
        &self,
        user: &UserId,
        properties: BasicProperties,
        action: &'static str,
    ) -> Result<(), Unavailable> {
        let letter = Arc::new(self.to_owner(user, properties, user.as_str().as_bytes().to_vec()));
        let mentioned = self.attempt(Instant::now() + DEADLINE, |link| {
            let letter = Arc::clone(&letter);
            async move {
                if link.is_fresh() {
                    return link.write(&letter).await;
                }
                let _lane = self.lanes.acquire().await.map_err(Failure::surely)?;
                link.publish(&letter).await.map(drop)
            }
        });
        mentioned.await.map_err(|failure| unavailable(action, failure.source))
    }

    fn to_owner(&self, user: &UserId, properties: BasicProperties, body: Vec<u8>) -> Letter {
        Letter {
            exchange: CONTROL,
            routing_key: control_queue(self.partitions.of(user)),
            // Where that partition has never had an owner there is no such queue: the first one will look for itself.
            mandatory: false,
            properties,
            body,
        }
    }

    async fn write_to_owner(
        &self,
        user: &UserId,
        properties: BasicProperties,
        body: Vec<u8>,
        action: &'static str,
    ) -> Result<(), Unavailable> {
        match self.deliver(self.to_owner(user, properties, body)).await {
            Ok(Confirmation::Ack(_)) => Ok(()),
            Ok(refused) => Err(unavailable(action, format!("not confirmed: {refused:?}"))),
            Err(failure) => Err(unavailable(action, failure.source)),
        }
    }
}
