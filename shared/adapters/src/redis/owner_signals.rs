//! Owner messages that may get lost, by Redis's publish/subscribe.
//!
//! That costs a fraction of a message of the broker. It also goes on while the broker takes no messages because it is
//! out of memory or disk: acks empty the queues, so they must not wait for that.
//!
//! Nothing is stored: Redis tells a publisher how many subscribers it has reached, and if there is none, the message
//! goes by the broker ([`OwnerRoutes`]). So functions also work with a consumer of an earlier release, which does not
//! subscribe, and their messages reach a consumer of this one by either way.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt;
use kschat_core::{
    Partition,
    ports::{OwnerChannel, OwnerMessage, Ownership, OwnershipEvent, Unavailable},
};
use kschat_protocol::{AckFrame, ConnectionId, EphemeralEvent, MessageId, ServerFrame, UserId};
use redis::{
    RedisError,
    aio::{PubSubSink, PubSubStream},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{interval, sleep, timeout},
};

use super::{REDIS_CONNECT_TIMEOUT, REDIS_RESPONSE_TIMEOUT, RedisRegistry, RedisUrl};

/// The interval between two probes of the subscription: a dead connection looks like one without messages.
const SUBSCRIPTION_PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// The wait before a lost subscription is made again. Until then the messages go by the broker.
const RESUBSCRIBE_DELAY: Duration = Duration::from_millis(500);

/// Received messages that wait for the consumer. More are dropped, as Redis itself would.
const MAX_WAITING_SIGNALS: usize = 10_000;

/// A longer message goes by the broker: those that wait here must not fill the memory, and Redis cuts off a subscriber
/// that lags by some megabytes.
///
/// Source: Redis, `client-output-buffer-limit pubsub`.
const MAX_SIGNAL_BYTES: usize = 4 * 1024;

/// An owner message as it is published.
#[derive(Serialize, Deserialize)]
struct Signal {
    user: String,
    #[serde(flatten)]
    body: SignalBody,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SignalBody {
    Ack {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<MessageId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        position: Option<String>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    Event(EphemeralEvent),
    Reply {
        connection: String,
        /// The frame in its raw form.
        frame: String,
    },
}

/// Encodes a short message that may get lost; `None` for any other.
#[must_use]
pub fn encode(user: &UserId, message: &OwnerMessage) -> Option<String> {
    let body = match message {
        OwnerMessage::Ack(ack) => SignalBody::Ack {
            message: ack.message.clone(),
            position: ack.position.map(|position| position.to_string()),
            again: ack.redelivery_requested,
        },
        OwnerMessage::Event(event) => SignalBody::Event(event.clone()),
        OwnerMessage::Reply { connection, frame } => {
            SignalBody::Reply { connection: connection.as_str().to_owned(), frame: frame.to_text() }
        }
        OwnerMessage::Refresh
        | OwnerMessage::QueueRequest { .. }
        | OwnerMessage::Close { .. }
        | OwnerMessage::CheckConnections => return None,
    };
    let signal = serde_json::to_string(&Signal { user: user.as_str().to_owned(), body }).ok()?;
    (signal.len() <= MAX_SIGNAL_BYTES).then_some(signal)
}

/// Decodes a message; `None` for one that is malformed or of a newer release.
#[must_use]
pub fn decode(signal: &[u8]) -> Option<(UserId, OwnerMessage)> {
    let Signal { user, body } = serde_json::from_slice(signal).ok()?;
    let message = match body {
        SignalBody::Ack { message, position, again } => {
            let position = position.map(|position| position.parse()).transpose().ok()?;
            OwnerMessage::Ack(AckFrame { message, position, redelivery_requested: again })
        }
        SignalBody::Event(event) => OwnerMessage::Event(event),
        SignalBody::Reply { connection, frame } => OwnerMessage::Reply {
            connection: ConnectionId::try_from(connection).ok()?,
            frame: ServerFrame::from_text(&frame)?,
        },
    };
    Some((UserId::from_stored(user).ok()?, message))
}

impl RedisUrl {
    /// The channel of a partition's owner. Channels know no databases, so its number is part of the name.
    fn channel(&self, partition: Partition) -> String {
        format!("ks:o:{}:{{{partition}}}", self.client().get_connection_info().redis_settings().db())
    }
}

impl RedisRegistry {
    /// Publishes to the subscribed owner of the user. Returns whether there is one, and the message of a kind that may
    /// get lost.
    async fn signal_owner(&self, user: &UserId, message: &OwnerMessage) -> Result<bool, Unavailable> {
        let Some(signal) = encode(user, message) else { return Ok(false) };
        let channel = self.url.channel(self.partitions.of(user));
        let reached: u64 =
            self.run_one("notify the owner", redis::cmd("PUBLISH").arg(channel).arg(signal).take()).await?;
        Ok(reached > 0)
    }
}

/// Sends to owners what may get lost by Redis, and everything else by the broker.
pub struct OwnerRoutes {
    registry: Arc<RedisRegistry>,
    broker: Arc<dyn OwnerChannel>,
}

impl OwnerRoutes {
    /// Uses this Redis and this broker.
    #[must_use]
    pub fn new(registry: Arc<RedisRegistry>, broker: Arc<dyn OwnerChannel>) -> Self {
        Self { registry, broker }
    }
}

#[async_trait]
impl OwnerChannel for OwnerRoutes {
    async fn send(&self, user: &UserId, message: OwnerMessage) -> Result<(), Unavailable> {
        match self.registry.signal_owner(user, &message).await {
            Ok(true) => return Ok(()),
            // Nobody has subscribed, or it is another kind of message.
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "an owner message goes by the broker");
            }
        }
        self.broker.send(user, message).await
    }
}

