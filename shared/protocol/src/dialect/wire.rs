//! Conversion between frames and Socket.IO events.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Dialect, MAX_PACKET_ID, Namespace, SocketIo};
use crate::{
    Position, ServerFrame,
    server_frame::{Callback, json},
};

/// Argument of a v1 `Send` callback.
pub const V1_SEND_CALLBACK_TEXT: &str = "Send Emit is success.";

/// Id of a pushed event whose callback is ignored.
pub const IGNORED_CALLBACK_ID: u64 = 0;

/// An invalid packet in every revision. It makes a client drop the connection and reconnect by its own logic; no valid
/// packet asks for that.
pub const RECONNECT_PACKET: &str = "!";

/// Bits of a packet id that hold the number of a [`Position`]; the rest of [`MAX_PACKET_ID`] holds the run.
const POSITION_NUMBER_BITS: u32 = 27;

impl Position {
    /// Number of runs to draw from: a run and a number must fit into a packet id.
    pub const MAX_RUNS: u32 = 1 << 26;

    /// The position as a packet id, which a client's callback repeats; `None` if the number is too large.
    fn packet_id(self) -> Option<u64> {
        let fits = self.run < Self::MAX_RUNS && self.number < 1 << POSITION_NUMBER_BITS;
        fits.then(|| u64::from(self.run) << POSITION_NUMBER_BITS | self.number)
    }

    /// The position that a callback names.
    #[must_use]
    pub fn from_packet_id(id: u64) -> Option<Self> {
        let run = u32::try_from(id >> POSITION_NUMBER_BITS).ok().filter(|run| *run < Self::MAX_RUNS)?;
        Some(Self { run, number: id & ((1 << POSITION_NUMBER_BITS) - 1) })
    }
}

impl Dialect {
    /// Encodes a frame for a connection of this dialect.
    #[must_use]
    pub fn encode(&self, frame: &ServerFrame) -> String {
        match self {
            Self::Raw => frame.to_text(),
            Self::SocketIo(SocketIo { namespace, .. }) => {
                event_packet(namespace.as_ref().unwrap_or(&Namespace::main()), frame)
            }
        }
    }
}

/// Encodes a frame as an event in that namespace.
///
/// v1 clients may call the callback of a `RESPSEND` or `RESPRECEIVER` without a check, so these have one.
#[must_use]
pub fn event_packet(namespace: &Namespace, frame: &ServerFrame) -> String {
    let id = match frame.callback() {
        Callback::Reply => None,
        Callback::Send(_) => Some(IGNORED_CALLBACK_ID),
        Callback::Ack(position) => position.packet_id(),
    };
    let (prefix, id) = (namespace.prefix(), id.map(|id| id.to_string()).unwrap_or_default());
    format!(r#"42{prefix}{id}["{}",{}]"#, frame.event(), frame.fields())
}

/// The answer to an event with a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackReply {
    /// The packet for the client.
    pub packet: String,
    /// Whether the client gets the frame as an event, too.
    pub event_follows: bool,
}

