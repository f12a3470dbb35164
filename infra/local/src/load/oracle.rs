//! What was sent, what has come, and what that says.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;

/// One message among all: from whom, to whom, the how manieth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Letter {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) number: u64,
}

/// How often, and how long it took, in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
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
    /// Seconds since the first message.
    pub seconds: f64,
    /// Messages that were answered with ER 0.
    pub accepted: u64,
    /// Messages that a receiver has shown, each counted once.
    pub received: u64,
    /// Accepted, and not received by any device of the receiver.
    pub lost: u64,
    /// Came again under an id that was shown before, as they may.
    pub repeated: u64,
    /// Shown twice by one device.
    pub doubled: u64,
    /// Shown before one that was sent earlier.
    pub out_of_order: u64,
    /// Frames that were let pass, as one before them was missing.
    pub gaps: u64,
    /// Sockets that have ended and were opened again.
    pub reconnects: u64,
    /// Sends that were repeated under the same `rno`.
    pub retries: u64,
    /// Sends that were refused for good, by the code.
    pub refused: HashMap<u64, u64>,
    /// Senders that have sent all of theirs.
    pub finished_senders: u64,
    /// From the first try of a send to the receiver's frame.
    pub delivery: Latency,
    /// From the first try of a send to its answer.
    pub answer: Latency,
}

impl Report {
    /// Whether everything was kept that is promised.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.out_of_order == 0 && self.refused.is_empty()
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
        writeln!(
            f,
            "{repeated} came again and were dropped, {gaps} frames passed over, {retries} sends repeated, {reconnects} reconnects"
        )?;
        for (name, latency) in [("delivery", &self.delivery), ("answer", &self.answer)] {
            let Latency { p50, p99, p999, max } = latency;
            writeln!(f, "{name:8}  p50 {p50:.1} ms   p99 {p99:.1} ms   p99.9 {p999:.1} ms   max {max:.1} ms")?;
        }
        for (code, count) in &self.refused {
            writeln!(f, "{count} refused with ER {code}")?;
        }
        Ok(())
    }
}

/// Remembers all that is needed for a [`Report`].
pub(super) struct Oracle {
    /// Whether there is one device a user: then none may miss anything.
    single: bool,
    pub(super) connected: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) gaps: AtomicU64,
    pub(super) reconnects: AtomicU64,
    pub(super) retries: AtomicU64,
    finished: AtomicU64,
    // A std mutex: no guard is held across an await.
    state: Mutex<State>,
}

struct State {
    began: Instant,
    ended: Instant,
    accepted: HashSet<Letter>,
    received: HashSet<Letter>,
    /// Accepted and not received so far.
    missing: u64,
    doubled: u64,
    out_of_order: u64,
    refused: HashMap<u64, u64>,
    delivery: Histogram<u64>,
    answer: Histogram<u64>,
    trouble: String,
}

/// What one device has shown, by the sender.
#[derive(Default)]
pub(super) struct Shown(HashMap<usize, u64>);

impl Oracle {
    pub(super) fn new(devices: usize) -> Self {
        // Three significant figures, growing as needed.
        let histogram = || Histogram::new(3).unwrap_or_else(|_| unreachable!("three is within its range"));
        let now = Instant::now();
        Self {
            single: devices == 1,
            connected: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            state: Mutex::new(State {
                began: now,
                ended: now,
                accepted: HashSet::new(),
                received: HashSet::new(),
                missing: 0,
                doubled: 0,
                out_of_order: 0,
                refused: HashMap::new(),
                delivery: histogram(),
                answer: histogram(),
                trouble: String::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self) {
        let mut state = self.state();
        state.began = Instant::now();
        state.ended = state.began;
    }

    pub(super) fn accepted(&self, letter: Letter, took: Duration) {
        let mut state = self.state();
        if state.accepted.insert(letter) && !state.received.contains(&letter) {
            state.missing += 1;
        }
        state.ended = Instant::now();
        record(&mut state.answer, took);
    }

    pub(super) fn refused(&self, code: u64) {
        *self.state().refused.entry(code).or_default() += 1;
    }

    pub(super) fn finished(&self) {
        self.finished.fetch_add(1, Relaxed);
    }

    pub(super) fn trouble(&self, what: impl Into<String>) {
        self.state().trouble = what.into();
    }

    pub(super) fn last_trouble(&self) -> String {
        self.state().trouble.clone()
    }

    /// Notes what a device shows, and whether it may.
    pub(super) fn received(&self, shown: &mut Shown, letter: Letter, took: Duration) {
        let next = shown.0.entry(letter.from).or_default();
        let mut state = self.state();
        if letter.number < *next {
            state.doubled += 1;
        } else if self.single && letter.number > *next {
            state.out_of_order += 1;
        }
        *next = (*next).max(letter.number + 1);
        if state.received.insert(letter) {
            if state.accepted.contains(&letter) {
                state.missing -= 1;
            }
            record(&mut state.delivery, took);
        }
        state.ended = Instant::now();
    }

    pub(super) fn report(&self) -> Report {
        let state = self.state();
        Report {
            seconds: (state.ended - state.began).as_secs_f64(),
            accepted: state.accepted.len() as u64,
            received: state.received.len() as u64,
            lost: state.missing,
            repeated: self.repeated.load(Relaxed),
            doubled: state.doubled,
            out_of_order: state.out_of_order,
            gaps: self.gaps.load(Relaxed),
            reconnects: self.reconnects.load(Relaxed),
            retries: self.retries.load(Relaxed),
            refused: state.refused.clone(),
            finished_senders: self.finished.load(Relaxed),
            delivery: latency(&state.delivery),
            answer: latency(&state.answer),
        }
    }
}

fn record(histogram: &mut Histogram<u64>, took: Duration) {
    // It grows by itself: only a time beyond all bounds is left out.
    let _ = histogram.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: histogram.max() as f64 / 1e3 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(number: u64) -> Letter {
        Letter { from: 1, to: 0, number }
    }

    #[test]
    fn what_is_accepted_and_does_not_come_is_lost() {
        let oracle = Oracle::new(1);
        for number in 0..3 {
            oracle.accepted(letter(number), Duration::ZERO);
        }
        let mut shown = Shown::default();
        oracle.received(&mut shown, letter(0), Duration::ZERO);
        oracle.received(&mut shown, letter(1), Duration::ZERO);
        assert_eq!((oracle.report().lost, oracle.report().is_clean()), (1, false));
        oracle.received(&mut shown, letter(2), Duration::ZERO);
        assert_eq!((oracle.report().lost, oracle.report().is_clean()), (0, true));
    }

    #[test]
    fn what_comes_twice_or_too_early_is_seen() {
        let oracle = Oracle::new(1);
        let mut shown = Shown::default();
        for number in [0, 2, 1, 1] {
            oracle.received(&mut shown, letter(number), Duration::ZERO);
        }
        let report = oracle.report();
        assert_eq!((report.out_of_order, report.doubled), (1, 2));
    }

    #[test]
    fn of_several_devices_one_may_miss_what_another_has() {
        let oracle = Oracle::new(2);
        let (mut phone, mut desk) = (Shown::default(), Shown::default());
        oracle.received(&mut phone, letter(0), Duration::ZERO);
        oracle.received(&mut phone, letter(1), Duration::ZERO);
        oracle.received(&mut desk, letter(1), Duration::ZERO);
        assert!(oracle.report().is_clean());
    }
}