/// Ownership of partitions, with the messages that their owners get by Redis.
pub struct SubscribedOwnership<O> {
    ownership: O,
    owned: watch::Sender<BTreeSet<Partition>>,
    signals: mpsc::Receiver<(UserId, OwnerMessage)>,
    _subscription: JoinSet<()>,
}

impl<O: Ownership> SubscribedOwnership<O> {
    /// Subscribes to the partitions that `ownership` reports.
    #[must_use]
    pub fn new(url: RedisUrl, ownership: O) -> Self {
        let (owned, wanted) = watch::channel(BTreeSet::new());
        let (received, signals) = mpsc::channel(MAX_WAITING_SIGNALS);
        let mut subscription = JoinSet::new();
        subscription.spawn(keep_subscribed(url, wanted, received));
        Self { ownership, owned, signals, _subscription: subscription }
    }

    fn note(&self, event: &OwnershipEvent) {
        match event {
            OwnershipEvent::Acquired(partition) => {
                self.owned.send_if_modified(|owned| owned.insert(*partition));
            }
            OwnershipEvent::Lost(partition) => {
                self.owned.send_if_modified(|owned| owned.remove(partition));
            }
            // Until it is released its users are served.
            OwnershipEvent::ReleaseRequested(_) | OwnershipEvent::Message(..) => {}
        }
    }
}

#[async_trait]
impl<O: Ownership> Ownership for SubscribedOwnership<O> {
    async fn next(&mut self) -> OwnershipEvent {
        tokio::select! {
            event = self.ownership.next() => {
                self.note(&event);
                event
            }
            Some((user, message)) = self.signals.recv() => OwnershipEvent::Message(user, message),
        }
    }

    fn stop_messages(&mut self) {
        self.owned.send_modify(BTreeSet::clear);
        self.ownership.stop_messages();
    }

    async fn release(&mut self, partition: Partition) {
        self.ownership.release(partition).await;
        self.owned.send_if_modified(|owned| owned.remove(&partition));
    }

    async fn resign(&mut self) {
        self.stop_messages();
        self.ownership.resign().await;
    }
}

/// Keeps a subscription to the wanted partitions until nobody reads it.
async fn keep_subscribed(
    url: RedisUrl,
    mut wanted: watch::Receiver<BTreeSet<Partition>>,
    received: mpsc::Sender<(UserId, OwnerMessage)>,
) {
    while wanted.wait_for(|wanted| !wanted.is_empty()).await.is_ok() {
        match subscribe(&url, &mut wanted, &received).await {
            Ok(()) => return,
            Err(error) => {
                let error = url.explain(error);
                tracing::warn!(
                    error = &*error as &dyn std::error::Error,
                    "the subscription to owner messages ended; they go by the broker"
                );
            }
        }
        sleep(RESUBSCRIBE_DELAY).await;
    }
}

