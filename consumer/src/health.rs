//! What an orchestrator asks: is the process alive, is it at work, and how much of it?

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use kschat_adapters::server::serve;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Says whether the consumer is at work just now.
pub type Ready = Arc<dyn Fn() -> bool + Send + Sync>;

/// Writes the metrics down as they are just now.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Source: Prometheus, "Exposition formats".
const PROMETHEUS: &str = "text/plain; version=0.0.4";

/// Answers `/healthz/live` (always), `/healthz/ready` and `/healthz` (503 until `ready`) and `/metrics` until
/// `shutdown`.
///
/// # Errors
/// When the address can't be listened on.
pub async fn listen(
    address: SocketAddr,
    ready: Ready,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let report = move || {
        let ready = Arc::clone(&ready);
        async move { if ready() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") } }
    };
    let routes = Router::new()
        .route("/healthz", get(report.clone()))
        .route("/healthz/ready", get(report))
        .route("/healthz/live", get(|| async { "live\n" }))
        .route("/metrics", get(move || std::future::ready(([(CONTENT_TYPE, PROMETHEUS)], metrics()))));
    tokio::spawn(serve(listener, routes, shutdown));
    Ok(())
}
