//! When what senders have put into a user's queue does not count as theirs any more.
//!
//! Whoever sends counts it by the round trip that reads the session; nobody counts it back for each message. A queue keeps
//! the order in which it was filled, so one message that was accepted after a moment tells that all before that moment has
//! left the queue.

use std::time::Duration;

use tokio::time::Instant;

use super::{Courier, End};
use crate::Timestamp;

/// How long after it was counted a message is in its queue, at most: what a publish and the making of a queue may take, and
/// what clocks may differ by.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);

/// How long nothing may have come until an empty queue counts as empty.
const QUIET: Duration = Duration::from_secs(2);

/// How often an idle user's shares are cleared: a send may have been counted, and have failed.
const IDLE: Duration = Duration::from_secs(10 * 60);

/// What is known of one user's queue.
pub(super) struct ShareWindow {
    /// What was counted before has surely been told apart from what was counted since.
    rotated: Timestamp,
    /// Whether what was counted before that has left the queue, and it was not told yet.
    is_rotation_due: bool,
    due_at: Instant,
}

impl ShareWindow {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { rotated: now, is_rotation_due: false, due_at: Instant::now() + QUIET }
    }

    /// Notes that messages have left the queue, the last one accepted at that time.
    pub(super) fn left(&mut self, last: Timestamp, now: Timestamp) {
        let is_later = last.since(self.rotated) > ARRIVES_WITHIN;
        // Somebody else may have dated it ahead.
        self.is_rotation_due |= is_later && last <= now.plus(ARRIVES_WITHIN);
        self.due_at = Instant::now() + QUIET;
    }

    pub(super) fn due_at(&self) -> Instant {
        if self.is_rotation_due { Instant::now() } else { self.due_at }
    }
}

impl Courier<'_> {
    /// Notes which messages have left the queue.
    pub(super) fn note_left(&mut self, last: Option<u64>) {
        if let Some(last) = last {
            self.shares.left(Timestamp::from_millis(last), self.deps.clock.now());
        }
    }

    /// Tells the registry what does not count any more.
    pub(super) async fn update_shares(&mut self) -> Result<(), End> {
        let Some(shares) = &self.deps.shares else { return Ok(()) };
        let is_empty = self.is_queue_empty().await?;
        let told = if std::mem::take(&mut self.shares.is_rotation_due) {
            self.shares.rotated = self.deps.clock.now();
            self.shares.due_at = Instant::now() + QUIET;
            shares.rotate_shares(self.user).await
        } else if is_empty {
            self.shares.due_at = Instant::now() + IDLE;
            shares.clear_shares(self.user).await
        } else {
            self.shares.due_at = Instant::now() + IDLE;
            Ok(())
        };
        if let Err(error) = told {
            tracing::warn!(error = &error as &dyn std::error::Error, "senders' shares count for longer");
        }
        Ok(())
    }

    /// Whether nothing waits, as far as that can be seen. What has come meanwhile is kept for the next frame.
    async fn is_queue_empty(&mut self) -> Result<bool, End> {
        // As long as nobody hears, nobody knows what waits.
        if !self.unacked.is_empty() || self.held.is_some() || !self.audience.hears(self.deps.clock.now()) {
            return Ok(false);
        }
        let Some(delivery) = self.deliveries.try_next() else { return Ok(true) };
        self.held = self.read(delivery).await?;
        Ok(false)
    }
}
