//! The edge view for developers, with its fault switches. On this machine only.

use std::{net::SocketAddr, sync::atomic::Ordering::Relaxed};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Path, Query, Request, State, rejection::JsonRejection},
    http::{
        StatusCode,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    Connection, Edge, OUTBOX_CAPACITY,
    journal::{rfc3339, shown},
};
use crate::loopback::{Origins, check_local};

const PAGE: &str = include_str!("../../../../templates/edge.html");
const STYLE: &str = include_str!("../../../../templates/edge.css");
const SCRIPT: &str = include_str!("../../../../templates/edge.js");
const SHARED_SCRIPT: &str = include_str!("../../../../templates/words.js");
const ICON: &str = include_str!("../../../../templates/icon.svg");

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// Maximum connections in the list, the newest.
const MAX_LISTED_CONNECTIONS: usize = 200;

/// Maximum bytes of a fault rule.
const MAX_RULE_BYTES: usize = 1024;

pub(super) fn routes() -> Router<Edge> {
    let file = |content_type, body| get(move || async move { with_type(content_type, body) });
    Router::new()
        .route("/_edge", file("text/html; charset=utf-8", PAGE))
        .route("/_edge/edge.css", file("text/css; charset=utf-8", STYLE))
        .route("/_edge/edge.js", file("text/javascript; charset=utf-8", SCRIPT))
        .route("/_edge/words.js", file("text/javascript; charset=utf-8", SHARED_SCRIPT))
        .route("/_edge/icon.svg", file("image/svg+xml", ICON))
        .route("/_edge/state", get(state))
        .route("/_edge/faults", get(faults).post(add_fault).delete(clear_faults))
        .route("/_edge/faults/{id}", delete(remove_fault))
        .layer(from_fn(local_only))
}

/// Restricts the view to this machine and its own page: it shows clients' frames and can inject faults.
async fn local_only(ConnectInfo(peer): ConnectInfo<SocketAddr>, request: Request, next: Next) -> Response {
    if let Err(why) = check_local(peer, request.headers()) {
        return (StatusCode::FORBIDDEN, format!("The edge view is {why}.\n")).into_response();
    }
    // Independent of the allowed origins: only its own page may see this.
    if Origins::default().check(request.headers()).is_err() {
        return (StatusCode::FORBIDDEN, "The edge view accepts requests from its own page only.\n").into_response();
    }
    next.run(request).await
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

#[derive(Deserialize)]
struct NewRule {
    rule: String,
}

async fn state(State(edge): State<Edge>, Query(After { after }): Query<After>) -> Json<Value> {
    let settings = &edge.0.settings;
    let (entries, lost) = edge.journal().after(after);
    let connections = newest(&edge);
    Json(json!({
        "started": rfc3339(edge.0.started),
        "now": rfc3339(OffsetDateTime::now_utc()),
        "stage": settings.stage,
        "totals": totals(&edge),
        "limits": {
            "idleSeconds": settings.idle.as_secs_f64(),
            "lifetimeSeconds": settings.lifetime.as_secs_f64(),
            "timeScale": settings.time_scale,
        },
        "connections": connections,
        "entries": entries,
        "lost": lost,
        "faults": edge.0.faults.list(),
    }))
}

fn totals(edge: &Edge) -> Value {
    let totals = &edge.journal().totals;
    json!({
        "connections": edge.connections().len(),
        "accepted": totals.accepted.load(Relaxed),
        "refused": totals.refused.load(Relaxed),
        "framesIn": totals.frames_in.load(Relaxed),
        "framesOut": totals.frames_out.load(Relaxed),
        "pushes": totals.pushes.load(Relaxed),
        "pushesRefused": totals.pushes_refused.load(Relaxed),
        "invocations": totals.invocations.load(Relaxed),
        "failures": totals.failures.load(Relaxed),
        "inFlight": totals.in_flight.load(Relaxed),
    })
}

fn newest(edge: &Edge) -> Vec<Value> {
    let mut all: Vec<_> = edge.connections().values().cloned().collect();
    all.sort_unstable_by_key(|connection| std::cmp::Reverse(connection.client.connected));
    all.iter().take(MAX_LISTED_CONNECTIONS).map(|connection| describe_connection(connection)).collect()
}

fn describe_connection(connection: &Connection) -> Value {
    let client = &connection.client;
    json!({
        "connectionId": client.id,
        "state": "open",
        "sourceIp": client.identity["sourceIp"],
        "userAgent": client.identity["userAgent"],
        // Some clients send their token there.
        "subprotocol": connection.subprotocol.as_deref().map(shown),
        "compressed": connection.compressed,
        "connectedAt": rfc3339(client.connected),
        "lastActiveAt": rfc3339(connection.last_active()),
        "framesIn": connection.frames_in.load(Relaxed),
        "framesOut": connection.frames_out.load(Relaxed),
        "waiting": OUTBOX_CAPACITY - connection.outbox.capacity(),
        "inFlight": connection.in_flight.load(Relaxed),
    })
}

async fn faults(State(edge): State<Edge>) -> Response {
    Json(edge.0.faults.list()).into_response()
}

async fn add_fault(State(edge): State<Edge>, rule: Result<Json<NewRule>, JsonRejection>) -> Response {
    let refuse = |message: String| (StatusCode::BAD_REQUEST, Json(json!({ "message": message }))).into_response();
    let Ok(Json(NewRule { rule })) = rule else {
        return refuse(r#"send JSON, with that content type: {"rule":"post=410 share=10%"}"#.to_owned());
    };
    if rule.len() > MAX_RULE_BYTES {
        return refuse(format!("a rule has at most {MAX_RULE_BYTES} bytes"));
    }
    match rule.parse().and_then(|rule| edge.0.faults.add(rule)) {
        Ok(added) => (StatusCode::CREATED, Json(added)).into_response(),
        Err(problem) => refuse(problem),
    }
}

async fn remove_fault(State(edge): State<Edge>, Path(id): Path<u64>) -> StatusCode {
    edge.0.faults.remove(id);
    StatusCode::NO_CONTENT
}

async fn clear_faults(State(edge): State<Edge>) -> StatusCode {
    edge.0.faults.clear();
    StatusCode::NO_CONTENT
}

fn with_type(content_type: &'static str, body: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-cache"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, body).into_response()
}
