//! A client of any contender.

use std::{io, sync::Arc};

use kschat_adapters::tls::client_config;
use kschat_client::{
    Ack, AckCursor, ClientFrame, ConnectRequest, Connection, ConnectionEnded, Received, SendRequest, ServerFrame,
};
use kschat_protocol::JsonId;
use tokio::time::{Duration, Instant, timeout};

use super::{
    Protocol,
    mqtt::{MqttConnection, MqttPacket},
};
use crate::{EVENTUALLY_TIMEOUT, client::token, stack::SECRET};

/// Messages per ack, as the protocol recommends.
const MESSAGES_PER_ACK: usize = 16;

/// The longest delay of an ack for fewer messages.
const MAX_ACK_DELAY: Duration = Duration::from_secs(1);

/// One user's connection.
pub(super) struct Client {
    user: String,
    wire: Wire,
}

enum Wire {
    Chat { connection: Box<Connection>, acks: Option<Acks> },
    Mqtt(Box<MqttConnection>),
}

/// What a v2 client has to acknowledge.
struct Acks {
    cursor: AckCursor,
    unacked: usize,
    last: Instant,
}

/// What a client has heard.
pub(super) enum Heard {
    /// The texts of messages, in order.
    Messages(Vec<String>),
    /// The send with that `rno` was accepted.
    Accepted(String),
    /// It was refused.
    Refused(String),
    /// Nothing that counts.
    Other,
}

impl Client {
    /// Connects; returns once the user can receive.
    pub(super) async fn open(protocol: Protocol, url: &str, user: &str) -> io::Result<Self> {
        let token = token(SECRET, user);
        let request = match protocol {
            Protocol::Mqtt => {
                let connection = MqttConnection::open(url, user).await?;
                return Ok(Self { user: user.to_owned(), wire: Wire::Mqtt(Box::new(connection)) });
            }
            Protocol::V1 => ConnectRequest::v1(url, &format!("token={token}&ksId={user}")),
            Protocol::V2 => ConnectRequest::v2(url, &token),
            Protocol::SocketIo | Protocol::Guide => ConnectRequest::socket_io(url, &token),
        };
        let tls = client_config().map_err(io::Error::other)?;
        let mut connection = Connection::open(&request, Arc::new(tls)).await.map_err(io::Error::other)?;
        if protocol == Protocol::Guide {
            // Its queue exists once it says so.
            let ready = async {
                while connection.next().await? != Received::Frame(ServerFrame::Other) {}
                Ok(())
            };
            timeout(EVENTUALLY_TIMEOUT, ready).await?.map_err(|error: ConnectionEnded| io::Error::other(error))?;
        }
        let acks = matches!(protocol, Protocol::V2 | Protocol::SocketIo).then(Acks::new);
        Ok(Self { user: user.to_owned(), wire: Wire::Chat { connection: Box::new(connection), acks } })
    }

    /// Sends a message; `rno` is its idempotency key.
    pub(super) async fn send(&mut self, to: &str, text: String, rno: String) -> io::Result<()> {
        match &mut self.wire {
            Wire::Mqtt(connection) => connection.publish(to, &text).await,
            Wire::Chat { connection, .. } => {
                let send = SendRequest { sender: self.user.clone(), recipient: to.to_owned(), msg: text, rno, time: 1 };
                connection.send(&ClientFrame::Send(send)).await.map_err(io::Error::other)
            }
        }
    }

    /// When an ack is due.
    pub(super) fn ack_due_at(&self) -> Option<Instant> {
        match &self.wire {
            Wire::Chat { acks: Some(acks), .. } if acks.unacked > 0 => Some(acks.last + MAX_ACK_DELAY),
            _ => None,
        }
    }

    /// Acknowledges what was received.
    pub(super) async fn acknowledge(&mut self) -> io::Result<()> {
        let Wire::Chat { connection, acks: Some(acks) } = &mut self.wire else { return Ok(()) };
        acks.unacked = 0;
        acks.last = Instant::now();
        match acks.cursor.ack() {
            Some(ack) => connection.send(&ClientFrame::Ack(ack)).await.map_err(io::Error::other),
            None => Ok(()),
        }
    }

    /// Waits for what the server says next. Cancel-safe.
    pub(super) async fn next(&mut self) -> io::Result<Next> {
        match &mut self.wire {
            Wire::Mqtt(connection) => connection.next().await.map(Next::Mqtt),
            Wire::Chat { connection, .. } => connection.next().await.map(Next::Chat).map_err(io::Error::other),
        }
    }

    /// Handles what [`Self::next`] returned: answers what wants an answer, and returns what counts.
    pub(super) async fn handle(&mut self, next: Next) -> io::Result<Heard> {
        match (next, &mut self.wire) {
            (Next::Mqtt(MqttPacket::Message { packet, body }), Wire::Mqtt(connection)) => {
                connection.acknowledge(packet).await?;
                Ok(Heard::Messages(vec![String::from_utf8_lossy(&body).into_owned()]))
            }
            (Next::Chat(Received::Ping), Wire::Chat { connection, .. }) => {
                connection.answer_ping().await.map_err(io::Error::other)?;
                Ok(Heard::Other)
            }
            (Next::Chat(Received::Frame(frame)), Wire::Chat { connection, acks }) => {
                let heard = match (frame, acks) {
                    (ServerFrame::Messages(messages), Some(acks)) => {
                        if let Some(request) = acks.gap(&messages) {
                            connection.send(&ClientFrame::Ack(request)).await.map_err(io::Error::other)?;
                            return Ok(Heard::Other);
                        }
                        Heard::Messages(messages.items.into_iter().map(|item| item.msg).collect())
                    }
                    (ServerFrame::Messages(messages), None) => {
                        Heard::Messages(messages.items.into_iter().map(|item| item.msg).collect())
                    }
                    (ServerFrame::SendReply(reply), _) => {
                        let rno = match reply.rno {
                            Some(JsonId::Text(rno)) => rno,
                            other => panic!("a reply names {other:?}"),
                        };
                        if reply.code == 0 { Heard::Accepted(rno) } else { Heard::Refused(rno) }
                    }
                    (ServerFrame::EdgeError, _) => return Err(io::Error::other("a function has failed")),
                    _ => Heard::Other,
                };
                if matches!(&self.wire, Wire::Chat { acks: Some(acks), .. } if acks.unacked >= MESSAGES_PER_ACK) {
                    self.acknowledge().await?;
                }
                Ok(heard)
            }
            _ => Ok(Heard::Other),
        }
    }
}

/// What a server has said.
pub(super) enum Next {
    Chat(Received),
    Mqtt(MqttPacket),
}

impl Acks {
    fn new() -> Self {
        Self { cursor: AckCursor::default(), unacked: 0, last: Instant::now() }
    }

    /// Records messages; returns a request for redelivery if an earlier frame is missing.
    fn gap(&mut self, messages: &kschat_client::Messages) -> Option<Ack> {
        if !self.cursor.follows(messages) {
            return Some(self.cursor.redelivery_request());
        }
        if self.cursor.advance(messages) {
            self.unacked += messages.items.len();
        }
        None
    }
}
