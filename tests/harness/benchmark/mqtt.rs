//! A client of RabbitMQ's Web-MQTT plugin: MQTT 3.1.1 over a WebSocket, as far as the benchmark needs it.
//!
//! Source: OASIS, "MQTT Version 3.1.1", sections 2 and 3.

use std::io;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

/// Seconds between two signs of life; longer than any measurement.
const KEEP_ALIVE_SECONDS: u16 = 3_600;

/// The control packets in use, as the high four bits of their first byte.
mod kind {
    pub(super) const CONNACK: u8 = 2;
    pub(super) const PUBLISH: u8 = 3;
    pub(super) const PUBACK: u8 = 4;
    pub(super) const SUBACK: u8 = 9;
}

/// A persistent session with quality of service 1: messages are stored and acknowledged in both directions.
pub(super) struct MqttConnection {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_packet: u16,
}

/// What the server has sent.
pub(super) enum MqttPacket {
    /// It has stored a published message.
    Stored,
    /// A message, which is to be acknowledged.
    Message { packet: u16, body: Vec<u8> },
}

impl MqttConnection {
    /// Connects, and subscribes to the user's topic.
    pub(super) async fn open(url: &str, user: &str) -> io::Result<Self> {
        let mut request = url.into_client_request().map_err(io::Error::other)?;
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("mqtt"));
        let (socket, _) = connect_async_with_config(request, None, true).await.map_err(io::Error::other)?;
        let mut connection = Self { socket, last_packet: 0 };
        // Level 4; user name, password, and a session that is kept.
        let mut body = [text("MQTT"), vec![4, 0b1100_0000]].concat();
        body.extend(KEEP_ALIVE_SECONDS.to_be_bytes());
        body.extend([text(user), text("guest"), text("guest")].concat());
        connection.write(0x10, &body).await?;
        connection.expect(kind::CONNACK, 1).await?;
        let packet = connection.next_packet_id();
        let mut body = packet.to_be_bytes().to_vec();
        body.extend(text(&topic(user)));
        body.push(1);
        connection.write(0x82, &body).await?;
        connection.expect(kind::SUBACK, 2).await?;
        Ok(connection)
    }

    /// Publishes to a user's topic.
    pub(super) async fn publish(&mut self, to: &str, message: &str) -> io::Result<()> {
        let mut body = text(&topic(to));
        body.extend(self.next_packet_id().to_be_bytes());
        body.extend(message.as_bytes());
        self.write(0x32, &body).await
    }

    /// Acknowledges a message.
    pub(super) async fn acknowledge(&mut self, packet: u16) -> io::Result<()> {
        self.write(0x40, &packet.to_be_bytes()).await
    }

    /// Waits for the next packet of interest. Cancel-safe.
    pub(super) async fn next(&mut self) -> io::Result<MqttPacket> {
        loop {
            let (first, body) = self.read().await?;
            match first >> 4 {
                kind::PUBACK => return Ok(MqttPacket::Stored),
                kind::PUBLISH => {
                    let topic_end = 2 + usize::from(u16::from_be_bytes([byte(&body, 0)?, byte(&body, 1)?]));
                    let packet = u16::from_be_bytes([byte(&body, topic_end)?, byte(&body, topic_end + 1)?]);
                    return Ok(MqttPacket::Message { packet, body: body[topic_end + 2..].to_vec() });
                }
                _ => {}
            }
        }
    }

    async fn expect(&mut self, kind: u8, code_at: usize) -> io::Result<()> {
        let (first, body) = self.read().await?;
        // Granted: 0 for a connection, the quality of service for a subscription.
        if first >> 4 == kind && byte(&body, code_at)? <= 1 {
            return Ok(());
        }
        Err(io::Error::other(format!("the server refuses: packet {first:#x}, {body:?}")))
    }

    fn next_packet_id(&mut self) -> u16 {
        self.last_packet = self.last_packet.checked_add(1).unwrap_or(1);
        self.last_packet
    }

    /// Writes a packet; the length before the body has seven bits in a byte.
    async fn write(&mut self, first: u8, body: &[u8]) -> io::Result<()> {
        let mut packet = vec![first];
        let mut left = body.len();
        loop {
            let low = u8::try_from(left % 128).unwrap_or_default();
            left /= 128;
            packet.push(if left > 0 { low | 0x80 } else { low });
            if left == 0 {
                break;
            }
        }
        packet.extend(body);
        self.socket.send(Message::binary(packet)).await.map_err(io::Error::other)
    }

    /// Reads one packet: the plugin sends each in a frame of its own.
    async fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            let frame = self.socket.next().await.ok_or(io::ErrorKind::UnexpectedEof)?.map_err(io::Error::other)?;
            if let Message::Binary(packet) = frame {
                let length_end = 1 + packet.iter().skip(1).position(|byte| byte & 0x80 == 0).unwrap_or_default() + 1;
                return Ok((byte(&packet, 0)?, packet[length_end.min(packet.len())..].to_vec()));
            }
        }
    }
}

fn topic(user: &str) -> String {
    format!("chat/{user}")
}

/// A string with its length before it.
fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn byte(bytes: &[u8], at: usize) -> io::Result<u8> {
    bytes.get(at).copied().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
