//! Compares sent and received messages.

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

use super::{number_set::NumberSet, timeline::Timeline};

pub use super::report::{Latency, Outcome, Report};

/// Identifies a message: sender, receiver and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SentMessage {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) number: u64,
}

/// Collects the data for a [`Report`]: two bits per message at most, and usually far less.
pub(super) struct Oracle {
    senders: u64,
    pub(super) connected: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) gaps: AtomicU64,
    pub(super) reconnects: AtomicU64,
    pub(super) retries: AtomicU64,
    /// Sends delayed by the rate limit.
    pub(super) limited: AtomicU64,
    finished: AtomicU64,
    /// Cancelled once all are connected: sending begins.
    begun: CancellationToken,
    // A std mutex: no guard is held across an await.
    state: Mutex<State>,
}

struct State {
    ended: Instant,
    threads: HashMap<(usize, usize), Conversation>,
    accepted: u64,
    received: u64,
    /// Accepted and not received yet.
    missing: u64,
    doubled: u64,
    out_of_order: u64,
    refused: HashMap<u64, u64>,
    delivery: Histogram<u64>,
    answer: Histogram<u64>,
    timeline: Timeline,
    last_error: String,
}

/// Messages of one user to another.
#[derive(Default)]
struct Conversation {
    accepted: NumberSet,
    received: NumberSet,
}

/// Messages that one device has shown, by sender.
#[derive(Default)]
pub(super) struct ShownMessages(HashMap<usize, Row>);

#[derive(Default)]
struct Row {
    shown: NumberSet,
    /// The number of the next new message, if none is missing.
    next: u64,
}

impl Oracle {
    pub(super) fn new(senders: u64) -> Self {
        // Three significant digits, auto-resizing.
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
                last_error: String::new(),
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

    /// Waits until sending begins; returns when that was.
    pub(super) async fn begun(&self) -> tokio::time::Instant {
        self.begun.cancelled().await;
        self.state().timeline.began.into()
    }

    pub(super) fn accepted(&self, message: SentMessage, took: Duration) {
        let mut state = self.state();
        let thread = state.threads.entry((message.from, message.to)).or_default();
        if thread.accepted.insert(message.number) {
            let is_missing = !thread.received.contains(message.number);
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
        self.state().last_error = what.into();
    }

    pub(super) fn last_error_text(&self) -> String {
        self.state().last_error.clone()
    }

    /// Records a message that a device shows, with the time since it was due, and checks it.
    pub(super) fn received(&self, shown: &mut ShownMessages, message: SentMessage, took: Duration) {
        let row = shown.0.entry(message.from).or_default();
        let is_doubled = !row.shown.insert(message.number);
        let is_late = !is_doubled && message.number < row.next;
        row.next = row.next.max(message.number + 1);
        let mut state = self.state();
        state.doubled += u64::from(is_doubled);
        state.out_of_order += u64::from(is_late);
        let thread = state.threads.entry((message.from, message.to)).or_default();
        let now = Instant::now();
        if thread.received.insert(message.number) {
            let was_missing = thread.accepted.contains(message.number);
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
    // It resizes itself: only values beyond all bounds are dropped.
    let _ = histogram.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() as f64 / 1e3 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u64) -> SentMessage {
        SentMessage { from: 1, to: 0, number }
    }

    /// An oracle whose only sender has sent this many messages.
    fn oracle(sent: u64) -> Oracle {
        let oracle = Oracle::new(1);
        (0..sent).for_each(|number| oracle.accepted(message(number), Duration::ZERO));
        oracle.finished();
        oracle
    }

    #[test]
    fn accepted_but_undelivered_message_is_lost() {
        let (oracle, mut shown) = (oracle(3), ShownMessages::default());
        oracle.received(&mut shown, message(0), Duration::ZERO);
        oracle.received(&mut shown, message(1), Duration::ZERO);
        assert_eq!((oracle.report().lost, oracle.report().is_clean()), (1, false));
        oracle.received(&mut shown, message(2), Duration::ZERO);
        assert_eq!((oracle.report().lost, oracle.report().is_clean()), (0, true));
    }

    #[test]
    fn delivery_before_reply_is_not_lost() {
        let (oracle, mut shown) = (oracle(0), ShownMessages::default());
        oracle.received(&mut shown, message(0), Duration::ZERO);
        oracle.accepted(message(0), Duration::ZERO);
        assert!(oracle.report().is_clean());
    }

    #[test]
    fn oracle_reports_duplicate_and_reordered_messages() {
        let (oracle, mut shown) = (oracle(3), ShownMessages::default());
        for number in [0, 2, 1, 1] {
            oracle.received(&mut shown, message(number), Duration::ZERO);
        }
        let report = oracle.report();
        assert_eq!((report.lost, report.out_of_order, report.doubled, report.is_clean()), (0, 1, 1, false));
    }

    #[test]
    fn message_shown_on_one_device_is_received() {
        let oracle = oracle(2);
        let (mut phone, mut desk) = (ShownMessages::default(), ShownMessages::default());
        oracle.received(&mut phone, message(0), Duration::ZERO);
        oracle.received(&mut phone, message(1), Duration::ZERO);
        oracle.received(&mut desk, message(1), Duration::ZERO);
        assert!(oracle.report().is_clean());
    }

    #[test]
    fn incomplete_run_is_not_clean() {
        assert!(!oracle(0).report().is_clean());
        let oracle = Oracle::new(2);
        oracle.accepted(message(0), Duration::ZERO);
        oracle.received(&mut ShownMessages::default(), message(0), Duration::ZERO);
        oracle.finished();
        assert!(!oracle.report().is_clean());
        oracle.finished();
        assert!(oracle.report().is_clean());
    }
}
