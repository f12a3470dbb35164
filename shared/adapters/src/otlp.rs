//! OpenTelemetry behind [`kschat_core::trace`]: spans to a collector, by OTLP over HTTP.
//!
//! The library's own batch processor exports from a thread, which a frozen function would leave in the middle of its
//! work. Here spans wait in an outbox until somebody flushes it: a function before it answers, a service now and then.

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

/// How long a flush may take: a function's answer waits for it.
const FLUSH: Duration = Duration::from_secs(1);

/// Spans that wait at most; then the newest are dropped.
const WAITING: usize = 4_096;

/// What a collector may answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Everything that exports needs, before it is put to work.
pub(crate) struct Exporter {
    outbox: Arc<Outbox>,
    provider: SdkTracerProvider,
}

impl Exporter {
    pub(crate) fn new(service: &'static str, endpoint: &TraceEndpoint) -> Result<Self, BoxError> {
        let url = format!("{}/v1/traces", endpoint.url);
        let builder = SpanExporter::builder().with_http().with_endpoint(url);
        let mut exporter = builder.with_http_client(Collector(Http::new(MAX_ANSWER)?)).build()?;
        let resource = resource(endpoint.service.clone(), service);
        exporter.set_resource(&resource);
        let outbox = Arc::new(Outbox::new(exporter));
        let provider = SdkTracerProvider::builder().with_resource(resource);
        let provider = provider.with_span_processor(Collect(Arc::clone(&outbox))).build();
        Ok(Self { outbox, provider })
    }

    /// Turns our spans into OpenTelemetry's, whatever the filter of the log says.
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

    pub(crate) fn install(self) -> Arc<Outbox> {
        trace::install(Box::new(Tied { _provider: self.provider }));
        self.outbox
    }
}

/// The environment goes before the name that we give ourselves.
fn resource(named: Option<String>, service: &'static str) -> Resource {
    let named = named.into_iter();
    let resource =
        Resource::builder_empty().with_service_name(service).with_detector(Box::new(EnvResourceDetector::new()));
    named.fold(resource, |resource, name| resource.with_service_name(name)).build()
}

/// Spans that have ended and wait for a flush.
#[derive(Debug)]
pub(crate) struct Outbox {
    exporter: SpanExporter,
    // A std mutex: no guard is held across an await.
    waiting: Mutex<Vec<SpanData>>,
    /// An exporter takes one batch at a time.
    turn: tokio::sync::Mutex<()>,
    is_failing: AtomicBool,
}

impl Outbox {
    fn new(exporter: SpanExporter) -> Self {
        let (waiting, turn, is_failing) = (Mutex::default(), tokio::sync::Mutex::default(), AtomicBool::new(false));
        Self { exporter, waiting, turn, is_failing }
    }

    fn put(&self, span: SpanData) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING {
            waiting.push(span);
        }
    }

    pub(crate) async fn flush(&self) {
        let batch = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if batch.is_empty() {
            return;
        }
        let spans = batch.len();
        let export = async {
            let _turn = self.turn.lock().await;
            self.exporter.export(batch).await.map_err(BoxError::from)
        };
        let exported = tokio::time::timeout(FLUSH, export).await.map_err(BoxError::from).flatten();
        let was_failing = self.is_failing.swap(exported.is_err(), Ordering::Relaxed);
        // Told once, as it may go on for long.
        match exported {
            Err(error) if !was_failing => {
                tracing::warn!(error = &*error, spans, "spans can't be exported and are lost");
            }
            Ok(()) if was_failing => tracing::info!("spans are exported again"),
            Err(_) | Ok(()) => {}
        }
    }
}

#[derive(Debug)]
struct Collect(Arc<Outbox>);

impl SpanProcessor for Collect {
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

struct Tied {
    /// Its tracers export nothing once it is gone.
    _provider: SdkTracerProvider,
}

impl Tracer for Tied {
    fn continue_from(&self, span: &tracing::Span, context: &TraceContext) {
        // It fails for a span that nobody records, or that has begun already: then it stays where it is.
        let _ = span.set_parent(Context::new().with_remote_span_context(remote(context)));
    }

    fn link(&self, span: &tracing::Span, context: &TraceContext) {
        span.add_link(remote(context));
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

fn remote(context: &TraceContext) -> SpanContext {
    let trace = TraceId::from_bytes(context.trace_id().to_be_bytes());
    let parent = SpanId::from_bytes(context.parent_id().to_be_bytes());
    let state = context.tracestate().and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    SpanContext::new(trace, parent, TraceFlags::new(context.flags()), true, state)
}

#[derive(Debug)]
struct Collector(Http);

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.0.request(request).await
    }
}
