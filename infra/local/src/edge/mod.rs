//! The managed socket edge, imitated as far as kschat's own flow needs it.
//!
//! Source of every behaviour here: the Amazon API Gateway developer guide on WebSocket APIs, and captured
//! events. What differs is said where it does.

mod connections;
mod events;
mod socket;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    extract::{ConnectInfo, Path, RawQuery, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::mpsc;

use crate::functions::{Function, Functions};
use events::Client;

/// Frames on their way to one client at most; the connections API waits for room.
const OUTBOX: usize = 256;

/// The edge of one stage.
#[derive(Clone)]
pub struct Edge(Arc<Inner>);

struct Inner {
    stage: String,
    functions: Arc<dyn Functions>,
    // A std mutex: no guard is held across an await.
    connections: Mutex<HashMap<String, Connection>>,
}

/// What the edge knows of one socket.
#[derive(Clone)]
struct Connection {
    client: Arc<Client>,
    outbox: mpsc::Sender<Outgoing>,
    /// Until `$connect` has answered, the connections API does not know the connection.
    open: bool,
}

/// What the socket's task is to do.
enum Outgoing {
    Text(String),
    /// Close with this code and reason.
    Close(u16, &'static str),
}

impl Edge {
    /// An edge whose one stage is named `stage`, in front of `functions`.
    pub fn new(stage: &str, functions: Arc<dyn Functions>) -> Self {
        Self(Arc::new(Inner { stage: stage.to_owned(), functions, connections: Mutex::default() }))
    }

    /// The routes of the edge: the WebSocket and the connections API.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/{stage}", get(handshake))
            // The Socket.IO clients ask for it with a slash.
            .route("/{stage}/", get(handshake))
            .merge(connections::routes())
            .with_state(self.clone())
    }

    /// The ids of all connections.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.connections().keys().cloned().collect()
    }

    /// Tells every client that the edge goes away.
    pub async fn close_all(&self) {
        let outboxes: Vec<_> = self.connections().values().map(|connection| connection.outbox.clone()).collect();
        for outbox in outboxes {
            // One that is gone already needs no telling.
            let _ = outbox.send(Outgoing::Close(1001, "Going away")).await;
        }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<String, Connection>> {
        self.0.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection as the connections API sees it.
    fn open_connection(&self, id: &str) -> Option<Connection> {
        self.connections().get(id).filter(|connection| connection.open).cloned()
    }

    fn is_stage(&self, name: &str) -> bool {
        self.0.stage == name
    }
}

/// Asks `$connect` before it upgrades: a refusal is the handshake's status.
async fn handshake(
    State(edge): State<Edge>,
    Path(stage): Path<String>,
    RawQuery(query): RawQuery,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(_) if !edge.is_stage(&stage) => return StatusCode::FORBIDDEN.into_response(),
        Ok(upgrade) => upgrade,
        Err(_) if !edge.is_stage(&stage) => return StatusCode::NOT_FOUND.into_response(),
        Err(_) => return (StatusCode::UPGRADE_REQUIRED, "This is for WebSocket clients.\n").into_response(),
    };
    let client = Arc::new(Client::new(&stage, peer, &headers, query.as_deref()));
    let (outbox, outgoing) = mpsc::channel(OUTBOX);
    let connection = Connection { client: Arc::clone(&client), outbox, open: false };
    edge.connections().insert(client.id.clone(), connection);
    let guard = Forget { edge: edge.clone(), client: Arc::clone(&client), connected: false };
    match edge.0.functions.invoke(Function::Connect, client.connect_event()).await {
        Ok(reply) if (200..300).contains(&reply.status) => accept(guard, upgrade, reply.subprotocol, outgoing),
        Ok(reply) => StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY).into_response(),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "$connect failed");
            StatusCode::BAD_GATEWAY.into_response()
        }
    }
}

fn accept(
    mut guard: Forget,
    mut upgrade: WebSocketUpgrade,
    subprotocol: Option<String>,
    outgoing: mpsc::Receiver<Outgoing>,
) -> Response {
    guard.connected = true;
    if let Some(connection) = guard.edge.connections().get_mut(&guard.client.id) {
        connection.open = true;
    }
    if let Some(subprotocol) = subprotocol.and_then(|name| HeaderValue::try_from(name).ok()) {
        upgrade.set_selected_protocol(subprotocol);
    }
    socket::limited(upgrade).on_upgrade(move |socket| async move { socket::run(guard, socket, outgoing).await })
}

/// Forgets a connection, however it ends, and tells `$disconnect` if `$connect` had accepted it.
struct Forget {
    edge: Edge,
    client: Arc<Client>,
    connected: bool,
}

impl Forget {
    /// Ends the connection with the code and reason that `$disconnect` is told.
    fn end(mut self, code: u16, reason: &str) {
        self.forget(code, reason);
    }

    fn forget(&mut self, code: u16, reason: &str) {
        self.edge.connections().remove(&self.client.id);
        if std::mem::take(&mut self.connected) {
            let (functions, event) = (Arc::clone(&self.edge.0.functions), self.client.disconnect_event(code, reason));
            tokio::spawn(async move {
                if let Err(error) = functions.invoke(Function::Disconnect, event).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "$disconnect failed");
                }
            });
        }
    }
}

impl Drop for Forget {
    fn drop(&mut self) {
        // The client has left before the upgrade was done.
        self.forget(1006, "Connection closed abnormally");
    }
}
