//! Telemetry of a process: log lines, and spans to a collector where there is one.

use kschat_core::ports::BoxError;

use crate::{config::TelemetrySettings, log};

/// Why telemetry can't be started.
#[derive(Debug, thiserror::Error)]
#[error("starting the trace exporter failed")]
pub struct TelemetryError(#[source] pub(crate) BoxError);

/// Spans on their way out of this process.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    #[cfg(feature = "otlp")]
    span_queue: Option<std::sync::Arc<crate::otlp::SpanQueue>>,
}

impl Traces {
    /// Exports the spans that have ended since the last call. Takes a second at most, and no time without a collector.
    pub async fn flush(&self) {
        #[cfg(feature = "otlp")]
        if let Some(span_queue) = &self.span_queue {
            span_queue.flush().await;
        }
        #[cfg(not(feature = "otlp"))]
        std::future::ready(()).await;
    }
}

/// Starts logging, and exports spans under that service name, if there is a collector.
///
/// # Errors
/// [`TelemetryError`] when the exporter can't be made; logging has begun all the same.
pub fn start(service: &'static str, settings: &TelemetrySettings) -> Result<Traces, TelemetryError> {
    let filter = settings.logs.filter.as_deref();
    let Some(endpoint) = &settings.traces.endpoint else {
        log::init(settings.logs.format, filter);
        return Ok(Traces::default());
    };
    #[cfg(feature = "otlp")]
    match crate::otlp::Exporter::new(service, endpoint) {
        Ok(exporter) => {
            log::init_with(settings.logs.format, filter, Some(exporter.layer()));
            Ok(Traces { span_queue: Some(exporter.install()) })
        }
        Err(error) => {
            log::init(settings.logs.format, filter);
            Err(TelemetryError(error))
        }
    }
    #[cfg(not(feature = "otlp"))]
    {
        log::init(settings.logs.format, filter);
        let problem = format!("{service} was built without the feature `otlp`, which {endpoint:?} needs");
        Err(TelemetryError(problem.into()))
    }
}
