//! The WebSocket handshake: `$connect` is invoked before the upgrade, and its refusal is the handshake's status.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, Path, State},
    http::{
        HeaderValue, Request, StatusCode,
        header::{CONNECTION, HOST, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE},
    },
    response::{IntoResponse, Response},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, timeout},
};
use yawc::WebSocket;

use super::{
    Connection, Edge, ListedConnection, OUTBOX_CAPACITY, Outgoing,
    authorize::{AuthorizationError, has_identity, verdict},
    dispatch::Invocation,
    events::{Client, millis},
    journal::{Entry, Kind, Outcome},
    routes::{Authorizer, CONNECT},
    settings::MAX_URL_LENGTH,
    socket,
};

/// How long a client may take to read the handshake response.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// A refusal, with advice for the client's developer.
type HandshakeError = (StatusCode, Cow<'static, str>);

/// An accepted client.
struct Accepted {
    joined: ListedConnection,
    outgoing: mpsc::Receiver<Outgoing>,
}

/// `GET /{stage}`.
pub(super) async fn handshake(
    State(edge): State<Edge>,
    Path(stage): Path<String>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request<Body>,
) -> Response {
    if let Err(refused) = check(&edge, &stage, &request) {
        return refuse(&edge, refused);
    }
    let Some((mut response, extensions, on_upgrade)) = agree(&edge, &mut request) else {
        return refuse(&edge, (StatusCode::BAD_REQUEST, "This is not a WebSocket version 13 handshake.\n".into()));
    };
    let client = Client::new(&stage, peer, request.headers(), request.uri().query());
    let (tell, answer) = oneshot::channel();
    let asking = edge.clone();
    let compressed = extensions.is_some();
    // A separate task: if the client disconnects meanwhile, `$disconnect` must still follow `$connect`.
    edge.0.sockets.spawn(async move {
        let answer = asking.invoke_connect(client, compressed).await;
        // If the receiver is gone, dropping the answer closes the connection.
        let _ = tell.send(answer);
    });
    match answer.await.unwrap_or(Err(502)) {
        Ok(accepted) => {
            let subprotocol = accepted.joined.connection.subprotocol.as_deref();
            if let Some(name) = subprotocol.and_then(|name| HeaderValue::try_from(name).ok()) {
                response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, name);
            }
            edge.0.sockets.spawn(upgraded(accepted, on_upgrade, extensions));
            response
        }
        Err(status) => {
            edge.journal().totals.refused.fetch_add(1, Relaxed);
            StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY).into_response()
        }
    }
}

/// Records a refusal that no function has seen.
fn refuse(edge: &Edge, refused: HandshakeError) -> Response {
    edge.journal().totals.refused.fetch_add(1, Relaxed);
    let entry = Entry::without_connection(Kind::Connect).status(refused.0.as_u16()).outcome(Outcome::Refused);
    edge.journal().record(entry.note(refused.1.trim_end()));
    refused.into_response()
}

/// Checks that need no function.
fn check(edge: &Edge, stage: &str, request: &Request<Body>) -> Result<(), HandshakeError> {
    let names = |header, token: &str| {
        let values = request.headers().get_all(header).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case(token))
    };
    let is_websocket = names(UPGRADE, "websocket") && names(CONNECTION, "upgrade");
    let is_strictly_wrong = edge.0.settings.strict_path && request.uri().path().ends_with('/');
    let refused = if !edge.is_stage(stage) && !is_websocket {
        (StatusCode::NOT_FOUND, "Not found.\n")
    } else if !edge.is_stage(stage) {
        (StatusCode::FORBIDDEN, "No such stage.\n")
    } else if is_strictly_wrong {
        (StatusCode::FORBIDDEN, "The path must end with the stage, without a trailing slash.\n")
    } else if edge.0.closing.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "The edge is shutting down.\n")
    } else if !is_websocket {
        (StatusCode::UPGRADE_REQUIRED, "This endpoint accepts WebSocket clients only.\n")
    } else if let Err(foreign) = edge.0.settings.origins.check(request.headers()) {
        return Err((StatusCode::FORBIDDEN, format!("{foreign}\n").into()));
    } else if url_length(request) > MAX_URL_LENGTH {
        (StatusCode::URI_TOO_LONG, "The URL is too long.\n")
    } else if !edge.0.connect_rate.allows() {
        (StatusCode::TOO_MANY_REQUESTS, "Too many new connections per second.\n")
    } else {
        return Ok(());
    };
    Err((refused.0, refused.1.into()))
}

