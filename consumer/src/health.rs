//! Health and metrics endpoints for the orchestrator.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use kschat_adapters::server::serve;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Returns whether the consumer is ready at present.
pub type ReadinessProbe = Arc<dyn Fn() -> bool + Send + Sync>;

/// Renders the present metrics.
pub type MetricsRenderer = Arc<dyn Fn() -> String + Send + Sync>;

/// The content type of the metrics response.
///
/// Source: Prometheus, "Exposition formats".
pub const PROMETHEUS_CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// Answers `/healthz/live` (always), `/healthz/ready` and `/healthz` (503 until `ready`), `/healthz/broker` (503 until
/// `has_broker`) and `/metrics` until `shutdown`.
///
/// An orchestrator that restarts whoever is unhealthy asks for the broker only. After an outage of Redis the sessions are
/// restored from the memory of the consumers, so a restart would lose them.
///
/// # Errors
/// When the address can't be listened on.
pub async fn listen(
    address: SocketAddr,
    ready: ReadinessProbe,
    has_broker: ReadinessProbe,
    metrics: MetricsRenderer,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let scraped = get(move || std::future::ready(([(CONTENT_TYPE, PROMETHEUS_CONTENT_TYPE)], metrics())));
    let routes = health_routes(ready).route("/healthz/broker", get(report(has_broker))).route("/metrics", scraped);
    tokio::spawn(serve(listener, routes, shutdown));
    Ok(())
}

/// The health routes alone, for a server that another program runs.
pub fn health_routes(ready: ReadinessProbe) -> Router {
    let report = report(ready);
    Router::new()
        .route("/healthz", get(report.clone()))
        .route("/healthz/ready", get(report))
        .route("/healthz/live", get(|| async { "live\n" }))
}

fn report(is_well: ReadinessProbe) -> impl Fn() -> std::future::Ready<(StatusCode, &'static str)> + Clone {
    move || {
        std::future::ready(match is_well() {
            true => (StatusCode::OK, "ready\n"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        })
    }
}
