//! Names, and the declarations behind them. Every declaration may be repeated.

use std::time::Duration;

use futures_util::future::{join3, try_join, try_join5};
use kschat_core::{Partition, Partitions};
use kschat_protocol::{RoomId, UserId};
use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use super::{QueueSettings, queues::code};

/// The type of a control message that is an ack: its message id is the acknowledged one. Without a type, it is a poke.
pub(super) const ACK: &str = "ack";

/// The type of an ack whose client has missed something; it may have no message id.
pub(super) const AGAIN: &str = "again";

pub(super) const EXCHANGE: &str = "kschat.direct";
/// The exchange of what is for everybody.
pub(super) const BROADCAST: &str = "kschat.broadcast";

/// The exchange of rooms.
pub(super) const ROOMS: &str = "kschat.rooms";

/// The exchange of control messages. The default one would do, but whoever may publish to that may publish to every queue.
pub(super) const CONTROL: &str = "kschat.control";

pub(super) const MEMBERS: &str = "kschat.members";
pub(super) const DEAD: &str = "kschat.dead";

/// Why a message was set aside, among its headers.
pub(super) const REASON: &str = "x-kschat-reason";

/// How long a message that can't be delivered is kept for operators, and how many of them are.
const DEAD_LIFE: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const DEAD_MESSAGES: u32 = 100_000;

/// Pokes and acks that wait for a partition's owner at most: the oldest are dropped, as each can be missed.
const NOTES: u32 = 100_000;

/// How often a message of a quorum queue may go back to it. With a limit, and only then, it goes back to its place in
/// the queue and not behind all others; this one is never reached.
///
/// Source: RabbitMQ, "Quorum queues", "Repeated requeues"; tried on 3.10.
const DELIVERY_LIMIT: u32 = 1_000_000;

/// The type of a control message by which a sender asks for its user's queue: its message id is the sender.
pub(super) const WANTED: &str = "wanted";

/// The type of a control message that brings its user a notice.
pub(super) const NOTICE: &str = "notice";

/// The notice, among the headers of such a message.
pub(super) const NOTICE_HEADER: &str = "x-kschat-notice";

/// The type of a control message whose body is a frame for one connection: its correlation id names the connection, its
/// message id the user.
pub(super) const REPLY: &str = "reply";

/// The type of a control message that has a connection of its user closed, which its correlation id names, or all of them.
pub(super) const CLOSE: &str = "close";

/// The type of a control message that has its user's connections checked against the edge.
pub(super) const CHECK: &str = "check";

/// The seed's routing key.
pub(super) fn routing_key(user: &UserId) -> ShortString {
    format!("ks_{}", user.as_str()).into()
}

/// The routing key of a room. What means something to a topic exchange, or is not printable, is escaped; dots are not, so
/// that somebody else may listen to `room.team.#`.
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

/// The name of a partition's control queue, and its routing key in [`CONTROL`].
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

