//! Result of a run, in numbers.

use std::{collections::HashMap, fmt};

use serde::Serialize;

use super::timeline::Timeline;

/// Latency percentiles, in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p999: f64,
    /// The maximum.
    pub max: f64,
}

/// Counts and latencies of a run.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Seconds from the first message to the last event of any.
    pub seconds: f64,
    /// Messages that were answered with ER 0.
    pub accepted: u64,
    /// Messages that a receiver has shown, each counted once.
    pub received: u64,
    /// Accepted, and not received by any device of the receiver.
    pub lost: u64,
    /// Redelivered under an id that was shown before, which is allowed.
    pub repeated: u64,
    /// Shown twice by one device: under another id, or redelivered after its id was evicted.
    pub doubled: u64,
    /// Shown after a message that was sent later.
    pub out_of_order: u64,
    /// Frames skipped because an earlier one was missing.
    pub gaps: u64,
    /// Sockets that were reopened after they had ended.
    pub reconnects: u64,
    /// Sends that were retried under the same `rno`.
    pub retries: u64,
    /// Sends delayed by the rate limit.
    pub limited: u64,
    /// Sends that were rejected permanently, by code.
    pub refused: HashMap<u64, u64>,
    /// Users who send.
    pub senders: u64,
    /// Senders that have sent all their messages.
    pub finished_senders: u64,
    /// From when a message was due to the receiver's frame.
    pub delivery: Latency,
    /// From when a message was due to its reply.
    pub answer: Latency,
}

/// A report, with latency over time.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Whether all guarantees held.
    pub clean: bool,
    /// Counts and latencies.
    #[serde(flatten)]
    pub report: Report,
    /// Delivery latency, step by step.
    pub timeline: Timeline,
}

impl Report {
    /// Whether all guarantees held. An incomplete or empty run proves nothing.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let is_complete = self.accepted > 0 && self.finished_senders == self.senders;
        is_complete && self.lost == 0 && self.doubled == 0 && self.out_of_order == 0 && self.refused.is_empty()
    }

    /// Accepted messages per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.accepted as f64 / self.seconds.max(1e-9)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, received, lost, doubled, out_of_order, .. } = self;
        writeln!(f, "{accepted} accepted in {:.1} s ({:.0} a second), {received} received", self.seconds, self.rate())?;
        writeln!(f, "{lost} lost, {doubled} shown twice, {out_of_order} out of order")?;
        let Self { repeated, gaps, retries, reconnects, .. } = self;
        write!(f, "{repeated} duplicates dropped, {gaps} frames skipped, ")?;
        writeln!(f, "{retries} sends retried, {reconnects} reconnects")?;
        if self.limited > 0 {
            let hint = "set SEND_RATE=off, NEW_RECIPIENTS=off and SENDER_SHARE=off for a benchmark";
            writeln!(f, "{} sends were rate limited ({hint})", self.limited)?;
        }
        for (name, latency) in [("delivery", &self.delivery), ("answer", &self.answer)] {
            let Latency { p50, p90, p99, p999, max } = latency;
            writeln!(
                f,
                "{name:8}  p50 {p50:.1} ms   p90 {p90:.1} ms   p99 {p99:.1} ms   p99.9 {p999:.1} ms   max {max:.1} ms"
            )?;
        }
        for (code, count) in &self.refused {
            writeln!(f, "{count} refused with ER {code}")?;
        }
        if self.finished_senders < self.senders {
            let left = self.senders - self.finished_senders;
            writeln!(f, "{left} of {} senders could not send all of theirs", self.senders)?;
        }
        writeln!(f, "{}", if self.is_clean() { "clean" } else { "NOT CLEAN" })
    }
}
