//! The dead-letter queue.

use kschat_core::ports::{BoxError, DeadLetterReason};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable, LongString},
};
use tokio::sync::Mutex;

use super::{
    BrokerUrl, DELIVERY_MODE_PERSISTENT,
    publisher::BLOCKED,
    topology::{DEAD_LETTER_EXCHANGE, DEAD_LETTER_REASON_HEADER},
};

/// Publishes to the dead-letter queue. The broker's own dead-lettering would not carry our reason.
#[derive(Debug)]
pub(super) struct DeadLetters {
    url: BrokerUrl,
    /// Its own connection, made at the first dead letter: the one that consumes never publishes. One publish at a time,
    /// as dead letters are rare, and a channel with two can't tell their confirms apart.
    open: Mutex<Option<(Connection, Channel)>>,
}

impl DeadLetters {
    pub(super) fn new(url: BrokerUrl) -> Self {
        Self { url, open: Mutex::default() }
    }

    /// Stores a body for operators, with the reason among its headers; returns once the broker has confirmed it.
    pub(super) async fn publish(&self, body: &[u8], why: DeadLetterReason) -> Result<(), BoxError> {
        let mut open = self.open.lock().await;
        let channel = match &*open {
            // Each attempt on a new connection would leave one behind until the alarm ends.
            Some((connection, channel)) if channel.status().connected() && connection.status().blocked() => {
                return Err(BLOCKED.into());
            }
            Some((_, channel)) if channel.status().connected() => channel.clone(),
            _ => {
                let connection = self.url.connect("kschat dead letters").await?;
                let channel = connection.create_channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                open.insert((connection, channel)).1.clone()
            }
        };
        let mut headers = FieldTable::default();
        headers.insert(DEAD_LETTER_REASON_HEADER.into(), AMQPValue::LongString(LongString::from(why.name())));
        let properties = BasicProperties::default().with_delivery_mode(DELIVERY_MODE_PERSISTENT).with_headers(headers);
        let sent = channel.basic_publish(
            DEAD_LETTER_EXCHANGE.into(),
            "".into(),
            BasicPublishOptions::default(),
            body,
            properties,
        );
        match sent.await?.await? {
            Confirmation::Ack(None) => Ok(()),
            refused => Err(format!("not confirmed: {refused:?}").into()),
        }
    }
}
