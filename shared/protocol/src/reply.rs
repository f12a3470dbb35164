//! The answers to what a client asks for.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Er, JsonId, MessageId, RoomId, server::json};

/// What all frames have in common, around what is of one kind only.
#[derive(Serialize)]
pub(crate) struct Frame<T> {
    event: &'static str,
    #[serde(rename = "RC")]
    rc: u8,
    #[serde(rename = "ER")]
    er: Er,
    #[serde(flatten)]
    rest: T,
    #[serde(rename = "ERMSG", skip_serializing_if = "Option::is_none")]
    ermsg: Option<&'static str>,
}

impl<T: Serialize> Frame<T> {
    /// The text of a frame that tells of success, or of a failure in a sentence.
    pub(crate) fn text(event: &'static str, er: Er, rest: T) -> String {
        let ermsg = (er != Er::Ok).then(|| er.text());
        json(&Self { event, rc: 1, er, rest, ermsg })
    }

    /// The same without that sentence.
    pub(crate) fn bare(event: &'static str, er: Er, rest: T) -> String {
        json(&Self { event, rc: 1, er, rest, ermsg: None })
    }
}

/// `RESPAUTH`: whether a fresh token was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AuthReply {
    #[serde(rename = "EXP", skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
}

impl AuthReply {
    /// It was, and is good until so many milliseconds after 1970, if not for ever.
    #[must_use]
    pub fn accepted(until: Option<u64>) -> String {
        Frame::text("RESPAUTH", Er::Ok, Self { exp: until.map(|millis| millis / 1_000) })
    }

    /// It was not.
    #[must_use]
    pub fn failed(er: Er) -> String {
        Frame::text("RESPAUTH", er, Self { exp: None })
    }
}

/// `RESPSTATUS`: how much of what a user sent others have got and read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StatusReply {
    #[serde(rename = "LIST")]
    list: Vec<PeerStatus>,
}

/// How much one of them has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// Who, in the JSON type in which the client asked.
    #[serde(rename = "uId")]
    pub user: JsonId,
    /// The last message that this one has got, as far as is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<MessageId>,
    /// The last one that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<MessageId>,
}

impl StatusReply {
    /// What is known of each of them.
    #[must_use]
    pub fn of(list: Vec<PeerStatus>) -> String {
        Frame::text("RESPSTATUS", Er::Ok, Self { list })
    }
}

/// `RESPPRESENCE`: who is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PresenceReply {
    #[serde(rename = "LIST")]
    list: Vec<PeerPresence>,
}

/// Whether one user is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerPresence {
    /// Who, in the JSON type in which the client asked, if it did.
    #[serde(rename = "uId")]
    pub user: JsonId,
    /// Whether there is a connection: 1 or 0.
    #[serde(serialize_with = "as_digit", deserialize_with = "from_digit")]
    pub on: bool,
    /// When the last one ended, in milliseconds since 1970, if that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn as_digit<S: Serializer>(on: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(u8::from(*on))
}

fn from_digit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    u8::deserialize(deserializer).map(|digit| digit == 1)
}

impl PresenceReply {
    /// What is known of each of them.
    #[must_use]
    pub fn of(list: Vec<PeerPresence>) -> String {
        Frame::text("RESPPRESENCE", Er::Ok, Self { list })
    }
}

/// `RESPROOM`: what became of a request about rooms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub struct RoomReply {
    op: RoomOp,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<JsonId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Vec<String>>,
}

/// What was asked about rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RoomOp {
    /// To be in one.
    Join,
    /// To be in one no more.
    Leave,
    /// Which ones.
    List,
}

impl RoomReply {
    /// The user is in the room now, or out of it; or why not.
    #[must_use]
    pub fn of(op: RoomOp, gid: Option<JsonId>, er: Er) -> String {
        Frame::text("RESPROOM", er, Self { op, gid, list: None })
    }

    /// In which rooms the user is.
    #[must_use]
    pub fn list(rooms: impl IntoIterator<Item = RoomId>) -> String {
        let list = rooms.into_iter().map(|room| room.as_str().to_owned()).collect();
        Frame::text("RESPROOM", Er::Ok, Self { op: RoomOp::List, gid: None, list: Some(list) })
    }
}
