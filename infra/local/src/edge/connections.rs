//! The connections API: `/{stage}/@connections/{id}`.
//!
//! Clients tell errors apart by the header `x-amzn-ErrorType`, so every refusal has it.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::json;
use time::format_description::well_known::Rfc3339;

use super::{Connection, Edge, Outgoing, events::is_id};

/// Source: Amazon API Gateway quotas, "Message payload size".
const MAX_PAYLOAD: usize = 128 * 1024;

pub(super) fn routes() -> Router<Edge> {
    Router::new()
        .route("/{stage}/{marker}/{id}", post(push).get(describe).delete(close))
        .layer(DefaultBodyLimit::max(MAX_PAYLOAD))
}

/// A request of the connections API that is refused.
enum Refusal {
    Forbidden,
    NotFound,
    BadId(String),
    Gone,
    TooLarge,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, name, message) = match self {
            Self::NotFound => return StatusCode::NOT_FOUND.into_response(),
            Self::Gone => return (StatusCode::GONE, [("x-amzn-ErrorType", "GoneException")]).into_response(),
            Self::Forbidden => (StatusCode::FORBIDDEN, "ForbiddenException", "Forbidden".to_owned()),
            Self::BadId(id) => (StatusCode::BAD_REQUEST, "BadRequestException", format!("Invalid connectionId: {id}")),
            Self::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLargeException", "Message too long".to_owned())
            }
        };
        (status, [("x-amzn-ErrorType", name)], Json(json!({ "message": message }))).into_response()
    }
}

type Target = Path<(String, String, String)>;

fn find(edge: &Edge, Path((stage, marker, id)): Target) -> Result<Connection, Refusal> {
    // The marker comes decoded: some clients write `%40connections`.
    if marker != "@connections" {
        return Err(Refusal::NotFound);
    }
    if !edge.is_stage(&stage) {
        return Err(Refusal::Forbidden);
    }
    if !is_id(&id) {
        return Err(Refusal::BadId(id));
    }
    edge.open_connection(&id).ok_or(Refusal::Gone)
}

async fn push(
    State(edge): State<Edge>,
    target: Target,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Refusal> {
    let connection = find(&edge, target)?;
    let body = body.map_err(|_| Refusal::TooLarge)?;
    let text = String::from_utf8_lossy(&body).into_owned();
    connection.outbox.send(Outgoing::Text(text)).await.map_err(|_| Refusal::Gone)?;
    Ok(StatusCode::OK)
}

async fn describe(State(edge): State<Edge>, target: Target) -> Result<Response, Refusal> {
    let client = find(&edge, target)?.client;
    let connected = client.connected.format(&Rfc3339).unwrap_or_default();
    let described = json!({ "connectedAt": connected, "identity": client.identity, "lastActiveAt": connected });
    Ok(Json(described).into_response())
}

async fn close(State(edge): State<Edge>, target: Target) -> Result<StatusCode, Refusal> {
    let connection = find(&edge, target)?;
    let told = connection.outbox.send(Outgoing::Close(1000, "Connection Closed Normally")).await;
    told.map_err(|_| Refusal::Gone)?;
    Ok(StatusCode::NO_CONTENT)
}
