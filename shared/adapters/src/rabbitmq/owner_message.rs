//! The codec of [`OwnerMessage`]: one control message each.
//!
//! | message | type | body | message id | correlation id | header |
//! |---|---|---|---|---|---|
//! | `Refresh` | | user | | | |
//! | `Ack` | `ack`, or `again` to request a redelivery | user | message | position | |
//! | `Event` | `notice` | user | | | `x-kschat-notice`: the event |
//! | `Reply` | `reply` | frame | user | connection | |
//! | `QueueRequest` | `wanted` | user | sender | | |
//! | `Close` | `close` | user | | connection | |
//! | `CheckConnections` | `check` | user | | | |
//!
//! Functions and consumers of neighbouring releases run side by side, so the wire form keeps its meaning.

use kschat_core::ports::OwnerMessage;
use kschat_protocol::{AckFrame, ConnectionId, EphemeralEvent, MessageId, ServerFrame, UserId};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString},
};

const ACK_TYPE: &str = "ack";
const REDELIVERY_REQUEST_TYPE: &str = "again";
const EVENT_TYPE: &str = "notice";
const REPLY_TYPE: &str = "reply";
const QUEUE_REQUEST_TYPE: &str = "wanted";
const CLOSE_CONNECTIONS_TYPE: &str = "close";
const CHECK_CONNECTIONS_TYPE: &str = "check";

const EVENT_HEADER: &str = "x-kschat-notice";

/// How long a message waits for an owner, in milliseconds. A new owner reads the registry by itself, and unacknowledged
/// messages are redelivered, so none is missed.
const CONTROL_MESSAGE_TTL_MS: &str = "120000";

/// How long an event waits for an owner, in milliseconds: after that it is outdated.
const EVENT_TTL_MS: &str = "5000";

const DELIVERY_MODE_TRANSIENT: u8 = 1;

/// Encodes a message: its properties and its body.
#[must_use]
pub fn encode(user: &UserId, message: &OwnerMessage) -> (BasicProperties, Vec<u8>) {
    let ttl = if matches!(message, OwnerMessage::Event(_)) { EVENT_TTL_MS } else { CONTROL_MESSAGE_TTL_MS };
    let basic = BasicProperties::default().with_delivery_mode(DELIVERY_MODE_TRANSIENT).with_expiration(ttl.into());
    let about_user = |properties| (properties, user.as_str().as_bytes().to_vec());
    match message {
        OwnerMessage::Refresh => about_user(basic),
        OwnerMessage::Ack(ack) => about_user(encode_ack(basic, ack)),
        OwnerMessage::Event(event) => {
            let mut headers = FieldTable::default();
            headers.insert(EVENT_HEADER.into(), AMQPValue::LongString(LongString::from(event.to_json())));
            about_user(basic.with_type(EVENT_TYPE.into()).with_headers(headers))
        }
        OwnerMessage::Reply { connection, frame } => {
            let properties = basic
                .with_type(REPLY_TYPE.into())
                .with_message_id(user.as_str().into())
                .with_correlation_id(connection.as_str().into());
            (properties, frame.to_text().into_bytes())
        }
        OwnerMessage::QueueRequest { requester } => {
            let properties = basic.with_type(QUEUE_REQUEST_TYPE.into());
            about_user(match requester {
                Some(requester) => properties.with_message_id(requester.as_str().into()),
                None => properties,
            })
        }
        OwnerMessage::Close { connection } => {
            let properties = basic.with_type(CLOSE_CONNECTIONS_TYPE.into());
            about_user(match connection {
                Some(connection) => properties.with_correlation_id(connection.as_str().into()),
                None => properties,
            })
        }
        OwnerMessage::CheckConnections => about_user(basic.with_type(CHECK_CONNECTIONS_TYPE.into())),
    }
}

fn encode_ack(properties: BasicProperties, ack: &AckFrame) -> BasicProperties {
    let kind = if ack.redelivery_requested { REDELIVERY_REQUEST_TYPE } else { ACK_TYPE };
    let properties = match &ack.message {
        Some(message) => properties.with_message_id(message.as_str().into()),
        None => properties,
    };
    let properties = match ack.position {
        Some(position) => properties.with_correlation_id(position.to_string().into()),
        None => properties,
    };
    properties.with_type(kind.into())
}

