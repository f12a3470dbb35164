//! Results of sends, errors, and the frame that carries messages.

use serde::Serialize;

use crate::{
    ErrorCode, FieldError, FrameError, JsonId, Message, MessageId, Position, Recipient, SendFrame, ServerFrame, Status,
    TraceContext,
    limits::{MAX_FRAME_BYTES, MAX_SOCKET_IO_OVERHEAD_BYTES},
    server_frame::{Callback, json},
};

/// `RESPPONG`: the answer to `{"action":"ping"}`. The edge itself sends it, without any function.
pub const PONG: &str = r#"{"event":"RESPPONG","RC":1,"ER":0}"#;

/// `RESPSEND`: the result of one send.
///
/// ```
/// use kschat_protocol::{ClientFrame, ErrorCode, SendReply, ServerFrame};
///
/// let Ok(ClientFrame::Send(send)) = ClientFrame::parse(r#"{"uId":1,"pId":2,"msg":"hi","rno":42}"#) else {
///     panic!("not a send")
/// };
/// // The ids keep the JSON types that the sender chose.
/// let reply = ServerFrame::from(SendReply::failed(ErrorCode::BrokerUnavailable, send));
/// assert!(reply.fields().starts_with(r#"{"RC":1,"ER":2,"SID":1,"RID":2,"RANDOMNO":42"#));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub struct SendReply {
    rc: u8,
    er: ErrorCode,
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
    fn empty(er: ErrorCode) -> Self {
        Self {
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

    /// The broker has confirmed the message. `repeated`: an earlier send with this `rno` had already brought it.
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
            ..Self::empty(ErrorCode::Ok)
        }
    }

    /// A valid send that failed: the reply has what the sender needs to find and retry it.
    #[must_use]
    pub fn failed(er: ErrorCode, frame: SendFrame) -> Self {
        let (rid, gid) = match frame.recipient {
            Recipient::User(_) => (Some(frame.pid), None),
            Recipient::Room(_) => (None, Some(frame.pid)),
        };
        Self { sid: Some(frame.uid), rid, gid, randomno: frame.rno, ermsg: Some(er.text()), ..Self::empty(er) }
    }

    /// A valid send that the session or a limit refuses; the sender may retry in this many milliseconds, if known.
    #[must_use]
    pub fn refused(er: ErrorCode, retry: Option<u64>, frame: SendFrame) -> Self {
        Self { retry, ..Self::failed(er, frame) }
    }

    /// A version-2 send without an `rno`.
    #[must_use]
    pub fn without_rno(frame: SendFrame) -> Self {
        let field = FieldError { field: "rno", code: ErrorCode::InvalidField, text: "required".to_owned() };
        Self { errs: vec![field], ..Self::failed(ErrorCode::InvalidField, frame) }
    }

    /// The resulting status.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        self.er
    }
}

impl From<SendReply> for ServerFrame {
    fn from(reply: SendReply) -> Self {
        let fields = json(&reply);
        let sender = if reply.er == ErrorCode::Ok { reply.sid } else { None };
        Self::with_callback("RESPSEND", fields, Callback::Send(sender))
    }
}

/// `RESPERROR`: the answer to an unintelligible frame, and to a request that has no reply of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub struct ErrorFrame {
    rc: u8,
    er: ErrorCode,
    ermsg: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<u64>,
}

impl ErrorFrame {
    /// The frame for a code.
    #[must_use]
    pub const fn new(er: ErrorCode) -> Self {
        Self { rc: 1, er, ermsg: er.text(), retry: None }
    }

    /// The frame for a rate-limited client, which may retry in this many milliseconds.
    #[must_use]
    pub const fn rate_limited(retry: u64) -> Self {
        Self { retry: Some(retry), ..Self::new(ErrorCode::RateLimited) }
    }
}

impl From<ErrorFrame> for ServerFrame {
    fn from(error: ErrorFrame) -> Self {
        Self::new("RESPERROR", &error)
    }
}

/// The answer to a frame that did not parse: a `RESPSEND` for a send, else a `RESPERROR`.
#[must_use]
pub fn frame_error_reply(error: FrameError) -> ServerFrame {
    if !error.is_send {
        return ErrorFrame::new(error.code).into();
    }
    SendReply {
        randomno: error.rno,
        ermsg: Some(error.code.text()),
        errs: error.fields,
        ..SendReply::empty(error.code)
    }
    .into()
}

const RECEIVER_FRAME_HEAD: &str = r#"{"RC":1,"ER":0,"#;
const RECEIVER_FRAME_LIST: &str = r#""MSG":["#;
const RECEIVER_FRAME_TAIL: &str = r#"],"POS":""#;

/// Bytes for the longest position and the end of the frame after [`RECEIVER_FRAME_TAIL`], for the name of the event, and
/// for the packet around it.
const RECEIVER_FRAME_RESERVE_BYTES: usize = 8 + 1 + 20 + 2 + 23 + MAX_SOCKET_IO_OVERHEAD_BYTES;

/// `RESPRECEIVER`: messages to a connection, as many as one frame of the edge holds.
///
/// ```
/// use kschat_protocol::{Message, Position, ReceiverFrame};
///
/// let message = Message::from_slice(br#"{"uId":"alice","pId":"bob","msg":"hi","mId":"m-1"}"#)?;
/// let mut frame = ReceiverFrame::after(None);
/// assert!(frame.push(&message, false), "one frame holds every valid message");
/// let text = frame.finish(Position { run: 1, number: 1 }).to_text();
/// assert!(text.starts_with(r#"{"event":"RESPRECEIVER","RC":1,"ER":0,"MSG":[{"uId":"alice""#));
/// assert!(text.ends_with(r#""POS":"00000001.1"}"#));
/// # Ok::<(), kschat_protocol::MessageError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ReceiverFrame {
    fields: String,
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
    /// Starts an empty frame. It names the position of the previously pushed message, if that one is unacknowledged. A
    /// client that is not that far has missed a frame and skips this one: both are redelivered in order.
    #[must_use]
    pub fn after(previous: Option<Position>) -> Self {
        let previous = previous.map(|position| format!(r#""PREV":"{position}","#)).unwrap_or_default();
        Self { fields: format!("{RECEIVER_FRAME_HEAD}{previous}{RECEIVER_FRAME_LIST}"), count: 0 }
    }

    /// Adds a message unless the frame would exceed [`MAX_FRAME_BYTES`]; returns whether it was added.
    ///
    /// A message that is too large for any frame is never added: the first `push` returns false.
    #[must_use]
    pub fn push(&mut self, message: &Message, redelivered: bool) -> bool {
        let traceparent = message.trace.as_ref();
        let is_plain = !redelivered && traceparent.is_none();
        let item = if is_plain { json(message) } else { json(&Item { message, redelivered, traceparent }) };
        let comma = usize::from(self.count > 0);
        if self.fields.len() + comma + item.len() + RECEIVER_FRAME_TAIL.len() + RECEIVER_FRAME_RESERVE_BYTES
            > MAX_FRAME_BYTES
        {
            return false;
        }
        if self.count > 0 {
            self.fields.push(',');
        }
        self.fields.push_str(&item);
        self.count += 1;
        true
    }

    /// Number of messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the frame is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Completes the frame with the position of its last message.
    #[must_use]
    pub fn finish(mut self, position: Position) -> ServerFrame {
        self.fields.push_str(RECEIVER_FRAME_TAIL);
        self.fields.push_str(&position.to_string());
        self.fields.push_str("\"}");
        ServerFrame::with_callback("RESPRECEIVER", self.fields, Callback::Ack(position))
    }
}
