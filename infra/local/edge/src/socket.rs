//! Serves one client's socket, from the upgrade to the close.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::SinkExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep_until, timeout},
};
use yawc::{DeflatePool, Frame, OpCode, Options, Role, WebSocket, WebSocketError, close::CloseCode};

use super::{
    Connection, Edge, ListedConnection, Outgoing,
    dispatch::{answer, error_frame},
    events::new_request_id,
    journal::{Entry, Kind, Outcome},
    routes::{Route, Target},
    settings::Settings,
};

/// Maximum concurrent invocations of one socket; further frames are parked. The managed edge only has the account's
/// limit.
const MAX_CONCURRENT_INVOCATIONS_PER_CONNECTION: usize = 64;

/// Maximum parked frames; then the socket is not read any more (back-pressure).
const MAX_PARKED_FRAMES: usize = 64;

/// How long a client may take to answer a close frame, or to receive one of our frames.
const SOCKET_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum bytes read from a client after a close. Cutting it off at once could lose the close frame.
const MAX_DISCARDED_BYTES: usize = 1024 * 1024;

/// Buffer size of a socket, in bytes. Small, as most sockets are idle.
const WRITE_BUFFER_BYTES: usize = 1024;

/// Frames below this size are not worth compressing, in bytes.
const MIN_COMPRESSED_BYTES: usize = 256;

/// Maximum payload of a control frame, in bytes.
///
/// Source: RFC 6455, section 5.5.
const MAX_CONTROL_FRAME_BYTES: usize = 125;

/// A close code and reason.
#[derive(Debug, PartialEq, Eq)]
struct Close {
    /// The code for `$disconnect`.
    code: u16,
    reason: String,
    by: ClosedBy,
}

/// The initiator of a close, which decides what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClosedBy {
    /// The edge closes: the client receives a close frame, and may answer.
    Edge,
    /// The client closes: the edge echoes its close frame.
    Client,
    /// The client violated the protocol: it receives a close frame, and its input is discarded.
    ProtocolError,
    /// The connection is broken: nothing can be sent.
    ConnectionLost,
}

impl Close {
    fn new(by: ClosedBy, code: u16, reason: &str) -> Self {
        Self { code, reason: reason.to_owned(), by }
    }

    fn by_edge(code: u16, reason: &str) -> Self {
        Self::new(ClosedBy::Edge, code, reason)
    }

    fn broken_off() -> Self {
        Self::new(ClosedBy::ConnectionLost, 1006, "Connection closed abnormally")
    }

    /// The encoded close frame.
    ///
    /// Source: RFC 6455, section 5.5.1.
    fn frame(&self) -> Vec<u8> {
        let payload = [&self.code.to_be_bytes(), self.reason.as_bytes()].concat();
        [vec![0x88, u8::try_from(payload.len()).unwrap_or_default()], payload].concat()
    }
}

/// Options of the WebSocket library.
pub(super) fn options(settings: &Settings) -> Options {
    let options = Options::default()
        // The library rejects what reaches its limits, the edge what exceeds them.
        .with_limits(settings.max_frame + 1, settings.max_message + 1)
        .with_max_fragment_size(settings.max_frame)
        .with_read_buffer_capacity(WRITE_BUFFER_BYTES)
        .with_write_buffer_capacity(WRITE_BUFFER_BYTES)
        .with_utf8();
    if !settings.compression {
        return options;
    }
    // Without context takeover, an idle socket has no compressor.
    options
        .with_low_latency_compression()
        .server_no_context_takeover()
        .client_no_context_takeover()
        .with_compression_threshold(MIN_COMPRESSED_BYTES)
        .with_deflate_pool(DeflatePool::new(std::thread::available_parallelism().map_or(1, usize::from)))
}

