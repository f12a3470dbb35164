//! Frames that a client gets.
//!
//! `RC` is 1 in every one of them, as in the seed, also when it failed: only `ER` tells.

use serde::Serialize;

use crate::{
    Er, FieldError, FrameError, JsonId, Message, MessageId, Position, Recipient, SendFrame, Status, TraceContext,
    limits::{MAX_FRAME, MAX_WRAPPING},
};

/// Writes what cannot fail to be written: our own types have text keys and finite numbers.
pub(crate) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// `RESPPONG`: the answer to `{"action":"ping"}`. The edge itself gives it, without any function.
pub const PONG: &str = r#"{"event":"RESPPONG","RC":1,"ER":0}"#;

/// `RESPSEND`: what became of one send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub struct SendReply {
    #[serde(rename = "event")]
    event: &'static str,
    rc: u8,
    er: Er,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<JsonId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rid: Option<JsonId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<JsonId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    randomno: Option<JsonId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    msgtime: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mid: Option<MessageId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dup: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ermsg: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errs: Vec<FieldError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<u64>,
}

impl SendReply {
    fn empty(er: Er) -> Self {
        Self {
            event: "RESPSEND",
            rc: 1,
            er,
            sid: None,
            rid: None,
            gid: None,
            msg: None,
            randomno: None,
            msgtime: None,
            status: None,
            mid: None,
            dup: None,
            ermsg: None,
            errs: Vec::new(),
            retry: None,
        }
    }

    /// The broker keeps the message. `repeated` says that an earlier send with this `rno` had brought it.
    #[must_use]
    pub fn accepted(message: Message, repeated: bool) -> Self {
        Self {
            sid: Some(message.from),
            rid: message.room.is_none().then_some(message.to),
            gid: message.room,
            msg: Some(message.msg),
            randomno: message.rno,
            msgtime: Some(message.time),
            status: Some(message.status),
            mid: Some(message.id),
            dup: repeated.then_some(1),
            ..Self::empty(Er::Ok)
        }
    }

    /// A well-formed send that failed: the sender gets back what it needs to find and repeat it.
    #[must_use]
    pub fn failed(er: Er, frame: SendFrame) -> Self {
        let (rid, gid) = match frame.recipient {
            Recipient::User(_) => (Some(frame.pid), None),
            Recipient::Room(_) => (None, Some(frame.pid)),
        };
        Self { sid: Some(frame.uid), rid, gid, randomno: frame.rno, ermsg: Some(er.text()), ..Self::empty(er) }
    }

    /// A well-formed send of which its sender has made too many; it may be repeated in so many milliseconds, if that is
    /// known.
    #[must_use]
    pub fn refused(er: Er, retry: Option<u64>, frame: SendFrame) -> Self {
        Self { retry, ..Self::failed(er, frame) }
    }

    /// A version-2 send that doesn't name its message.
    #[must_use]
    pub fn without_rno(frame: SendFrame) -> Self {
        let field = FieldError { field: "rno", code: Er::InvalidField, text: "required".to_owned() };
        Self { errs: vec![field], ..Self::failed(Er::InvalidField, frame) }
    }

    /// What became of it.
    #[must_use]
    pub const fn code(&self) -> Er {
        self.er
    }

    /// The frame as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        json(self)
    }
}

/// `RESPERROR`: the answer to a frame that can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub struct ErrorFrame {
    #[serde(rename = "event")]
    event: &'static str,
    rc: u8,
    er: Er,
    ermsg: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<u64>,
}

impl ErrorFrame {
    /// Whether a frame is one of these.
    #[must_use]
    pub fn is(frame: &str) -> bool {
        frame.starts_with(r#"{"event":"RESPERROR""#)
    }

    /// The frame for a code.
    #[must_use]
    pub fn new(er: Er) -> Self {
        Self { event: "RESPERROR", rc: 1, er, ermsg: er.text(), retry: None }
    }

    /// The frame for a client that asks too often: it may ask again in so many milliseconds.
    #[must_use]
    pub fn rate_limited(retry: u64) -> Self {
        Self { retry: Some(retry), ..Self::new(Er::RateLimited) }
    }

    /// The frame as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        json(self)
    }
}

/// The text that answers a frame which did not parse: a `RESPSEND` if it meant to send, else a `RESPERROR`.
#[must_use]
pub fn refusal(error: FrameError) -> String {
    if !error.is_send {
        return ErrorFrame::new(error.code).to_text();
    }
    SendReply {
        randomno: error.rno,
        ermsg: Some(error.code.text()),
        errs: error.fields,
        ..SendReply::empty(error.code)
    }
    .to_text()
}

const HEAD: &str = r#"{"event":"RESPRECEIVER","RC":1,"ER":0,"#;
const LIST: &str = r#""MSG":["#;
const TAIL: &str = r#"],"POS":""#;

/// What the longest position and the end of the frame take after [`TAIL`], and what makes an event of the frame.
const ROOM: usize = 8 + 1 + 20 + 2 + MAX_WRAPPING;

/// `RESPRECEIVER`: messages on their way to a connection, as many as one frame of the edge holds.
#[derive(Clone, Debug)]
pub struct ReceiverFrame {
    text: String,
    count: usize,
}

#[derive(Serialize)]
struct Item<'a> {
    #[serde(flatten)]
    message: &'a Message,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    redelivered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a TraceContext>,
}

impl ReceiverFrame {
    /// A frame without any message yet. It names the place of the message that was pushed before it, if that one is not
    /// acknowledged: a client that has not come so far has missed a frame, and lets this one pass, as both will come
    /// again in their order.
    #[must_use]
    pub fn after(previous: Option<Position>) -> Self {
        let previous = previous.map(|position| format!(r#""PREV":"{position}","#)).unwrap_or_default();
        Self { text: format!("{HEAD}{previous}{LIST}"), count: 0 }
    }

    /// Adds a message unless the frame would grow past [`MAX_FRAME`]; says whether it did.
    ///
    /// A single message that is too large for any frame is never added: the first `push` tells.
    #[must_use]
    pub fn push(&mut self, message: &Message, redelivered: bool) -> bool {
        let traceparent = message.trace.as_ref();
        let is_plain = !redelivered && traceparent.is_none();
        let item = if is_plain { json(message) } else { json(&Item { message, redelivered, traceparent }) };
        let comma = usize::from(self.count > 0);
        if self.text.len() + comma + item.len() + TAIL.len() + ROOM > MAX_FRAME {
            return false;
        }
        if self.count > 0 {
            self.text.push(',');
        }
        self.text.push_str(&item);
        self.count += 1;
        true
    }

    /// How many messages it carries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it carries none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The frame as text, with the place of its last message.
    #[must_use]
    pub fn into_text(mut self, position: Position) -> String {
        self.text.push_str(TAIL);
        self.text.push_str(&position.to_string());
        self.text.push_str("\"}");
        self.text
    }
}
