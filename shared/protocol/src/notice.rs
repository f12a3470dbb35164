//! What is pushed to a user's version-2 connections without lying in any queue.

use serde::{Deserialize, Serialize};

use crate::{Er, JsonId, MessageId, PeerPresence, PresenceReply, Status, reply::Frame};

/// Something that a user may like to know now, and that means little later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Notice {
    /// Somebody is writing to the user, or has stopped.
    Typing {
        /// Who.
        from: JsonId,
        /// Whether it goes on.
        on: bool,
    },
    /// Somebody has got, or read, all that the author sent, up to a message.
    Status {
        /// Who has.
        reader: JsonId,
        /// Who sent it: the user whom this is for.
        author: JsonId,
        /// [`Status::Delivered`] or [`Status::Read`].
        status: Status,
        /// The last of those messages.
        message: MessageId,
    },
    /// Somebody has come or gone.
    Presence(PeerPresence),
}

#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct StatusFields<'a> {
    uid: &'a JsonId,
    pid: &'a JsonId,
    status: Status,
    mid: &'a MessageId,
}

#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct TypingFields<'a> {
    uid: &'a JsonId,
    on: bool,
}

impl Notice {
    /// Reads a notice as [`Self::to_json`] writes it; `None` for what a newer version may have written.
    #[must_use]
    pub fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The notice on its way to the owner of its user.
    #[must_use]
    pub fn to_json(&self) -> String {
        crate::server::json(self)
    }

    /// The frame for a client.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Typing { from: uid, on } => Frame::bare("RESPTYPING", Er::Ok, TypingFields { uid, on: *on }),
            Self::Status { reader: uid, author: pid, status, message: mid } => {
                Frame::bare("RESPSTATUS", Er::Ok, StatusFields { uid, pid, status: *status, mid })
            }
            Self::Presence(one) => PresenceReply::of(vec![one.clone()]),
        }
    }

    /// Its kind, as a metric's label.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Typing { .. } => "typing",
            Self::Status { .. } => "status",
            Self::Presence(_) => "presence",
        }
    }

    /// Whether nobody needs to hear this any more once that has been said.
    #[must_use]
    pub fn is_replaced_by(&self, newer: &Self) -> bool {
        match (self, newer) {
            (Self::Typing { from, .. }, Self::Typing { from: again, .. }) => from == again,
            (Self::Status { reader, status, .. }, Self::Status { reader: again, status: it, .. }) => {
                reader == again && status == it
            }
            (Self::Presence(one), Self::Presence(again)) => one.user == again.user,
            _ => false,
        }
    }
}

/// `RESPCTRL`: what a client shall do about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Why, as a code.
    pub er: Er,
    /// What to do.
    pub order: Order,
    /// In how many milliseconds.
    pub after: u64,
    /// Why, for a person.
    pub why: &'static str,
}

/// What a `RESPCTRL` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Connect anew.
    Reconnect,
    /// The connection is closed; connect anew, but not before the time.
    Kick,
}

#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct ControlFields {
    op: Order,
    after: u64,
    why: &'static str,
}

impl Control {
    /// The token has ended: a fresh one, by a request or a new connection, lets the client go on.
    pub const EXPIRED: Self =
        Self { er: Er::TokenExpired, order: Order::Reconnect, after: 0, why: "the token has expired" };

    /// The user went on in spite of refusals: handshakes are refused for so many milliseconds.
    #[must_use]
    pub const fn blocked(after: u64) -> Self {
        Self { er: Er::RateLimited, order: Order::Kick, after, why: "too many requests" }
    }

    /// The frame as text.
    #[must_use]
    pub fn to_text(self) -> String {
        let Self { er, order: op, after, why } = self;
        Frame::bare("RESPCTRL", er, ControlFields { op, after, why })
    }
}