/// Serves a socket until either side closes it.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    listed: ListedConnection,
    mut io: S,
    extensions: Option<&str>,
    outgoing: mpsc::Receiver<Outgoing>,
) {
    let options = listed.edge.0.websocket.clone();
    let socket = match WebSocket::from_stream_with_extensions(&mut io, Role::Server, extensions, options) {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!(%error, "serving a socket failed"),
    };
    let mut session = SocketSession::new(&listed, socket, outgoing);
    let close = session.run_until_closed().await;
    // Later pushes would not arrive.
    listed.edge.remove_connection(&listed.connection.client.id);
    let SocketSession { mut socket, outgoing, .. } = session;
    drop(outgoing);
    // The client may be gone or unresponsive.
    let _ = timeout(SOCKET_WRITE_TIMEOUT, send_close(&mut socket, &close)).await;
    if close.by == ClosedBy::Edge {
        listed.end(close.code, &close.reason);
        let _ = timeout(SOCKET_WRITE_TIMEOUT, await_close(&mut socket)).await;
    } else {
        drop(socket);
        if close.by == ClosedBy::ProtocolError {
            // The library would send its own close reason.
            let _ = timeout(SOCKET_WRITE_TIMEOUT, io.write_all(&close.frame())).await;
        }
        listed.end(close.code, &close.reason);
    }
    drain_socket(&mut io).await;
}

/// A frame that waits for a permit.
struct ParkedFrame {
    key: String,
    route: Route,
    text: String,
}

