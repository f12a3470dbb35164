//! Frames that a client sends.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    ErrorCode, InvalidPosition, JsonId, MessageId, Position, Request, RoomId, TraceContext, UserId,
    limits::{MAX_FRAME_BYTES, MAX_MESSAGE_ID_BYTES, MAX_RNO_BYTES, MAX_TEXT_BYTES},
    text::well_formed,
};

/// An error in one field: an item of `ERRS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Name of the field.
    #[serde(rename = "F")]
    pub field: &'static str,
    /// Error code of the field.
    #[serde(rename = "ER")]
    pub code: ErrorCode,
    /// Description of a valid value.
    #[serde(rename = "T")]
    pub text: String,
}

/// Reason for which a client's frame was rejected before any processing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", code.text())]
pub struct FrameError {
    /// Code for the whole frame.
    pub code: ErrorCode,
    /// Every invalid field, reported together.
    pub fields: Vec<FieldError>,
    /// The sender's `rno`, if it was readable: the reply returns it.
    pub rno: Option<JsonId>,
    /// Whether the frame was a send: the reply is then a `RESPSEND`, else a `RESPERROR`.
    pub is_send: bool,
}

impl FrameError {
    pub(crate) fn for_frame(code: ErrorCode) -> Self {
        Self { code, fields: Vec::new(), rno: None, is_send: false }
    }
}

/// A parsed client frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame {
    /// Sends a message.
    Send(SendFrame),
    /// Acknowledges messages.
    Ack(AckFrame),
    /// Makes a request.
    Request(Request),
}

impl ClientFrame {
    /// Parses a frame from any route.
    ///
    /// A v1 client's bare `{uId,pId,msg,rno,time}` is a send, too. `time` is the client's own clock and advisory, so it
    /// is ignored. Unknown fields are ignored.
    ///
    /// ```
    /// use kschat_protocol::{ClientFrame, ErrorCode};
    ///
    /// let frame = ClientFrame::parse(r#"{"action":"send","uId":"alice","pId":"bob","msg":"hi","rno":"r-1"}"#);
    /// assert!(matches!(frame, Ok(ClientFrame::Send(send)) if send.claimed_sender.as_str() == "alice"));
    ///
    /// // Every invalid field is reported at once.
    /// let error = ClientFrame::parse(r#"{"action":"send","uId":"","msg":7}"#).unwrap_err();
    /// assert_eq!(error.code, ErrorCode::InvalidField);
    /// assert_eq!(error.fields.iter().map(|field| field.field).collect::<Vec<_>>(), ["uId", "pId", "msg"]);
    /// ```
    ///
    /// # Errors
    /// [`FrameError`] with the first code that applies: too large, not a JSON object, unknown action, invalid fields
    /// (all of them).
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        Self::read(text, None)
    }

    /// Reads the event of a Socket.IO client. Its name is the action, its first argument is the object of fields; a
    /// field `action` in there is the client's own.
    ///
    /// ```
    /// use kschat_protocol::{
    ///     ClientFrame,
    ///     dialect::{Kind, Packet},
    /// };
    ///
    /// let text = r#"42["Send",{"uId":1,"pId":2,"msg":"hi"}]"#;
    /// let Ok(Packet::Message(packet)) = Packet::parse(text) else { panic!("not a message") };
    /// let Kind::Event(name, arguments) = packet.kind else { panic!("not an event") };
    /// assert_eq!(ClientFrame::from_event(&name, &arguments), ClientFrame::parse(r#"{"uId":1,"pId":2,"msg":"hi"}"#));
    /// ```
    ///
    /// # Errors
    /// As [`Self::parse`]; the error of an event `Send` is always that of a send.
    pub fn from_event(name: &str, arguments: &[&RawValue]) -> Result<Self, FrameError> {
        Self::read(arguments.first().map_or("{}", |fields| fields.get()), Some(Action::named(name.to_lowercase())))
    }

    fn read(text: &str, action: Option<Action>) -> Result<Self, FrameError> {
        let is_send = matches!(action, Some(Action::Send));
        let unreadable = |code| FrameError { is_send, ..FrameError::for_frame(code) };
        if text.len() > MAX_FRAME_BYTES {
            return Err(unreadable(ErrorCode::TooLarge));
        }
        let text = &*well_formed(text);
        let raw: RawFrame<'_> = read_object(text).ok_or_else(|| unreadable(ErrorCode::Malformed))?;
        match action.or_else(|| raw.action()) {
            Some(Action::Send) => raw.check_send().map(Self::Send),
            Some(Action::Ack) => raw.check_ack().map(Self::Ack),
            Some(Action::Other(name)) => Request::parse(&name, text).map(Self::Request),
            None => Err(FrameError::for_frame(ErrorCode::UnknownAction)),
        }
    }
}

