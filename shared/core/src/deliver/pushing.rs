//! From a batch to connections: who gets it, who is tried again, and who has gone.

use std::{borrow::Cow, time::Duration};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use kschat_protocol::ConnectionId;

use super::{Courier, End, frames::Frames, gathering::Batch};
use crate::{
    backoff::Backoff,
    metrics,
    ports::PostError,
    posting::{Posted, Tally, Verdict},
};

/// How many connections of one user are posted to at once.
pub(super) const FAN_OUT: usize = 8;

/// Waits between posts to a connection that the edge does not know yet.
pub(super) const YOUNG: Backoff = Backoff { base: Duration::from_millis(20), cap: Duration::from_millis(250) };

/// Waits after the edge was too busy or failed.
pub(super) const BUSY: Backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) };

impl Courier<'_> {
    /// Posts a frame to every connection until each has it, is gone, or has had its chances.
    pub(super) async fn post(&mut self, batch: &Batch) -> Result<Posted, End> {
        let mut tally = Tally::new();
        let may_go_without = batch.is_of_copies();
        while tally.attempts < tally.chances(may_go_without) {
            if let Err(end) = self.bring_up_to_date().await {
                return tally.posted().ok_or(end);
            }
            self.drop_expired();
            let targets = self.targets(&tally, &batch.frames);
            if targets.is_empty() {
                if let Some(posted) = tally.posted() {
                    return Ok(posted);
                }
                if may_go_without {
                    return Ok(Posted::Settled);
                }
                if self.wait_for_listeners().await? {
                    continue;
                }
                // All are gone; one that has just come would have been missed.
                self.look_again().await?;
                tally.attempts += 1;
            } else if self.deliveries.is_ours() {
                if let Some(wait) = self.round(&targets, &batch.frames, &mut tally).await
                    && let Err(end) = self.pause(wait).await
                {
                    return tally.posted().ok_or(end);
                }
            } else {
                return Err(End::Lost);
            }
        }
        tally.posted().or(may_go_without.then_some(Posted::Settled)).ok_or(End::Stuck)
    }

    /// Posts once to each target; says how long to wait before those that are left.
    async fn round(&mut self, targets: &[ConnectionId], frames: &Frames, tally: &mut Tally) -> Option<Duration> {
        let (mut early, mut busy, first) = (false, false, tally.reached.is_empty());
        let text = |id| self.audience.encode(id, frames.of(self.audience.viewer(id)).unwrap_or_default());
        let texts = targets.iter().map(|id| (id.clone(), text(id))).collect();
        for (id, verdict) in self.post_texts(texts).await {
            match verdict {
                Verdict::Reached => {
                    tally.is_settled |= !self.audience.acks(&id);
                    tally.reached.push(id);
                }
                Verdict::Refused => tally.refused.push(id),
                Verdict::Forget => self.forget(&id).await,
                Verdict::Early => early = true,
                Verdict::Busy => busy = true,
            }
        }
        if first && !tally.reached.is_empty() {
            metrics::PUSH.took(tally.began.elapsed());
            // From here on the fewer chances count.
            tally.attempts = 0;
        }
        // A connection is young for a short time only, so waiting for that alone uses up no chance.
        if early && !busy {
            tally.early += 1;
            return Some(YOUNG.wait(tally.early));
        }
        tally.attempts += 1;
        busy.then(|| BUSY.wait(tally.attempts))
    }

    fn targets(&self, tally: &Tally, frames: &Frames) -> Vec<ConnectionId> {
        let mut targets = self.audience.who(|listener| listener.is_up_to_date);
        targets.retain(|id| !tally.reached.contains(id) && !tally.refused.contains(id));
        targets.retain(|id| frames.of(self.audience.viewer(id)).is_some());
        targets
    }

    pub(super) async fn post_once(&self, targets: &[ConnectionId], frame: &str) -> Vec<(ConnectionId, Verdict)> {
        self.post_texts(targets.iter().map(|id| (id.clone(), self.audience.encode(id, frame))).collect()).await
    }

    /// Posts to each its text, which is in its dialect already.
    pub(super) async fn post_texts(&self, texts: Vec<(ConnectionId, Cow<'_, str>)>) -> Vec<(ConnectionId, Verdict)> {
        let posts: Vec<BoxFuture<'_, _>> =
            texts.into_iter().map(|(id, text)| self.post_text(id, text).boxed()).collect();
        stream::iter(posts).buffer_unordered(FAN_OUT).collect().await
    }

    async fn post_text(&self, id: ConnectionId, text: Cow<'_, str>) -> (ConnectionId, Verdict) {
        let outcome = self.deps.connections.post(&id, &text).await;
        if let Err(PostError::Retryable(error) | PostError::Refused(error)) = &outcome {
            tracing::warn!(error = error as &dyn std::error::Error, "a frame was not taken");
        }
        let verdict = Verdict::on(&outcome, self.audience.is_young(&id));
        metrics::PUSHES.add_to(verdict.name());
        (id, verdict)
    }

    /// The edge says that a connection is gone. Should it be wrong, its client must learn that nothing comes any more:
    /// it is cut off, and connects anew.
    pub(super) async fn forget(&mut self, id: &ConnectionId) {
        self.audience.remove(id);
        if let Err(error) = self.deps.registry.remove(self.user, id).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "a gone connection stays registered for now");
        }
        if let Err(error) = self.deps.connections.close(id).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "a gone connection can't be closed");
        }
    }

    /// Waits, unless its owner wants something: new connections are posted to at the next attempt.
    pub(super) async fn pause(&mut self, wait: Duration) -> Result<(), End> {
        self.check_loans()?;
        tokio::select! {
            () = self.signals.stop.cancelled() => Err(End::Stopped),
            () = self.signals.closing.arrived() => self.close_connections().await,
            () = self.signals.refresh.notified() => self.look_again().await,
            () = self.signals.restore.notified() => {
                self.restore().await;
                Ok(())
            }
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }
}
