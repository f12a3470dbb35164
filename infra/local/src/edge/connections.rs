//! The connections API: `/{stage}/@connections/{id}`.
//!
//! Clients tell errors apart by the header `x-amzn-ErrorType`, so every refusal has it.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

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
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{
    Connection, Edge, Outgoing,
    events::is_id,
    faults::PostFault,
    journal::{Entry, Kind, Outcome, rfc3339},
};

/// How long a post waits for room in front of a client that is slow to take what it gets.
const PATIENCE: Duration = Duration::from_secs(5);

/// Back ends send no origin: a page elsewhere has nothing to push.
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

/// A request of the connections API that is refused.
#[derive(Debug)]
enum Refusal {
    Forbidden,
    NotFound,
    BadId(String),
    Gone,
    TooLarge,
    /// Its body did not come in time.
    Incomplete,
    TooMany,
    Failed,
}

impl Refusal {
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

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let (name, message) = match self {
            Self::NotFound => return status.into_response(),
            Self::Gone => return (status, [("x-amzn-ErrorType", "GoneException")]).into_response(),
            Self::Forbidden => ("ForbiddenException", "Forbidden".to_owned()),
            Self::BadId(id) => ("BadRequestException", format!("Invalid connectionId: {id}")),
            Self::TooLarge => ("PayloadTooLargeException", "Message too long".to_owned()),
            Self::Incomplete => ("RequestTimeoutException", "The body did not come in time".to_owned()),
            Self::TooMany => ("LimitExceededException", "Too many requests".to_owned()),
            Self::Failed => ("InternalServerErrorException", "Internal server error".to_owned()),
        };
        (status, [("x-amzn-ErrorType", name)], Json(json!({ "message": message }))).into_response()
    }
}

type Target = Path<(String, String, String)>;

/// Notes how a call went that a backend has made.
fn note(
    edge: &Edge,
    kind: Kind,
    id: &str,
    done: Result<StatusCode, Refusal>,
    text: Option<&str>,
) -> Result<StatusCode, Refusal> {
    let status = done.as_ref().map_or_else(Refusal::status, |status| *status);
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

fn find(edge: &Edge, (stage, marker, id): &(String, String, String)) -> Result<Arc<Connection>, Refusal> {
    // The marker comes decoded: some clients write `%40connections`.
    if marker != "@connections" {
        return Err(Refusal::NotFound);
    }
    if !edge.is_stage(stage) {
        return Err(Refusal::Forbidden);
    }
    if !edge.0.post_rate.allows() {
        return Err(Refusal::TooMany);
    }
    if !is_id(id) {
        return Err(Refusal::BadId(id.clone()));
    }
    edge.connection(id).ok_or(Refusal::Gone)
}

async fn push(
    State(edge): State<Edge>,
    Path(target): Target,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refusal> {
    let text = body.as_ref().ok().map(|body| String::from_utf8_lossy(body).into_owned());
    let done = match (find(&edge, &target), text.clone()) {
        (Ok(connection), Some(text)) => pass_on(&edge, &connection, text).await,
        (Ok(_), None) if is_too_large(&body) => Err(Refusal::TooLarge),
        (Ok(_), None) => Err(Refusal::Incomplete),
        (Err(refusal), _) => Err(refusal),
    };
    note(&edge, Kind::Push, &target.2, done, text.as_deref())
}

fn is_too_large(body: &Result<Bytes, BytesRejection>) -> bool {
    matches!(body, Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_))))
}

/// Queues a frame for a client, unless a fault rule knows better.
async fn pass_on(edge: &Edge, connection: &Connection, text: String) -> Result<StatusCode, Refusal> {
    if let Some(hit) = edge.0.faults.on_post(&connection.client.id) {
        let entry = Entry::new(Kind::Fault, &connection.client.id).note(hit.rule);
        let is_lost = hit.fault == PostFault::Swallow;
        edge.journal().record(if is_lost { entry.outcome(Outcome::Lost) } else { entry });
        match hit.fault {
            PostFault::Gone => return Err(Refusal::Gone),
            PostFault::Throttled => return Err(Refusal::TooMany),
            PostFault::Failed => return Err(Refusal::Failed),
            PostFault::Swallow => return Ok(StatusCode::OK),
            PostFault::Delay(time) => sleep(time).await,
        }
    }
    match timeout(PATIENCE, connection.outbox.send(Outgoing::Text(text))).await {
        Ok(Ok(())) => Ok(StatusCode::OK),
        Ok(Err(_)) => Err(Refusal::Gone),
        Err(_) => Err(Refusal::TooMany),
    }
}

async fn describe(State(edge): State<Edge>, Path(target): Target) -> Result<Response, Refusal> {
    let found = find(&edge, &target);
    let described = found.as_ref().ok().map(|connection| {
        let (client, last_active) = (&connection.client, rfc3339(connection.last_active()));
        json!({ "connectedAt": rfc3339(client.connected), "identity": client.identity, "lastActiveAt": last_active })
    });
    note(&edge, Kind::Describe, &target.2, found.map(|_| StatusCode::OK), None)?;
    Ok(Json(described).into_response())
}

async fn close(State(edge): State<Edge>, Path(target): Target) -> Result<StatusCode, Refusal> {
    let done = match find(&edge, &target) {
        Ok(connection) => {
            edge.unlist(&target.2);
            let told = connection.outbox.send(Outgoing::Close(1000, "Connection Closed Normally"));
            match timeout(PATIENCE, told).await {
                Ok(Ok(())) => Ok(StatusCode::NO_CONTENT),
                _ => Err(Refusal::Gone),
            }
        }
        Err(refusal) => Err(refusal),
    };
    note(&edge, Kind::Delete, &target.2, done, None)
}