/// A client's acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckFrame {
    /// The last acknowledged message; it covers all before it. `None` if the client has received none.
    pub message: Option<MessageId>,
    /// Position of the frame that carried it: identifies the copy of the message.
    pub position: Option<Position>,
    /// Whether the client missed a frame and requests redelivery of all that it has not acknowledged.
    pub redelivery_requested: bool,
}

/// A message that its sender wants delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendFrame {
    /// The sender named by the frame. Only the session tells the true one.
    pub claimed_sender: UserId,
    /// The same in the sender's JSON type.
    pub uid: JsonId,
    /// The recipient.
    pub recipient: Recipient,
    /// The same in the sender's JSON type.
    pub pid: JsonId,
    /// The text.
    pub msg: String,
    /// The number chosen by the client: see [`crate::ProtocolVersion`] for its two meanings.
    pub rno: Option<JsonId>,
    /// The trace context that the client sent. An invalid one is ignored.
    pub trace: Option<TraceContext>,
}

/// Recipient of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// One user.
    User(UserId),
    /// All members of a room.
    Room(RoomId),
}

/// The raw fields of every frame, so that all errors are reported at once.
#[derive(Deserialize)]
struct RawFrame<'a> {
    #[serde(borrow)]
    action: Option<&'a RawValue>,
    #[serde(borrow, rename = "uId")]
    uid: Option<&'a RawValue>,
    #[serde(borrow, rename = "pId")]
    pid: Option<&'a RawValue>,
    #[serde(borrow, rename = "gId")]
    gid: Option<&'a RawValue>,
    #[serde(borrow)]
    msg: Option<&'a RawValue>,
    #[serde(borrow)]
    rno: Option<&'a RawValue>,
    #[serde(borrow, rename = "mId")]
    mid: Option<&'a RawValue>,
    #[serde(borrow)]
    pos: Option<&'a RawValue>,
    #[serde(borrow)]
    again: Option<&'a RawValue>,
    #[serde(borrow)]
    traceparent: Option<&'a RawValue>,
    #[serde(borrow)]
    tracestate: Option<&'a RawValue>,
}

enum Action {
    Send,
    Ack,
    Other(String),
}

impl Action {
    fn named(name: String) -> Self {
        match name.as_str() {
            "send" => Self::Send,
            "ack" => Self::Ack,
            _ => Self::Other(name),
        }
    }
}

/// Parses a JSON object only: serde would fill a struct from an array, too.
fn read_object(text: &str) -> Option<RawFrame<'_>> {
    let is_object = text.trim_start().starts_with('{');
    is_object.then(|| serde_json::from_str(text).ok()).flatten()
}

impl RawFrame<'_> {
    fn action(&self) -> Option<Action> {
        let Some(action) = self.action else {
            let is_bare_send = self.uid.is_some() || self.pid.is_some() || self.msg.is_some();
            return is_bare_send.then_some(Action::Send);
        };
        serde_json::from_str(action.get()).ok().map(Action::named)
    }

    fn check_ack(&self) -> Result<AckFrame, FrameError> {
        let mut faults = FieldErrors::default();
        let again = self.again.and_then(|raw| faults.collect_error(read_flag("again", raw))).unwrap_or_default();
        let position = self.pos.and_then(|raw| faults.collect_error(position(raw)));
        let message = match self.mid {
            None if again => None,
            mid => faults.collect_error(required("mId", mid).and_then(message_id)),
        };
        if faults.0.is_empty() {
            Ok(AckFrame { message, position, redelivery_requested: again })
        } else {
            Err(faults.into_frame_error())
        }
    }

    fn check_send(&self) -> Result<SendFrame, FrameError> {
        let mut faults = FieldErrors::default();
        let rno = self.rno.and_then(|raw| faults.collect_error(rno(raw)));
        let uid = faults.collect_error(required("uId", self.uid).and_then(|raw| user("uId", raw)));
        let pid = faults.collect_error(self.recipient());
        let msg = faults.collect_error(required("msg", self.msg).and_then(message));
        match (uid, pid, msg) {
            (Some((uid, claimed_sender)), Some((pid, recipient)), Some(msg)) if faults.0.is_empty() => {
                let trace = TraceContext::in_fields(self.traceparent, self.tracestate);
                Ok(SendFrame { claimed_sender, uid, recipient, pid, msg, rno, trace })
            }
            _ => Err(faults.into_error(rno)),
        }
    }
}

