//! Decides when messages in a user's queue no longer count towards their senders' shares.
//!
//! A send counts towards the share in the round trip that reads the session; nothing is subtracted for single messages.
//! A queue keeps its order, so one message that was accepted after a moment proves that all before that moment have
//! left the queue.

use std::time::Duration;

use tokio::time::Instant;

use super::{DeliveryEnd, UserDelivery};
use crate::{Timestamp, delivery::in_flight::InFlightMessage};

/// The longest time between counting a message and its arrival in the queue: a publish, the creation of a queue, and
/// clock differences.
const MAX_ENQUEUE_DELAY: Duration = Duration::from_secs(10);

/// How long nothing may arrive until an empty queue counts as empty.
const EMPTY_QUEUE_SETTLE_TIME: Duration = Duration::from_secs(2);

/// How often an idle user's shares are cleared: a counted send may have failed.
const IDLE_SHARE_CLEAR_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// Rotation state of one user's shares.
pub(super) struct ShareRotation {
    /// Counts before this moment are certainly separate from those since.
    rotated: Timestamp,
    /// Whether the counts before that have left the queue, and the registry does not know yet.
    is_rotation_due: bool,
    due_at: Instant,
}

impl ShareRotation {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { rotated: now, is_rotation_due: false, due_at: Instant::now() + EMPTY_QUEUE_SETTLE_TIME }
    }

    /// Records that messages have left the queue, the last one accepted at that time.
    pub(super) fn note_dequeued(&mut self, last: Timestamp, now: Timestamp) {
        let is_later = last.since(self.rotated) > MAX_ENQUEUE_DELAY;
        // A foreign message may be dated in the future.
        self.is_rotation_due |= is_later && last <= now.plus(MAX_ENQUEUE_DELAY);
        self.due_at = Instant::now() + EMPTY_QUEUE_SETTLE_TIME;
    }

    pub(super) fn due_at(&self) -> Instant {
        if self.is_rotation_due { Instant::now() } else { self.due_at }
    }
}

impl UserDelivery<'_> {
    /// Records that messages have left the queue, up to the last one.
    pub(super) fn record_dequeued(&mut self, last: Option<&InFlightMessage>) {
        if let Some(last) = last {
            self.shares.note_dequeued(Timestamp::from_millis(last.message.time), self.deps.clock.now());
        }
    }

    /// Tells the registry which counts to drop.
    pub(super) async fn update_shares(&mut self) -> Result<(), DeliveryEnd> {
        let Some(shares) = &self.deps.shares else { return Ok(()) };
        let is_empty = self.is_queue_empty().await?;
        let told = if std::mem::take(&mut self.shares.is_rotation_due) {
            self.shares.rotated = self.deps.clock.now();
            self.shares.due_at = Instant::now() + EMPTY_QUEUE_SETTLE_TIME;
            shares.rotate_shares(self.user).await
        } else if is_empty {
            self.shares.due_at = Instant::now() + IDLE_SHARE_CLEAR_INTERVAL;
            shares.clear_shares(self.user).await
        } else {
            self.shares.due_at = Instant::now() + IDLE_SHARE_CLEAR_INTERVAL;
            Ok(())
        };
        if let Err(error) = told {
            tracing::warn!(error = &error as &dyn std::error::Error, "updating sender shares failed");
        }
        Ok(())
    }

    /// Whether the queue appears empty. A message that has arrived meanwhile is kept for the next frame.
    async fn is_queue_empty(&mut self) -> Result<bool, DeliveryEnd> {
        // While no connection is ready, nothing is read, so the queue's content is unknown.
        if !self.in_flight.is_empty() || self.overflow.is_some() || !self.connections.has_ready(self.deps.clock.now()) {
            return Ok(false);
        }
        let Some(delivery) = self.queue_consumer.try_next() else { return Ok(true) };
        self.overflow = self.read(delivery).await?;
        Ok(false)
    }
}
