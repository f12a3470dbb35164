//! Frames that a client sends.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Er, InvalidPosition, JsonId, MessageId, Position, Request, RoomId, TraceContext, UserId,
    limits::{MAX_FRAME, MAX_MESSAGE_ID, MAX_MSG, MAX_RNO},
};

/// One thing that is wrong with one field: an item of `ERRS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field's name.
    #[serde(rename = "F")]
    pub field: &'static str,
    /// Its code.
    #[serde(rename = "ER")]
    pub code: Er,
    /// What would be right.
    #[serde(rename = "T")]
    pub text: String,
}

/// Why a client's frame was refused before anything was done with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", code.text())]
pub struct FrameError {
    /// The code of the whole frame.
    pub code: Er,
    /// Each field that is wrong, all at once.
    pub fields: Vec<FieldError>,
    /// The sender's `rno`, if it could be read: the reply carries it back.
    pub rno: Option<JsonId>,
    /// Whether the frame meant to be a send: then the refusal is a `RESPSEND`, else a `RESPERROR`.
    pub is_send: bool,
}

impl FrameError {
    pub(crate) fn whole(code: Er) -> Self {
        Self { code, fields: Vec::new(), rno: None, is_send: false }
    }
}

/// What a client can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame {
    /// Here is a message.
    Send(SendFrame),
    /// I have these messages.
    Ack(AckFrame),
    /// Please do this.
    Request(Request),
}

impl ClientFrame {
    /// Reads a frame from any route.
    ///
    /// The seed's bare `{uId,pId,msg,rno,time}` is a send too. `time` is the client's own clock and only
    /// advisory, so it is not looked at. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`FrameError`] with the code of the first of: too large, not a JSON object, an unknown action, wrong
    /// fields (all of them).
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        if text.len() > MAX_FRAME {
            return Err(FrameError::whole(Er::TooLarge));
        }
        let raw: RawFrame<'_> = read_object(text).ok_or_else(|| FrameError::whole(Er::Malformed))?;
        match raw.action() {
            Some(Action::Send) => raw.check_send().map(Self::Send),
            Some(Action::Ack) => raw.check_ack().map(Self::Ack),
            Some(Action::Other(name)) => Request::parse(&name, text).map(Self::Request),
            None => Err(FrameError::whole(Er::UnknownAction)),
        }
    }
}

/// What a client has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckFrame {
    /// The last message of those, which stands for all that came before it; `None` from a client that has got none.
    pub message: Option<MessageId>,
    /// Where the frame stood that brought it: which copy of the message is meant.
    pub position: Option<Position>,
    /// Whether the client has missed one: it asks for all that it has not acknowledged.
    pub again: bool,
}

/// A message that its sender asks us to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendFrame {
    /// Who the frame says is sending. Only the session tells who is.
    pub claimed_sender: UserId,
    /// The same in the sender's JSON type.
    pub uid: JsonId,
    /// Who shall get it.
    pub recipient: Recipient,
    /// The same in the sender's JSON type.
    pub pid: JsonId,
    /// What it says.
    pub msg: String,
    /// The number the client drew: see [`crate::Version`] for its two meanings.
    pub rno: Option<JsonId>,
    /// The trace that the client says it belongs to. One that is not valid is ignored.
    pub trace: Option<TraceContext>,
}

/// Who shall get a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// One user.
    User(UserId),
    /// Everybody in a room.
    Room(RoomId),
}

/// The fields of every frame, each kept as it came, so that every fault can be told at once.
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

