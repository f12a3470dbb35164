//! What has become of all messages, in figures.

use std::{collections::HashMap, fmt};

use serde::Serialize;

use super::timeline::Timeline;

/// How long it took, in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// 9 of 10 were faster.
    pub p90: f64,
    /// 99 of 100 were faster.
    pub p99: f64,
    /// 999 of 1,000 were faster.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

/// What has become of everything.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Seconds from the first message to the last sign of any.
    pub seconds: f64,
    /// Messages that were answered with ER 0.
    pub accepted: u64,
    /// Messages that a receiver has shown, each counted once.
    pub received: u64,
    /// Accepted, and not received by any device of the receiver.
    pub lost: u64,
    /// Came again under an id that was shown before, as they may.
    pub repeated: u64,
    /// Shown twice by one device: under another id, or after it has come again when its id was long forgotten.
    pub doubled: u64,
    /// Shown after one that was sent later.
    pub out_of_order: u64,
    /// Frames that were let pass, as one before them was missing.
    pub gaps: u64,
    /// Sockets that have ended and were opened again.
    pub reconnects: u64,
    /// Sends that were repeated under the same `rno`.
    pub retries: u64,
    /// Sends that had to wait, as their user sends too much.
    pub limited: u64,
    /// Sends that were refused for good, by the code.
    pub refused: HashMap<u64, u64>,
    /// Users who send.
    pub senders: u64,
    /// Those of them that have sent all of theirs.
    pub finished_senders: u64,
    /// From the moment when a message was due to the receiver's frame.
    pub delivery: Latency,
    /// From the moment when a message was due to its answer.
    pub answer: Latency,
}

/// A report, and how latency was over the time.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Whether everything was kept that is promised.
    pub clean: bool,
    /// What has become of everything.
    #[serde(flatten)]
    pub report: Report,
    /// Delivery, step by step.
    pub timeline: Timeline,
}

impl Report {
    /// Whether everything was kept that is promised. A run in which nothing was sent, or not all, shows nothing.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let is_complete = self.accepted > 0 && self.finished_senders == self.senders;
        is_complete && self.lost == 0 && self.doubled == 0 && self.out_of_order == 0 && self.refused.is_empty()
    }

    /// Accepted messages a second.
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
        write!(f, "{repeated} came again and were dropped, {gaps} frames passed over, ")?;
        writeln!(f, "{retries} sends repeated, {reconnects} reconnects")?;
        if self.limited > 0 {
            let cure = "SEND_RATE=off, NEW_RECIPIENTS=off and SENDER_SHARE=off lift the limits for a benchmark";
            writeln!(f, "{} sends had to wait, as a user sends more than it may ({cure})", self.limited)?;
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