impl RawFrame<'_> {
    fn recipient(&self) -> Result<(JsonId, Recipient), FieldError> {
        match self.gid {
            Some(raw) => room(raw).map(|(id, room)| (id, Recipient::Room(room))),
            None => {
                required("pId", self.pid).and_then(|raw| user("pId", raw)).map(|(id, user)| (id, Recipient::User(user)))
            }
        }
    }
}

/// Collects errors while the remaining fields are parsed.
#[derive(Default)]
pub(crate) struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    pub(crate) fn collect_error<T>(&mut self, field: Result<T, FieldError>) -> Option<T> {
        field.map_err(|fault| self.0.push(fault)).ok()
    }

    /// The error for a frame that is not a send.
    pub(crate) fn into_frame_error(self) -> FrameError {
        FrameError { fields: self.0, ..FrameError::for_frame(ErrorCode::InvalidField) }
    }

    fn into_error(self, rno: Option<JsonId>) -> FrameError {
        let only_size = self.0.iter().all(|fault| fault.code == ErrorCode::TooLarge);
        let code = if only_size { ErrorCode::TooLarge } else { ErrorCode::InvalidField };
        FrameError { code, fields: self.0, rno, is_send: true }
    }
}

pub(crate) fn invalid(field: &'static str, text: impl Into<String>) -> FieldError {
    FieldError { field, code: ErrorCode::InvalidField, text: text.into() }
}

pub(crate) fn required<'a>(field: &'static str, raw: Option<&'a RawValue>) -> Result<&'a RawValue, FieldError> {
    raw.ok_or_else(|| invalid(field, "required"))
}

fn id(field: &'static str, raw: &RawValue) -> Result<JsonId, FieldError> {
    serde_json::from_str(raw.get()).map_err(|_| invalid(field, "must be a string or a whole number"))
}

pub(crate) fn user(field: &'static str, raw: &RawValue) -> Result<(JsonId, UserId), FieldError> {
    let id = id(field, raw)?;
    let user = UserId::try_from(&id).map_err(|error| invalid(field, error.to_string()))?;
    Ok((id, user))
}

/// Parses the field `gId`.
pub(crate) fn room(raw: &RawValue) -> Result<(JsonId, RoomId), FieldError> {
    let id = id("gId", raw)?;
    let room = RoomId::try_from(&id).map_err(|error| invalid("gId", error.to_string()))?;
    Ok((id, room))
}

fn rno(raw: &RawValue) -> Result<JsonId, FieldError> {
    let rno = id("rno", raw)?;
    if matches!(&rno, JsonId::Text(text) if text.is_empty() || text.len() > MAX_RNO_BYTES) {
        return Err(invalid("rno", format!("must be 1 to {MAX_RNO_BYTES} bytes")));
    }
    Ok(rno)
}

pub(crate) fn message_id(raw: &RawValue) -> Result<MessageId, FieldError> {
    let id =
        serde_json::from_str::<String>(raw.get()).ok().filter(|id| !id.is_empty() && id.len() <= MAX_MESSAGE_ID_BYTES);
    id.map(MessageId::from)
        .ok_or_else(|| invalid("mId", format!("must be a string of 1 to {MAX_MESSAGE_ID_BYTES} bytes")))
}

fn position(raw: &RawValue) -> Result<Position, FieldError> {
    let text: Option<String> = serde_json::from_str(raw.get()).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| invalid("pos", InvalidPosition.to_string()))
}

pub(crate) fn read_flag(field: &'static str, raw: &RawValue) -> Result<bool, FieldError> {
    serde_json::from_str(raw.get()).map_err(|_| invalid(field, "must be true or false"))
}

