//! The managed socket edge, imitated.
//!
//! Source of every behaviour here, where no other is named: the Amazon API Gateway developer guide on WebSocket
//! APIs, and captured events. `infra/local/README.md` lists them one by one, each with its test, and what no
//! source settles.
//!
//! A client goes through `handshake`, then `socket` serves it: `routes` says which function gets a frame,
//! `dispatch` hands it over. Backends push through `connections`. `faults` makes things go wrong on
//! purpose; `journal` notes what has happened, and `view` shows it.

mod authorize;
mod connections;
mod dispatch;
mod events;
mod faults;
mod handshake;
mod journal;
mod rate;
pub mod routes;
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

use crate::functions::Functions;
use dispatch::Invocation;
use events::Client;
use faults::Faults;
use journal::{Entry, Journal, Kind, Outcome};
use rate::Rate;

pub use faults::{MAX_RULES, Rule};
pub use settings::{MAX_FRAME, MAX_MESSAGE, MAX_URL, Settings};

/// Frames on their way to one client at most; whoever pushes waits for room.
const OUTBOX: usize = 64;

/// How long the edge waits at its end for clients to hear of it and for `$disconnect` to return.
const FAREWELL: Duration = Duration::from_secs(3);

/// The edge of one stage.
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
    /// Room for invocations.
    concurrency: Arc<Semaphore>,
    connect_rate: Rate,
    post_rate: Rate,
    /// The handshakes, the sockets, and the `$disconnect`s of those that have ended.
    sockets: TaskTracker,
    /// The edge goes away.
    closing: CancellationToken,
    started: OffsetDateTime,
}

/// What the edge knows of one open socket.
struct Connection {
    client: Client,
    subprotocol: Option<String>,
    compressed: bool,
    outbox: mpsc::Sender<Outgoing>,
    /// When something was last said, in milliseconds since 1970.
    last_active: AtomicI64,
    frames_in: AtomicU64,
    frames_out: AtomicU64,
    in_flight: AtomicUsize,
    /// Told whenever a function has answered.
    answered: Notify,
    /// Whether an event is held back, to be overtaken by the next.
    held: AtomicBool,
}

/// What the socket's task is to do.
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
            // The Socket.IO clients ask for it with a slash.
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

    /// Tells every client that the edge goes away, and `$disconnect` of every client.
    pub async fn close_all(&self) {
        self.0.closing.cancel();
        self.0.sockets.close();
        // Who does not answer is left behind.
        let _ = timeout(FAREWELL, self.0.sockets.wait()).await;
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<String, Arc<Connection>>> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection whose `$connect` has returned and that has not ended.
    fn connection(&self, id: &str) -> Option<Arc<Connection>> {
        self.connections().get(id).cloned()
    }

    /// From now on every call to that connection is answered 410.
    fn unlist(&self, id: &str) {
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

/// A connection that the edge knows until this is dropped; then it tells `$disconnect`, however it came to that.
struct Joined {
    edge: Edge,
    connection: Arc<Connection>,
    ended: bool,
}

impl Joined {
    fn new(edge: &Edge, connection: Arc<Connection>) -> Self {
        edge.connections().insert(connection.client.id.clone(), Arc::clone(&connection));
        edge.journal().totals.accepted.fetch_add(1, Relaxed);
        Self { edge: edge.clone(), connection, ended: false }
    }

    /// Ends the connection with the code and reason that `$disconnect` is told.
    fn end(mut self, code: u16, reason: &str) {
        self.forget(code, reason);
    }

    fn forget(&mut self, code: u16, reason: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let id = &self.connection.client.id;
        self.edge.unlist(id);
        self.edge.journal().record(Entry::new(Kind::Close, id).status(code).note(reason));
        if let Some(hit) = self.edge.0.faults.on_disconnect(id) {
            let entry = Entry::new(Kind::Fault, id).route(routes::DISCONNECT, "").outcome(Outcome::Lost);
            self.edge.journal().record(entry.note(hit.rule));
            return;
        }
        let event = self.connection.client.disconnect_event(code, reason);
        let (edge, client) = (self.edge.clone(), Arc::clone(&self.connection));
        self.edge.0.sockets.spawn(async move {
            // It can't be told to the client any more: the journal has it.
            let _ = Invocation { edge: &edge, client: &client.client, connection: None }
                .of_route(Kind::Disconnect, routes::DISCONNECT, event)
                .await;
        });
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        // The client has left before the upgrade was done.
        self.forget(1006, "Connection closed abnormally");
    }
}
