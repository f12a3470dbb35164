//! Between frames and events.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Dialect, MAX_PACKET_ID, Namespace, SocketIo};
use crate::{JsonId, Position, server::json};

/// Before the name of every frame to a client.
const HEAD: &str = r#"{"event":""#;

/// Frames that the seed's server sends with a callback: its clients may call it without looking.
const WITH_CALLBACK: [&str; 2] = ["RESPSEND", "RESPRECEIVER"];

/// What the callback of a `Send` is told, as by the seed.
pub const SENT: &str = "Send Emit is success.";

/// The id of a pushed event whose callback tells us nothing.
pub const CALLBACK: u64 = 0;

/// No packet of any revision: a client that gets it gives the connection up and makes a new one by its own logic, which
/// is the one thing that no packet asks of it.
pub const RESTART: &str = "!";

/// Bits of a packet's id for the number of a [`Position`]; what is left of [`MAX_PACKET_ID`] is for the run.
const NUMBER_BITS: u32 = 27;

impl Position {
    /// How many runs there are to draw from: a run and a number have to fit into a packet's id.
    pub const RUNS: u32 = 1 << 26;

    /// The place as the id of a packet, so that a client's callback names it; `None` where it is too far on.
    fn packet_id(self) -> Option<u64> {
        let fits = self.run < Self::RUNS && self.number < 1 << NUMBER_BITS;
        fits.then(|| u64::from(self.run) << NUMBER_BITS | self.number)
    }

    /// The place that a callback names.
    #[must_use]
    pub fn from_packet_id(id: u64) -> Option<Self> {
        let run = u32::try_from(id >> NUMBER_BITS).ok().filter(|run| *run < Self::RUNS)?;
        Some(Self { run, number: id & ((1 << NUMBER_BITS) - 1) })
    }

    /// The place of the last message of a `RESPRECEIVER`.
    fn in_frame(frame: &str) -> Option<Self> {
        let (_, position) = frame.strip_suffix("\"}")?.rsplit_once(r#"],"POS":""#)?;
        position.parse().ok()
    }
}

impl Dialect {
    /// A frame as this connection gets it.
    #[must_use]
    pub fn encode<'a>(&self, frame: &'a str) -> Cow<'a, str> {
        match self {
            Self::Raw => Cow::Borrowed(frame),
            Self::SocketIo(SocketIo { namespace, .. }) => {
                Cow::Owned(as_event(namespace.as_ref().unwrap_or(&Namespace::main()), frame))
            }
        }
    }
}