/// A socket with its state.
struct SocketSession<'a, S> {
    edge: &'a Edge,
    connection: &'a Arc<Connection>,
    socket: WebSocket<S>,
    outgoing: mpsc::Receiver<Outgoing>,
    /// Permits for invocations.
    permits: Arc<Semaphore>,
    parked: VecDeque<ParkedFrame>,
    idle_since: Instant,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> SocketSession<'a, S> {
    fn new(listed: &'a ListedConnection, socket: WebSocket<S>, outgoing: mpsc::Receiver<Outgoing>) -> Self {
        let ListedConnection { edge, connection, .. } = listed;
        let permits = Arc::new(Semaphore::new(if edge.0.settings.in_order {
            1
        } else {
            MAX_CONCURRENT_INVOCATIONS_PER_CONNECTION
        }));
        let parked = VecDeque::new();
        Self { edge, connection, socket, outgoing, permits, parked, idle_since: Instant::now() }
    }

    async fn run_until_closed(&mut self) -> Close {
        let settings = &self.edge.0.settings;
        let end_of_life = Instant::now() + settings.lifetime();
        loop {
            let silence = self.idle_since + settings.idle();
            let done = tokio::select! {
                incoming = self.socket.next_frame(), if self.parked.len() < MAX_PARKED_FRAMES => self.on_incoming(incoming).await,
                // The semaphore is never closed, so a permit always becomes available.
                Ok(permit) = Arc::clone(&self.permits).acquire_owned(), if !self.parked.is_empty() => {
                    self.invoke_parked(permit);
                    Ok(())
                }
                outgoing = self.outgoing.recv() => self.on_outgoing(outgoing).await,
                () = self.edge.0.closing.cancelled() => Err(Close::by_edge(1001, "Going away")),
                () = sleep_until(end_of_life.min(silence)) => {
                    Err(Close::by_edge(settings.timeout_close_code, "Going away"))
                }
            };
            if let Err(close) = done {
                return close;
            }
        }
    }

    /// Records activity, which resets the idle timeout.
    fn touch(&mut self) {
        self.idle_since = Instant::now();
        self.connection.touch();
    }

    async fn on_incoming(&mut self, incoming: Result<Frame, WebSocketError>) -> Result<(), Close> {
        let frame = incoming.map_err(|error| close_after(&error))?;
        if frame.opcode().is_control() && frame.payload().len() > MAX_CONTROL_FRAME_BYTES {
            return Err(close_after(&WebSocketError::InvalidCloseFrame));
        }
        match frame.opcode() {
            OpCode::Text => {
                self.touch();
                self.connection.frames_in.fetch_add(1, Relaxed);
                self.edge.journal().totals.frames_in.fetch_add(1, Relaxed);
                // The library has already validated it.
                let text = String::from_utf8_lossy(frame.payload()).into_owned();
                self.on_text(text).await
            }
            OpCode::Binary => Err(Close::by_edge(1003, "Binary frames are not supported")),
            OpCode::Ping => {
                if self.edge.0.settings.ping_resets_idle {
                    self.touch();
                }
                // The library has queued the pong. A client that sends pings and does not read pongs is cut off.
                self.flush().await
            }
            OpCode::Close => Err(close_by_client(&frame)),
            OpCode::Pong | OpCode::Continuation => Ok(()),
        }
    }

    /// Routes a frame.
    async fn on_text(&mut self, text: String) -> Result<(), Close> {
        let Some((key, route)) = self.edge.0.settings.routes.select(&text) else {
            return self.forbid(&text).await;
        };
        let (key, route) = (key.to_owned(), route.clone());
        if let Target::Mock(reply) = route.target {
            let reply = Some(reply).filter(|_| route.response);
            return self.mock(&key, reply, &text).await;
        }
        self.parked.push_back(ParkedFrame { key, route, text });
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            self.invoke_parked(permit);
        }
        Ok(())
    }

    /// Invokes the function of the oldest parked frame. As on the managed edge, a client's frames run concurrently
    /// while permits are available.
    fn invoke_parked(&mut self, permit: OwnedSemaphorePermit) {
        let Some(ParkedFrame { key, route, text }) = self.parked.pop_front() else { return };
        let (edge, connection) = (self.edge.clone(), Arc::clone(self.connection));
        tokio::spawn(async move {
            answer(&edge, &connection, &key, &route, text).await;
            drop(permit);
        });
    }

    /// Responds for a route without a function.
    async fn mock(&mut self, key: &str, reply: Option<String>, text: &str) -> Result<(), Close> {
        let entry = Entry::new(Kind::Message, &self.connection.client.id).route(key, "mock").status(200);
        self.edge.journal().record(entry.text(text));
        if let Some(reply) = reply {
            self.write(Frame::text(reply)).await?;
        }
        self.flush().await
    }

    /// Responds to a frame without a route.
    async fn forbid(&mut self, text: &str) -> Result<(), Close> {
        let client = &self.connection.client;
        let frame = error_frame("Forbidden", &client.id, &new_request_id());
        let entry = Entry::new(Kind::Message, &client.id).text(text).outcome(Outcome::Refused);
        self.edge.journal().record(entry.note("no route has that key, and there is no $default"));
        self.write(Frame::text(frame)).await?;
        self.flush().await
    }

    /// Writes all queued frames at once.
    async fn on_outgoing(&mut self, first: Option<Outgoing>) -> Result<(), Close> {
        self.touch();
        let mut next = first;
        loop {
            match next {
                Some(Outgoing::Text(text)) => self.write(Frame::text(text)).await?,
                Some(Outgoing::Close(code, reason)) => return Err(Close::by_edge(code, reason)),
                // Unreachable: the connection itself holds a sender.
                None => return Err(Close::by_edge(1001, "Going away")),
            }
            match self.outgoing.try_recv() {
                Ok(more) => next = Some(more),
                Err(_) => return self.flush().await,
            }
        }
    }

    async fn write(&mut self, frame: Frame) -> Result<(), Close> {
        self.connection.frames_out.fetch_add(1, Relaxed);
        self.edge.journal().totals.frames_out.fetch_add(1, Relaxed);
        within_write_timeout(self.socket.feed(frame)).await
    }

    async fn flush(&mut self) -> Result<(), Close> {
        within_write_timeout(self.socket.flush()).await
    }
}

