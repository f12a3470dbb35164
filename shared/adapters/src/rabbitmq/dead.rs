//! Where messages go that can never be delivered.

use kschat_core::ports::{BoxError, Undeliverable};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable, LongString},
};
use tokio::sync::Mutex;

use super::topology::{DEAD, REASON};

const PERSISTENT: u8 = 2;

/// Publishes to the queue of dead letters. The broker's own dead-lettering would name no reason of ours.
#[derive(Debug, Default)]
pub(super) struct DeadLetters {
    /// One publish at a time: such messages are rare, and a channel with two can't tell their confirms apart.
    channel: Mutex<Option<Channel>>,
}

impl DeadLetters {
    /// Keeps a body for operators, with the reason among its headers; returns once the broker has it.
    pub(super) async fn keep(&self, connection: &Connection, body: &[u8], why: Undeliverable) -> Result<(), BoxError> {
        let mut channel = self.channel.lock().await;
        let lane = match channel.take() {
            Some(open) if open.status().connected() => open,
            _ => {
                let new = connection.create_channel().await?;
                new.confirm_select(ConfirmSelectOptions::default()).await?;
                new
            }
        };
        let mut headers = FieldTable::default();
        headers.insert(REASON.into(), AMQPValue::LongString(LongString::from(why.name())));
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers);
        let sent = lane.basic_publish(DEAD.into(), "".into(), BasicPublishOptions::default(), body, properties);
        match sent.await?.await? {
            Confirmation::Ack(None) => {
                *channel = Some(lane);
                Ok(())
            }
            refused => Err(format!("not confirmed: {refused:?}").into()),
        }
    }
}
