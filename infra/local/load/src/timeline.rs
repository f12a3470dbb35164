//! Latency over the time of a run.

use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

/// Maximum number of steps: an hour of seconds; a longer run has longer steps.
const MAX_TIMELINE_STEPS: usize = 3_600;

/// The smallest recorded latency, in milliseconds.
const MIN_LATENCY_MILLIS: f64 = 0.05;

/// Ratio of consecutive bins: 5 % precision.
const LATENCY_BIN_RATIO: f64 = 1.05;

/// Up to 0.05 ms × 1.05 ^ 340: 13 minutes.
const LATENCY_BIN_COUNT: usize = 340;

/// A latency histogram with exponential bins.
#[derive(Clone, Debug)]
pub struct Times {
    counts: Box<[u32; LATENCY_BIN_COUNT]>,
}

impl Default for Times {
    fn default() -> Self {
        Self { counts: Box::new([0; LATENCY_BIN_COUNT]) }
    }
}

impl Times {
    fn record(&mut self, took: Duration) {
        let millis = took.as_secs_f64() * 1e3;
        // Casting a float saturates: negative values become 0.
        let bin = ((millis / MIN_LATENCY_MILLIS).ln() / LATENCY_BIN_RATIO.ln()).ceil().max(0.0) as usize;
        let count = &mut self.counts[bin.min(LATENCY_BIN_COUNT - 1)];
        *count = count.saturating_add(1);
    }

    /// Merges another histogram.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts.iter()) {
            *count = count.saturating_add(*more);
        }
    }

    /// Number of recorded values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// The latency, in milliseconds, that this share of the values does not exceed; 0 if empty.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let bin = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        });
        bin.map_or(0.0, |bin| MIN_LATENCY_MILLIS * LATENCY_BIN_RATIO.powi(i32::try_from(bin).unwrap_or(i32::MAX)))
    }
}

/// Latencies by step, each message in the step in which it was due.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// When the run began.
    pub began: Instant,
    step: Duration,
    steps: Vec<Times>,
}

/// One step of a [`Timeline`], in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// When it begins, in seconds since start.
    pub at: f64,
    /// Messages that were due in it and have arrived.
    pub messages: u64,
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The maximum.
    pub max: f64,
}

impl Timeline {
    pub(super) fn new(began: Instant) -> Self {
        Self { began, step: Duration::from_secs(1), steps: Vec::new() }
    }

    /// Records a message by when it was due, with its latency.
    pub(super) fn record(&mut self, due: Instant, took: Duration) {
        let since = due.saturating_duration_since(self.began);
        while since.as_secs_f64() / self.step.as_secs_f64() >= MAX_TIMELINE_STEPS as f64 {
            self.coarsen();
        }
        let at = (since.as_secs_f64() / self.step.as_secs_f64()) as usize;
        if self.steps.len() <= at {
            self.steps.resize_with(at + 1, Times::default);
        }
        self.steps[at].record(took);
    }

    fn coarsen(&mut self) {
        self.step *= 2;
        let pairs = std::mem::take(&mut self.steps);
        self.steps = pairs.chunks(2).map(sum).collect();
    }

    /// Duration of a step.
    #[must_use]
    pub fn step(&self) -> Duration {
        self.step
    }

    /// Latencies of the steps whose start satisfies a predicate.
    pub fn times(&self, is_so: impl Fn(Instant) -> bool) -> Times {
        let starts = (0_u32..).map(|n| self.began + self.step * n);
        let chosen = self.steps.iter().zip(starts).filter(|(_, start)| is_so(*start));
        chosen.fold(Times::default(), |mut all, (times, _)| {
            all.add(times);
            all
        })
    }

    /// All steps.
    pub fn points(&self) -> impl Iterator<Item = Point> {
        let step = self.step.as_secs_f64();
        self.steps.iter().enumerate().map(move |(n, times)| Point {
            at: n as f64 * step,
            messages: times.count(),
            p50: times.quantile(0.5),
            p99: times.quantile(0.99),
            max: times.quantile(1.0),
        })
    }
}

impl Serialize for Timeline {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.points())
    }
}

fn sum(times: &[Times]) -> Times {
    times.iter().fold(Times::default(), |mut all, times| {
        all.add(times);
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_twentieth() {
        let mut times = Times::default();
        (1..=1_000).for_each(|millis| times.record(Duration::from_millis(millis)));
        for (share, millis) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let found = times.quantile(share);
            assert!((millis..=millis * LATENCY_BIN_RATIO).contains(&found), "{share}: {found}");
        }
        times.record(Duration::ZERO);
        times.record(Duration::from_secs(1_000_000));
        assert_eq!((times.count(), Times::default().quantile(0.5)), (1_002, 0.0));
    }

    #[test]
    fn message_counts_at_its_due_time() {
        let mut timeline = Timeline::new(Instant::now());
        let second = Duration::from_secs(1);
        timeline.record(timeline.began + second * 2, Duration::from_millis(10));
        timeline.record(timeline.began, second);
        let messages: Vec<u64> = timeline.points().map(|point| point.messages).collect();
        assert_eq!(messages, [1, 0, 1]);
        let began = timeline.began;
        assert_eq!(timeline.times(|start| start > began).count(), 1);
    }

    #[test]
    fn long_timeline_is_coarsened() {
        let mut timeline = Timeline::new(Instant::now());
        for second in 0..10_000 {
            timeline.record(timeline.began + Duration::from_secs(second), Duration::from_millis(1));
        }
        assert_eq!((timeline.steps.len(), timeline.step()), (2_500, Duration::from_secs(4)));
        assert!(timeline.points().all(|point| point.messages == 4));
    }
}
