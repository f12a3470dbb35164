//! OpenTelemetry behind [`kschat_core::trace`]: exports spans to a collector, by OTLP over HTTP.
//!
//! The library's own batch processor exports from a thread, which a frozen function would leave in the middle of its
//! work. Here spans wait in a queue until the process flushes it: a function before it responds, a service at
//! intervals.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kschat_core::{
    ports::BoxError,
    trace::{self, Tracer},
};
use kschat_protocol::TraceContext;
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider},
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    resource::EnvResourceDetector,
    trace::{SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor},
};
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    registry::LookupSpan,
};

use crate::{config::TraceEndpoint, http::Http};

/// The timeout of a flush: a function's response waits for it.
const SPAN_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Pending spans at most; beyond that the newest are dropped.
const MAX_PENDING_SPANS: usize = 4_096;

/// The maximum size of a collector's response, in bytes.
const MAX_COLLECTOR_RESPONSE_BYTES: usize = 64 * 1024;

/// The parts of an exporter, before it is started.
pub(crate) struct Exporter {
    span_queue: Arc<SpanQueue>,
    provider: SdkTracerProvider,
}

impl Exporter {
    pub(crate) fn new(service: &'static str, endpoint: &TraceEndpoint) -> Result<Self, BoxError> {
        let url = format!("{}/v1/traces", endpoint.url);
        let builder = SpanExporter::builder().with_http().with_endpoint(url);
        let mut exporter =
            builder.with_http_client(CollectorClient(Http::new(MAX_COLLECTOR_RESPONSE_BYTES)?)).build()?;
        let resource = resource(endpoint.service.clone(), service);
        exporter.set_resource(&resource);
        let span_queue = Arc::new(SpanQueue::new(exporter));
        let provider = SdkTracerProvider::builder().with_resource(resource);
        let provider = provider.with_span_processor(QueueSpanProcessor(Arc::clone(&span_queue))).build();
        Ok(Self { span_queue, provider })
    }

    /// Converts `tracing` spans to OpenTelemetry spans, independent of the log filter.
    pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        let tracer = self.provider.tracer("kschat");
        let ours = Targets::new().with_target("kschat", LevelFilter::INFO);
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(ours)
    }

    pub(crate) fn install(self) -> Arc<SpanQueue> {
        trace::install(Box::new(OpenTelemetryTracer { _provider: self.provider }));
        self.span_queue
    }
}

/// The environment overrides the default service name.
fn resource(named: Option<String>, service: &'static str) -> Resource {
    let named = named.into_iter();
    let resource =
        Resource::builder_empty().with_service_name(service).with_detector(Box::new(EnvResourceDetector::new()));
    named.fold(resource, |resource, name| resource.with_service_name(name)).build()
}

/// Ended spans that wait for a flush.
#[derive(Debug)]
pub(crate) struct SpanQueue {
    exporter: SpanExporter,
    // A std mutex: no guard is held across an await.
    pending: Mutex<Vec<SpanData>>,
    /// An exporter takes one batch at a time.
    export_lock: tokio::sync::Mutex<()>,
    is_failing: AtomicBool,
}

impl SpanQueue {
    fn new(exporter: SpanExporter) -> Self {
        let (pending, export_lock) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { exporter, pending, export_lock, is_failing: AtomicBool::new(false) }
    }

    fn put(&self, span: SpanData) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() < MAX_PENDING_SPANS {
            pending.push(span);
        }
    }

    pub(crate) async fn flush(&self) {
        let batch = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        if batch.is_empty() {
            return;
        }
        let spans = batch.len();
        let export = async {
            let _turn = self.export_lock.lock().await;
            self.exporter.export(batch).await.map_err(BoxError::from)
        };
        let exported = tokio::time::timeout(SPAN_FLUSH_TIMEOUT, export).await.map_err(BoxError::from).flatten();
        let was_failing = self.is_failing.swap(exported.is_err(), Ordering::Relaxed);
        // Logged once, as it may go on for long.
        match exported {
            Err(error) if !was_failing => {
                tracing::warn!(error = &*error, spans, "exporting spans failed; they are dropped");
            }
            Ok(()) if was_failing => tracing::info!("span export recovered"),
            Err(_) | Ok(()) => {}
        }
    }
}

#[derive(Debug)]
struct QueueSpanProcessor(Arc<SpanQueue>);

impl SpanProcessor for QueueSpanProcessor {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.0.put(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

struct OpenTelemetryTracer {
    /// Its tracers export nothing once it is dropped.
    _provider: SdkTracerProvider,
}

impl Tracer for OpenTelemetryTracer {
    fn continue_from(&self, span: &tracing::Span, context: &TraceContext) {
        // It fails for a span that is not recorded, or has begun already: then the span keeps its parent.
        let _ = span.set_parent(Context::new().with_remote_span_context(remote_span_context(context)));
    }

    fn link(&self, span: &tracing::Span, context: &TraceContext) {
        span.add_link(remote_span_context(context));
    }

    fn context_of(&self, span: &tracing::Span) -> Option<TraceContext> {
        let context = span.context();
        let span = context.span();
        let context = span.span_context();
        let trace = u128::from_be_bytes(context.trace_id().to_bytes());
        let parent = u64::from_be_bytes(context.span_id().to_bytes());
        let state = Some(context.trace_state().header()).filter(|state| !state.is_empty());
        TraceContext::new(trace, parent, context.trace_flags().to_u8(), state.as_deref())
    }
}

fn remote_span_context(context: &TraceContext) -> SpanContext {
    let trace = TraceId::from_bytes(context.trace_id().to_be_bytes());
    let parent = SpanId::from_bytes(context.parent_id().to_be_bytes());
    let state = context.tracestate().and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    SpanContext::new(trace, parent, TraceFlags::new(context.flags()), true, state)
}

#[derive(Debug)]
struct CollectorClient(Http);

#[async_trait]
impl HttpClient for CollectorClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.0.request(request).await
    }
}
