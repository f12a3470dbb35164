//! What a process tells of itself: log lines, and spans to a collector where there is one.

use kschat_core::ports::BoxError;

use crate::{config::Telemetry, log};

/// Why a process can't tell of itself.
#[derive(Debug, thiserror::Error)]
#[error("traces can't be exported")]
pub struct TelemetryError(#[source] pub(crate) BoxError);

/// Spans on their way out of this process.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    #[cfg(feature = "otlp")]
    outbox: Option<std::sync::Arc<crate::otlp::Outbox>>,
}

impl Traces {
    /// Hands over what has ended since the last time. It takes a second at most, and nothing where nobody collects.
    pub async fn flush(&self) {
        #[cfg(feature = "otlp")]
        if let Some(outbox) = &self.outbox {
            outbox.flush().await;
        }
        #[cfg(not(feature = "otlp"))]
        std::future::ready(()).await;
    }
}

/// Logs from now on, and exports spans of a service of that name, if there is a collector.
///
/// # Errors
/// [`TelemetryError`] when the exporter can't be made; logging has begun all the same.
pub fn start(service: &'static str, settings: &Telemetry) -> Result<Traces, TelemetryError> {
    let filter = settings.logs.filter.as_deref();
    let Some(endpoint) = &settings.traces.endpoint else {
        log::init(settings.logs.format, filter);
        return Ok(Traces::default());
    };
    #[cfg(feature = "otlp")]
    match crate::otlp::Exporter::new(service, endpoint) {
        Ok(exporter) => {
            log::init_with(settings.logs.format, filter, Some(exporter.layer()));
            Ok(Traces { outbox: Some(exporter.install()) })
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
