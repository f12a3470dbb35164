//! A message as it lies in its receiver's queue.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{ConnectionId, JsonId, MessageId, TraceContext, UserId, limits::MAX_MESSAGE_ID};

/// How far a message has come: `STATUS` in replies, `rStatus` in items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The broker has confirmed that it keeps the message.
    Accepted = 1,
    /// The edge has taken it for at least one connection.
    Pushed = 2,
    /// The receiver's client has acknowledged it.
    Delivered = 3,
    /// The receiver has read it.
    Read = 4,
    /// It grew too old in the queue.
    Expired = 8,
    /// It can't be delivered.
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
/// The first five fields are the seed's, by name, type and meaning; the rest came later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who sent it, in the sender's JSON type.
    #[serde(rename = "uId")]
    pub from: JsonId,
    /// Who shall get it, in the sender's JSON type.
    #[serde(rename = "pId")]
    pub to: JsonId,
    /// The room in which it was said, if it was; then it is `to`, as well.
    #[serde(rename = "gId", skip_serializing_if = "Option::is_none", default)]
    pub room: Option<JsonId>,
    /// What it says.
    pub msg: String,
    /// How far it has come.
    #[serde(rename = "rStatus")]
    pub status: Status,
    /// When it was accepted, in milliseconds since 1970 by the server's clock.
    #[serde(rename = "msgTime")]
    pub time: u64,
    /// Its name.
    #[serde(rename = "mId", deserialize_with = "acknowledgeable")]
    pub id: MessageId,
    /// The number its sender drew for it. Only the sender's own devices get it: see [`Self::without_rno`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rno: Option<JsonId>,
    /// The trace that it belongs to. It travels beside the body, as what carries the body has a place for it.
    #[serde(skip)]
    pub trace: Option<TraceContext>,
    /// The sender's connection that sent it, where the sender itself gets it, too: that one knows it already. It travels
    /// beside the body, as well.
    #[serde(skip)]
    pub via: Option<ConnectionId>,
}

/// What two messages agree in that are the same: the sender and what the id says of the send ([`MessageId::send`]). The
/// sender is a part of it, so that no user can have a message that counts as one of another's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity<'a> {
    sender: Cow<'a, str>,
    send: &'a str,
}

impl<'a> Identity<'a> {
    /// What an item of that sender, in whatever JSON type, says by that id.
    #[must_use]
    pub fn new(sender: &'a JsonId, id: &'a MessageId) -> Self {
        Self { sender: sender.to_text(), send: id.send() }
    }
}

/// Reads an id that a client can name in an ack, and that leaves room for a message in the frame after it.
fn acknowledgeable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MessageId, D::Error> {
    let id = MessageId::deserialize(deserializer)?;
    if (1..=MAX_MESSAGE_ID).contains(&id.as_str().len()) {
        Ok(id)
    } else {
        Err(de::Error::invalid_length(id.as_str().len(), &"a message id of 1 to 64 bytes"))
    }
}

/// A queued body that is not a [`Message`]: somebody else wrote into the queue.
#[derive(Debug, thiserror::Error)]
#[error("the queued body is not a message")]
pub struct MessageError(#[from] serde_json::Error);

impl Message {
    /// Reads a queued body.
    ///
    /// # Errors
    /// [`MessageError`] when a field is missing or of another type.
    pub fn from_slice(body: &[u8]) -> Result<Self, MessageError> {
        Ok(serde_json::from_slice(body)?)
    }

    /// Whether it is a copy for its sender, in whose queue it is: what the user has said to somebody else.
    #[must_use]
    pub fn is_own_of(&self, user: &UserId) -> bool {
        self.from.names(user) && (self.room.is_some() || !self.to.names(user))
    }

    /// Tells it from every message that is not the same.
    #[must_use]
    pub fn identity(&self) -> Identity<'_> {
        Identity::new(&self.from, &self.id)
    }

    /// Whether both are one message, of which one may be a second try.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.id.send() == other.id.send() && self.from.to_text() == other.from.to_text()
    }

    /// The same, for anybody but its sender.
    #[must_use]
    pub fn without_rno(self) -> Self {
        Self { rno: None, ..self }
    }

    /// The body to queue.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        crate::server::json(self).into_bytes()
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
            assert_eq!((one.is_same_as(&other), one.identity() == other.identity()), (is_same, is_same), "{other:?}");
        }
    }

    #[test]
    fn a_body_whose_id_no_client_could_acknowledge_is_no_message() {
        let body = |id: &str| format!(r#"{{"uId":1,"pId":2,"msg":"hi","rStatus":1,"msgTime":0,"mId":"{id}"}}"#);
        assert!(Message::from_slice(body(&"x".repeat(MAX_MESSAGE_ID)).as_bytes()).is_ok());
        for id in [String::new(), "x".repeat(MAX_MESSAGE_ID + 1)] {
            assert!(Message::from_slice(body(&id).as_bytes()).is_err(), "{id}");
        }
    }
}
