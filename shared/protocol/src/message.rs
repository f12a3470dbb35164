//! Messages as they are queued for their receiver.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{ConnectionId, JsonId, MessageId, TraceContext, UserId, limits::MAX_MESSAGE_ID_BYTES, text::well_formed};

/// Delivery status of a message: `STATUS` in replies, `rStatus` in items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The broker has confirmed the message.
    #[default]
    Accepted = 1,
    /// Reserved: the edge has accepted it for at least one connection.
    Pushed = 2,
    /// The receiver's client has acknowledged it.
    Delivered = 3,
    /// The receiver has read it.
    Read = 4,
    /// Reserved: it expired in the queue.
    Expired = 8,
    /// Reserved: it can't be delivered.
    Failed = 9,
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            1 => Ok(Self::Accepted),
            2 => Ok(Self::Pushed),
            3 => Ok(Self::Delivered),
            4 => Ok(Self::Read),
            8 => Ok(Self::Expired),
            9 => Ok(Self::Failed),
            other => {
                Err(de::Error::invalid_value(de::Unexpected::Unsigned(other.into()), &"a status: 1, 2, 3, 4, 8 or 9"))
            }
        }
    }
}

/// One message: the body of an AMQP delivery and, as it is, an item of a receiver's `MSG`.
///
/// The first five fields are those of v1, by name, type and meaning; the rest came later.
///
/// ```
/// use kschat_protocol::{Message, Status};
///
/// // A back end may omit status and time.
/// let queued = Message::from_slice(br#"{"uId":"billing","pId":7,"msg":"your invoice","mId":"m-1"}"#)?;
/// let message = queued.timed(1_700_000_000_123);
/// assert_eq!((message.status, message.time), (Status::Accepted, 1_700_000_000_123));
/// assert_eq!(Message::from_slice(&message.to_vec())?, message);
/// # Ok::<(), kschat_protocol::MessageError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The sender, in the sender's JSON type.
    #[serde(rename = "uId")]
    pub from: JsonId,
    /// The recipient, in the sender's JSON type.
    #[serde(rename = "pId")]
    pub to: JsonId,
    /// The room, for a room message; `to` then names it, too.
    #[serde(rename = "gId", skip_serializing_if = "Option::is_none", default)]
    pub room: Option<JsonId>,
    /// The text.
    pub msg: String,
    /// Delivery status. A back end that publishes may omit it.
    #[serde(rename = "rStatus", default, deserialize_with = "or_default")]
    pub status: Status,
    /// When it was accepted, in milliseconds since 1970 by the server's clock. 0 if a back end omits it: see
    /// [`Self::timed`].
    #[serde(rename = "msgTime", default, deserialize_with = "or_default")]
    pub time: u64,
    /// Id of the message.
    #[serde(rename = "mId", deserialize_with = "acknowledgeable")]
    pub id: MessageId,
    /// The sender's `rno`. Only the sender's own devices receive it: see [`Self::without_rno`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rno: Option<JsonId>,
    /// Trace context. It travels in the message's headers, not in its body.
    #[serde(skip)]
    pub trace: Option<TraceContext>,
    /// The sender's connection, for a copy to the sender itself: that connection is skipped. It travels in the headers,
    /// too.
    #[serde(skip)]
    pub sender_connection: Option<ConnectionId>,
}

/// Deduplication key of a message: the sender and the send part of its id ([`MessageId::dedup_key`]). It includes the
/// sender, so that no user can forge another's duplicate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MessageIdentity<'a> {
    sender: Cow<'a, str>,
    dedup_key: &'a str,
}

impl<'a> MessageIdentity<'a> {
    /// The identity of a message with that sender (in any JSON type) and that id.
    #[must_use]
    pub fn new(sender: &'a JsonId, id: &'a MessageId) -> Self {
        Self { sender: sender.to_text(), dedup_key: id.dedup_key() }
    }
}

/// Parses an id that a client can name in an ack, and that leaves room for a message in its frame.
fn acknowledgeable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MessageId, D::Error> {
    let id = MessageId::deserialize(deserializer)?;
    if (1..=MAX_MESSAGE_ID_BYTES).contains(&id.as_str().len()) {
        Ok(id)
    } else {
        Err(de::Error::invalid_length(id.as_str().len(), &"a message id of 1 to 64 bytes"))
    }
}