async fn within_write_timeout(writing: impl Future<Output = Result<(), WebSocketError>>) -> Result<(), Close> {
    if matches!(timeout(SOCKET_WRITE_TIMEOUT, writing).await, Ok(Ok(()))) { Ok(()) } else { Err(Close::broken_off()) }
}

/// The close that follows a read error.
fn close_after(error: &WebSocketError) -> Close {
    match error {
        WebSocketError::FrameTooLarge => Close::new(ClosedBy::ProtocolError, 1009, "Message too long"),
        WebSocketError::InvalidUTF8 => Close::new(ClosedBy::ProtocolError, 1007, "Text is not UTF-8"),
        WebSocketError::ConnectionClosed | WebSocketError::IoError(_) => Close::broken_off(),
        _ => Close::new(ClosedBy::ProtocolError, 1002, "Protocol error"),
    }
}

fn close_by_client(frame: &Frame) -> Close {
    let reason = frame.close_reason().ok().flatten().unwrap_or_default();
    match frame.close_code() {
        Some(code) => Close::new(ClosedBy::Client, code.into(), reason),
        None => Close::new(ClosedBy::Client, 1005, "Client-side close frame status not set"),
    }
}

/// Sends the close frame, if one is due.
async fn send_close<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocket<S>, close: &Close) {
    match close.by {
        ClosedBy::Edge => {
            let frame = Frame::close(CloseCode::from(close.code), &close.reason);
            // The client may be gone.
            let _ = socket.send(frame).await;
        }
        // The library has queued the answer, and sends it on the next read.
        ClosedBy::Client => while socket.next_frame().await.is_ok() {},
        ClosedBy::ProtocolError | ClosedBy::ConnectionLost => {}
    }
}

/// Waits for the client's close frame.
async fn await_close<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocket<S>) {
    while socket.next_frame().await.is_ok_and(|frame| frame.opcode() != OpCode::Close) {}
}