fn message(raw: &RawValue) -> Result<String, FieldError> {
    let msg: String = serde_json::from_str(raw.get()).map_err(|_| invalid("msg", "must be a string"))?;
    if msg.is_empty() {
        return Err(invalid("msg", "must not be empty"));
    }
    // The size counts as we will write it: escapes that the client chose to use cost nothing.
    if raw.get().len() > MAX_TEXT_BYTES && crate::server_frame::json(&msg).len() > MAX_TEXT_BYTES {
        let text = format!("must be at most {MAX_TEXT_BYTES} bytes as a JSON string");
        return Err(FieldError { field: "msg", code: ErrorCode::TooLarge, text });
    }
    Ok(msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(text: &str) -> Result<SendFrame, FrameError> {
        ClientFrame::parse(text).map(|frame| match frame {
            ClientFrame::Send(frame) => frame,
            other => panic!("{other:?}"),
        })
    }

    fn codes(error: &FrameError) -> Vec<(&'static str, u16)> {
        error.fields.iter().map(|fault| (fault.field, fault.code.number())).collect()
    }

    #[test]
    fn v1_frame_without_action_is_send() {
        let bare = r#"{"uId":1,"pId":"bob","msg":"hi","rno":42,"time":1700000000}"#;
        let routed = r#"{"action":"send","uId":1,"pId":"bob","msg":"hi","rno":42,"time":1700000000}"#;
        let frame = send(bare).unwrap();
        assert_eq!(frame, send(routed).unwrap());
        assert_eq!(frame.claimed_sender.as_str(), "1");
        assert_eq!(frame.recipient, Recipient::User(UserId::try_from("bob").unwrap()));
        assert_eq!(frame.rno.unwrap().to_string(), "42");
    }

    #[test]
    fn text_that_was_cut_inside_a_character_is_sent_with_a_replacement() {
        let cut = send(r#"{"action":"send","uId":"a\ud83d","pId":"b","msg":"cut \ud83d"}"#).unwrap();
        assert_eq!((cut.msg.as_str(), cut.uid.to_string().as_str()), ("cut \u{fffd}", "a\u{fffd}"));
        let other = ClientFrame::parse(r#"{"action":"join","gId":"r\udc00"}"#).unwrap();
        assert!(matches!(other, ClientFrame::Request(Request::Join { ref gid, .. }) if gid.to_string() == "r\u{fffd}"));
    }

    #[test]
    fn send_accepts_trace_and_ignores_invalid_one() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = |parent: &str| {
            send(&format!(r#"{{"uId":1,"pId":2,"msg":"hi","traceparent":{parent},"tracestate":"a=1"}}"#)).unwrap().trace
        };
        let trace = traced(&format!("{parent:?}")).unwrap();
        assert_eq!((trace.traceparent().as_str(), trace.tracestate()), (parent, Some("a=1")));
        assert_eq!([traced("7"), traced("null"), traced("\"00-x\"")], [None, None, None]);
    }

    #[test]
    fn all_invalid_fields_are_reported_with_rno() {
        let error = send(r#"{"action":"send","uId":1.5,"msg":7,"rno":"r1"}"#).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidField);
        assert_eq!(codes(&error), [("uId", 7), ("pId", 7), ("msg", 7)]);
        assert_eq!(error.rno, Some(JsonId::Text("r1".into())));
        assert!(error.is_send);
    }

    #[test]
    fn non_object_frame_is_malformed() {
        for text in ["", "x", "7", "null", "\"send\"", "[]", "[1,2,3,4,5]", "{", r#"{"uId":1,"uId":2}"#] {
            assert_eq!(send(text).unwrap_err().code, ErrorCode::Malformed, "{text}");
        }
    }

    #[test]
    fn unknown_action_is_reported() {
        for text in ["{}", r#"{"action":"dance"}"#, r#"{"action":7,"uId":1}"#, r#"{"hello":"world"}"#] {
            let error = send(text).unwrap_err();
            assert_eq!((error.code, error.is_send), (ErrorCode::UnknownAction, false), "{text}");
        }
    }

    #[test]
    fn an_ack_names_a_message() {
        let ack = ClientFrame::parse(r#"{"action":"ack","mId":"m-1"}"#).unwrap();
        let message = Some(MessageId::from("m-1".to_owned()));
        assert_eq!(ack, ClientFrame::Ack(AckFrame { message, position: None, redelivery_requested: false }));
        let long = format!(r#"{{"action":"ack","mId":"{}"}}"#, "x".repeat(MAX_MESSAGE_ID_BYTES + 1));
        for text in [r#"{"action":"ack"}"#, r#"{"action":"ack","mId":7}"#, r#"{"action":"ack","mId":""}"#, &long] {
            let error = ClientFrame::parse(text).unwrap_err();
            assert_eq!(
                (error.code, codes(&error), error.is_send),
                (ErrorCode::InvalidField, vec![("mId", 7)], false),
                "{text}"
            );
        }
    }

    #[test]
    fn redelivery_request_needs_no_message_id() {
        let parse = |text: &str| ClientFrame::parse(text);
        let message = Some(MessageId::from("m-1".to_owned()));
        let both = parse(r#"{"action":"ack","mId":"m-1","again":true}"#).unwrap();
        assert_eq!(both, ClientFrame::Ack(AckFrame { message, position: None, redelivery_requested: true }));
        let nothing = parse(r#"{"action":"ack","again":true}"#).unwrap();
        assert_eq!(nothing, ClientFrame::Ack(AckFrame { message: None, position: None, redelivery_requested: true }));
        let placed = parse(r#"{"action":"ack","mId":"m-1","pos":"0000002a.7"}"#).unwrap();
        let position = Some(Position { run: 42, number: 7 });
        let message = Some(MessageId::from("m-1".to_owned()));
        assert_eq!(placed, ClientFrame::Ack(AckFrame { message, position, redelivery_requested: false }));
        let error = parse(r#"{"action":"ack","again":1,"pos":"here"}"#).unwrap_err();
        assert_eq!(codes(&error), [("again", 7), ("pos", 7), ("mId", 7)]);
    }

    #[test]
    fn message_size_is_measured_as_json() {
        let sized = |msg: &str| send(&format!(r#"{{"uId":1,"pId":2,"msg":"{msg}"}}"#));
        assert!(sized(&"a".repeat(MAX_TEXT_BYTES - 2)).is_ok());
        let error = sized(&"a".repeat(MAX_TEXT_BYTES - 1)).unwrap_err();
        assert_eq!((error.code, codes(&error)), (ErrorCode::TooLarge, vec![("msg", 8)]));
        assert!(sized(&r"\u0061".repeat(5000)).is_ok(), "an escaped character counts once");
        assert_eq!(sized(&"a".repeat(MAX_FRAME_BYTES)).unwrap_err().code, ErrorCode::TooLarge);
    }

    fn event(name: &str, arguments: &[&str]) -> Result<ClientFrame, FrameError> {
        let arguments: Vec<&RawValue> = arguments.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        ClientFrame::from_event(name, &arguments)
    }

    #[test]
    fn event_is_the_frame_of_its_action() {
        let fields = r#"{"uId":1,"pId":2,"msg":"hi"}"#;
        assert_eq!(event("Send", &[fields]), ClientFrame::parse(fields));
        for own in [r#""fly""#, "7", "null", "[]"] {
            let with_own = format!(r#"{{"action":{own},"uId":1,"pId":2,"msg":"hi"}}"#);
            assert_eq!(event("send", &[&with_own]), ClientFrame::parse(fields), "{own}");
        }
        assert_eq!(event("Rooms", &[]), Ok(ClientFrame::Request(Request::Rooms)));
        assert_eq!(event("a\"b", &["{ }"]).unwrap_err().code, ErrorCode::UnknownAction);
        assert_eq!(event("Rooms", &["7"]).unwrap_err(), FrameError::for_frame(ErrorCode::Malformed));
    }

    #[test]
    fn send_event_without_object_is_a_failed_send() {
        for argument in [r#""hello""#, "[]", "null", "7", "true"] {
            let error = event("Send", &[argument]).unwrap_err();
            assert_eq!((error.code, error.is_send), (ErrorCode::Malformed, true), "{argument}");
        }
        let error = event("Send", &[]).unwrap_err();
        assert_eq!((error.is_send, codes(&error)), (true, vec![("uId", 7), ("pId", 7), ("msg", 7)]));
        let large = format!(r#"{{"msg":"{}"}}"#, "a".repeat(MAX_FRAME_BYTES));
        let error = event("Send", &[&large]).unwrap_err();
        assert_eq!((error.code, error.is_send), (ErrorCode::TooLarge, true));
    }
}
