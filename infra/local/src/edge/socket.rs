//! One client's socket, from the upgrade to its end.

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
    Connection, Edge, Joined, Outgoing,
    dispatch::{answer, error_frame},
    journal::{Entry, Kind, Outcome},
    routes::{Route, Target},
    settings::Settings,
};

/// Invocations under way for one socket at most; then its frames wait. The managed edge has no such bound but
/// the account's.
const CONCURRENCY: usize = 64;

/// Frames that wait for room at most; then nothing more is read from their socket.
const PARKED: usize = 64;

/// How long a client may take to answer a close frame, or to take a frame of ours.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client may still send after a close before it is cut off, in bytes: at once, it might not hear why.
const LINGER: usize = 1024 * 1024;

/// What the buffers of a silent socket take, in bytes: most sockets are silent.
const BUFFER: usize = 1024;

/// Frames below this size are not worth compressing, in bytes.
const COMPRESSED: usize = 256;

/// What a control frame may hold, in bytes.
///
/// Source: RFC 6455, section 5.5.
const MAX_CONTROL: usize = 125;

/// A close.
#[derive(Debug, PartialEq, Eq)]
struct Close {
    /// What `$disconnect` is told.
    code: u16,
    reason: String,
    by: By,
}

/// What has to be said at a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// We end it: the client is told, and may answer.
    Edge,
    /// The client ends it: its close frame is answered with the same one.
    Client,
    /// The client has sent what can't be read: it is told, and nothing that it says counts any more.
    Nonsense,
    /// The wire has ended: there is nobody to be told.
    Wire,
}

impl Close {
    fn new(by: By, code: u16, reason: &str) -> Self {
        Self { code, reason: reason.to_owned(), by }
    }

    fn by_edge(code: u16, reason: &str) -> Self {
        Self::new(By::Edge, code, reason)
    }

    fn broken_off() -> Self {
        Self::new(By::Wire, 1006, "Connection closed abnormally")
    }

    /// The frame that says so.
    ///
    /// Source: RFC 6455, section 5.5.1.
    fn frame(&self) -> Vec<u8> {
        let payload = [&self.code.to_be_bytes(), self.reason.as_bytes()].concat();
        [vec![0x88, u8::try_from(payload.len()).unwrap_or_default()], payload].concat()
    }
}

/// How frames are read and written.
pub(super) fn options(settings: &Settings) -> Options {
    let options = Options::default()
        // The library refuses what reaches its limits, the edge what is beyond.
        .with_limits(settings.max_frame + 1, settings.max_message + 1)
        .with_max_fragment_size(settings.max_frame)
        .with_read_buffer_capacity(BUFFER)
        .with_write_buffer_capacity(BUFFER)
        .with_utf8();
    if !settings.compression {
        return options;
    }
    // Without context between messages, a silent socket has no compressor.
    options
        .with_low_latency_compression()
        .server_no_context_takeover()
        .client_no_context_takeover()
        .with_compression_threshold(COMPRESSED)
        .with_deflate_pool(DeflatePool::new(std::thread::available_parallelism().map_or(1, usize::from)))
}

/// Serves a socket until either side ends it.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    joined: Joined,
    mut io: S,
    extensions: Option<&str>,
    outgoing: mpsc::Receiver<Outgoing>,
) {
    let options = joined.edge.0.websocket.clone();
    let socket = match WebSocket::from_stream_with_extensions(&mut io, Role::Server, extensions, options) {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!(%error, "a socket can't be served"),
    };
    let mut talk = Talk::new(&joined, socket, outgoing);
    let close = talk.until_closed().await;
    // What is pushed from now on would not arrive.
    joined.edge.unlist(&joined.connection.client.id);
    let Talk { mut socket, outgoing, .. } = talk;
    drop(outgoing);
    // The client may be gone, or silent.
    let _ = timeout(PATIENCE, say_goodbye(&mut socket, &close)).await;
    if close.by == By::Edge {
        joined.end(close.code, &close.reason);
        let _ = timeout(PATIENCE, hear_goodbye(&mut socket)).await;
    } else {
        drop(socket);
        if close.by == By::Nonsense {
            // The library had an answer of its own, in its own words.
            let _ = timeout(PATIENCE, io.write_all(&close.frame())).await;
        }
        joined.end(close.code, &close.reason);
    }
    linger(&mut io).await;
}

/// A frame that waits for room for its invocation.
struct Parked {
    key: String,
    route: Route,
    text: String,
}

