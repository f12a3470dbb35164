//! Names and declarations of exchanges and queues. Every declaration is idempotent.

use std::time::Duration;

use futures_util::future::{join3, try_join, try_join5};
use kschat_core::{Partition, Partitions};
use kschat_protocol::{RoomId, UserId};
use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use tokio::time::Instant;

use super::{QueueKind, QueueSettings, connection::reply_code};

pub(super) const DIRECT_EXCHANGE: &str = "kschat.direct";
/// The exchange of broadcasts to all users.
pub(super) const BROADCAST_EXCHANGE: &str = "kschat.broadcast";

/// The exchange of rooms.
pub(super) const ROOMS_EXCHANGE: &str = "kschat.rooms";

/// The exchange of control messages. The default exchange would let a process with publish permission reach every
/// queue.
pub(super) const CONTROL_EXCHANGE: &str = "kschat.control";

pub(super) const MEMBERS_QUEUE: &str = "kschat.members";
pub(super) const DEAD_LETTER_EXCHANGE: &str = "kschat.dead";

/// The header with the reason for dead-lettering.
pub(super) const DEAD_LETTER_REASON_HEADER: &str = "x-kschat-reason";

/// How long dead letters are kept for operators, and how many.
const DEAD_LETTER_TTL: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const MAX_DEAD_LETTERS: u32 = 100_000;

/// Control messages that wait for a partition's owner at most: the oldest are dropped, as each is expendable.
const MAX_CONTROL_MESSAGES: u32 = 100_000;

/// How often a message of a quorum queue may be requeued. With a limit, and only then, it is requeued in its place and
/// not behind all others; this one is never reached.
///
/// Source: RabbitMQ, "Quorum queues", "Repeated requeues"; tried on 3.10.
const QUORUM_DELIVERY_LIMIT: u32 = 1_000_000;

/// The routing key of a user, as in v1.
pub(super) fn routing_key(user: &UserId) -> ShortString {
    format!("ks_{}", user.as_str()).into()
}

/// The routing key of a room. Wildcards of a topic exchange and non-printable characters are escaped; dots are not, so
/// that other consumers may bind to `room.team.#`.
pub(super) fn room_key(room: &RoomId) -> ShortString {
    let mut key = String::from("room.");
    for byte in room.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || b"._-:@".contains(&byte) {
            key.push(char::from(byte));
        } else {
            key.push_str(&format!("%{byte:02X}"));
        }
    }
    key.into()
}

pub(super) fn user_queue(user: &UserId) -> ShortString {
    format!("kschat.user.{}", user.as_str()).into()
}

/// The name of a partition's control queue, and its routing key in [`CONTROL_EXCHANGE`].
pub(super) fn control_queue(partition: Partition) -> ShortString {
    format!("kschat.control.{partition}").into()
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

fn number(value: u32) -> AMQPValue {
    AMQPValue::LongLongInt(value.into())
}

fn millis(span: Duration) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(span.as_millis()).unwrap_or(i64::MAX))
}

fn table(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(key.into(), value);
    }
    table
}

/// The type is always sent: a broker's default may be quorum, which ignores exclusive consumers.
fn classic() -> (&'static str, AMQPValue) {
    ("x-queue-type", text("classic"))
}

/// The arguments of a user's queue.
fn user_arguments(settings: &QueueSettings) -> FieldTable {
    let mut arguments = table([
        ("x-queue-type", text(settings.kind.name())),
        ("x-dead-letter-exchange", text(DEAD_LETTER_EXCHANGE)),
        ("x-message-ttl", millis(settings.retention)),
        ("x-expires", millis(settings.expiry())),
        ("x-max-length", number(settings.max_messages.get())),
        ("x-max-length-bytes", AMQPValue::LongLongInt(i64::try_from(settings.max_bytes.get()).unwrap_or(i64::MAX))),
        // The sender gets an error, instead of the loss of another sender's message.
        ("x-overflow", text("reject-publish")),
    ]);
    if settings.kind == super::QueueKind::Quorum {
        arguments.insert("x-delivery-limit".into(), number(QUORUM_DELIVERY_LIMIT));
    }
    arguments
}

async fn durable_exchange(channel: &Channel, name: &str, kind: ExchangeKind) -> Result<(), lapin::Error> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await
}

/// Declares what all users share.
pub(super) async fn declare_shared(channel: &Channel) -> Result<(), lapin::Error> {
    let bind = QueueBindOptions::default();
    let dead = [classic(), ("x-message-ttl", millis(DEAD_LETTER_TTL)), ("x-max-length", number(MAX_DEAD_LETTERS))];
    durable_exchange(channel, BROADCAST_EXCHANGE, ExchangeKind::Fanout).await?;
    try_join5(
        durable_exchange(channel, DIRECT_EXCHANGE, ExchangeKind::Direct),
        durable_exchange(channel, ROOMS_EXCHANGE, ExchangeKind::Topic),
        durable_exchange(channel, DEAD_LETTER_EXCHANGE, ExchangeKind::Fanout),
        channel.queue_declare(DEAD_LETTER_EXCHANGE.into(), QueueDeclareOptions::durable(), table(dead)),
        channel.queue_bind(
            DEAD_LETTER_EXCHANGE.into(),
            DEAD_LETTER_EXCHANGE.into(),
            "".into(),
            bind,
            FieldTable::default(),
        ),
    )
    .await?;
    Ok(())
}

