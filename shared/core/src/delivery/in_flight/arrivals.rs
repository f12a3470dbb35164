//! Estimates since when a message that is unread, or just read, may be here.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use crate::ports::{Delivery, QueueConsumer};

/// Maximum unacked messages per user in this process: further ones would wait unread for room in the window.
pub const MAX_PREFETCH_PER_USER: u16 = 256;

/// Keeps a lower bound for the arrival of messages that are unread or just read: the client library does not report
/// when they arrive.
///
/// A message that is read now has arrived after the last moment at which none was here. While messages are always here,
/// a checkpoint is taken every [`MAX_PREFETCH_PER_USER`] reads. No more than that many are buffered, so a message that
/// is read now has arrived after the second-last checkpoint, and one that was read since the last checkpoint after the
/// third-last.
pub(super) struct ArrivalTracker {
    /// The last three, the oldest first.
    checkpoints: [Instant; 3],
    /// Reads since the last checkpoint.
    reads: u16,
}

impl ArrivalTracker {
    pub(super) fn new() -> Self {
        Self { checkpoints: [Instant::now(); 3], reads: 0 }
    }

    /// Records that no message is here at this moment.
    fn note_empty(&mut self) {
        *self = Self::new();
    }

    pub(super) fn note_read(&mut self) {
        self.reads += 1;
        if self.reads == MAX_PREFETCH_PER_USER {
            let [_, second, third] = self.checkpoints;
            *self = Self { checkpoints: [second, third, Instant::now()], reads: 0 };
        }
    }

    pub(super) fn since(&self) -> Instant {
        self.checkpoints[0]
    }
}

/// Waits for the next message, and records when there was none.
pub(crate) struct NextDelivery<'a> {
    next: BoxFuture<'a, Option<Delivery>>,
    arrivals: &'a mut ArrivalTracker,
    has_waited: bool,
}

impl<'a> NextDelivery<'a> {
    pub(super) fn of(queue_consumer: &'a mut dyn QueueConsumer, arrivals: &'a mut ArrivalTracker) -> Self {
        Self { next: queue_consumer.next(), arrivals, has_waited: false }
    }
}

impl Future for NextDelivery<'_> {
    type Output = Option<Delivery>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let next = self.next.poll_unpin(context);
        self.has_waited |= next.is_pending();
        next
    }
}

impl Drop for NextDelivery<'_> {
    fn drop(&mut self) {
        // A wake-up for another reason: a message would have woken us, so none was here until now.
        if self.has_waited {
            self.arrivals.note_empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn arrival_estimate_is_never_too_late() {
        let mut arrivals = ArrivalTracker::new();
        let mut here = std::collections::VecDeque::new();
        for round in 0..10_000_u32 {
            tokio::time::advance(Duration::from_millis(10)).await;
            while here.len() < usize::from(MAX_PREFETCH_PER_USER) {
                here.push_back(Instant::now());
            }
            let came = here.pop_front().unwrap();
            arrivals.note_read();
            assert!(arrivals.since() <= came, "round {round}");
        }
        assert!(arrivals.since().elapsed() < Duration::from_millis(10) * 4 * u32::from(MAX_PREFETCH_PER_USER));
        arrivals.note_empty();
        assert_eq!(arrivals.since(), Instant::now());
    }
}
