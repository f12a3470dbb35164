//! Ephemeral events that are pushed to a user's version-2 connections without being queued.

use serde::{Deserialize, Serialize};

use crate::{ErrorCode, JsonId, MessageId, PeerPresence, PresenceReply, ServerFrame, Status, server_frame::Fields};

/// An event that is of use only now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EphemeralEvent {
    /// A user is typing to this user, or has stopped.
    Typing {
        /// The user who types.
        from: JsonId,
        /// Whether typing continues.
        on: bool,
    },
    /// A user has received or read all that the author sent, up to a message.
    Status {
        /// The user who received or read it.
        reader: JsonId,
        /// The author of the messages: the recipient of this event.
        author: JsonId,
        /// [`Status::Delivered`] or [`Status::Read`].
        status: Status,
        /// The last of those messages.
        message: MessageId,
    },
    /// A user went online or offline.
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

impl EphemeralEvent {
    /// Parses an event written by [`Self::to_json`]; `None` for one of a newer version.
    #[must_use]
    pub fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The event as JSON, for the owner of its user.
    #[must_use]
    pub fn to_json(&self) -> String {
        crate::server_frame::json(self)
    }

    /// The frame for a client.
    #[must_use]
    pub fn to_frame(&self) -> ServerFrame {
        match self {
            Self::Typing { from: uid, on } => {
                ServerFrame::new("RESPTYPING", &Fields::bare(ErrorCode::Ok, TypingFields { uid, on: *on }))
            }
            Self::Status { reader: uid, author: pid, status, message: mid } => {
                let fields = StatusFields { uid, pid, status: *status, mid };
                ServerFrame::new("RESPSTATUS", &Fields::bare(ErrorCode::Ok, fields))
            }
            Self::Presence(one) => PresenceReply::of(vec![one.clone()]),
        }
    }

    /// The event's kind, as a metric label.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Typing { .. } => "typing",
            Self::Status { .. } => "status",
            Self::Presence(_) => "presence",
        }
    }

    /// Whether that newer event supersedes this one.
    #[must_use]
    pub fn is_superseded_by(&self, newer: &Self) -> bool {
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

/// `RESPCTRL`: an instruction to a client about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The reason, as a code.
    pub er: ErrorCode,
    /// The command.
    pub command: ControlCommand,
    /// The delay, in milliseconds.
    pub after: u64,
    /// The reason, as text.
    pub why: &'static str,
}

/// Command of a `RESPCTRL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ControlCommand {
    /// Reconnect.
    Reconnect,
}

#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct ControlFields {
    op: ControlCommand,
    after: u64,
    why: &'static str,
}

impl Control {
    /// The token has expired: the client continues with a fresh one, by a request or a new connection.
    pub const EXPIRED: Self = Self {
        er: ErrorCode::TokenExpired,
        command: ControlCommand::Reconnect,
        after: 0,
        why: "the token has expired",
    };

    /// The user ignored refusals: handshakes are refused for this many milliseconds.
    #[must_use]
    pub const fn blocked(after: u64) -> Self {
        Self { er: ErrorCode::RateLimited, command: ControlCommand::Reconnect, after, why: "too many requests" }
    }
}

impl From<Control> for ServerFrame {
    fn from(Control { er, command: op, after, why }: Control) -> Self {
        Self::new("RESPCTRL", &Fields::bare(er, ControlFields { op, after, why }))
    }
}