async fn subscribe(
    url: &RedisUrl,
    wanted: &mut watch::Receiver<BTreeSet<Partition>>,
    received: &mpsc::Sender<(UserId, OwnerMessage)>,
) -> Result<(), RedisError> {
    let (mut sink, mut messages) = in_time(REDIS_CONNECT_TIMEOUT, url.client().get_async_pubsub()).await?.split();
    let mut subscribed = BTreeSet::new();
    let mut probe = interval(SUBSCRIPTION_PROBE_INTERVAL);
    loop {
        let now = wanted.borrow_and_update().clone();
        change_subscriptions(url, &mut sink, &subscribed, &now).await?;
        subscribed = now;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return Ok(()) },
            message = next_message(&mut messages) => {
                // A full channel drops it, as a lost connection would.
                if let Some(signal) = decode(&message?) && received.try_send(signal).is_err() && received.is_closed() {
                    return Ok(());
                }
            }
            _ = probe.tick() => drop(in_time(REDIS_RESPONSE_TIMEOUT, sink.ping::<redis::Value>()).await?),
        }
    }
}

async fn change_subscriptions(
    url: &RedisUrl,
    sink: &mut PubSubSink,
    old: &BTreeSet<Partition>,
    new: &BTreeSet<Partition>,
) -> Result<(), RedisError> {
    let channels = |partitions: Vec<&Partition>| -> Vec<String> {
        partitions.into_iter().map(|partition| url.channel(*partition)).collect()
    };
    let (added, removed) = (channels(new.difference(old).collect()), channels(old.difference(new).collect()));
    if !added.is_empty() {
        in_time(REDIS_RESPONSE_TIMEOUT, sink.subscribe(added)).await?;
    }
    if !removed.is_empty() {
        in_time(REDIS_RESPONSE_TIMEOUT, sink.unsubscribe(removed)).await?;
    }
    Ok(())
}

async fn next_message(messages: &mut PubSubStream) -> Result<Vec<u8>, RedisError> {
    let message = messages
        .next()
        .await
        .ok_or_else(|| RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionReset)))?;
    Ok(message.get_payload_bytes().to_vec())
}

async fn in_time<T>(span: Duration, call: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
    timeout(span, call).await.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}

#[cfg(test)]
mod tests {
    use kschat_core::contract::ownership::messages;
    use kschat_protocol::{JsonId, PeerPresence, Status};

    use super::*;

    #[test]
    fn events_of_every_kind_and_id_type_read_back() {
        let user = UserId::try_from("alice").unwrap();
        for id in ["\"bob\"", "7", "-9007199254740991"] {
            let id: JsonId = serde_json::from_str(id).unwrap();
            let message = MessageId::from("m-1".to_owned());
            for event in [
                EphemeralEvent::Typing { from: id.clone(), on: false },
                EphemeralEvent::Status { reader: id.clone(), author: id.clone(), status: Status::Read, message },
                EphemeralEvent::Presence(PeerPresence { user: id.clone(), on: false, last: Some(7) }),
            ] {
                let sent = OwnerMessage::Event(event);
                let signal = encode(&user, &sent).unwrap();
                assert_eq!(decode(signal.as_bytes()), Some((user.clone(), sent)), "{signal}");
            }
        }
    }

    #[test]
    fn messages_that_may_get_lost_read_back_and_others_are_not_published() {
        for user in ["alice", "a\"\u{1}}{b"] {
            let user = UserId::try_from(user).or_else(|_| UserId::try_from("bob")).unwrap();
            for message in messages(&user) {
                let read = encode(&user, &message).and_then(|signal| decode(signal.as_bytes()));
                let may_get_lost = message.is_best_effort() || matches!(message, OwnerMessage::Reply { .. });
                let expected = may_get_lost.then_some((user.clone(), message));
                assert_eq!(read, expected);
            }
        }
        let frame = format!(r#"{{"event":"RESPSEND","RC":1,"ER":0,"MSG":"{}"}}"#, "x".repeat(MAX_SIGNAL_BYTES));
        let connection = ConnectionId::try_from("L0SM9cOFvHcCIhw=".to_owned()).unwrap();
        let long = OwnerMessage::Reply { connection, frame: ServerFrame::from_text(&frame).unwrap() };
        assert!(encode(&UserId::try_from("alice").unwrap(), &long).is_none(), "it goes by the broker");
        for malformed in
            ["", "{}", r#"{"user":"a"}"#, r#"{"user":"a","ack":{"position":"here"}}"#, r#"{"user":"a","later":{}}"#]
        {
            assert!(decode(malformed.as_bytes()).is_none(), "{malformed}");
        }
    }
}
