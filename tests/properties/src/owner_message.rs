//! Anything that reaches an owner, by the broker or by Redis, is read or rejected, and what is read survives the wire.

use kschat_adapters::{rabbitmq::owner_message, redis::owner_signals};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

/// The longest short string of AMQP 0-9-1, in bytes.
const MAX_SHORT_STRING_BYTES: usize = 255;

/// Checks one input; panics if it violates a property. For the broker its lines are type, correlation id, message id,
/// event header and body, where an empty line stands for an absent property.
pub fn check(text: &str) {
    check_signal(text);
    let mut lines = text.splitn(5, '\n');
    let [kind, correlation, message, event, body] = std::array::from_fn(|_| lines.next().unwrap_or_default());
    if [kind, correlation, message].iter().all(|line| line.len() <= MAX_SHORT_STRING_BYTES) {
        check_control_message(kind, correlation, message, event, body);
    }
}

fn check_control_message(kind: &str, correlation: &str, message: &str, event: &str, body: &str) {
    let mut properties = BasicProperties::default();
    if !kind.is_empty() {
        properties = properties.with_type(kind.into());
    }
    if !correlation.is_empty() {
        properties = properties.with_correlation_id(correlation.into());
    }
    if !message.is_empty() {
        properties = properties.with_message_id(message.into());
    }
    if !event.is_empty() {
        let mut headers = FieldTable::default();
        headers.insert("x-kschat-notice".into(), AMQPValue::LongString(LongString::from(event)));
        properties = properties.with_headers(headers);
    }
    let Some((user, read)) = owner_message::decode(&properties, body.as_bytes()) else { return };
    let (properties, body) = owner_message::encode(&user, &read);
    let written = [properties.kind(), properties.correlation_id(), properties.message_id()];
    assert!(written.into_iter().flatten().all(fits), "a property is too long for AMQP");
    assert_eq!(owner_message::decode(&properties, &body), Some((user, read)));
}

fn fits(property: &ShortString) -> bool {
    property.as_str().len() <= MAX_SHORT_STRING_BYTES
}

fn check_signal(text: &str) {
    let Some((user, read)) = owner_signals::decode(text.as_bytes()) else { return };
    // A longer one goes by the broker.
    if let Some(written) = owner_signals::encode(&user, &read) {
        assert_eq!(owner_signals::decode(written.as_bytes()), Some((user, read)));
    }
}
