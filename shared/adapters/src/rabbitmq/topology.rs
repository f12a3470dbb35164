//! Names, and the declarations behind them. Every declaration may be repeated.

use futures_util::future::{try_join, try_join4};
use kschat_core::{Partition, Partitions};
use kschat_protocol::UserId;
use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

/// The type of a control message that is an ack: its message id is the acknowledged one. Without it, it is a poke.
pub(super) const ACK: &str = "ack";

pub(super) const EXCHANGE: &str = "kschat.direct";
pub(super) const MEMBERS: &str = "kschat.members";
const DEAD: &str = "kschat.dead";

/// The seed's routing key.
pub(super) fn routing_key(user: &UserId) -> ShortString {
    format!("ks_{}", user.as_str()).into()
}

pub(super) fn user_queue(user: &UserId) -> ShortString {
    format!("kschat.user.{}", user.as_str()).into()
}

pub(super) fn control_queue(partition: Partition) -> ShortString {
    format!("kschat.control.{partition}").into()
}

fn table<const N: usize>(entries: [(&'static str, &'static str); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(key.into(), AMQPValue::LongString(LongString::from(value)));
    }
    table
}

/// The type is always sent: a broker's default may be quorum, which ignores exclusive consumers.
fn classic() -> FieldTable {
    table([("x-queue-type", "classic")])
}

async fn durable_exchange(channel: &Channel, name: &str, kind: ExchangeKind) -> Result<(), lapin::Error> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await
}

/// Declares what all users share.
pub(super) async fn declare_shared(channel: &Channel) -> Result<(), lapin::Error> {
    let bind = QueueBindOptions::default();
    try_join4(
        durable_exchange(channel, EXCHANGE, ExchangeKind::Direct),
        durable_exchange(channel, DEAD, ExchangeKind::Fanout),
        channel.queue_declare(DEAD.into(), QueueDeclareOptions::durable(), classic()),
        channel.queue_bind(DEAD.into(), DEAD.into(), "".into(), bind, FieldTable::default()),
    )
    .await?;
    Ok(())
}

/// Declares what consumers share partitions by.
pub(super) async fn declare_partitions(channel: &Channel, partitions: Partitions) -> Result<(), lapin::Error> {
    channel.queue_declare(MEMBERS.into(), QueueDeclareOptions::durable(), classic()).await?;
    for partition in partitions.all() {
        let name = control_queue(partition);
        channel.queue_declare(name, QueueDeclareOptions::durable(), classic()).await?;
    }
    Ok(())
}

/// Makes sure that a user's queue exists and gets what is sent to the user.
pub(super) async fn declare_user(channel: &Channel, user: &UserId) -> Result<(), lapin::Error> {
    let arguments = table([("x-queue-type", "classic"), ("x-dead-letter-exchange", DEAD)]);
    let bind = QueueBindOptions::default();
    try_join(
        channel.queue_declare(user_queue(user), QueueDeclareOptions::durable(), arguments),
        channel.queue_bind(user_queue(user), EXCHANGE.into(), routing_key(user), bind, FieldTable::default()),
    )
    .await?;
    Ok(())
}

/// How many consumers a queue has; an error if there is no such queue.
pub(super) async fn consumers_of(channel: &Channel, queue: ShortString) -> Result<u32, lapin::Error> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    Ok(channel.queue_declare(queue, options, FieldTable::default()).await?.consumer_count())
}
