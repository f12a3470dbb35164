//! Metrics as Prometheus reads them.

use kschat_core::metrics::{ALL, Kind, Unit};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Upper ends, in seconds, of the spans that times are sorted into: from what one hop takes to a user's day off.
const SECONDS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0, 3_600.0, 86_400.0,
];

/// Upper ends of the classes that counts are sorted into.
const COUNTS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// What was recorded so far, as text.
#[derive(Clone)]
pub struct Prometheus(PrometheusHandle);

impl Prometheus {
    pub(super) fn build() -> Result<(Self, PrometheusRecorder), BuildError> {
        let mut builder = PrometheusBuilder::new();
        for metric in ALL.iter().filter(|metric| metric.kind == Kind::Histogram) {
            let ends: &[f64] = match metric.unit {
                Unit::Seconds => &SECONDS,
                Unit::Count => &COUNTS,
            };
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), ends)?;
        }
        let recorder = builder.build_recorder();
        Ok((Self(recorder.handle()), recorder))
    }

    /// The text that a scraper gets, in the exposition format of version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Takes in what waits since the last time; without it, values would pile up where nobody scrapes.
    pub(super) fn tidy(&self) {
        self.0.run_upkeep();
    }
}
