//! An open connection.

use std::{error::Error, io, sync::Arc, time::Duration};

use futures_util::SinkExt;
use rustls::ClientConfig;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use yawc::{Frame, HttpRequest, OpCode, Options, TcpWebSocket, WebSocket, WebSocketError};

use crate::{
    codec::{Codec, Decoded},
    frame::{ClientFrame, ServerFrame},
    request::ConnectRequest,
};

/// Timeout of a handshake, a write or a close; also how long a client should wait for a reply.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// An open connection. Dropping it cuts it off, as a network failure would.
pub struct Connection {
    socket: TcpWebSocket,
    codec: Codec,
}

/// The connection has ended, or is unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection has ended")]
pub struct ConnectionEnded;

/// Reason for which a connection can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is invalid, or has another scheme than `ws` or `wss`.
    #[error("a URL of ws:// or wss:// is needed")]
    InvalidUrl,
    /// The handshake was refused with this status.
    #[error("the handshake is refused ({0})")]
    Refused(u16),
    /// The handshake was answered with a redirect of this status, which is not followed.
    #[error("the handshake is answered with a redirect ({0})")]
    Redirected(u16),
    /// The server does not speak TLS, or its certificate is not trusted.
    #[error("the server does not speak TLS, or is not trusted")]
    Tls(#[source] io::Error),
    /// No answer came within [`ANSWER_TIMEOUT`].
    #[error("no answer to the handshake")]
    TimedOut,
    /// The socket closed before a Socket.IO client had joined its namespace.
    #[error("the socket closed before the client joined")]
    Ended,
    /// The network or the server failed.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

impl OpenError {
    /// Whether a retry would fail, too.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        match self {
            Self::InvalidUrl | Self::Refused(401 | 403 | 404) | Self::Redirected(_) | Self::Tls(_) => true,
            Self::Refused(_) | Self::TimedOut | Self::Ended | Self::Failed(_) => false,
        }
    }
}

impl From<WebSocketError> for OpenError {
    fn from(error: WebSocketError) -> Self {
        match error {
            WebSocketError::InvalidHttpScheme => Self::InvalidUrl,
            WebSocketError::InvalidStatusCode(status) => Self::Refused(status),
            WebSocketError::Redirected { status_code, .. } => Self::Redirected(status_code),
            // TLS errors, such as an untrusted certificate; failed connections have other error kinds.
            WebSocketError::IoError(error) if error.kind() == io::ErrorKind::InvalidData => Self::Tls(error),
            other => Self::Failed(other.into()),
        }
    }
}

/// What the server has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A frame.
    Frame(ServerFrame),
    /// A ping, which [`Connection::answer_ping`] answers.
    Ping,
    /// Nothing of interest.
    Ignored,
}

impl Connection {
    /// Connects; a Socket.IO client also joins the namespace. `tls` applies to `wss` URLs.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(request: &ConnectRequest, tls: Arc<ClientConfig>) -> Result<Self, OpenError> {
        timeout(ANSWER_TIMEOUT, Self::connect(request, tls)).await.map_err(|_| OpenError::TimedOut)?
    }

    async fn connect(request: &ConnectRequest, tls: Arc<ClientConfig>) -> Result<Self, OpenError> {
        let url = request.url().parse().map_err(|_| OpenError::InvalidUrl)?;
        let mut http = HttpRequest::builder();
        if let Some(subprotocols) = request.subprotocols() {
            http = http.header("sec-websocket-protocol", subprotocols);
        }
        // As browsers do: otherwise a frame that follows another one waits for the server's TCP ack, 40 ms on Linux.
        let options = Options::default().with_no_delay();
        let connecting = WebSocket::connect(url).with_options(options).with_request(http);
        let socket = connecting.with_connector(TlsConnector::from(tls)).await?;
        let mut connection = Self { socket, codec: request.codec.clone() };
        connection.join().await.map_err(|ConnectionEnded| OpenError::Ended)?;
        Ok(connection)
    }

    /// Waits for the first packet, and joins the namespace.
    async fn join(&mut self) -> Result<(), ConnectionEnded> {
        if self.codec == Codec::Raw {
            return Ok(());
        }
        loop {
            match self.decoded().await? {
                Decoded::Open => self.write(Codec::join_packet()).await?,
                Decoded::Joined => return Ok(()),
                Decoded::Ping => self.answer_ping().await?,
                Decoded::Frame(_) | Decoded::Ignored => return Err(ConnectionEnded),
            }
        }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// [`ConnectionEnded`], also when the server reads nothing for [`ANSWER_TIMEOUT`].
    pub async fn send(&mut self, frame: &ClientFrame) -> Result<(), ConnectionEnded> {
        let text = self.codec.encode(frame);
        self.write(text).await
    }

    /// Answers a ping.
    ///
    /// # Errors
    /// As for [`Self::send`].
    pub async fn answer_ping(&mut self) -> Result<(), ConnectionEnded> {
        self.write(Codec::pong_packet()).await
    }

    /// Waits for what the server sends next. Cancel-safe.
    ///
    /// # Errors
    /// [`ConnectionEnded`], also when the server violates the dialect.
    pub async fn next(&mut self) -> Result<Received, ConnectionEnded> {
        Ok(match self.decoded().await? {
            Decoded::Frame(frame) => Received::Frame(ServerFrame::read(&frame)),
            Decoded::Ping => Received::Ping,
            Decoded::Open | Decoded::Joined | Decoded::Ignored => Received::Ignored,
        })
    }

    /// Closes the connection gracefully, within [`ANSWER_TIMEOUT`].
    pub async fn close(&mut self) {
        // The server may be gone already.
        let _ = timeout(ANSWER_TIMEOUT, self.socket.close()).await;
    }

    async fn decoded(&mut self) -> Result<Decoded, ConnectionEnded> {
        let frame = self.socket.next_frame().await.map_err(|_| ConnectionEnded)?;
        if frame.opcode() != OpCode::Text {
            return Ok(Decoded::Ignored);
        }
        self.codec.decode(&String::from_utf8_lossy(frame.payload())).map_err(|_| ConnectionEnded)
    }

    async fn write(&mut self, text: String) -> Result<(), ConnectionEnded> {
        match timeout(ANSWER_TIMEOUT, self.socket.send(Frame::text(text))).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(ConnectionEnded),
        }
    }
}