/// Reads an object and nothing else: serde would fill a struct from an array, too.
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
        let name: String = serde_json::from_str(action.get()).ok()?;
        Some(match name.as_str() {
            "send" => Action::Send,
            "ack" => Action::Ack,
            _ => Action::Other(name),
        })
    }

    fn check_ack(&self) -> Result<AckFrame, FrameError> {
        let mut faults = Faults::default();
        let again = self.again.and_then(|raw| faults.keep(switch("again", raw))).unwrap_or_default();
        let position = self.pos.and_then(|raw| faults.keep(position(raw)));
        let message = match self.mid {
            None if again => None,
            mid => faults.keep(required("mId", mid).and_then(message_id)),
        };
        if faults.0.is_empty() { Ok(AckFrame { message, position, again }) } else { Err(faults.into_refusal()) }
    }

    fn check_send(&self) -> Result<SendFrame, FrameError> {
        let mut faults = Faults::default();
        let rno = self.rno.and_then(|raw| faults.keep(rno(raw)));
        let uid = faults.keep(required("uId", self.uid).and_then(|raw| user("uId", raw)));
        let pid = faults.keep(self.recipient());
        let msg = faults.keep(required("msg", self.msg).and_then(message));
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

/// Gathers what is wrong while the other fields are still being read.
#[derive(Default)]
pub(crate) struct Faults(Vec<FieldError>);

impl Faults {
    pub(crate) fn keep<T>(&mut self, field: Result<T, FieldError>) -> Option<T> {
        field.map_err(|fault| self.0.push(fault)).ok()
    }

    /// The refusal of what is no send.
    pub(crate) fn into_refusal(self) -> FrameError {
        FrameError { fields: self.0, ..FrameError::whole(Er::InvalidField) }
    }

    fn into_error(self, rno: Option<JsonId>) -> FrameError {
        let only_size = self.0.iter().all(|fault| fault.code == Er::TooLarge);
        let code = if only_size { Er::TooLarge } else { Er::InvalidField };
        FrameError { code, fields: self.0, rno, is_send: true }
    }
}

pub(crate) fn invalid(field: &'static str, text: impl Into<String>) -> FieldError {
    FieldError { field, code: Er::InvalidField, text: text.into() }
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

/// The field `gId`.
pub(crate) fn room(raw: &RawValue) -> Result<(JsonId, RoomId), FieldError> {
    let id = id("gId", raw)?;
    let room = RoomId::try_from(&id).map_err(|error| invalid("gId", error.to_string()))?;
    Ok((id, room))
}

fn rno(raw: &RawValue) -> Result<JsonId, FieldError> {
    let rno = id("rno", raw)?;
    if matches!(&rno, JsonId::Text(text) if text.is_empty() || text.len() > MAX_RNO) {
        return Err(invalid("rno", format!("must be 1 to {MAX_RNO} bytes")));
    }
    Ok(rno)
}

pub(crate) fn message_id(raw: &RawValue) -> Result<MessageId, FieldError> {
    let id = serde_json::from_str::<String>(raw.get()).ok().filter(|id| !id.is_empty() && id.len() <= MAX_MESSAGE_ID);
    id.map(MessageId::from).ok_or_else(|| invalid("mId", format!("must be a string of 1 to {MAX_MESSAGE_ID} bytes")))
}

fn position(raw: &RawValue) -> Result<Position, FieldError> {
    let text: Option<String> = serde_json::from_str(raw.get()).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| invalid("pos", InvalidPosition.to_string()))
}

pub(crate) fn switch(field: &'static str, raw: &RawValue) -> Result<bool, FieldError> {
    serde_json::from_str(raw.get()).map_err(|_| invalid(field, "must be true or false"))
}

fn message(raw: &RawValue) -> Result<String, FieldError> {
    let msg: String = serde_json::from_str(raw.get()).map_err(|_| invalid("msg", "must be a string"))?;
    if msg.is_empty() {
        return Err(invalid("msg", "must not be empty"));
    }
    // The size counts as we will write it: escapes that the client chose to use cost nothing.
    if raw.get().len() > MAX_MSG && crate::server::json(&msg).len() > MAX_MSG {
        let text = format!("must be at most {MAX_MSG} bytes as a JSON string");
        return Err(FieldError { field: "msg", code: Er::TooLarge, text });
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
    fn a_frame_with_an_action_and_the_seeds_bare_frame_are_the_same_send() {
        let bare = r#"{"uId":1,"pId":"bob","msg":"hi","rno":42,"time":1700000000}"#;
        let routed = r#"{"action":"send","uId":1,"pId":"bob","msg":"hi","rno":42,"time":1700000000}"#;
        let frame = send(bare).unwrap();
        assert_eq!(frame, send(routed).unwrap());
        assert_eq!(frame.claimed_sender.as_str(), "1");
        assert_eq!(frame.recipient, Recipient::User(UserId::try_from("bob").unwrap()));
        assert_eq!(frame.rno.unwrap().to_string(), "42");
    }

    #[test]
    fn a_send_says_which_trace_it_belongs_to_and_a_wrong_one_costs_it_nothing() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = |parent: &str| {
            send(&format!(r#"{{"uId":1,"pId":2,"msg":"hi","traceparent":{parent},"tracestate":"a=1"}}"#)).unwrap().trace
        };
        let trace = traced(&format!("{parent:?}")).unwrap();
        assert_eq!((trace.traceparent().as_str(), trace.tracestate()), (parent, Some("a=1")));
        assert_eq!([traced("7"), traced("null"), traced("\"00-x\"")], [None, None, None]);
    }

    #[test]
    fn every_wrong_field_is_told_at_once_and_the_rno_is_kept() {
        let error = send(r#"{"action":"send","uId":1.5,"msg":7,"rno":"r1"}"#).unwrap_err();
        assert_eq!(error.code, Er::InvalidField);
        assert_eq!(codes(&error), [("uId", 7), ("pId", 7), ("msg", 7)]);
        assert_eq!(error.rno, Some(JsonId::Text("r1".into())));
        assert!(error.is_send);
    }

    #[test]
    fn what_is_no_object_is_malformed() {
        for text in ["", "x", "7", "null", "\"send\"", "[]", "[1,2,3,4,5]", "{", r#"{"uId":1,"uId":2}"#] {
            assert_eq!(send(text).unwrap_err().code, Er::Malformed, "{text}");
        }
    }

    #[test]
    fn what_is_no_send_is_an_unknown_action() {
        for text in ["{}", r#"{"action":"dance"}"#, r#"{"action":7,"uId":1}"#, r#"{"hello":"world"}"#] {
            let error = send(text).unwrap_err();
            assert_eq!((error.code, error.is_send), (Er::UnknownAction, false), "{text}");
        }
    }

    #[test]
    fn an_ack_names_a_message() {
        let ack = ClientFrame::parse(r#"{"action":"ack","mId":"m-1"}"#).unwrap();
        let message = Some(MessageId::from("m-1".to_owned()));
        assert_eq!(ack, ClientFrame::Ack(AckFrame { message, position: None, again: false }));
        let long = format!(r#"{{"action":"ack","mId":"{}"}}"#, "x".repeat(MAX_MESSAGE_ID + 1));
        for text in [r#"{"action":"ack"}"#, r#"{"action":"ack","mId":7}"#, r#"{"action":"ack","mId":""}"#, &long] {
            let error = ClientFrame::parse(text).unwrap_err();
            assert_eq!(
                (error.code, codes(&error), error.is_send),
                (Er::InvalidField, vec![("mId", 7)], false),
                "{text}"
            );
        }
    }

    #[test]
    fn who_has_missed_something_may_have_got_nothing_yet() {
        let parse = |text: &str| ClientFrame::parse(text);
        let message = Some(MessageId::from("m-1".to_owned()));
        let both = parse(r#"{"action":"ack","mId":"m-1","again":true}"#).unwrap();
        assert_eq!(both, ClientFrame::Ack(AckFrame { message, position: None, again: true }));
        let nothing = parse(r#"{"action":"ack","again":true}"#).unwrap();
        assert_eq!(nothing, ClientFrame::Ack(AckFrame { message: None, position: None, again: true }));
        let placed = parse(r#"{"action":"ack","mId":"m-1","pos":"0000002a.7"}"#).unwrap();
        let position = Some(Position { run: 42, number: 7 });
        let message = Some(MessageId::from("m-1".to_owned()));
        assert_eq!(placed, ClientFrame::Ack(AckFrame { message, position, again: false }));
        let error = parse(r#"{"action":"ack","again":1,"pos":"here"}"#).unwrap_err();
        assert_eq!(codes(&error), [("again", 7), ("pos", 7), ("mId", 7)]);
    }

    #[test]
    fn a_message_is_measured_as_it_will_be_written() {
        let sized = |msg: &str| send(&format!(r#"{{"uId":1,"pId":2,"msg":"{msg}"}}"#));
        assert!(sized(&"a".repeat(MAX_MSG - 2)).is_ok());
        let error = sized(&"a".repeat(MAX_MSG - 1)).unwrap_err();
        assert_eq!((error.code, codes(&error)), (Er::TooLarge, vec![("msg", 8)]));
        assert!(sized(&r"\u0061".repeat(5000)).is_ok(), "an escaped letter counts once");
        assert_eq!(sized(&"a".repeat(MAX_FRAME)).unwrap_err().code, Er::TooLarge);
    }
}
