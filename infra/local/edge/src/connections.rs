//! The connections API: `/{stage}/@connections/{id}`, and its equivalent for a consumer in this process.
//!
//! Clients distinguish errors by the header `x-amzn-ErrorType`, so every error response has it.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, Request, State,
        rejection::{BytesRejection, FailedToBufferBody},
    },
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::post,
};
use kschat_core::ports::{ConnectionsApi, PostError, Unavailable};
use kschat_protocol::ConnectionId;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{
    Connection, Edge, Outgoing,
    events::is_id,
    faults::PostFault,
    journal::{Entry, Kind, Outcome, rfc3339},
};

/// How long a post waits for space in the outbox of a slow client.
const HELD_PUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Post timeout of a consumer in this process, the same as of one in another process.
const POST_TIMEOUT: Duration = Duration::from_secs(5);

/// Back ends send no origin: pages of other origins may not push.
async fn no_foreign_page(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    match edge.0.settings.origins.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(foreign) => (StatusCode::FORBIDDEN, format!("{foreign}\n")).into_response(),
    }
}

pub(super) fn routes(edge: &Edge) -> Router<Edge> {
    let max_message = edge.0.settings.max_message;
    Router::new()
        .route("/{stage}/{marker}/{id}", post(push).get(describe).delete(close))
        .layer(DefaultBodyLimit::max(max_message))
        .layer(from_fn_with_state(edge.clone(), no_foreign_page))
}

/// An error response of the connections API.
#[derive(Debug)]
enum ConnectionsApiError {
    Forbidden,
    NotFound,
    BadId(String),
    Gone,
    TooLarge,
    /// The body did not arrive in time.
    Incomplete,
    TooMany,
    Failed,
}

impl ConnectionsApiError {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::BadId(_) => StatusCode::BAD_REQUEST,
            Self::Gone => StatusCode::GONE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Incomplete => StatusCode::REQUEST_TIMEOUT,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl ConnectionsApiError {
    fn into_unavailable(self, action: &'static str) -> Unavailable {
        Unavailable::new("edge", action, format!("the edge answered {}", self.status()))
    }
}

impl IntoResponse for ConnectionsApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let (name, message) = match self {
            Self::NotFound => return status.into_response(),
            Self::Gone => return (status, [("x-amzn-ErrorType", "GoneException")]).into_response(),
            Self::Forbidden => ("ForbiddenException", "Forbidden".to_owned()),
            Self::BadId(id) => ("BadRequestException", format!("Invalid connectionId: {id}")),
            Self::TooLarge => ("PayloadTooLargeException", "Message too long".to_owned()),
            Self::Incomplete => ("RequestTimeoutException", "The request body timed out".to_owned()),
            Self::TooMany => ("LimitExceededException", "Too many requests".to_owned()),
            Self::Failed => ("InternalServerErrorException", "Internal server error".to_owned()),
        };
        (status, [("x-amzn-ErrorType", name)], Json(json!({ "message": message }))).into_response()
    }
}

type Target = Path<(String, String, String)>;

/// Records the outcome of a back end's call.
fn note(
    edge: &Edge,
    kind: Kind,
    id: &str,
    done: Result<StatusCode, ConnectionsApiError>,
    text: Option<&str>,
) -> Result<StatusCode, ConnectionsApiError> {
    let status = done.as_ref().map_or_else(ConnectionsApiError::status, |status| *status);
    let mut entry = Entry::new(kind, id).status(status.as_u16());
    if let Some(text) = text {
        entry = entry.text(text);
    }
    let totals = &edge.journal().totals;
    if done.is_ok() {
        totals.pushes.fetch_add(u64::from(kind == Kind::Push), Relaxed);
    } else {
        totals.pushes_refused.fetch_add(u64::from(kind == Kind::Push), Relaxed);
        entry = entry.outcome(Outcome::Refused);
    }
    edge.journal().record(entry);
    done
}

fn find(edge: &Edge, (stage, marker, id): &(String, String, String)) -> Result<Arc<Connection>, ConnectionsApiError> {
    // The marker is already decoded: some clients write `%40connections`.
    if marker != "@connections" {
        return Err(ConnectionsApiError::NotFound);
    }
    if !edge.is_stage(stage) {
        return Err(ConnectionsApiError::Forbidden);
    }
    look_up(edge, id)
}

fn look_up(edge: &Edge, id: &str) -> Result<Arc<Connection>, ConnectionsApiError> {
    if !edge.0.post_rate.allows() {
        return Err(ConnectionsApiError::TooMany);
    }
    if !is_id(id) {
        return Err(ConnectionsApiError::BadId(id.to_owned()));
    }
    edge.connection(id).ok_or(ConnectionsApiError::Gone)
}

async fn push(
    State(edge): State<Edge>,
    Path(target): Target,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, ConnectionsApiError> {
    let text = body.as_ref().ok().map(|body| String::from_utf8_lossy(body).into_owned());
    let done = match (find(&edge, &target), text.clone()) {
        (Ok(connection), Some(text)) => forward_to_client(&edge, &connection, text).await,
        (Ok(_), None) if is_too_large(&body) => Err(ConnectionsApiError::TooLarge),
        (Ok(_), None) => Err(ConnectionsApiError::Incomplete),
        (Err(refusal), _) => Err(refusal),
    };
    note(&edge, Kind::Push, &target.2, done, text.as_deref())
}

fn is_too_large(body: &Result<Bytes, BytesRejection>) -> bool {
    matches!(body, Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_))))
}