/// Encodes the reply to an event with a callback.
///
/// The callback of a `Send` is called as v1 clients expect, and only once the message is accepted; the `RESPSEND`
/// follows. Otherwise the `RESPSEND` alone reports the error. Any other callback receives the reply itself.
#[must_use]
pub fn callback_packet(namespace: &Namespace, id: u64, reply: Option<&ServerFrame>) -> CallbackReply {
    let called = |argument: &str| format!("43{}{id}[{argument}]", namespace.prefix());
    match reply.map(|reply| (reply, reply.callback())) {
        None => CallbackReply { packet: called(""), event_follows: false },
        Some((_, Callback::Send(Some(sender)))) => {
            let argument = format!(r#"{{"RESPONSE":{},"uId":{}}}"#, json(&V1_SEND_CALLBACK_TEXT), json(sender));
            CallbackReply { packet: called(&argument), event_follows: true }
        }
        Some((reply, Callback::Send(None) | Callback::Ack(_))) => {
            CallbackReply { packet: event_packet(namespace, reply), event_follows: false }
        }
        Some((reply, Callback::Reply)) => CallbackReply { packet: called(reply.fields()), event_follows: false },
    }
}

/// Authentication object of a revision 4 join request.
#[derive(Deserialize)]
struct Auth {
    token: Option<String>,
}

/// The token in a join request.
#[must_use]
pub fn token_in(auth: &RawValue) -> Option<String> {
    serde_json::from_str::<Auth>(auth.get()).ok()?.token
}

const _: () = assert!(Position::MAX_RUNS as u64 * (1 << POSITION_NUMBER_BITS) - 1 == MAX_PACKET_ID);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ClientFrame, ErrorCode, ErrorFrame, Message, ReceiverFrame, SendReply,
        dialect::{Kind, Packet},
    };

    fn kschat() -> Namespace {
        "/kschat".parse().unwrap()
    }

    fn frame(text: &str) -> ServerFrame {
        ServerFrame::from_text(text).unwrap()
    }

    #[test]
    fn frame_becomes_event_with_payload() {
        let error = frame(r#"{"event":"RESPERROR","RC":1,"ER":6}"#);
        assert_eq!(event_packet(&kschat(), &error), r#"42/kschat,["RESPERROR",{"RC":1,"ER":6}]"#);
        assert_eq!(event_packet(&Namespace::main(), &frame(r#"{"event":"RESPX"}"#)), r#"42["RESPX",{}]"#);
        let text = r#"{"event":"RESPSEND","RC":1,"ER":0}"#;
        assert_eq!(event_packet(&kschat(), &frame(text)), r#"42/kschat,0["RESPSEND",{"RC":1,"ER":0}]"#);
        assert_eq!(Dialect::Raw.encode(&frame(text)), text);
    }

    #[test]
    fn pushed_frame_callback_encodes_position() {
        let place = Position { run: Position::MAX_RUNS - 1, number: (1 << POSITION_NUMBER_BITS) - 1 };
        for place in [place, Position { run: 0, number: 1 }, Position { run: 7, number: 9 }] {
            let text = event_packet(&kschat(), &ReceiverFrame::after(None).finish(place));
            let Ok(Packet::Message(packet)) = Packet::parse(&text) else { panic!("{text}") };
            assert_eq!(packet.id.and_then(Position::from_packet_id), Some(place));
            assert!(matches!(packet.kind, Kind::Event(name, _) if name == "RESPRECEIVER"));
        }
        // Then it is redelivered until a new run begins.
        assert_eq!(Position { run: 1, number: 1 << POSITION_NUMBER_BITS }.packet_id(), None);
        assert_eq!(Position::from_packet_id(u64::MAX), None);
    }

    #[test]
    fn send_callback_matches_v1_server() {
        let text = r#"{"uId":12345,"pId":"bob","msg":"hi","rStatus":1,"msgTime":0,"mId":"m-1"}"#;
        let Ok(ClientFrame::Send(sent)) = ClientFrame::parse(text) else { panic!("{text}") };
        let accepted = SendReply::accepted(Message::from_slice(text.as_bytes()).unwrap(), false).into();
        let reply = callback_packet(&kschat(), 0, Some(&accepted));
        assert_eq!(reply.packet, r#"43/kschat,0[{"RESPONSE":"Send Emit is success.","uId":12345}]"#);
        assert!(reply.event_follows);
        let failed = SendReply::failed(ErrorCode::BrokerUnavailable, sent).into();
        let reply = callback_packet(&kschat(), 0, Some(&failed));
        assert_eq!(reply, CallbackReply { packet: event_packet(&kschat(), &failed), event_follows: false });
        let other = ErrorFrame::new(ErrorCode::Forbidden).into();
        let reply = callback_packet(&Namespace::main(), 7, Some(&other));
        assert!(reply.packet.starts_with(r#"437[{"RC":1,"ER":14"#) && !reply.event_follows, "{reply:?}");
        assert_eq!(callback_packet(&Namespace::main(), 7, None).packet, "437[]");
    }
}
