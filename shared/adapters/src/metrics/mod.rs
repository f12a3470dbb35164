//! Where metrics go: to whoever scrapes them, and into the log for CloudWatch.
//!
//! What is recorded is in [`kschat_core::metrics`].

mod emf;
#[cfg(feature = "prometheus")]
mod prometheus;

use std::sync::Arc;

pub use emf::Emf;
#[cfg(feature = "prometheus")]
pub use prometheus::Prometheus;

use crate::config::MetricsSettings;

/// Why metrics can't be collected.
#[derive(Debug, thiserror::Error)]
#[error("metrics can't be collected")]
pub struct MetricsError(#[source] kschat_core::ports::BoxError);

impl MetricsError {
    fn new(source: impl Into<kschat_core::ports::BoxError>) -> Self {
        Self(source.into())
    }
}

/// Collects for CloudWatch from now on, if that is wanted. Whoever gets it writes it out now and then.
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
pub use service::{Collected, collect_for_service};

#[cfg(feature = "prometheus")]
mod service {
    use std::{io, sync::Arc, time::Duration};

    use metrics_util::layers::FanoutBuilder;
    use tokio::time::{MissedTickBehavior, interval};

    use super::{Emf, MetricsError, Prometheus};
    use crate::config::MetricsSettings;

    /// How often a service writes its metrics into the log: CloudWatch's own resolution.
    const EVERY: Duration = Duration::from_secs(60);

    /// How often what was recorded is taken in, whether or not anybody scrapes.
    const TIDY: Duration = Duration::from_secs(5);

    /// The metrics of a process that stays.
    pub struct Collected {
        /// For a scraper.
        pub prometheus: Prometheus,
        emf: Option<Arc<Emf>>,
    }

    /// Collects from now on, for a scraper and, if that is wanted, for CloudWatch.
    ///
    /// # Errors
    /// [`MetricsError`] when this process collects metrics already.
    pub fn collect_for_service(settings: MetricsSettings) -> Result<Collected, MetricsError> {
        let (prometheus, recorder) = Prometheus::build().map_err(MetricsError::new)?;
        let emf = settings.emf.map(|namespace| Arc::new(Emf::new(namespace)));
        let fanout = FanoutBuilder::default().add_recorder(recorder);
        let fanout = match &emf {
            Some(emf) => fanout.add_recorder(Arc::clone(emf)),
            None => fanout,
        };
        metrics::set_global_recorder(fanout.build()).map_err(|error| MetricsError::new(error.to_string()))?;
        kschat_core::metrics::describe();
        Ok(Collected { prometheus, emf })
    }

    impl Collected {
        /// Keeps the figures in order, and writes them where that is wanted. It never ends by itself.
        pub async fn keep(&self) {
            let (mut tidy, mut write) = (interval(TIDY), interval(EVERY));
            write.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick comes at once, when there is nothing to tell.
            write.tick().await;
            loop {
                tokio::select! {
                    _ = tidy.tick() => self.prometheus.tidy(),
                    _ = write.tick() => self.write(),
                }
            }
        }

        /// Writes to standard output what CloudWatch shall know, if anything.
        pub fn write(&self) {
            if let Some(Err(error)) = self.emf.as_ref().map(|emf| emf.write(&mut io::stdout())) {
                tracing::warn!(%error, "metrics can't be written");
            }
        }
    }
}
