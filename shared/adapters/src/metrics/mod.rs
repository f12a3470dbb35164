//! Metrics collectors: for a Prometheus scraper, and in the log for CloudWatch.
//!
//! The metrics are defined in [`kschat_core::metrics`].

mod emf;
#[cfg(feature = "prometheus")]
mod prometheus;

use std::sync::Arc;

pub use emf::Emf;
#[cfg(feature = "prometheus")]
pub use prometheus::Prometheus;

use crate::config::MetricsSettings;

/// Why installing the metrics recorder failed.
#[derive(Debug, thiserror::Error)]
#[error("installing the metrics recorder failed")]
pub struct MetricsError(#[source] kschat_core::ports::BoxError);

impl MetricsError {
    fn new(source: impl Into<kschat_core::ports::BoxError>) -> Self {
        Self(source.into())
    }
}

/// Collects for CloudWatch from now on, if that is configured. The caller writes the result at intervals.
///
/// # Errors
/// [`MetricsError`] when this process collects metrics already.
pub fn collect(settings: MetricsSettings) -> Result<Option<Arc<Emf>>, MetricsError> {
    let Some(namespace) = settings.emf else { return Ok(None) };
    let emf = Arc::new(Emf::new(namespace));
    metrics::set_global_recorder(Arc::clone(&emf)).map_err(|error| MetricsError::new(error.to_string()))?;
    Ok(Some(emf))
}

#[cfg(feature = "prometheus")]
pub use service::{ServiceMetrics, collect_for_service};

#[cfg(feature = "prometheus")]
mod service {
    use std::{io, sync::Arc, time::Duration};

    use metrics_util::layers::FanoutBuilder;
    use tokio::time::{MissedTickBehavior, interval};

    use super::{Emf, MetricsError, Prometheus};
    use crate::config::MetricsSettings;

    /// How often a service writes its metrics into the log: CloudWatch's own resolution.
    const EMF_WRITE_INTERVAL: Duration = Duration::from_secs(60);

    /// How often recorded values are aggregated, whether or not a scraper comes.
    const PROMETHEUS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

    /// The metrics of a long-running process.
    pub struct ServiceMetrics {
        /// For a scraper.
        pub prometheus: Prometheus,
        emf: Option<Arc<Emf>>,
    }

    /// Collects from now on, for a scraper and, if configured, for CloudWatch.
    ///
    /// # Errors
    /// [`MetricsError`] when this process collects metrics already.
    pub fn collect_for_service(settings: MetricsSettings) -> Result<ServiceMetrics, MetricsError> {
        let (prometheus, recorder) = Prometheus::build().map_err(MetricsError::new)?;
        let emf = settings.emf.map(|namespace| Arc::new(Emf::new(namespace)));
        let fanout = FanoutBuilder::default().add_recorder(recorder);
        let fanout = match &emf {
            Some(emf) => fanout.add_recorder(Arc::clone(emf)),
            None => fanout,
        };
        metrics::set_global_recorder(fanout.build()).map_err(|error| MetricsError::new(error.to_string()))?;
        kschat_core::metrics::describe();
        Ok(ServiceMetrics { prometheus, emf })
    }

    impl ServiceMetrics {
        /// Aggregates the metrics at intervals, and writes them for CloudWatch if configured. Never returns.
        pub async fn run_upkeep(&self) {
            let (mut tidy, mut write) = (interval(PROMETHEUS_UPKEEP_INTERVAL), interval(EMF_WRITE_INTERVAL));
            write.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick comes at once, when there is nothing to write.
            write.tick().await;
            loop {
                tokio::select! {
                    _ = tidy.tick() => self.prometheus.run_upkeep(),
                    _ = write.tick() => self.write(),
                }
            }
        }

        /// Writes the metrics for CloudWatch to standard output, if there are any.
        pub fn write(&self) {
            if let Some(Err(error)) = self.emf.as_ref().map(|emf| emf.write(&mut io::stdout())) {
                tracing::warn!(%error, "writing metrics failed");
            }
        }
    }
}
