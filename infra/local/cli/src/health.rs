//! Health and metrics of the stack, as the consumer serves them in a separate process.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use kschat_adapters::metrics::Prometheus;
use kschat_consumer::health::{PROMETHEUS_CONTENT_TYPE, ReadinessProbe, health_routes};
use kschat_edge::loopback::check_local;

/// Serves `/healthz` to everybody, and `/metrics` to this machine if metrics are collected.
pub(crate) fn routes(ready: ReadinessProbe, collected: Option<Prometheus>) -> Router {
    let metrics = Router::new().route("/metrics", get(scrape)).with_state(Arc::new(collected));
    health_routes(ready).merge(metrics)
}

async fn scrape(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    State(collected): State<Arc<Option<Prometheus>>>,
    headers: HeaderMap,
) -> Response {
    if let Err(refused) = check_local(peer, &headers) {
        return (StatusCode::FORBIDDEN, refused.to_string()).into_response();
    }
    match &*collected {
        Some(collected) => ([(CONTENT_TYPE, PROMETHEUS_CONTENT_TYPE)], collected.render()).into_response(),
        None => (StatusCode::NOT_FOUND, "this process collects no metrics\n").into_response(),
    }
}
