//! Conversion between frames and the texts on the socket.

use kschat_protocol::dialect::{InvalidPacket, Kind, Packet, SocketPacket};
use serde_json::{Map, Value, json};

use crate::frame::ClientFrame;

/// Namespace of Socket.IO clients, as in the guide.
const NAMESPACE: &str = "/kschat";

/// The dialect of a connection, and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Raw frames.
    Raw,
    /// Socket.IO as clients 4.x use it: each frame is an event, and every second send has a callback.
    SocketIo {
        /// Number of events sent.
        events: u64,
        /// Number of events that had a callback.
        callbacks: u64,
    },
}

/// A text from the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// A frame.
    Frame(Value),
    /// The session is open: the client joins the namespace.
    Open,
    /// The client has joined the namespace.
    Joined,
    /// A ping that wants an answer.
    Ping,
    /// Nothing of interest.
    Ignored,
}

impl Codec {
    pub(crate) const fn socket_io() -> Self {
        Self::SocketIo { events: 0, callbacks: 0 }
    }

    /// The text that sends a frame.
    pub(crate) fn encode(&mut self, frame: &ClientFrame) -> String {
        let Self::SocketIo { events, callbacks } = self else { return frame.to_text() };
        let mut fields = match serde_json::to_value(frame) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        let action = fields.remove("action").unwrap_or_default();
        *events += 1;
        let has_callback = matches!(frame, ClientFrame::Send(_)) && events.is_multiple_of(2);
        let id = if has_callback {
            *callbacks += 1;
            callbacks.to_string()
        } else {
            String::new()
        };
        format!("42{NAMESPACE},{id}{}", json!([action, fields]))
    }

    /// Interprets a text.
    ///
    /// # Errors
    /// [`InvalidPacket`]: Socket.IO clients then end the connection.
    pub(crate) fn decode(&self, text: &str) -> Result<Decoded, InvalidPacket> {
        if *self == Self::Raw {
            return Ok(serde_json::from_str(text).map_or(Decoded::Ignored, Decoded::Frame));
        }
        Ok(match Packet::parse(text)? {
            Packet::Open(_) => Decoded::Open,
            Packet::Ping(_) => Decoded::Ping,
            Packet::Message(SocketPacket { kind: Kind::Connect(Some(_)), .. }) => Decoded::Joined,
            Packet::Message(SocketPacket { kind: Kind::Event(name, fields), .. }) => {
                let fields = fields.first().and_then(|fields| serde_json::from_str::<Map<_, _>>(fields.get()).ok());
                let mut frame = fields.unwrap_or_default();
                frame.insert("event".to_owned(), name.into());
                Decoded::Frame(frame.into())
            }
            _ => Decoded::Ignored,
        })
    }

    /// The packet that joins the namespace.
    pub(crate) fn join_packet() -> String {
        format!("40{NAMESPACE},")
    }

    /// The packet that answers a ping.
    pub(crate) fn pong_packet() -> String {
        "3".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Ack, SendRequest};

    fn send() -> ClientFrame {
        let text = |text: &str| text.to_owned();
        ClientFrame::Send(SendRequest {
            sender: text("a"),
            recipient: text("b"),
            msg: text("hi"),
            rno: text("r"),
            time: 1,
        })
    }

    #[test]
    fn every_second_socket_io_send_has_callback() {
        let mut codec = Codec::socket_io();
        let text = codec.encode(&send());
        assert!(text.starts_with(r#"42/kschat,["send",{"#) && !text.contains("action"), "{text}");
        assert!(codec.encode(&send()).starts_with(r#"42/kschat,1["send",{"#));
        assert_eq!(codec.encode(&ClientFrame::Ack(Ack::default())), r#"42/kschat,["ack",{}]"#);
        assert!(codec.encode(&send()).starts_with(r#"42/kschat,2["send",{"#));
    }

    #[test]
    fn both_dialects_decode_to_same_frame() {
        let frame = json!({ "event": "RESPSEND", "ER": 0 });
        assert_eq!(Codec::Raw.decode(&frame.to_string()), Ok(Decoded::Frame(frame.clone())));
        let codec = Codec::socket_io();
        assert_eq!(codec.decode(r#"42/kschat,["RESPSEND",{"ER":0}]"#), Ok(Decoded::Frame(frame)));
        assert_eq!(codec.decode("2"), Ok(Decoded::Ping));
        assert_eq!(codec.decode(r#"40/kschat,{"sid":"x"}"#), Ok(Decoded::Joined));
        assert!(codec.decode("{").is_err());
    }
}
