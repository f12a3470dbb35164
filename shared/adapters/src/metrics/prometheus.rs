//! Metrics in the format of Prometheus.

use kschat_core::metrics::{ALL, Kind, Unit};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Upper bounds of the duration buckets, in seconds: from a single hop to a user's day off.
const SECONDS_BUCKETS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0, 3_600.0, 86_400.0,
];

/// Upper bounds of the count buckets.
const COUNT_BUCKETS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// The recorded metrics, as text.
#[derive(Clone, Debug)]
pub struct Prometheus(PrometheusHandle);

impl Prometheus {
    pub(super) fn build() -> Result<(Self, PrometheusRecorder), BuildError> {
        let mut builder = PrometheusBuilder::new();
        for metric in ALL.iter().filter(|metric| metric.kind == Kind::Histogram) {
            let ends: &[f64] = match metric.unit {
                Unit::Seconds => &SECONDS_BUCKETS,
                Unit::Count => &COUNT_BUCKETS,
            };
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), ends)?;
        }
        let recorder = builder.build_recorder();
        Ok((Self(recorder.handle()), recorder))
    }

    /// The text for a scraper, in exposition format version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Aggregates the values since the last call; otherwise they would pile up without a scraper.
    pub(super) fn run_upkeep(&self) {
        self.0.run_upkeep();
    }
}