/// Closes our side and discards what is still in flight. Otherwise the system would send a reset, and the client might
/// never see the close frame.
async fn drain_socket<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S) {
    let hear_out = async {
        let _ = io.shutdown().await;
        let (mut buffer, mut heard) = ([0; 4096], 0);
        while heard < MAX_DISCARDED_BYTES {
            match io.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(more) => heard += more,
            }
        }
    };
    // A client that keeps sending is cut off.
    let _ = timeout(SOCKET_WRITE_TIMEOUT, hear_out).await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize};

    use async_trait::async_trait;
    use axum::http::HeaderMap;
    use serde_json::{Value, json};
    use tokio::{io::DuplexStream, sync::Notify, task::JoinHandle, time::sleep};

    use super::*;
    use crate::{
        events::Client,
        functions::{Functions, InvokeError},
    };

    struct NoFunctions;

    #[async_trait]
    impl Functions for NoFunctions {
        async fn invoke(&self, _: &str, _: Value) -> Result<Value, InvokeError> {
            Ok(json!({ "statusCode": 200 }))
        }
    }

    /// Starts serving a socket; returns its other end.
    fn serve(settings: Settings) -> (WebSocket<DuplexStream>, Arc<Connection>, JoinHandle<()>) {
        let edge = Edge::new(settings, Arc::new(NoFunctions));
        let client = Client::new("dev", "127.0.0.1:1".parse().unwrap(), &HeaderMap::new(), None);
        let (outbox, outgoing) = mpsc::channel(8);
        let connection = Arc::new(Connection {
            client: Arc::new(client),
            subprotocol: None,
            compressed: false,
            outbox,
            last_active: AtomicI64::new(0),
            frames_in: AtomicU64::new(0),
            frames_out: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            answered: Notify::new(),
            held: AtomicBool::new(false),
        });
        let (ours, theirs) = tokio::io::duplex(1024);
        let listed = ListedConnection::new(&edge, Arc::clone(&connection));
        let task = tokio::spawn(run(listed, ours, None, outgoing));
        let client = WebSocket::from_stream(theirs, Role::Client, Options::default()).unwrap();
        (client, connection, task)
    }

    /// Time in seconds until the edge closes the socket, and the close code.
    async fn closed(client: &mut WebSocket<DuplexStream>) -> (u64, u16) {
        let began = Instant::now();
        loop {
            let frame = client.next_frame().await.unwrap();
            if let Some(code) = frame.close_code().filter(|_| frame.opcode() == OpCode::Close) {
                return (began.elapsed().as_secs(), code.into());
            }
        }
    }

    const MINUTE: u64 = 60;

    #[tokio::test(start_paused = true)]
    async fn idle_socket_is_closed_with_1001() {
        let (mut client, ..) = serve(Settings::default());
        assert_eq!(closed(&mut client).await, (10 * MINUTE, 1001));
    }

    #[tokio::test(start_paused = true)]
    async fn traffic_in_either_direction_resets_idle_timer() {
        let (mut client, connection, _task) = serve(Settings::default());
        sleep(Duration::from_secs(9 * MINUTE)).await;
        client.send(Frame::text("hello")).await.unwrap();
        sleep(Duration::from_secs(9 * MINUTE)).await;
        connection.outbox.send(Outgoing::Text("a push".to_owned())).await.ok().unwrap();
        assert_eq!(closed(&mut client).await, (10 * MINUTE, 1001));
    }

    #[tokio::test(start_paused = true)]
    async fn ping_resets_idle_timer_only_if_configured() {
        for (ping_resets_idle, expected) in [(false, MINUTE), (true, 10 * MINUTE)] {
            let (mut client, ..) = serve(Settings { ping_resets_idle, ..Settings::default() });
            sleep(Duration::from_secs(9 * MINUTE)).await;
            client.send(Frame::ping("x")).await.unwrap();
            assert_eq!(closed(&mut client).await, (expected, 1001));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn socket_lifetime_limit_closes_with_1001() {
        let (mut client, connection, _task) = serve(Settings::default());
        tokio::spawn(async move {
            // Pushes keep it from being idle.
            while connection.outbox.send(Outgoing::Text("a push".to_owned())).await.is_ok() {
                sleep(Duration::from_secs(MINUTE)).await;
            }
        });
        assert_eq!(closed(&mut client).await, (120 * MINUTE, 1001));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_lifetime_and_close_code_are_configurable() {
        let (mut client, ..) = serve(Settings { time_scale: 60.0, ..Settings::default() });
        assert_eq!(closed(&mut client).await, (10, 1001));
        let idle = Duration::from_secs(5);
        let (mut client, ..) = serve(Settings { idle, timeout_close_code: 1000, ..Settings::default() });
        assert_eq!(closed(&mut client).await, (5, 1000));
        let (mut client, ..) = serve(Settings { lifetime: Duration::from_secs(30), ..Settings::default() });
        assert_eq!(closed(&mut client).await, (30, 1001));
    }

    #[tokio::test(start_paused = true)]
    async fn unanswered_close_ends_connection() {
        let (client, _, task) = serve(Settings::default());
        let began = Instant::now();
        task.await.unwrap();
        let waited = began.elapsed() - Settings::default().idle;
        assert!(waited <= 2 * SOCKET_WRITE_TIMEOUT, "{waited:?}");
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn large_push_is_split_into_frames() {
        let (client, connection, _task) = serve(Settings::default());
        let text = "x".repeat(100 * 1024);
        connection.outbox.send(Outgoing::Text(text.clone())).await.ok().unwrap();
        let mut streaming = client.into_streaming();
        let mut sizes = Vec::new();
        while sizes.iter().sum::<usize>() < text.len() {
            sizes.push(streaming.next_frame().await.unwrap().payload().len());
        }
        assert_eq!(sizes, [32 * 1024, 32 * 1024, 32 * 1024, 4 * 1024]);
    }
}
