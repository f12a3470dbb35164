//! Replies to client requests.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{ErrorCode, JsonId, MessageId, RoomId, ServerFrame, server_frame::Fields};

/// `RESPAUTH`: whether a fresh token was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AuthReply {
    #[serde(rename = "EXP", skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
}

impl AuthReply {
    /// Accepted; valid until this many milliseconds after 1970, or without end.
    #[must_use]
    pub fn accepted(until: Option<u64>) -> ServerFrame {
        ServerFrame::new(
            "RESPAUTH",
            &Fields::explained(ErrorCode::Ok, Self { exp: until.map(|millis| millis / 1_000) }),
        )
    }

    /// Rejected.
    #[must_use]
    pub fn failed(er: ErrorCode) -> ServerFrame {
        ServerFrame::new("RESPAUTH", &Fields::explained(er, Self { exp: None }))
    }
}

/// `RESPSTATUS`: how far others have received and read a user's messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StatusReply {
    #[serde(rename = "LIST")]
    list: Vec<PeerStatus>,
}

/// Read and delivered positions of one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// The peer, in the JSON type of the request.
    #[serde(rename = "uId")]
    pub user: JsonId,
    /// The last message that the peer is known to have received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<MessageId>,
    /// The last message that the peer has read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<MessageId>,
}

impl StatusReply {
    /// Positions of each peer.
    #[must_use]
    pub fn of(list: Vec<PeerStatus>) -> ServerFrame {
        ServerFrame::new("RESPSTATUS", &Fields::explained(ErrorCode::Ok, Self { list }))
    }
}

/// `RESPPRESENCE`: who is online.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PresenceReply {
    #[serde(rename = "LIST")]
    list: Vec<PeerPresence>,
}

/// Presence of one user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerPresence {
    /// The user, in the JSON type of the request, if there was one.
    #[serde(rename = "uId")]
    pub user: JsonId,
    /// Whether the user has a connection: 1 or 0.
    #[serde(serialize_with = "as_digit", deserialize_with = "from_digit")]
    pub on: bool,
    /// When the last connection ended, in milliseconds since 1970, if known.
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
    /// Presence of each user.
    #[must_use]
    pub fn of(list: Vec<PeerPresence>) -> ServerFrame {
        ServerFrame::new("RESPPRESENCE", &Fields::explained(ErrorCode::Ok, Self { list }))
    }
}

/// `RESPROOM`: the result of a room request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub struct RoomReply {
    op: RoomOp,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<JsonId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Vec<String>>,
}

/// Kind of a room request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RoomOp {
    /// Join a room.
    Join,
    /// Leave a room.
    Leave,
    /// List the user's rooms.
    List,
}

impl RoomReply {
    /// The user has joined or left the room; or the error.
    #[must_use]
    pub fn of(op: RoomOp, gid: Option<JsonId>, er: ErrorCode) -> ServerFrame {
        ServerFrame::new("RESPROOM", &Fields::explained(er, Self { op, gid, list: None }))
    }

    /// The user's rooms.
    #[must_use]
    pub fn list(rooms: impl IntoIterator<Item = RoomId>) -> ServerFrame {
        let list = rooms.into_iter().map(|room| room.as_str().to_owned()).collect();
        ServerFrame::new(
            "RESPROOM",
            &Fields::explained(ErrorCode::Ok, Self { op: RoomOp::List, gid: None, list: Some(list) }),
        )
    }
}
