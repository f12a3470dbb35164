//! Client requests other than sends and acks.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    ErrorCode, FieldError, FrameError, JsonId, MessageId, RoomId, UserId,
    client_frame::{FieldErrors, invalid, message_id, read_flag, required, room, user},
    limits::MAX_USERS_PER_REQUEST,
};

/// A client request.
#[derive(Clone, PartialEq, Eq)]
pub enum Request {
    /// Renews the session with a fresh token.
    Auth {
        /// The unverified token.
        token: String,
    },
    /// The user is typing to somebody, or has stopped.
    Typing {
        /// The recipient.
        to: UserId,
        /// Whether typing continues.
        on: bool,
    },
    /// The user has read all messages of a sender.
    Read {
        /// The sender.
        peer: UserId,
        /// The same in the client's JSON type.
        pid: JsonId,
        /// The last message that was read.
        message: MessageId,
    },
    /// Asks how far peers have received and read the user's messages.
    Status {
        /// The peers, each also in the client's JSON type.
        peers: Vec<(JsonId, UserId)>,
    },
    /// Asks who is online, and watches for changes for a while.
    Presence {
        /// The users, each also in the client's JSON type.
        users: Vec<(JsonId, UserId)>,
    },
    /// Joins a room.
    Join {
        /// The room.
        room: RoomId,
        /// The same in the client's JSON type.
        gid: JsonId,
    },
    /// Leaves a room.
    Leave {
        /// The room.
        room: RoomId,
        /// The same in the client's JSON type.
        gid: JsonId,
    },
    /// Lists the user's rooms.
    Rooms,
}

/// Omits tokens and users.
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

/// The raw fields of all requests.
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
    /// Parses the request of that action; the text is already known to be an object with that action.
    pub(crate) fn parse(action: &str, text: &str) -> Result<Self, FrameError> {
        let raw: RawRequest<'_> =
            serde_json::from_str(text).map_err(|_| FrameError::for_frame(ErrorCode::Malformed))?;
        let mut faults = FieldErrors::default();
        let request = match action {
            "auth" => {
                faults.collect_error(required("token", raw.token).and_then(token)).map(|token| Self::Auth { token })
            }
            "typing" => raw.typing(&mut faults),
            "read" => raw.read(&mut faults),
            "status" => raw.status(&mut faults),
            "presence" => raw.presence(&mut faults),
            "join" => raw.room(&mut faults).map(|(gid, room)| Self::Join { room, gid }),
            "leave" => raw.room(&mut faults).map(|(gid, room)| Self::Leave { room, gid }),
            "rooms" => Some(Self::Rooms),
            _ => return Err(FrameError::for_frame(ErrorCode::UnknownAction)),
        };
        request.ok_or_else(|| faults.into_frame_error())
    }
}

impl RawRequest<'_> {
    fn typing(&self, faults: &mut FieldErrors) -> Option<Request> {
        let to = faults.collect_error(required("pId", self.pid).and_then(|raw| user("pId", raw)));
        let on = faults.collect_error(required("on", self.on).and_then(|raw| read_flag("on", raw)));
        Some(Request::Typing { to: to?.1, on: on? })
    }

    fn read(&self, faults: &mut FieldErrors) -> Option<Request> {
        let peer = faults.collect_error(required("pId", self.pid).and_then(|raw| user("pId", raw)));
        let message = faults.collect_error(required("mId", self.mid).and_then(message_id));
        let (pid, peer) = peer?;
        Some(Request::Read { peer, pid, message: message? })
    }

    fn status(&self, faults: &mut FieldErrors) -> Option<Request> {
        let peers = faults.collect_error(required("pIds", self.pids).and_then(|raw| users("pIds", raw)))?;
        Some(Request::Status { peers })
    }

    fn room(&self, faults: &mut FieldErrors) -> Option<(JsonId, RoomId)> {
        faults.collect_error(required("gId", self.gid).and_then(room))
    }

    fn presence(&self, faults: &mut FieldErrors) -> Option<Request> {
        let users = faults.collect_error(required("uIds", self.uids).and_then(|raw| users("uIds", raw)))?;
        Some(Request::Presence { users })
    }
}

/// Parses a list of users.
fn users(field: &'static str, raw: &RawValue) -> Result<Vec<(JsonId, UserId)>, FieldError> {
    let list: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|_| invalid(field, "must be an array"))?;
    if !(1..=MAX_USERS_PER_REQUEST).contains(&list.len()) {
        return Err(invalid(field, format!("must name 1 to {MAX_USERS_PER_REQUEST} users")));
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
    fn request_parses_and_reports_invalid_field() {
        let token = "ey".to_owned();
        assert_eq!(request(r#"{"action":"auth","token":"ey"}"#), Ok(Request::Auth { token }));
        for wrong in [r#"{"action":"auth"}"#, r#"{"action":"auth","token":7}"#] {
            let error = request(wrong).unwrap_err();
            assert_eq!((error.code, error.fields[0].field, error.is_send), (ErrorCode::InvalidField, "token", false));
        }
        let to = UserId::try_from("7").unwrap();
        assert_eq!(request(r#"{"action":"typing","pId":7,"on":false}"#), Ok(Request::Typing { to, on: false }));
        let error = request(r#"{"action":"typing","pId":"","on":1}"#).unwrap_err();
        assert_eq!(error.fields.iter().map(|fault| fault.field).collect::<Vec<_>>(), ["pId", "on"]);
        for wrong in ["7", "[]", "[1.5]", "[\"\"]", &format!("[7{}]", ",7".repeat(MAX_USERS_PER_REQUEST))] {
            let error = request(&format!(r#"{{"action":"status","pIds":{wrong}}}"#)).unwrap_err();
            assert_eq!((error.code, error.fields[0].field), (ErrorCode::InvalidField, "pIds"), "{wrong}");
        }
        assert_eq!(request(r#"{"action":"fly"}"#).unwrap_err().code, ErrorCode::UnknownAction);
        assert_eq!(request(r#"{"action":"auth","token":"a","token":"b"}"#).unwrap_err().code, ErrorCode::Malformed);
    }

    #[test]
    fn auth_request_debug_hides_token() {
        assert_eq!(format!("{:?}", Request::Auth { token: "secret".to_owned() }), "Auth");
    }
}
