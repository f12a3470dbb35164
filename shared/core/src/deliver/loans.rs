//! How long messages may be with us.
//!
//! The broker closes the channel over which a message was not acknowledged for long (`consumer_timeout`, half an hour unless
//! an operator sets less), and with it the deliveries of all other users on it. So whatever holds a user up, what was taken
//! goes back to the queue long before that, and comes again in its order.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use super::{Courier, End, MAX_PREFETCH};
use crate::ports::{Deliveries, Delivery};

/// How long a message may be with us. It is a third of the broker's time, as a post may be under way when this is over.
///
/// Source: RabbitMQ, "Delivery Acknowledgement Timeout", 30 minutes, looked at once a minute; Amazon MQ has the same default.
pub(super) const MAX_UNACKED_AGE: Duration = Duration::from_secs(10 * 60);

/// Since when the messages may be here that were not read yet, or were just read. The broker's library does not say when
/// each has come: it has come after the last moment at which none was here, and after that at which as many were read before
/// it as are here at most.
pub(super) struct Arrivals {
    /// Moments with [`MAX_PREFETCH`] reads between them: what is read now has come after the second, and what was read
    /// since the last of them after the first.
    marks: [Instant; 3],
    /// How many were read since the last mark.
    reads: u16,
}

impl Arrivals {
    pub(super) fn new() -> Self {
        Self { marks: [Instant::now(); 3], reads: 0 }
    }

    /// Nothing is here at this moment.
    fn note_none(&mut self) {
        *self = Self::new();
    }

    pub(super) fn note_read(&mut self) {
        self.reads += 1;
        if self.reads == MAX_PREFETCH {
            let [_, second, third] = self.marks;
            *self = Self { marks: [second, third, Instant::now()], reads: 0 };
        }
    }

    pub(super) fn since(&self) -> Instant {
        self.marks[0]
    }
}

/// Waits for the next message, and notes that there was none if there was none.
pub(super) struct NextDelivery<'a> {
    next: BoxFuture<'a, Option<Delivery>>,
    arrivals: &'a mut Arrivals,
    has_waited: bool,
}

impl<'a> NextDelivery<'a> {
    pub(super) fn of(deliveries: &'a mut dyn Deliveries, arrivals: &'a mut Arrivals) -> Self {
        Self { next: deliveries.next(), arrivals, has_waited: false }
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
        // Whatever has woken us: a message would have, so none was here until now.
        if self.has_waited {
            self.arrivals.note_none();
        }
    }
}

impl Courier<'_> {
    /// When what was taken must be given back.
    pub(super) fn loans_end_at(&self, reads: bool) -> Option<Instant> {
        // While we read, nothing waits unread.
        let unread = (!reads).then(|| self.arrivals.since());
        let oldest = self.unacked.oldest().into_iter().chain(unread).min();
        oldest.map(|since| since + MAX_UNACKED_AGE)
    }

    /// Fails once what was taken must be given back.
    pub(super) fn check_loans(&self) -> Result<(), End> {
        if self.loans_end_at(false).is_none_or(|end| Instant::now() < end) {
            return Ok(());
        }
        tracing::warn!("a user's messages are with us for too long; they go back to the queue");
        Err(End::Stuck)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn arrival_is_never_taken_for_later_than_it_was() {
        let mut arrivals = Arrivals::new();
        let mut here = std::collections::VecDeque::new();
        for round in 0..10_000_u32 {
            tokio::time::advance(Duration::from_millis(10)).await;
            while here.len() < usize::from(MAX_PREFETCH) {
                here.push_back(Instant::now());
            }
            let came = here.pop_front().unwrap();
            arrivals.note_read();
            assert!(arrivals.since() <= came, "round {round}");
        }
        assert!(arrivals.since().elapsed() < Duration::from_millis(10) * 4 * u32::from(MAX_PREFETCH));
        arrivals.note_none();
        assert_eq!(arrivals.since(), Instant::now());
    }
}