/// Checks that the exchanges of functions exist. Unlike a declaration, a check needs no permission.
pub(super) async fn check_exchanges(channel: &Channel) -> Result<(), lapin::Error> {
    let look = |name: &str, kind| {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(name.into(), kind, options, FieldTable::default())
    };
    let (direct, rooms) = (look(DIRECT_EXCHANGE, ExchangeKind::Direct), look(ROOMS_EXCHANGE, ExchangeKind::Topic));
    let (direct, rooms, control) = join3(direct, rooms, look(CONTROL_EXCHANGE, ExchangeKind::Direct)).await;
    let errors = [direct, rooms, control].into_iter().filter_map(Result::err);
    // The refusal of one closes the channel for the others, which only report that.
    let refusal = errors.reduce(|first, other| if reply_code(&first).is_some() { first } else { other });
    refusal.map_or(Ok(()), Err)
}

/// Declares the control queues of partitions and the members queue.
pub(super) async fn declare_partitions(channel: &Channel, partitions: Partitions) -> Result<(), lapin::Error> {
    durable_exchange(channel, CONTROL_EXCHANGE, ExchangeKind::Direct).await?;
    channel.queue_declare(MEMBERS_QUEUE.into(), QueueDeclareOptions::durable(), table([classic()])).await?;
    for queue in partitions.all().map(control_queue) {
        let (arguments, bind) =
            (table([classic(), ("x-max-length", number(MAX_CONTROL_MESSAGES))]), QueueBindOptions::default());
        let declare = channel.queue_declare(queue.clone(), QueueDeclareOptions::durable(), arguments);
        let bind = channel.queue_bind(queue.clone(), CONTROL_EXCHANGE.into(), queue, bind, FieldTable::default());
        try_join(declare, bind).await?;
    }
    Ok(())
}

/// Makes sure that a user's queue exists and is bound; returns its number of consumers.
pub(super) async fn declare_user_queue(
    channel: &Channel,
    user: &UserId,
    settings: &QueueSettings,
) -> Result<u32, lapin::Error> {
    let declare = channel.queue_declare(user_queue(user), QueueDeclareOptions::durable(), user_arguments(settings));
    let (queue, ()) = try_join(declare, bind_user_queue(channel, user)).await?;
    Ok(queue.consumer_count())
}

/// Uses a user's queue as it is, and of whatever kind, and returns its number of consumers; an error if it does not exist.
pub(super) async fn adopt_user_queue(channel: &Channel, user: &UserId) -> Result<u32, lapin::Error> {
    let QueueCounts { consumers, .. } = queue_counts(channel, user_queue(user), QueueKind::Quorum).await?;
    bind_user_queue(channel, user).await?;
    Ok(consumers)
}

async fn bind_user_queue(channel: &Channel, user: &UserId) -> Result<(), lapin::Error> {
    let bind = |exchange: &str, key| {
        let options = QueueBindOptions::default();
        channel.queue_bind(user_queue(user), exchange.into(), key, options, FieldTable::default())
    };
    try_join(bind(DIRECT_EXCHANGE, routing_key(user)), bind(BROADCAST_EXCHANGE, "".into())).await?;
    Ok(())
}

/// Binds a user's queue to a room; an error if it does not exist.
pub(super) async fn bind_room(channel: &Channel, user: &UserId, room: &RoomId) -> Result<(), lapin::Error> {
    let (queue, options) = (user_queue(user), QueueBindOptions::default());
    channel.queue_bind(queue, ROOMS_EXCHANGE.into(), room_key(room), options, FieldTable::default()).await
}

/// Unbinds a user's queue from a room.
pub(super) async fn unbind_room(channel: &Channel, user: &UserId, room: &RoomId) -> Result<(), lapin::Error> {
    channel.queue_unbind(user_queue(user), ROOMS_EXCHANGE.into(), room_key(room), FieldTable::default()).await
}

/// Unbinds a user's queue from messages to the user. Broadcasts are for users who have a queue, and this one is about
/// to be removed.
pub(super) async fn unbind_user_queue(channel: &Channel, user: &UserId) -> Result<(), lapin::Error> {
    channel.queue_unbind(user_queue(user), DIRECT_EXCHANGE.into(), routing_key(user), FieldTable::default()).await
}

/// What the broker counts of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueCounts {
    /// Messages that wait; unacked ones do not count.
    pub(super) messages: u32,
    pub(super) consumers: u32,
}

/// A zero that a quorum queue reports no sooner than this may mean that its leader has not answered.
///
/// Source: RabbitMQ 3.10 and 4.0, `rabbit_quorum_queue:stat`, which waits 250 ms for the counts, and then reports zeros.
const QUORUM_COUNT_TIMEOUT: Duration = Duration::from_millis(200);

/// Late zeros after which a quorum queue is believed: its broker may be slow.
const QUORUM_COUNT_MAX_ATTEMPTS: u32 = 5;

/// The counts of a queue; an error if it does not exist.
pub(super) async fn queue_counts(
    channel: &Channel,
    queue: ShortString,
    kind: QueueKind,
) -> Result<QueueCounts, lapin::Error> {
    let mut attempts = 1;
    loop {
        let began = Instant::now();
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = channel.queue_declare(queue.clone(), options, FieldTable::default()).await?;
        let counts = QueueCounts { messages: found.message_count(), consumers: found.consumer_count() };
        let may_be_unknown = kind == QueueKind::Quorum
            && (counts.messages, counts.consumers) == (0, 0)
            && began.elapsed() >= QUORUM_COUNT_TIMEOUT;
        if !may_be_unknown || attempts == QUORUM_COUNT_MAX_ATTEMPTS {
            return Ok(counts);
        }
        attempts += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_key_escapes_topic_wildcards() {
        let key = |room: &str| room_key(&RoomId::try_from(room).unwrap()).to_string();
        assert_eq!(key("team.7"), "room.team.7");
        assert_eq!(key("*.# %2A\u{fc}"), "room.%2A.%23%20%252A%C3%BC");
        assert!(key(&"%".repeat(kschat_protocol::limits::MAX_ROOM_ID_BYTES)).len() <= 255);
    }
}
