//! A message as it lies in its receiver's queue.

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
    /// The number its sender drew for it.
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
    fn a_body_whose_id_no_client_could_acknowledge_is_no_message() {
        let body = |id: &str| format!(r#"{{"uId":1,"pId":2,"msg":"hi","rStatus":1,"msgTime":0,"mId":"{id}"}}"#);
        assert!(Message::from_slice(body(&"x".repeat(MAX_MESSAGE_ID)).as_bytes()).is_ok());
        for id in [String::new(), "x".repeat(MAX_MESSAGE_ID + 1)] {
            assert!(Message::from_slice(body(&id).as_bytes()).is_err(), "{id}");
        }
    }
}