/// Accepts `null` for an omitted field.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A queued body that is not a [`Message`]: a foreign publisher wrote it.
#[derive(Debug, thiserror::Error)]
#[error("the queued body is not a message")]
pub struct MessageError(#[from] serde_json::Error);

impl Message {
    /// Parses a queued body.
    ///
    /// # Errors
    /// [`MessageError`] when a field is missing or has the wrong type.
    pub fn from_slice(body: &[u8]) -> Result<Self, MessageError> {
        let Ok(text) = std::str::from_utf8(body) else { return Ok(serde_json::from_slice(body)?) };
        Ok(serde_json::from_str(&well_formed(text))?)
    }

    /// Sets the acceptance time, in milliseconds since 1970, if the message has none.
    #[must_use]
    pub fn timed(self, now: u64) -> Self {
        Self { time: if self.time == 0 { now } else { self.time }, ..self }
    }

    /// Whether it is the sender's own copy, in the sender's queue.
    #[must_use]
    pub fn is_own_of(&self, user: &UserId) -> bool {
        self.from.names(user) && (self.room.is_some() || !self.to.names(user))
    }

    /// The deduplication key.
    #[must_use]
    pub fn identity(&self) -> MessageIdentity<'_> {
        MessageIdentity::new(&self.from, &self.id)
    }

    /// Whether both are the same message, one of them possibly a retry.
    #[must_use]
    pub fn is_duplicate_of(&self, other: &Self) -> bool {
        self.id.dedup_key() == other.id.dedup_key() && self.from.to_text() == other.from.to_text()
    }

    /// The message as everybody but its sender receives it.
    #[must_use]
    pub fn without_rno(self) -> Self {
        Self { rno: None, ..self }
    }

    /// The body to queue.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        crate::server_frame::json(self).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_names_sender_of_either_type() {
        let message = |from: &str, id: &str| {
            let body = format!(r#"{{"uId":{from},"pId":2,"msg":"hi","rStatus":1,"msgTime":0,"mId":"{id}"}}"#);
            Message::from_slice(body.as_bytes()).unwrap()
        };
        let (first, second) = ("018bcfe5-6800-7000-a000-00000000002a", "018bcfe5-7d00-7001-a000-00000000002a");
        for (one, other, is_same) in [
            (message("7", first), message("\"7\"", second), true),
            (message("7", first), message("8", first), false),
            (message("7", "m-1"), message("7", "m-2"), false),
        ] {
            assert_eq!(
                (one.is_duplicate_of(&other), one.identity() == other.identity()),
                (is_same, is_same),
                "{other:?}"
            );
        }
    }

    #[test]
    fn body_of_a_back_end_may_leave_status_and_time_out() {
        let read = |more: &str| {
            Message::from_slice(
                format!(r#"{{"uId":"billing","pId":2,"msg":"hi \ud83d","mId":"m-1"{more}}}"#).as_bytes(),
            )
        };
        for more in ["", r#","rStatus":null,"msgTime":null"#] {
            let message = read(more).unwrap().timed(1_700_000_000_123);
            assert_eq!((message.status, message.time), (Status::Accepted, 1_700_000_000_123));
            assert_eq!(message.msg, "hi \u{fffd}");
        }
        assert_eq!(read(r#","msgTime":7"#).unwrap().timed(8).time, 7);
        for wrong in [r#","rStatus":"1""#, r#","rStatus":5"#, r#","msgTime":"now""#, r#","msgTime":-1"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn body_with_unacknowledgeable_id_is_refused() {
        let body = |id: &str| format!(r#"{{"uId":1,"pId":2,"msg":"hi","rStatus":1,"msgTime":0,"mId":"{id}"}}"#);
        assert!(Message::from_slice(body(&"x".repeat(MAX_MESSAGE_ID_BYTES)).as_bytes()).is_ok());
        for id in [String::new(), "x".repeat(MAX_MESSAGE_ID_BYTES + 1)] {
            assert!(Message::from_slice(body(&id).as_bytes()).is_err(), "{id}");
        }
    }
}
