//! What was sent, what has come, and what that says.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio_util::sync::CancellationToken;

use super::{marks::Marks, timeline::Timeline};

pub use super::report::{Latency, Outcome, Report};

/// One message among all: from whom, to whom, the how manieth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) number: u64,
}

/// Remembers all that is needed for a [`Report`]: two bits a message at most, and as a rule far less.
pub(super) struct Oracle {
    senders: u64,
    pub(super) connected: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) gaps: AtomicU64,
    pub(super) reconnects: AtomicU64,
    pub(super) retries: AtomicU64,
    /// Sends that had to wait, as their user sends too much.
    pub(super) limited: AtomicU64,
    finished: AtomicU64,
    /// All are connected: sending begins.
    begun: CancellationToken,
    // A std mutex: no guard is held across an await.
    state: Mutex<State>,
}

struct State {
    ended: Instant,
    threads: HashMap<(usize, usize), Thread>,
    accepted: u64,
    received: u64,
    /// Accepted and not received so far.
    missing: u64,
    doubled: u64,
    out_of_order: u64,
    refused: HashMap<u64, u64>,
    delivery: Histogram<u64>,
    answer: Histogram<u64>,
    timeline: Timeline,
    trouble: String,
}

/// What one user has sent to another.
#[derive(Default)]
struct Thread {
    accepted: Marks,
    received: Marks,
}

/// What one device has shown, by the sender.
#[derive(Default)]
pub(super) struct Shown(HashMap<usize, Row>);

#[derive(Default)]
struct Row {
    shown: Marks,
    /// What is sent next comes next, if nothing is missing.
    next: u64,
}

impl Oracle {
    pub(super) fn new(senders: u64) -> Self {
        // Three significant figures, growing as needed.
        let histogram = || Histogram::new(3).unwrap_or_else(|_| unreachable!("three is within its range"));
        let now = Instant::now();
        Self {
            senders,
            connected: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            gaps: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            limited: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            begun: CancellationToken::new(),
            state: Mutex::new(State {
                ended: now,
                threads: HashMap::new(),
                accepted: 0,
                received: 0,
                missing: 0,
                doubled: 0,
                out_of_order: 0,
                refused: HashMap::new(),
                delivery: histogram(),
                answer: histogram(),
                timeline: Timeline::new(now),
                trouble: String::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self) {
        let mut state = self.state();
        state.ended = Instant::now();
        state.timeline = Timeline::new(state.ended);
        self.begun.cancel();
    }

    /// Waits until all may send; returns when that was.
    pub(super) async fn begun(&self) -> tokio::time::Instant {
        self.begun.cancelled().await;
        self.state().timeline.began.into()
    }

    pub(super) fn accepted(&self, letter: Letter, took: Duration) {
        let mut state = self.state();
        let thread = state.threads.entry((letter.from, letter.to)).or_default();
        if thread.accepted.insert(letter.number) {
            let is_missing = !thread.received.contains(letter.number);
            state.accepted += 1;
            state.missing += u64::from(is_missing);
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

    /// Notes what a device shows, which was due that long ago, and whether it may.
    pub(super) fn received(&self, shown: &mut Shown, letter: Letter, took: Duration) {
        let row = shown.0.entry(letter.from).or_default();
        let is_doubled = !row.shown.insert(letter.number);
        let is_late = !is_doubled && letter.number < row.next;
        row.next = row.next.max(letter.number + 1);
        let mut state = self.state();
        state.doubled += u64::from(is_doubled);
        state.out_of_order += u64::from(is_late);
        let thread = state.threads.entry((letter.from, letter.to)).or_default();
        let now = Instant::now();
        if thread.received.insert(letter.number) {
            let was_missing = thread.accepted.contains(letter.number);
            state.received += 1;
            state.missing -= u64::from(was_missing);
            record(&mut state.delivery, took);
            state.timeline.record(now.checked_sub(took).unwrap_or(now), took);
        }
        state.ended = now;
    }

    pub(super) fn report(&self) -> Report {
        let state = self.state();
        Report {
            seconds: (state.ended - state.timeline.began).as_secs_f64(),
            accepted: state.accepted,
            received: state.received,
            lost: state.missing,
            repeated: self.repeated.load(Relaxed),
            doubled: state.doubled,
            out_of_order: state.out_of_order,
            gaps: self.gaps.load(Relaxed),
            reconnects: self.reconnects.load(Relaxed),
            retries: self.retries.load(Relaxed),
            limited: self.limited.load(Relaxed),
            refused: state.refused.clone(),
            senders: self.senders,
            finished_senders: self.finished.load(Relaxed),
            delivery: latency(&state.delivery),
            answer: latency(&state.answer),
        }
    }

    pub(super) fn outcome(&self) -> Outcome {
        let report = self.report();
        Outcome { clean: report.is_clean(), report, timeline: self.state().timeline.clone() }
    }
}

fn record(histogram: &mut Histogram<u64>, took: Duration) {
    // It grows by itself: only a time beyond all bounds is left out.
    let _ = histogram.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() as f64 / 1e3 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(number: u64) -> Letter {
        Letter { from: 1, to: 0, number }
    }

    /// An oracle whose one sender has sent that many.
    fn oracle(sent: u64) -> Oracle {
        let oracle = Oracle::new(1);
        (0..sent).for_each(|number| oracle.accepted(letter(number), Duration::ZERO));
        oracle.finished();
        oracle
    }

    #[test]
    fn what_is_accepted_and_does_not_come_is_lost() {
        let (oracle, mut shown) = (oracle(3), Shown::default());
        oracle.received(&mut shown, letter(0), Duration::ZERO);
        oracle.received(&mut shown, letter(1), Duration::ZERO);
        assert_eq!((oracle.report().lost, oracle.report().is_clean()), (1, false));
        oracle.received(&mut shown, letter(2), Duration::ZERO);
        assert_eq!((oracle.report().lost, oracle.report().is_clean()), (0, true));
    }

    #[test]
    fn what_comes_before_its_answer_is_not_lost() {
        let (oracle, mut shown) = (oracle(0), Shown::default());
        oracle.received(&mut shown, letter(0), Duration::ZERO);
        oracle.accepted(letter(0), Duration::ZERO);
        assert!(oracle.report().is_clean());
    }

    #[test]
    fn what_comes_twice_or_too_late_is_seen() {
        let (oracle, mut shown) = (oracle(3), Shown::default());
        for number in [0, 2, 1, 1] {
            oracle.received(&mut shown, letter(number), Duration::ZERO);
        }
        let report = oracle.report();
        assert_eq!((report.lost, report.out_of_order, report.doubled, report.is_clean()), (0, 1, 1, false));
    }

    #[test]
    fn of_several_devices_one_may_miss_what_another_has() {
        let oracle = oracle(2);
        let (mut phone, mut desk) = (Shown::default(), Shown::default());
        oracle.received(&mut phone, letter(0), Duration::ZERO);
        oracle.received(&mut phone, letter(1), Duration::ZERO);
        oracle.received(&mut desk, letter(1), Duration::ZERO);
        assert!(oracle.report().is_clean());
    }

    #[test]
    fn a_run_in_which_nothing_was_sent_or_not_all_is_not_clean() {
        assert!(!oracle(0).report().is_clean());
        let oracle = Oracle::new(2);
        oracle.accepted(letter(0), Duration::ZERO);
        oracle.received(&mut Shown::default(), letter(0), Duration::ZERO);
        oracle.finished();
        assert!(!oracle.report().is_clean());
        oracle.finished();
        assert!(oracle.report().is_clean());
    }
}