/// Length of the URL as the client sees it.
fn url_length(request: &Request<Body>) -> usize {
    let host = request.headers().get(HOST).map_or(0, HeaderValue::len);
    "wss://".len() + host + request.uri().path_and_query().map_or(0, |rest| rest.as_str().len())
}

/// Builds the response of an accepted handshake, with the negotiated options.
fn agree(edge: &Edge, request: &mut Request<Body>) -> Option<(Response, Option<String>, OnUpgrade)> {
    // The library needs a request of its own: it would take away the upgrade from ours.
    let mut copy = Request::new(());
    *copy.headers_mut() = request.headers().clone();
    let (answer, _) = WebSocket::upgrade_with_options(&mut copy, edge.0.websocket.clone()).ok()?;
    let extensions = answer.headers().get(SEC_WEBSOCKET_EXTENSIONS).and_then(|value| value.to_str().ok());
    let extensions = extensions.map(str::to_owned);
    let on_upgrade = request.extensions_mut().remove::<OnUpgrade>()?;
    Some((answer.map(Body::new), extensions, on_upgrade))
}

async fn upgraded(accepted: Accepted, on_upgrade: OnUpgrade, extensions: Option<String>) {
    match timeout(UPGRADE_TIMEOUT, on_upgrade).await {
        Ok(Ok(upgraded)) => {
            socket::run(accepted.joined, TokioIo::new(upgraded), extensions.as_deref(), accepted.outgoing).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a client disconnected before the upgrade"),
        Err(_) => tracing::debug!("a client did not read the handshake response in time"),
    }
}

impl Edge {
    /// Invokes the authorizer and `$connect`; an error is the handshake's status.
    async fn invoke_connect(&self, mut client: Client, compressed: bool) -> Result<Accepted, u16> {
        if let Some(authorizer) = &self.0.settings.routes.authorizer {
            let began = Instant::now();
            client.authorizer = Some(self.authorize(&client, authorizer).await.map_err(AuthorizationError::status)?);
            client.authorizer_latency = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        }
        let call = Invocation { edge: self, client: &client, connection: None };
        let subprotocol = match call.of_route(Kind::Connect, CONNECT, client.connect_event()).await {
            None => None,
            Some(Ok(reply)) if (200..300).contains(&reply.status) => reply.subprotocol().map(str::to_owned),
            Some(Ok(reply)) if (300..600).contains(&reply.status) => return Err(reply.status),
            Some(_) => return Err(502),
        };
        let (outbox, outgoing) = mpsc::channel(OUTBOX_CAPACITY);
        let connection = Arc::new(Connection {
            last_active: AtomicI64::new(millis(client.connected)),
            client: Arc::new(client),
            subprotocol,
            compressed,
            outbox,
            frames_in: AtomicU64::new(0),
            frames_out: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            answered: Notify::new(),
            held: AtomicBool::new(false),
        });
        Ok(Accepted { joined: ListedConnection::new(self, connection), outgoing })
    }

    async fn authorize(
        &self,
        client: &Client,
        authorizer: &Authorizer,
    ) -> Result<serde_json::Value, AuthorizationError> {
        if !has_identity(authorizer, client) {
            let entry = Entry::new(Kind::Authorize, &client.id).route(CONNECT, &authorizer.function).status(401);
            self.journal().record(entry.outcome(Outcome::Refused).note("an identity source is missing"));
            return Err(AuthorizationError::Unauthorized);
        }
        let call = Invocation { edge: self, client, connection: None };
        let answer =
            call.of_function(Kind::Authorize, CONNECT, &authorizer.function, client.authorize_event(), Ok).await;
        verdict(answer, &client.method_arn()).inspect_err(|denied| {
            let entry = Entry::new(Kind::Authorize, &client.id).route(CONNECT, &authorizer.function);
            self.journal().record(entry.status(denied.status()).outcome(Outcome::Refused).note(denied.to_string()));
        })
    }
}
