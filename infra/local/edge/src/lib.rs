//! A local emulation of the managed socket edge.
//!
//! Source of every behaviour, unless another is named: the Amazon API Gateway developer guide on WebSocket APIs, and
//! captured events. `infra/local/README.md` lists each behaviour with its test, and what no source specifies.
//!
//! A client passes `handshake`, then `socket` serves it: [`routes`] selects the function of a frame, `dispatch` invokes
//! it through [`functions`]. Back ends push through `connections`. `faults` injects faults; `journal` records what
//! happened, and `view` shows it. [`server`] listens; [`loopback`] checks that a request is local.

mod authorize;
mod connections;
mod dispatch;
pub mod error_chain;
mod events;
mod faults;
pub mod functions;
mod handshake;
mod journal;
pub mod loopback;
mod rate;
pub mod routes;
pub mod server;
mod settings;
mod socket;
pub mod template;
mod view;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use dispatch::Invocation;
use events::Client;
use faults::Faults;
use functions::Functions;
use journal::{Entry, Journal, Kind, Outcome};
use rate::Rate;

pub use faults::{MAX_RULES, Rule};
pub use settings::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, MAX_URL_LENGTH, Settings};

/// Capacity of a client's outbox; pushes wait for space.
const OUTBOX_CAPACITY: usize = 64;

/// How long a shutdown waits for clients to receive the close and for `$disconnect` to return.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// The edge of one stage.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
///
/// use kschat_edge::{Edge, Settings, functions::Remote};
/// use tokio::net::TcpListener;
///
/// // `cargo lambda watch` serves the functions on port 9000.
/// let functions = Arc::new(Remote::new("http://127.0.0.1:9000"));
/// let edge = Edge::new(Settings { stage: "prod".to_owned(), ..Settings::default() }, functions);
/// // Clients connect to ws://127.0.0.1:3000/prod.
/// let listener = TcpListener::bind("127.0.0.1:3000").await?;
/// axum::serve(listener, edge.routes().into_make_service_with_connect_info::<std::net::SocketAddr>()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Edge(Arc<Inner>);

struct Inner {
    settings: Settings,
    functions: Arc<dyn Functions>,
    websocket: yawc::Options,
    // A std mutex: no guard is held across an await.
    connections: Mutex<HashMap<String, Arc<Connection>>>,
    faults: Faults,
    journal: Journal,
    /// Permits for invocations.
    concurrency: Arc<Semaphore>,
    connect_rate: Rate,
    post_rate: Rate,
    /// Tasks of handshakes, sockets, and `$disconnect` invocations.
    sockets: TaskTracker,
    /// Cancelled on shutdown.
    closing: CancellationToken,
    started: OffsetDateTime,
}

/// State of one open socket.
struct Connection {
    client: Arc<Client>,
    subprotocol: Option<String>,
    compressed: bool,
    outbox: mpsc::Sender<Outgoing>,
    /// Time of the last activity, in milliseconds since 1970.
    last_active: AtomicI64,
    frames_in: AtomicU64,
    frames_out: AtomicU64,
    in_flight: AtomicUsize,
    /// Notified whenever a function has answered.
    answered: Notify,
    /// Whether an event is held back to be reordered.
    held: AtomicBool,
}

/// A command for the socket's task.
enum Outgoing {
    Text(String),
    /// Close with this code and reason.
    Close(u16, &'static str),
}

impl Edge {
    /// An edge in front of `functions`.
    #[must_use]
    pub fn new(settings: Settings, functions: Arc<dyn Functions>) -> Self {
        Self(Arc::new(Inner {
            functions,
            websocket: socket::options(&settings),
            connections: Mutex::default(),
            faults: Faults::new(settings.faults.clone()),
            journal: Journal::default(),
            concurrency: Arc::new(Semaphore::new(settings.concurrency)),
            connect_rate: Rate::new(settings.connect_rate),
            post_rate: Rate::new(settings.post_rate),
            sockets: TaskTracker::new(),
            closing: CancellationToken::new(),
            started: OffsetDateTime::now_utc(),
            settings,
        }))
    }

    /// The routes of the edge: the WebSocket, the connections API, and the view for developers.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/{stage}", get(handshake::handshake))
            // Socket.IO clients request it with a trailing slash.
            .route("/{stage}/", get(handshake::handshake))
            .merge(connections::routes(self))
            .merge(view::routes())
            .with_state(self.clone())
    }

    /// The ids of all connections.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.connections().keys().cloned().collect()
    }

    /// Closes every connection, and invokes `$disconnect` for each.
    pub async fn close_all(&self) {
        self.0.closing.cancel();
        self.0.sockets.close();
        // Clients that do not answer in time are abandoned.
        let _ = timeout(SHUTDOWN_TIMEOUT, self.0.sockets.wait()).await;
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<String, Arc<Connection>>> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An open connection, whose `$connect` has returned.
    fn connection(&self, id: &str) -> Option<Arc<Connection>> {
        self.connections().get(id).cloned()
    }

    /// Unlists that connection: from now on every call for it is answered 410.
    fn remove_connection(&self, id: &str) {
        self.connections().remove(id);
    }

    fn is_stage(&self, name: &str) -> bool {
        self.0.settings.stage == name
    }

    fn journal(&self) -> &Journal {
        &self.0.journal
    }
}

impl Connection {
    fn touch(&self) {
        self.last_active.store(events::millis(OffsetDateTime::now_utc()), Relaxed);
    }

    fn last_active(&self) -> OffsetDateTime {
        let nanos = i128::from(self.last_active.load(Relaxed)) * 1_000_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(self.client.connected)
    }
}

/// A registered connection. Dropping it unregisters the connection and invokes `$disconnect`.
struct ListedConnection {
    edge: Edge,
    connection: Arc<Connection>,
    ended: bool,
}

impl ListedConnection {
    fn new(edge: &Edge, connection: Arc<Connection>) -> Self {
        edge.connections().insert(connection.client.id.clone(), Arc::clone(&connection));
        edge.journal().totals.accepted.fetch_add(1, Relaxed);
        Self { edge: edge.clone(), connection, ended: false }
    }

    /// Ends the connection with a code and reason for `$disconnect`.
    fn end(mut self, code: u16, reason: &str) {
        self.forget(code, reason);
    }

    fn forget(&mut self, code: u16, reason: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let id = &self.connection.client.id;
        self.edge.remove_connection(id);
        self.edge.journal().record(Entry::new(Kind::Close, id).status(code).note(reason));
        if let Some(hit) = self.edge.0.faults.on_disconnect(id) {
            let entry = Entry::new(Kind::Fault, id).route(routes::DISCONNECT, "").outcome(Outcome::Lost);
            self.edge.journal().record(entry.note(hit.rule));
            return;
        }
        let event = self.connection.client.disconnect_event(code, reason);
        let (edge, client) = (self.edge.clone(), Arc::clone(&self.connection));
        self.edge.0.sockets.spawn(async move {
            // The client is gone; the journal records the outcome.
            let _ = Invocation { edge: &edge, client: &client.client, connection: None }
                .of_route(Kind::Disconnect, routes::DISCONNECT, event)
                .await;
        });
    }
}

impl Drop for ListedConnection {
    fn drop(&mut self) {
        // The client disconnected before the upgrade was complete.
        self.forget(1006, "Connection closed abnormally");
    }
}
