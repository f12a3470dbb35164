//! Pushes a batch to connections, with retries.

use std::time::Duration;

use kschat_protocol::{ConnectionId, ServerFrame};

use super::{DeliveryEnd, UserDelivery};
use crate::delivery::{
    batch::PackedBatch,
    inbox::{Item, Wanted},
    post_outcome::{BatchOutcome, BatchProgress},
};

impl UserDelivery<'_> {
    /// Posts a batch to every connection until each has it, is gone, or has used up its attempts.
    pub(super) async fn post(&mut self, batch: &PackedBatch) -> Result<BatchOutcome, DeliveryEnd> {
        let mut progress = BatchProgress::new(batch.holds_only_copies());
        while progress.has_attempts() {
            if let Err(end) = self.catch_up_connections().await {
                return progress.outcome().ok_or(end);
            }
            self.drop_expired();
            let frames = self.frames(batch, &progress);
            if frames.is_empty() {
                if let Some(posted) = progress.final_outcome() {
                    return Ok(posted);
                }
                if Box::pin(self.wait_for_ready_connection()).await? {
                    continue;
                }
                // All are gone; a new one would have been missed.
                Box::pin(self.refresh_connections()).await?;
                progress.note_nobody();
            } else if self.queue_consumer.owns_unacked() {
                let verdicts = self.connections.post(&*self.deps.edge, frames).await;
                Box::pin(self.drop_gone(&verdicts)).await;
                if let Some(wait) = progress.note_round(verdicts, |id| self.connections.acks(id))
                    && let Err(end) = self.wait_or_wake(wait).await
                {
                    return progress.outcome().ok_or(end);
                }
            } else {
                return Err(DeliveryEnd::Lost);
            }
        }
        progress.final_outcome().ok_or(DeliveryEnd::Failed)
    }

    /// The frames that connections still await, each with its connection.
    fn frames<'a>(&self, batch: &'a PackedBatch, progress: &BatchProgress) -> Vec<(ConnectionId, &'a ServerFrame)> {
        let awaiting = self.connections.caught_up().into_iter().filter(|id| progress.awaits(id));
        awaiting
            .filter_map(|id| {
                let frame = batch.frame_of(self.connections.viewer(&id))?;
                Some((id, frame))
            })
            .collect()
    }

    /// Waits, unless the owner sends a signal: new connections are posted to at the next attempt.
    pub(super) async fn wait_or_wake(&mut self, wait: Duration) -> Result<(), DeliveryEnd> {
        self.check_requeue_deadline()?;
        tokio::select! {
            () = self.signals.stop.cancelled() => Err(DeliveryEnd::Stopped),
            item = self.signals.inbox.next(Wanted { refresh: true, close: true, ..Wanted::default() }) => match item {
                Item::Close(request) => Box::pin(self.close_connections(request)).await,
                _ => Box::pin(self.refresh_connections()).await,
            },
            () = self.signals.restore.notified() => {
                Box::pin(self.restore()).await;
                Ok(())
            }
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }
}
