//! Redelivers unacked messages: to all connections after a while without an ack, to new ones at once.

use kschat_protocol::ConnectionId;

use super::{DeliveryEnd, UserDelivery};
use crate::{
    delivery::{
        connections::ConnectionStage,
        in_flight::tags,
        post_outcome::{BUSY_EDGE_BACKOFF, MAX_POST_ATTEMPTS_ONCE_ACCEPTED, NEW_CONNECTION_BACKOFF, PostVerdict},
    },
    metrics,
};

impl UserDelivery<'_> {
    /// Redelivers unacked messages: the frame may be lost in a half-open socket, or the ack on its way. The client
    /// recognizes messages that it has shown.
    pub(super) async fn redeliver(&mut self) -> Result<(), DeliveryEnd> {
        if !self.in_flight.note_redelivery() {
            tracing::warn!("no acks from a user's clients within the ack timeout; requeueing its messages");
            return Err(DeliveryEnd::Failed);
        }
        self.drop_expired();
        self.redeliver_to_all().await?;
        if self.connections.is_empty() {
            self.refresh_connections().await?;
            self.catch_up_connections().await?;
        }
        Ok(())
    }

    /// Checks whether a long operation may go on: each post may take seconds, and a user may have hundreds of frames in
    /// flight.
    fn check_may_continue(&mut self) -> Result<(), DeliveryEnd> {
        if self.signals.stop.is_cancelled() {
            return Err(DeliveryEnd::Stopped);
        }
        if !self.queue_consumer.owns_unacked() {
            return Err(DeliveryEnd::Lost);
        }
        self.check_requeue_deadline()
    }

    async fn redeliver_to_all(&mut self) -> Result<(), DeliveryEnd> {
        for frame in self.in_flight.frames() {
            self.check_may_continue()?;
            let targets = self.connections.caught_up_acking();
            metrics::REPETITIONS.add(targets.len());
            let frames = targets.into_iter().map(|id| (id, &frame)).collect();
            let verdicts = self.connections.post(&*self.deps.edge, frames).await;
            self.drop_gone(&verdicts).await;
        }
        Ok(())
    }

    /// Sends unacked messages to new connections before any newer ones. A connection that does not take them soon gets
    /// them at the next redelivery.
    pub(super) async fn catch_up_connections(&mut self) -> Result<(), DeliveryEnd> {
        let (mut attempts, mut early) = (0, 0);
        loop {
            self.drop_expired();
            let (mut wait, has_chances) = (None, attempts < MAX_POST_ATTEMPTS_ONCE_ACCEPTED);
            for (id, stage) in self.connections.needing_catch_up(self.deps.clock.now()) {
                let verdict = match stage {
                    ConnectionStage::Ready => self.redeliver_to(&id).await?,
                    ConnectionStage::New => self.connections.send_handshake(&*self.deps.edge, &id).await,
                    ConnectionStage::HandshakeSent | ConnectionStage::Overdue => continue,
                };
                match verdict {
                    PostVerdict::NotYetKnown => {
                        early += 1;
                        wait = Some(NEW_CONNECTION_BACKOFF.wait(early));
                    }
                    PostVerdict::Busy if has_chances => {
                        attempts += 1;
                        wait = Some(BUSY_EDGE_BACKOFF.wait(attempts));
                    }
                    PostVerdict::Gone => self.drop_connection(&id).await,
                    PostVerdict::Accepted if stage == ConnectionStage::New => {}
                    // The client waits for its handshake packets: it is closed, and reconnects.
                    _ if stage == ConnectionStage::New => self.drop_connection(&id).await,
                    PostVerdict::Accepted | PostVerdict::Refused | PostVerdict::Busy => {
                        self.connections.set_caught_up(&id);
                    }
                }
            }
            match wait {
                Some(wait) => self.wait_or_wake(wait).await?,
                None if self.connections.is_empty() => return self.refresh_connections().await,
                None => return Ok(()),
            }
        }
    }

    /// Posts all unacked messages to one connection; stops at the first frame that is not taken.
    async fn redeliver_to(&mut self, id: &ConnectionId) -> Result<PostVerdict, DeliveryEnd> {
        for frame in self.in_flight.frames() {
            self.check_may_continue()?;
            metrics::REPETITIONS.add(1);
            let verdict = self.connections.post_one(&*self.deps.edge, id, &frame).await;
            if verdict != PostVerdict::Accepted {
                return Ok(verdict);
            }
        }
        if !self.connections.acks(id) {
            // The edge's answer settles it.
            let settled = self.in_flight.take_all();
            self.record_dequeued(settled.last());
            self.ack(&tags(&settled)).await?;
        }
        Ok(PostVerdict::Accepted)
    }
}