/// Queues a frame for a client, unless a fault rule applies.
async fn forward_to_client(
    edge: &Edge,
    connection: &Connection,
    text: String,
) -> Result<StatusCode, ConnectionsApiError> {
    if let Some(hit) = edge.0.faults.on_post(&connection.client.id) {
        let entry = Entry::new(Kind::Fault, &connection.client.id).note(hit.rule);
        let is_lost = hit.fault == PostFault::Swallow;
        edge.journal().record(if is_lost { entry.outcome(Outcome::Lost) } else { entry });
        match hit.fault {
            PostFault::Gone => return Err(ConnectionsApiError::Gone),
            PostFault::Throttled => return Err(ConnectionsApiError::TooMany),
            PostFault::Failed => return Err(ConnectionsApiError::Failed),
            PostFault::Swallow => return Ok(StatusCode::OK),
            PostFault::Delay(time) => sleep(time).await,
        }
    }
    match timeout(HELD_PUSH_TIMEOUT, connection.outbox.send(Outgoing::Text(text))).await {
        Ok(Ok(())) => Ok(StatusCode::OK),
        Ok(Err(_)) => Err(ConnectionsApiError::Gone),
        Err(_) => Err(ConnectionsApiError::TooMany),
    }
}

async fn describe(State(edge): State<Edge>, Path(target): Target) -> Result<Response, ConnectionsApiError> {
    let found = find(&edge, &target);
    let described = found.as_ref().ok().map(|connection| {
        let (client, last_active) = (&connection.client, rfc3339(connection.last_active()));
        json!({ "connectedAt": rfc3339(client.connected), "identity": client.identity, "lastActiveAt": last_active })
    });
    note(&edge, Kind::Describe, &target.2, found.map(|_| StatusCode::OK), None)?;
    Ok(Json(described).into_response())
}

async fn close(State(edge): State<Edge>, Path(target): Target) -> Result<StatusCode, ConnectionsApiError> {
    let done = match find(&edge, &target) {
        Ok(connection) => hang_up(&edge, &connection).await,
        Err(refusal) => Err(refusal),
    };
    note(&edge, Kind::Delete, &target.2, done, None)
}

async fn hang_up(edge: &Edge, connection: &Connection) -> Result<StatusCode, ConnectionsApiError> {
    edge.remove_connection(&connection.client.id);
    let sent = connection.outbox.send(Outgoing::Close(1000, "Connection Closed Normally"));
    match timeout(HELD_PUSH_TIMEOUT, sent).await {
        Ok(Ok(())) => Ok(StatusCode::NO_CONTENT),
        _ => Err(ConnectionsApiError::Gone),
    }
}

/// The equivalent for a consumer in this process, without HTTP. The adapter of the real API maps the responses.
#[async_trait]
impl ConnectionsApi for Edge {
    async fn post(&self, connection: &ConnectionId, frame: &str) -> Result<(), PostError> {
        let id = connection.as_str();
        let done = match look_up(self, id) {
            Ok(_) if frame.len() > self.0.settings.max_message => Err(ConnectionsApiError::TooLarge),
            // A fault rule may delay it for longer than the caller waits.
            Ok(found) => timeout(POST_TIMEOUT, forward_to_client(self, &found, frame.to_owned()))
                .await
                .unwrap_or(Err(ConnectionsApiError::Failed)),
            Err(refusal) => Err(refusal),
        };
        note(self, Kind::Push, id, done, Some(frame)).map(drop).map_err(|refusal| match refusal {
            ConnectionsApiError::Gone | ConnectionsApiError::BadId(_) => PostError::Gone,
            ConnectionsApiError::TooLarge => PostError::Rejected(refusal.into_unavailable("post to a connection")),
            _ => PostError::Retryable(refusal.into_unavailable("post to a connection")),
        })
    }

    async fn close_connection(&self, connection: &ConnectionId) -> Result<(), Unavailable> {
        let id = connection.as_str();
        let done = match look_up(self, id) {
            Ok(found) => hang_up(self, &found).await,
            Err(refusal) => Err(refusal),
        };
        match note(self, Kind::Delete, id, done, None) {
            Ok(_) | Err(ConnectionsApiError::Gone | ConnectionsApiError::BadId(_)) => Ok(()),
            Err(refusal) => Err(refusal.into_unavailable("close a connection")),
        }
    }

    async fn is_open(&self, connection: &ConnectionId) -> Result<bool, Unavailable> {
        let id = connection.as_str();
        let found = look_up(self, id).map(|_| StatusCode::OK);
        match note(self, Kind::Describe, id, found, None) {
            Ok(_) => Ok(true),
            Err(ConnectionsApiError::Gone | ConnectionsApiError::BadId(_)) => Ok(false),
            Err(refusal) => Err(refusal.into_unavailable("look for a connection")),
        }
    }
}