/// The event of a frame, in that namespace.
#[must_use]
pub fn as_event(namespace: &Namespace, frame: &str) -> String {
    let (prefix, (name, fields)) = (namespace.prefix(), parts(frame));
    let id =
        WITH_CALLBACK.contains(&name).then(|| Position::in_frame(frame).map_or(Some(CALLBACK), Position::packet_id));
    let id = id.flatten().map(|id| id.to_string()).unwrap_or_default();
    format!(r#"42{prefix}{id}["{name}",{fields}]"#)
}

/// The name and the other fields of a frame.
fn parts(frame: &str) -> (&str, Cow<'_, str>) {
    let named = frame.strip_prefix(HEAD).and_then(|rest| rest.split_once('"'));
    match named.map(|(name, rest)| (name, rest.strip_prefix(','))) {
        Some((name, Some(fields))) => (name, Cow::Owned(format!("{{{fields}"))),
        Some((name, None)) => (name, Cow::Borrowed("{}")),
        // Every frame of ours has a name; Socket.IO's own is for what has none.
        None => ("message", Cow::Owned(json(&frame))),
    }
}

/// The frame that an event stands for: its name is the action. `None` if it carries something else than an object.
#[must_use]
pub fn as_frame(name: &str, arguments: &[&RawValue]) -> Option<String> {
    let action = json(&name.to_lowercase());
    let fields = match arguments.first() {
        None => "}",
        Some(object) => object.get().strip_prefix('{')?.trim_start(),
    };
    let comma = if fields.starts_with('}') { "" } else { "," };
    Some(format!(r#"{{"action":{action}{comma}{fields}"#))
}

/// What the sender of a `Send` is told at once.
#[derive(Deserialize)]
struct Sent<'a> {
    #[serde(rename = "ER")]
    er: u16,
    #[serde(borrow, rename = "SID")]
    sid: Option<&'a RawValue>,
}

/// What a client of revision 4 may say at the door of a namespace.
#[derive(Deserialize)]
struct Auth {
    token: Option<String>,
}

/// The token that a client brings with it when it asks to be let in.
#[must_use]
pub fn token_in(auth: &RawValue) -> Option<String> {
    serde_json::from_str::<Auth>(auth.get()).ok()?.token
}

/// The answer to an event that has a callback, and whose client the reply has to follow to as an event of its own.
///
/// The callback of a `Send` is called as by the seed's server, and only once the message is accepted; a message that is
/// not accepted is told by the `RESPSEND` alone. Any other callback is given the reply itself.
#[must_use]
pub fn reply_to(namespace: &Namespace, id: u64, reply: Option<&str>) -> (String, Option<JsonId>) {
    let prefix = namespace.prefix();
    let Some(reply) = reply else { return (format!("43{prefix}{id}[]"), None) };
    let (name, fields) = parts(reply);
    if name != "RESPSEND" {
        return (format!("43{prefix}{id}[{fields}]"), None);
    }
    match serde_json::from_str(reply) {
        Ok(Sent { er: 0, sid: Some(sid) }) => (
            format!(r#"43{prefix}{id}[{{"RESPONSE":{},"uId":{sid}}}]"#, json(&SENT)),
            serde_json::from_str(sid.get()).ok(),
        ),
        _ => (as_event(namespace, reply), None),
    }
}

const _: () = assert!(Position::RUNS as u64 * (1 << NUMBER_BITS) - 1 == MAX_PACKET_ID);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::{Kind, Packet};

    fn kschat() -> Namespace {
        "/kschat".parse().unwrap()
    }

    #[test]
    fn a_frame_is_the_event_of_its_name_with_the_rest() {
        let error = r#"{"event":"RESPERROR","RC":1,"ER":6}"#;
        assert_eq!(as_event(&kschat(), error), r#"42/kschat,["RESPERROR",{"RC":1,"ER":6}]"#);
        assert_eq!(as_event(&Namespace::main(), r#"{"event":"RESPX"}"#), r#"42["RESPX",{}]"#);
        assert_eq!(as_event(&Namespace::main(), "odd \"text\""), r#"42["message","odd \"text\""]"#);
        let sent = r#"{"event":"RESPSEND","RC":1,"ER":0}"#;
        assert_eq!(as_event(&kschat(), sent), r#"42/kschat,0["RESPSEND",{"RC":1,"ER":0}]"#);
        assert_eq!(Dialect::Raw.encode(sent), sent);
    }

    #[test]
    fn the_callback_of_a_pushed_frame_names_its_place() {
        let place = Position { run: Position::RUNS - 1, number: (1 << NUMBER_BITS) - 1 };
        for place in [place, Position { run: 0, number: 1 }, Position { run: 7, number: 9 }] {
            let frame = format!(r#"{{"event":"RESPRECEIVER","RC":1,"ER":0,"MSG":[{{"msg":"],"}}],"POS":"{place}"}}"#);
            let text = as_event(&kschat(), &frame);
            let Ok(Packet::Message(packet)) = Packet::parse(&text) else { panic!("{text}") };
            assert_eq!(packet.id.and_then(Position::from_packet_id), Some(place));
            assert!(matches!(packet.kind, Kind::Event(name, _) if name == "RESPRECEIVER"));
        }
        // Then it is pushed again, until a new run has begun.
        assert_eq!(Position { run: 1, number: 1 << NUMBER_BITS }.packet_id(), None);
        assert_eq!(Position::from_packet_id(u64::MAX), None);
    }

    #[test]
    fn an_event_is_the_frame_of_its_action() {
        let read = |text: &str| match Packet::parse(text) {
            Ok(Packet::Message(packet)) => match packet.kind {
                Kind::Event(name, arguments) => as_frame(&name, &arguments),
                _ => None,
            },
            _ => None,
        };
        assert_eq!(read(r#"42["Send",{"uId":1}]"#).as_deref(), Some(r#"{"action":"send","uId":1}"#));
        assert_eq!(read(r#"42["Rooms"]"#).as_deref(), Some(r#"{"action":"rooms"}"#));
        assert_eq!(read(r#"42["a\"b",{ }]"#).as_deref(), Some(r#"{"action":"a\"b"}"#));
        assert_eq!(read(r#"42["Send",7]"#), None);
    }

    #[test]
    fn the_callback_of_a_send_is_called_as_by_the_seed() {
        let accepted = r#"{"event":"RESPSEND","RC":1,"ER":0,"SID":12345,"RID":"bob"}"#;
        let told = r#"43/kschat,0[{"RESPONSE":"Send Emit is success.","uId":12345}]"#;
        let sender = serde_json::from_str("12345").unwrap();
        assert_eq!(reply_to(&kschat(), 0, Some(accepted)), (told.to_owned(), Some(sender)));
        let failed = r#"{"event":"RESPSEND","RC":1,"ER":2,"SID":12345}"#;
        assert_eq!(reply_to(&kschat(), 0, Some(failed)), (as_event(&kschat(), failed), None));
        let other = r#"{"event":"RESPPRESENCE","RC":1,"ER":0}"#;
        assert_eq!(reply_to(&Namespace::main(), 7, Some(other)), (r#"437[{"RC":1,"ER":0}]"#.to_owned(), None));
        assert_eq!(reply_to(&Namespace::main(), 7, None), ("437[]".to_owned(), None));
    }
}
