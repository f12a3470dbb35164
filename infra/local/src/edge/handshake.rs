//! From a request to a socket: `$connect` is asked before the upgrade, and a refusal is the handshake's status.

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
    Connection, Edge, Joined, OUTBOX, Outgoing,
    authorize::{Denied, has_identity, verdict},
    dispatch::Invocation,
    events::{Client, millis},
    journal::{Entry, Kind, Outcome},
    routes::{Authorizer, CONNECT},
    settings::MAX_URL,
    socket,
};

/// How long a client may take to get the answer to its handshake.
const TAKING_THE_ANSWER: Duration = Duration::from_secs(10);

/// A refusal, and what to do about it.
type Refused = (StatusCode, Cow<'static, str>);

/// A client that may come in.
struct Accepted {
    joined: Joined,
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
        return refuse(&edge, (StatusCode::BAD_REQUEST, "This is no handshake of WebSocket version 13.\n".into()));
    };
    let client = Client::new(&stage, peer, request.headers(), request.uri().query());
    let (tell, told) = oneshot::channel();
    let asking = edge.clone();
    let compressed = extensions.is_some();
    // A task of its own: if the client leaves meanwhile, what `$connect` has begun must be ended by `$disconnect`.
    edge.0.sockets.spawn(async move {
        let answer = asking.ask(client, compressed).await;
        // When nobody waits any more, dropping it ends the connection.
        let _ = tell.send(answer);
    });
    match told.await.unwrap_or(Err(502)) {
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

/// What no function has refused would otherwise be seen nowhere.
fn refuse(edge: &Edge, refused: Refused) -> Response {
    edge.journal().totals.refused.fetch_add(1, Relaxed);
    let entry = Entry::of_nobody(Kind::Connect).status(refused.0.as_u16()).outcome(Outcome::Refused);
    edge.journal().record(entry.note(refused.1.trim_end()));
    refused.into_response()
}

/// Refuses what no function is asked about.
fn check(edge: &Edge, stage: &str, request: &Request<Body>) -> Result<(), Refused> {
    let names = |header, token: &str| {
        let values = request.headers().get_all(header).iter().filter_map(|value: &HeaderValue| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case(token))
    };
    let is_websocket = names(UPGRADE, "websocket") && names(CONNECTION, "upgrade");
    let is_strictly_wrong = edge.0.settings.strict_path && request.uri().path().ends_with('/');
    let refused = if !edge.is_stage(stage) && !is_websocket {
        (StatusCode::NOT_FOUND, "There is nothing here.\n")
    } else if !edge.is_stage(stage) {
        (StatusCode::FORBIDDEN, "There is no such stage.\n")
    } else if is_strictly_wrong {
        (StatusCode::FORBIDDEN, "A path ends with the stage, without a slash.\n")
    } else if edge.0.closing.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "The edge goes away.\n")
    } else if !is_websocket {
        (StatusCode::UPGRADE_REQUIRED, "This is for WebSocket clients.\n")
    } else if let Err(foreign) = edge.0.settings.origins.check(request.headers()) {
        return Err((StatusCode::FORBIDDEN, format!("{foreign}\n").into()));
    } else if url_length(request) > MAX_URL {
        (StatusCode::URI_TOO_LONG, "The URL has too many characters.\n")
    } else if !edge.0.connect_rate.allows() {
        (StatusCode::TOO_MANY_REQUESTS, "There are too many new connections a second.\n")
    } else {
        return Ok(());
    };
    Err((refused.0, refused.1.into()))
}

/// The length of the URL as the client has it.
fn url_length(request: &Request<Body>) -> usize {
    let host = request.headers().get(HOST).map_or(0, HeaderValue::len);
    "wss://".len() + host + request.uri().path_and_query().map_or(0, |rest| rest.as_str().len())
}

/// What the handshake is answered with if the client may come in, and what both sides agree on.
fn agree(edge: &Edge, request: &mut Request<Body>) -> Option<(Response, Option<String>, OnUpgrade)> {
    // The library makes the answer from a request; ours keeps its own upgrade, which it would take away.
    let mut copy = Request::new(());
    *copy.headers_mut() = request.headers().clone();
    let (answer, _) = WebSocket::upgrade_with_options(&mut copy, edge.0.websocket.clone()).ok()?;
    let extensions = answer.headers().get(SEC_WEBSOCKET_EXTENSIONS).and_then(|value| value.to_str().ok());
    let extensions = extensions.map(str::to_owned);
    let on_upgrade = request.extensions_mut().remove::<OnUpgrade>()?;
    Some((answer.map(Body::new), extensions, on_upgrade))
}

async fn upgraded(accepted: Accepted, on_upgrade: OnUpgrade, extensions: Option<String>) {
    match timeout(TAKING_THE_ANSWER, on_upgrade).await {
        Ok(Ok(upgraded)) => {
            socket::run(accepted.joined, TokioIo::new(upgraded), extensions.as_deref(), accepted.outgoing).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a client has left before the upgrade"),
        Err(_) => tracing::debug!("a client does not take the answer to its handshake"),
    }
}

impl Edge {
    /// Asks the authorizer and `$connect`; an error is the status of the handshake.
    async fn ask(&self, mut client: Client, compressed: bool) -> Result<Accepted, u16> {
        if let Some(authorizer) = &self.0.settings.routes.authorizer {
            let began = Instant::now();
            client.authorizer = Some(self.authorize(&client, authorizer).await.map_err(Denied::status)?);
            client.authorizer_latency = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        }
        let call = Invocation { edge: self, client: &client, connection: None };
        let subprotocol = match call.of_route(Kind::Connect, CONNECT, client.connect_event()).await {
            None => None,
            Some(Ok(reply)) if (200..300).contains(&reply.status) => reply.subprotocol().map(str::to_owned),
            Some(Ok(reply)) if (300..600).contains(&reply.status) => return Err(reply.status),
            Some(_) => return Err(502),
        };
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let connection = Arc::new(Connection {
            last_active: AtomicI64::new(millis(client.connected)),
            client,
            subprotocol,
            compressed,
            outbox,
            frames_in: AtomicU64::new(0),
            frames_out: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            answered: Notify::new(),
            held: AtomicBool::new(false),
        });
        Ok(Accepted { joined: Joined::new(self, connection), outgoing })
    }

    async fn authorize(&self, client: &Client, authorizer: &Authorizer) -> Result<serde_json::Value, Denied> {
        if !has_identity(authorizer, client) {
            let entry = Entry::new(Kind::Authorize, &client.id).route(CONNECT, &authorizer.function).status(401);
            self.journal().record(entry.outcome(Outcome::Refused).note("an identity source is missing"));
            return Err(Denied::Unauthorized);
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