/// One socket and what is known of it.
struct Talk<'a, S> {
    edge: &'a Edge,
    connection: &'a Arc<Connection>,
    socket: WebSocket<S>,
    outgoing: mpsc::Receiver<Outgoing>,
    /// Room for invocations.
    permits: Arc<Semaphore>,
    parked: VecDeque<Parked>,
    idle_since: Instant,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Talk<'a, S> {
    fn new(joined: &'a Joined, socket: WebSocket<S>, outgoing: mpsc::Receiver<Outgoing>) -> Self {
        let Joined { edge, connection, .. } = joined;
        let permits = Arc::new(Semaphore::new(if edge.0.settings.in_order { 1 } else { CONCURRENCY }));
        let parked = VecDeque::new();
        Self { edge, connection, socket, outgoing, permits, parked, idle_since: Instant::now() }
    }

    async fn until_closed(&mut self) -> Close {
        let settings = &self.edge.0.settings;
        let end_of_life = Instant::now() + settings.lifetime();
        loop {
            let silence = self.idle_since + settings.idle();
            let done = tokio::select! {
                incoming = self.socket.next_frame(), if self.parked.len() < PARKED => self.on_incoming(incoming).await,
                // It is never closed, so there always is a permit in the end.
                Ok(permit) = Arc::clone(&self.permits).acquire_owned(), if !self.parked.is_empty() => {
                    self.unpark(permit);
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

    /// Something was said: the socket is not idle.
    fn touch(&mut self) {
        self.idle_since = Instant::now();
        self.connection.touch();
    }

    async fn on_incoming(&mut self, incoming: Result<Frame, WebSocketError>) -> Result<(), Close> {
        let frame = incoming.map_err(|error| close_after(&error))?;
        if frame.opcode().is_control() && frame.payload().len() > MAX_CONTROL {
            return Err(close_after(&WebSocketError::InvalidCloseFrame));
        }
        match frame.opcode() {
            OpCode::Text => {
                self.touch();
                self.connection.frames_in.fetch_add(1, Relaxed);
                self.edge.journal().totals.frames_in.fetch_add(1, Relaxed);
                // Checked by the library already.
                let text = String::from_utf8_lossy(frame.payload()).into_owned();
                self.on_text(text).await
            }
            OpCode::Binary => Err(Close::by_edge(1003, "Binary frames are not supported")),
            OpCode::Ping => {
                if self.edge.0.settings.ping_resets_idle {
                    self.touch();
                }
                // The library has the pong ready. Who sends pings and takes no pongs is cut off.
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
        self.parked.push_back(Parked { key, route, text });
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            self.unpark(permit);
        }
        Ok(())
    }

    /// Hands the frame that has waited longest to its function. As on the managed edge, frames of one client do
    /// not wait for one another, as long as there is room.
    fn unpark(&mut self, permit: OwnedSemaphorePermit) {
        let Some(Parked { key, route, text }) = self.parked.pop_front() else { return };
        let (edge, connection) = (self.edge.clone(), Arc::clone(self.connection));
        tokio::spawn(async move {
            answer(&edge, &connection, &key, &route, &text).await;
            drop(permit);
        });
    }

    /// Answers for a route without a function.
    async fn mock(&mut self, key: &str, reply: Option<String>, text: &str) -> Result<(), Close> {
        let entry = Entry::new(Kind::Message, &self.connection.client.id).route(key, "mock").status(200);
        self.edge.journal().record(entry.text(text));
        if let Some(reply) = reply {
            self.write(Frame::text(reply)).await?;
        }
        self.flush().await
    }

    /// Answers a frame that has no route.
    async fn forbid(&mut self, text: &str) -> Result<(), Close> {
        let client = &self.connection.client;
        let event = client.message_event("", text);
        let frame = error_frame("Forbidden", &client.id, &event["requestContext"]["requestId"]);
        let entry = Entry::new(Kind::Message, &client.id).text(text).outcome(Outcome::Refused);
        self.edge.journal().record(entry.note("no route has that key, and there is no $default"));
        self.write(Frame::text(frame)).await?;
        self.flush().await
    }

    /// Writes what waits, in one go.
    async fn on_outgoing(&mut self, first: Option<Outgoing>) -> Result<(), Close> {
        self.touch();
        let mut next = first;
        loop {
            match next {
                Some(Outgoing::Text(text)) => self.write(Frame::text(text)).await?,
                Some(Outgoing::Close(code, reason)) => return Err(Close::by_edge(code, reason)),
                // The connection itself holds a sender: it can't be.
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
        in_time(self.socket.feed(frame)).await
    }

    async fn flush(&mut self) -> Result<(), Close> {
        in_time(self.socket.flush()).await
    }
}

async fn in_time(writing: impl Future<Output = Result<(), WebSocketError>>) -> Result<(), Close> {
    if matches!(timeout(PATIENCE, writing).await, Ok(Ok(()))) { Ok(()) } else { Err(Close::broken_off()) }
}

/// What a frame that can't be read leads to.
fn close_after(error: &WebSocketError) -> Close {
    match error {
        WebSocketError::FrameTooLarge => Close::new(By::Nonsense, 1009, "Message too long"),
        WebSocketError::InvalidUTF8 => Close::new(By::Nonsense, 1007, "Text is not UTF-8"),
        WebSocketError::ConnectionClosed | WebSocketError::IoError(_) => Close::broken_off(),
        _ => Close::new(By::Nonsense, 1002, "Protocol error"),
    }
}

fn close_by_client(frame: &Frame) -> Close {
    let reason = frame.close_reason().ok().flatten().unwrap_or_default();
    match frame.close_code() {
        Some(code) => Close::new(By::Client, code.into(), reason),
        None => Close::new(By::Client, 1005, "Client-side close frame status not set"),
    }
}

/// Says what there is to say at the end of a socket.
async fn say_goodbye<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocket<S>, close: &Close) {
    match close.by {
        By::Edge => {
            let frame = Frame::close(CloseCode::from(close.code), &close.reason);
            // The client may be gone.
            let _ = socket.send(frame).await;
        }
        // The library has the answer ready, and sends it when it is asked for the next frame.
        By::Client => while socket.next_frame().await.is_ok() {},
        By::Nonsense | By::Wire => {}
    }
}

/// Waits for the client's answer to our close frame.
async fn hear_goodbye<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocket<S>) {
    while socket.next_frame().await.is_ok_and(|frame| frame.opcode() != OpCode::Close) {}
}

/// Closes our side and reads what is still on its way. Otherwise the system would answer that with a reset, and
/// the client might never see the close frame.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S) {
    let hear_out = async {
        let _ = io.shutdown().await;
        let (mut buffer, mut heard) = ([0; 4096], 0);
        while heard < LINGER {
            match io.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(more) => heard += more,
            }
        }
    };
    // A client that goes on talking is cut off.
    let _ = timeout(PATIENCE, hear_out).await;
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
        edge::events::Client,
        functions::{Functions, InvokeError},
    };

    struct Silent;

    #[async_trait]
    impl Functions for Silent {
        async fn invoke(&self, _: &str, _: Value) -> Result<Value, InvokeError> {
            Ok(json!({ "statusCode": 200 }))
        }
    }

    /// The other end of a socket that is being served, and what serves it.
    fn serve(settings: Settings) -> (WebSocket<DuplexStream>, Arc<Connection>, JoinHandle<()>) {
        let edge = Edge::new(settings, Arc::new(Silent));
        let client = Client::new("dev", "127.0.0.1:1".parse().unwrap(), &HeaderMap::new(), None);
        let (outbox, outgoing) = mpsc::channel(8);
        let connection = Arc::new(Connection {
            client,
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
        let joined = Joined::new(&edge, Arc::clone(&connection));
        let task = tokio::spawn(run(joined, ours, None, outgoing));
        let client = WebSocket::from_stream(theirs, Role::Client, Options::default()).unwrap();
        (client, connection, task)
    }

    /// When, in seconds from now, the edge closes the socket, and with which code.
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
    async fn a_socket_is_closed_with_1001_after_ten_idle_minutes() {
        let (mut client, ..) = serve(Settings::default());
        assert_eq!(closed(&mut client).await, (10 * MINUTE, 1001));
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_is_said_or_pushed_keeps_a_socket_from_being_idle() {
        let (mut client, connection, _task) = serve(Settings::default());
        sleep(Duration::from_secs(9 * MINUTE)).await;
        client.send(Frame::text("hello")).await.unwrap();
        sleep(Duration::from_secs(9 * MINUTE)).await;
        connection.outbox.send(Outgoing::Text("a push".to_owned())).await.ok().unwrap();
        assert_eq!(closed(&mut client).await, (10 * MINUTE, 1001));
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_keeps_a_socket_alive_only_if_so_set() {
        for (ping_resets_idle, expected) in [(false, MINUTE), (true, 10 * MINUTE)] {
            let (mut client, ..) = serve(Settings { ping_resets_idle, ..Settings::default() });
            sleep(Duration::from_secs(9 * MINUTE)).await;
            client.send(Frame::ping("x")).await.unwrap();
            assert_eq!(closed(&mut client).await, (expected, 1001));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_is_closed_with_1001_at_the_age_of_two_hours() {
        let (mut client, connection, _task) = serve(Settings::default());
        tokio::spawn(async move {
            // Never idle.
            while connection.outbox.send(Outgoing::Text("a push".to_owned())).await.is_ok() {
                sleep(Duration::from_secs(MINUTE)).await;
            }
        });
        assert_eq!(closed(&mut client).await, (120 * MINUTE, 1001));
    }

    #[tokio::test(start_paused = true)]
    async fn the_clocks_and_the_code_can_be_set() {
        let (mut client, ..) = serve(Settings { time_scale: 60.0, ..Settings::default() });
        assert_eq!(closed(&mut client).await, (10, 1001));
        let idle = Duration::from_secs(5);
        let (mut client, ..) = serve(Settings { idle, timeout_close_code: 1000, ..Settings::default() });
        assert_eq!(closed(&mut client).await, (5, 1000));
        let (mut client, ..) = serve(Settings { lifetime: Duration::from_secs(30), ..Settings::default() });
        assert_eq!(closed(&mut client).await, (30, 1001));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_a_close_is_cut_off() {
        let (client, _, task) = serve(Settings::default());
        let began = Instant::now();
        task.await.unwrap();
        let waited = began.elapsed() - Settings::default().idle;
        assert!(waited <= 2 * PATIENCE, "{waited:?}");
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_push_comes_in_frames_of_at_most_32_kb() {
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
