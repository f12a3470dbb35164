//! What a client can ask for, apart from sending and acknowledging.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Er, FieldError, FrameError, JsonId, MessageId, RoomId, UserId,
    client::{Faults, invalid, message_id, required, room, switch, user},
    limits::MAX_ASKED,
};

/// One thing that a client asks for.
#[derive(Clone, PartialEq, Eq)]
pub enum Request {
    /// Here is a fresh token of mine: let me go on.
    Auth {
        /// The token, before anything in it is believed.
        token: String,
    },
    /// I am writing to somebody, or have stopped.
    Typing {
        /// To whom.
        to: UserId,
        /// Whether it goes on.
        on: bool,
    },
    /// I have read all that somebody sent to me.
    Read {
        /// Who sent it.
        peer: UserId,
        /// The same in the client's JSON type.
        pid: JsonId,
        /// Up to which message.
        message: MessageId,
    },
    /// How much of what I sent to them have these got and read?
    Status {
        /// Each of them, also in the client's JSON type.
        peers: Vec<(JsonId, UserId)>,
    },
    /// Who of these is there? Tell me for a while when that changes.
    Presence {
        /// Each of them, also in the client's JSON type.
        users: Vec<(JsonId, UserId)>,
    },
    /// Let me hear what is said in a room.
    Join {
        /// Which one.
        room: RoomId,
        /// The same in the client's JSON type.
        gid: JsonId,
    },
    /// I do not want to hear it any more.
    Leave {
        /// Which one.
        room: RoomId,
        /// The same in the client's JSON type.
        gid: JsonId,
    },
    /// In which rooms am I?
    Rooms,
}

/// Shows neither tokens nor users.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auth { .. } => f.write_str("Auth"),
            Self::Typing { .. } => f.write_str("Typing"),
            Self::Read { .. } => f.write_str("Read"),
            Self::Status { .. } => f.write_str("Status"),
            Self::Presence { .. } => f.write_str("Presence"),
            Self::Join { .. } => f.write_str("Join"),
            Self::Leave { .. } => f.write_str("Leave"),
            Self::Rooms => f.write_str("Rooms"),
        }
    }
}

/// The fields of all requests, each kept as it came.
#[derive(Deserialize)]
struct RawRequest<'a> {
    #[serde(borrow)]
    token: Option<&'a RawValue>,
    #[serde(borrow, rename = "pId")]
    pid: Option<&'a RawValue>,
    #[serde(borrow, rename = "pIds")]
    pids: Option<&'a RawValue>,
    #[serde(borrow, rename = "gId")]
    gid: Option<&'a RawValue>,
    #[serde(borrow, rename = "uIds")]
    uids: Option<&'a RawValue>,
    #[serde(borrow, rename = "mId")]
    mid: Option<&'a RawValue>,
    #[serde(borrow)]
    on: Option<&'a RawValue>,
}

impl Request {
    /// Reads the request of that name; the text was found to be an object with that action before.
    pub(crate) fn parse(action: &str, text: &str) -> Result<Self, FrameError> {
        let raw: RawRequest<'_> = serde_json::from_str(text).map_err(|_| FrameError::whole(Er::Malformed))?;
        let mut faults = Faults::default();
        let request = match action {
            "auth" => faults.keep(required("token", raw.token).and_then(token)).map(|token| Self::Auth { token }),
            "typing" => raw.typing(&mut faults),
            "read" => raw.read(&mut faults),
            "status" => raw.status(&mut faults),
            "presence" => raw.presence(&mut faults),
            "join" => raw.room(&mut faults).map(|(gid, room)| Self::Join { room, gid }),
            "leave" => raw.room(&mut faults).map(|(gid, room)| Self::Leave { room, gid }),
            "rooms" => Some(Self::Rooms),
            _ => return Err(FrameError::whole(Er::UnknownAction)),
        };
        request.ok_or_else(|| faults.into_refusal())
    }
}

impl RawRequest<'_> {
    fn typing(&self, faults: &mut Faults) -> Option<Request> {
        let to = faults.keep(required("pId", self.pid).and_then(|raw| user("pId", raw)));
        let on = faults.keep(required("on", self.on).and_then(|raw| switch("on", raw)));
        Some(Request::Typing { to: to?.1, on: on? })
    }

    fn read(&self, faults: &mut Faults) -> Option<Request> {
        let peer = faults.keep(required("pId", self.pid).and_then(|raw| user("pId", raw)));
        let message = faults.keep(required("mId", self.mid).and_then(message_id));
        let (pid, peer) = peer?;
        Some(Request::Read { peer, pid, message: message? })
    }

    fn status(&self, faults: &mut Faults) -> Option<Request> {
        let peers = faults.keep(required("pIds", self.pids).and_then(|raw| users("pIds", raw)))?;
        Some(Request::Status { peers })
    }

    fn room(&self, faults: &mut Faults) -> Option<(JsonId, RoomId)> {
        faults.keep(required("gId", self.gid).and_then(room))
    }

    fn presence(&self, faults: &mut Faults) -> Option<Request> {
        let users = faults.keep(required("uIds", self.uids).and_then(|raw| users("uIds", raw)))?;
        Some(Request::Presence { users })
    }
}

/// A list of users.
fn users(field: &'static str, raw: &RawValue) -> Result<Vec<(JsonId, UserId)>, FieldError> {
    let list: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|_| invalid(field, "must be an array"))?;
    if !(1..=MAX_ASKED).contains(&list.len()) {
        return Err(invalid(field, format!("must name 1 to {MAX_ASKED} users")));
    }
    list.into_iter().map(|raw| user(field, raw)).collect()
}

fn token(raw: &RawValue) -> Result<String, FieldError> {
    serde_json::from_str(raw.get()).map_err(|_| invalid("token", "must be a string"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClientFrame;

    fn request(text: &str) -> Result<Request, FrameError> {
        ClientFrame::parse(text).map(|frame| match frame {
            ClientFrame::Request(request) => request,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn a_request_is_read_by_its_action_and_a_wrong_field_is_told() {
        let token = "ey".to_owned();
        assert_eq!(request(r#"{"action":"auth","token":"ey"}"#), Ok(Request::Auth { token }));
        for wrong in [r#"{"action":"auth"}"#, r#"{"action":"auth","token":7}"#] {
            let error = request(wrong).unwrap_err();
            assert_eq!((error.code, error.fields[0].field, error.is_send), (Er::InvalidField, "token", false));
        }
        let to = UserId::try_from("7").unwrap();
        assert_eq!(request(r#"{"action":"typing","pId":7,"on":false}"#), Ok(Request::Typing { to, on: false }));
        let error = request(r#"{"action":"typing","pId":"","on":1}"#).unwrap_err();
        assert_eq!(error.fields.iter().map(|fault| fault.field).collect::<Vec<_>>(), ["pId", "on"]);
        for wrong in ["7", "[]", "[1.5]", "[\"\"]", &format!("[7{}]", ",7".repeat(MAX_ASKED))] {
            let error = request(&format!(r#"{{"action":"status","pIds":{wrong}}}"#)).unwrap_err();
            assert_eq!((error.code, error.fields[0].field), (Er::InvalidField, "pIds"), "{wrong}");
        }
        assert_eq!(request(r#"{"action":"fly"}"#).unwrap_err().code, Er::UnknownAction);
        assert_eq!(request(r#"{"action":"auth","token":"a","token":"b"}"#).unwrap_err().code, Er::Malformed);
    }

    #[test]
    fn a_token_is_not_shown_by_chance() {
        assert_eq!(format!("{:?}", Request::Auth { token: "secret".to_owned() }), "Auth");
    }
}
