//! A fake OpenTelemetry collector: receives spans by OTLP over HTTP, and stores them.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, extract::State, routing::post};
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use prost::Message;
use tokio::net::TcpListener;

/// Spans with the names of their services.
type Spans = Arc<Mutex<Vec<(String, Span)>>>;

/// A collector on a free port, for the lifetime of its runtime.
pub struct Collector {
    url: String,
    spans: Spans,
}

impl Collector {
    /// Starts a collector.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let spans = Spans::default();
        let routes = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&spans));
        tokio::spawn(async move { axum::serve(listener, routes).await.expect("the collector serves") });
        Self { url, spans }
    }

    /// Value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Spans of a trace so far, each with its service.
    #[must_use]
    pub fn trace(&self, id: &str) -> Vec<(String, Span)> {
        let spans = self.spans.lock().expect("the lock is not poisoned");
        spans.iter().filter(|(_, span)| hex(&span.trace_id) == id).cloned().collect()
    }

    /// All text in spans so far.
    #[must_use]
    pub fn everything(&self) -> String {
        format!("{:?}", self.spans.lock().expect("the lock is not poisoned"))
    }
}

/// Bytes in hexadecimal, as W3C formats ids.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn take(State(spans): State<Spans>, body: Bytes) -> &'static str {
    let request = ExportTraceServiceRequest::decode(body).expect("OTLP as protobuf");
    for resource in request.resource_spans {
        let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        let name = attributes.iter().find(|attribute| attribute.key == "service.name");
        let name = format!("{:?}", name.and_then(|name| name.value.clone()));
        let service = name.split('"').nth(1).unwrap_or_default().to_owned();
        let taken = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.lock().expect("the lock is not poisoned").extend(taken.map(|span| (service.clone(), span)));
    }
    ""
}