/// What a user's queue is like.
fn user_arguments(settings: &QueueSettings) -> FieldTable {
    let mut arguments = table([
        ("x-queue-type", text(settings.kind.name())),
        ("x-dead-letter-exchange", text(DEAD)),
        ("x-message-ttl", millis(settings.retention)),
        ("x-expires", millis(settings.expiry())),
        ("x-max-length", number(settings.max_messages.get())),
        ("x-max-length-bytes", AMQPValue::LongLongInt(i64::try_from(settings.max_bytes.get()).unwrap_or(i64::MAX))),
        // The sender hears of it, instead of somebody else's message being dropped.
        ("x-overflow", text("reject-publish")),
    ]);
    if settings.kind == super::QueueKind::Quorum {
        arguments.insert("x-delivery-limit".into(), number(DELIVERY_LIMIT));
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
    let dead = [classic(), ("x-message-ttl", millis(DEAD_LIFE)), ("x-max-length", number(DEAD_MESSAGES))];
    durable_exchange(channel, BROADCAST, ExchangeKind::Fanout).await?;
    try_join5(
        durable_exchange(channel, EXCHANGE, ExchangeKind::Direct),
        durable_exchange(channel, ROOMS, ExchangeKind::Topic),
        durable_exchange(channel, DEAD, ExchangeKind::Fanout),
        channel.queue_declare(DEAD.into(), QueueDeclareOptions::durable(), table(dead)),
        channel.queue_bind(DEAD.into(), DEAD.into(), "".into(), bind, FieldTable::default()),
    )
    .await?;
    Ok(())
}

/// Looks whether all is there that functions publish to. Unlike a declaration, a look needs no permission.
pub(super) async fn look_for_exchanges(channel: &Channel) -> Result<(), lapin::Error> {
    let look = |name: &str, kind| {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(name.into(), kind, options, FieldTable::default())
    };
    let (direct, rooms) = (look(EXCHANGE, ExchangeKind::Direct), look(ROOMS, ExchangeKind::Topic));
    let (direct, rooms, control) = join3(direct, rooms, look(CONTROL, ExchangeKind::Direct)).await;
    let errors = [direct, rooms, control].into_iter().filter_map(Result::err);
    // The refusal of one closes the channel under the others, which only hear that.
    let refusal = errors.reduce(|first, other| if code(&first).is_some() { first } else { other });
    refusal.map_or(Ok(()), Err)
}

/// Declares what consumers share partitions by.
pub(super) async fn declare_partitions(channel: &Channel, partitions: Partitions) -> Result<(), lapin::Error> {
    durable_exchange(channel, CONTROL, ExchangeKind::Direct).await?;
    channel.queue_declare(MEMBERS.into(), QueueDeclareOptions::durable(), table([classic()])).await?;
    for queue in partitions.all().map(control_queue) {
        let (arguments, bind) = (table([classic(), ("x-max-length", number(NOTES))]), QueueBindOptions::default());
        let declare = channel.queue_declare(queue.clone(), QueueDeclareOptions::durable(), arguments);
        let bind = channel.queue_bind(queue.clone(), CONTROL.into(), queue, bind, FieldTable::default());
        try_join(declare, bind).await?;
    }
    Ok(())
}

/// Makes sure that a user's queue exists and gets what is sent to the user; says how many consumers it has.
pub(super) async fn declare_user(
    channel: &Channel,
    user: &UserId,
    settings: &QueueSettings,
) -> Result<u32, lapin::Error> {
    let declare = channel.queue_declare(user_queue(user), QueueDeclareOptions::durable(), user_arguments(settings));
    let (queue, ()) = try_join(declare, bind_user(channel, user)).await?;
    Ok(queue.consumer_count())
}

/// Takes a user's queue as it is, and says how many consumers it has; an error if there is none.
pub(super) async fn adopt_user(channel: &Channel, user: &UserId) -> Result<u32, lapin::Error> {
    let (_, consumers) = look_at(channel, user_queue(user)).await?;
    bind_user(channel, user).await?;
    Ok(consumers)
}

async fn bind_user(channel: &Channel, user: &UserId) -> Result<(), lapin::Error> {
    let bind = |exchange: &str, key| {
        let options = QueueBindOptions::default();
        channel.queue_bind(user_queue(user), exchange.into(), key, options, FieldTable::default())
    };
    try_join(bind(EXCHANGE, routing_key(user)), bind(BROADCAST, "".into())).await?;
    Ok(())
}

/// Binds a user's queue to a room; an error if there is no such queue.
pub(super) async fn bind_room(channel: &Channel, user: &UserId, room: &RoomId) -> Result<(), lapin::Error> {
    let (queue, options) = (user_queue(user), QueueBindOptions::default());
    channel.queue_bind(queue, ROOMS.into(), room_key(room), options, FieldTable::default()).await
}

/// Takes a user's queue out of a room.
pub(super) async fn unbind_room(channel: &Channel, user: &UserId, room: &RoomId) -> Result<(), lapin::Error> {
    channel.queue_unbind(user_queue(user), ROOMS.into(), room_key(room), FieldTable::default()).await
}

/// Takes a user's queue out of the routing of what is for the user alone. What is for everybody is for those who have a queue,
/// and this one is about to go.
pub(super) async fn unbind_user(channel: &Channel, user: &UserId) -> Result<(), lapin::Error> {
    channel.queue_unbind(user_queue(user), EXCHANGE.into(), routing_key(user), FieldTable::default()).await
}

/// How many messages and consumers a queue has; an error if there is no such queue.
pub(super) async fn look_at(channel: &Channel, queue: ShortString) -> Result<(u32, u32), lapin::Error> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(queue, options, FieldTable::default()).await?;
    Ok((queue.message_count(), queue.consumer_count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_one_key_and_no_pattern() {
        let key = |room: &str| room_key(&RoomId::try_from(room).unwrap()).to_string();
        assert_eq!(key("team.7"), "room.team.7");
        assert_eq!(key("*.# %2A\u{fc}"), "room.%2A.%23%20%252A%C3%BC");
        assert!(key(&"%".repeat(kschat_protocol::limits::MAX_ROOM_ID)).len() <= 255);
    }
}
