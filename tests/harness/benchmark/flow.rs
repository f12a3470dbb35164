//! The messages from one user to another: which are in flight, and what became of each.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// One direction of a conversation.
#[derive(Default)]
pub(super) struct Flow {
    state: Mutex<State>,
    /// Something is no longer in flight.
    pub(super) settled: Notify,
}

#[derive(Default)]
struct State {
    messages: Vec<Message>,
    settled: usize,
    /// When the newest of the received messages was sent.
    newest_sent_at: Option<Instant>,
    latencies: Vec<Duration>,
    counts: Counts,
}

struct Message {
    due_at: Instant,
    sent_at: Instant,
    accepted_at: Option<Instant>,
    /// Whether it was received or refused.
    is_settled: bool,
}

/// What went wrong, and what went right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages received for the first time.
    pub received: u64,
    /// Messages received again.
    pub repeated: u64,
    /// Messages received after one that was sent once they were accepted. Messages that are in flight together have no
    /// order: the edge handles them concurrently.
    pub disordered: u64,
    /// Messages refused with an error code.
    pub refused: u64,
    /// Messages neither received nor refused.
    pub lost: u64,
}

impl Flow {
    /// Messages in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.with(|state| state.messages.len() - state.settled)
    }

    /// Begins the next message, which was due at that time; returns its number.
    pub(super) fn begin(&self, due: Instant) -> usize {
        self.with(|state| {
            let message = Message { due_at: due, sent_at: Instant::now(), accepted_at: None, is_settled: false };
            state.messages.push(message);
            state.messages.len() - 1
        })
    }

    /// Records that the server has accepted a message.
    pub(super) fn accept(&self, number: usize) {
        self.with(|state| {
            if let Some(message) = state.messages.get_mut(number) {
                message.accepted_at.get_or_insert_with(Instant::now);
            }
        });
    }

    /// Records the receipt of a message.
    pub(super) fn receive(&self, number: usize) {
        self.with(|state| {
            let Some(message) = state.messages.get_mut(number) else { return };
            if std::mem::replace(&mut message.is_settled, true) {
                state.counts.repeated += 1;
                return;
            }
            state.settled += 1;
            state.counts.received += 1;
            state.latencies.push(message.due_at.elapsed());
            if message.accepted_at.is_some_and(|accepted| state.newest_sent_at.is_some_and(|sent| accepted < sent)) {
                state.counts.disordered += 1;
            }
            state.newest_sent_at = state.newest_sent_at.max(Some(message.sent_at));
        });
        self.settled.notify_one();
    }

    /// Records that a message was refused.
    pub(super) fn refuse(&self, number: usize) {
        self.with(|state| {
            let Some(message) = state.messages.get_mut(number) else { return };
            if !std::mem::replace(&mut message.is_settled, true) {
                state.settled += 1;
                state.counts.refused += 1;
            }
        });
        self.settled.notify_one();
    }

    /// Messages received so far.
    pub(super) fn received(&self) -> u64 {
        self.with(|state| state.counts.received)
    }

    /// Forgets the latencies so far.
    pub(super) fn clear_latencies(&self) {
        self.with(|state| state.latencies.clear());
    }

    /// The latencies since the last call.
    pub(super) fn take_latencies(&self) -> Vec<Duration> {
        self.with(|state| std::mem::take(&mut state.latencies))
    }

    /// Everything so far; what is in flight counts as lost.
    pub(super) fn counts(&self) -> Counts {
        self.with(|state| Counts { lost: (state.messages.len() - state.settled) as u64, ..state.counts })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::ops::Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            repeated: self.repeated + other.repeated,
            disordered: self.disordered + other.disordered,
            refused: self.refused + other.refused,
            lost: self.lost + other.lost,
        }
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), std::ops::Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fate_is_counted_once() {
        let flow = Flow::default();
        let begin = || {
            std::thread::sleep(Duration::from_millis(1));
            flow.begin(Instant::now())
        };
        begin();
        begin();
        flow.accept(1);
        begin();
        begin();
        begin();
        flow.receive(2);
        flow.receive(1);
        flow.receive(0);
        flow.receive(2);
        flow.refuse(3);
        flow.refuse(3);
        assert_eq!(flow.in_flight(), 1);
        assert_eq!(flow.counts(), Counts { received: 3, repeated: 1, disordered: 1, refused: 1, lost: 1 });
        assert_eq!(flow.take_latencies().len(), 3);
        assert!(flow.take_latencies().is_empty());
    }
}