/// Decodes a message and the user it concerns; `None` if it is malformed.
#[must_use]
pub fn decode(properties: &BasicProperties, body: &[u8]) -> Option<(UserId, OwnerMessage)> {
    let text = std::str::from_utf8(body).ok()?;
    let kind = properties.kind().as_ref().map(|kind| kind.as_str());
    if kind == Some(REPLY_TYPE) {
        return decode_reply(properties, text);
    }
    let user = UserId::from_stored(text.to_owned()).ok()?;
    let message = match kind {
        None => OwnerMessage::Refresh,
        Some(ACK_TYPE) => OwnerMessage::Ack(decode_ack(properties, false)?),
        Some(REDELIVERY_REQUEST_TYPE) => OwnerMessage::Ack(decode_ack(properties, true)?),
        Some(EVENT_TYPE) => OwnerMessage::Event(decode_event(properties)?),
        Some(QUEUE_REQUEST_TYPE) => {
            let requester = properties.message_id().as_ref();
            OwnerMessage::QueueRequest { requester: requester.and_then(|id| UserId::try_from(id.as_str()).ok()) }
        }
        Some(CLOSE_CONNECTIONS_TYPE) => OwnerMessage::Close { connection: decode_connection(properties)? },
        Some(CHECK_CONNECTIONS_TYPE) => OwnerMessage::CheckConnections,
        Some(_) => return None,
    };
    Some((user, message))
}

/// An ack names a message or a position, unless its client requests what it misses.
fn decode_ack(properties: &BasicProperties, redelivery_requested: bool) -> Option<AckFrame> {
    let message = properties.message_id().as_ref().map(|id| MessageId::from(id.as_str().to_owned()));
    let position = properties.correlation_id().as_ref().and_then(|position| position.as_str().parse().ok());
    let says_something = redelivery_requested || message.is_some() || position.is_some();
    says_something.then_some(AckFrame { message, position, redelivery_requested })
}

fn decode_event(properties: &BasicProperties) -> Option<EphemeralEvent> {
    match properties.headers().as_ref()?.inner().get(EVENT_HEADER)? {
        AMQPValue::LongString(text) => EphemeralEvent::from_json(std::str::from_utf8(text.as_bytes()).ok()?),
        _ => None,
    }
}

/// The connection that a message names, if any; the outer `None` if that is malformed.
fn decode_connection(properties: &BasicProperties) -> Option<Option<ConnectionId>> {
    let name = properties.correlation_id().as_ref();
    name.map(|name| ConnectionId::try_from(name.as_str())).transpose().ok()
}

fn decode_reply(properties: &BasicProperties, frame: &str) -> Option<(UserId, OwnerMessage)> {
    let user = UserId::from_stored(properties.message_id().as_ref()?.as_str().to_owned()).ok()?;
    let connection = decode_connection(properties)??;
    Some((user, OwnerMessage::Reply { connection, frame: ServerFrame::from_text(frame)? }))
}

#[cfg(test)]
mod tests {
    use kschat_core::contract::ownership::messages;

    use super::*;

    #[test]
    fn owner_message_survives_the_wire() {
        let provisional = UserId::provisional(&ConnectionId::try_from("BFHPhfCWIAMCKlQ=").unwrap());
        for user in [UserId::try_from("alice").unwrap(), provisional] {
            for message in messages(&user) {
                let (properties, body) = encode(&user, &message);
                assert_eq!(decode(&properties, &body), Some((user.clone(), message)));
            }
        }
    }

    #[test]
    fn control_message_that_makes_no_sense_is_none() {
        let typed = |kind: &str| BasicProperties::default().with_type(kind.into());
        let wrong_connection = typed("close").with_correlation_id("x".repeat(200).into());
        for (properties, body) in [
            (typed("ack"), "alice"),
            (typed("unknown"), "alice"),
            (typed("notice"), "alice"),
            (typed("reply"), "{}"),
            (wrong_connection, "alice"),
            (BasicProperties::default(), ""),
        ] {
            assert_eq!(decode(&properties, body.as_bytes()), None, "{properties:?}");
        }
        assert_eq!(decode(&BasicProperties::default(), b"\xff"), None);
    }
}
