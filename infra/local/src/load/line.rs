//! One socket, in the dialect of the run: frames go in and come out whatever is on the wire.

use futures_util::SinkExt;
use kschat_protocol::{
    SUBPROTOCOL,
    dialect::{Kind, Packet, SocketPacket},
};
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use yawc::{Frame, HttpRequest, OpCode, TcpWebSocket, WebSocket};

use super::device::{Ended, PATIENCE};

/// What clients speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Dialect {
    /// Frames as they are.
    #[default]
    Raw,
    /// Socket.IO as clients 4.x do: each frame is an event, and every second send has a callback.
    Socketio,
}

/// Where Socket.IO clients listen, as in the guide.
const NAMESPACE: &str = "/kschat";

/// An open socket.
pub(super) struct Line {
    socket: TcpWebSocket,
    dialect: Dialect,
    /// Events that had a callback.
    callbacks: u64,
    events: u64,
}

/// What came over the wire.
pub(super) enum Heard {
    /// A frame.
    Frame(Value),
    /// A question whether we are there.
    Ping,
    /// Nothing that matters.
    Nothing,
}

impl Line {
    /// Connects as a client of version 2.
    pub(super) async fn open(dialect: Dialect, url: &str, token: &str) -> Result<Self, String> {
        let (query, request) = match dialect {
            Dialect::Raw => {
                let offer = format!("{SUBPROTOCOL}, bearer.{token}");
                (String::new(), HttpRequest::builder().header("sec-websocket-protocol", offer))
            }
            Dialect::Socketio => (format!("/?v=2&EIO=4&transport=websocket&token={token}"), HttpRequest::builder()),
        };
        let url = format!("{url}{query}").parse().map_err(|error| format!("{error}"))?;
        let connecting = async {
            let socket = WebSocket::connect(url).with_request(request).await.map_err(|error| error.to_string())?;
            let mut line = Self { socket, dialect, callbacks: 0, events: 0 };
            line.join().await.map_err(|Ended| "the socket ended before the client had joined".to_owned())?;
            Ok(line)
        };
        timeout(PATIENCE, connecting).await.map_err(|_| "no answer to the handshake".to_owned())?
    }

    /// Waits for the first word, and until it is let in.
    async fn join(&mut self) -> Result<(), Ended> {
        if self.dialect == Dialect::Raw {
            return Ok(());
        }
        loop {
            let text = self.text().await?.unwrap_or_default();
            match Packet::parse(&text) {
                Ok(Packet::Open(_)) => self.write(format!("40{NAMESPACE},")).await?,
                Ok(Packet::Message(SocketPacket { kind: Kind::Connect(Some(_)), .. })) => return Ok(()),
                Ok(Packet::Ping(_)) => self.answer_ping().await?,
                _ => return Err(Ended),
            }
        }
    }

    /// Sends a frame.
    pub(super) async fn say(&mut self, frame: &Value) -> Result<(), Ended> {
        if self.dialect == Dialect::Raw {
            return self.write(frame.to_string()).await;
        }
        let mut fields = frame.as_object().cloned().unwrap_or_default();
        let action = fields.remove("action").unwrap_or_default();
        self.events += 1;
        let id = if action == "send" && self.events.is_multiple_of(2) {
            self.callbacks += 1;
            self.callbacks.to_string()
        } else {
            String::new()
        };
        self.write(format!("42{NAMESPACE},{id}{}", json!([action, fields]))).await
    }

    /// Says that we are there.
    pub(super) async fn answer_ping(&mut self) -> Result<(), Ended> {
        self.write("3".to_owned()).await
    }

    /// Waits for something to come. Safe to drop while waiting.
    pub(super) async fn next(&mut self) -> Result<Heard, Ended> {
        let Some(text) = self.text().await? else { return Ok(Heard::Nothing) };
        if self.dialect == Dialect::Raw {
            return Ok(serde_json::from_str(&text).map_or(Heard::Nothing, Heard::Frame));
        }
        match Packet::parse(&text) {
            Ok(Packet::Ping(_)) => Ok(Heard::Ping),
            Ok(Packet::Message(SocketPacket { kind: Kind::Event(name, fields), .. })) => {
                let fields = fields.first().and_then(|fields| serde_json::from_str::<Map<_, _>>(fields.get()).ok());
                let mut frame = fields.unwrap_or_default();
                frame.insert("event".to_owned(), name.into());
                Ok(Heard::Frame(frame.into()))
            }
            Ok(_) => Ok(Heard::Nothing),
            // As the clients do.
            Err(_) => Err(Ended),
        }
    }

    /// Leaves in good order, unless that takes too long.
    pub(super) async fn close(&mut self) {
        // The edge may be gone by now.
        let _ = timeout(PATIENCE, self.socket.close()).await;
    }

    async fn text(&mut self) -> Result<Option<String>, Ended> {
        let frame = self.socket.next_frame().await.map_err(|_| Ended)?;
        let is_text = frame.opcode() == OpCode::Text;
        Ok(is_text.then(|| String::from_utf8_lossy(frame.payload()).into_owned()))
    }

    async fn write(&mut self, text: String) -> Result<(), Ended> {
        match timeout(PATIENCE, self.socket.send(Frame::text(text))).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Ended),
        }
    }
}
