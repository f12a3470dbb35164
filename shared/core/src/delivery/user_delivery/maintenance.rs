//! Serves connections beside the messages: heartbeats, events, replies, and closing those that never join.

use std::{collections::VecDeque, time::Duration};

use kschat_protocol::{ConnectionId, EphemeralEvent, ServerFrame};
use tokio::time::Instant;

use super::{DeliveryEnd, UserDelivery};
use crate::delivery::post_outcome::{BUSY_EDGE_BACKOFF, MAX_POST_ATTEMPTS_ONCE_ACCEPTED, PostVerdict};

/// How often connections are checked for readiness while a message waits for one.
const READY_CONNECTION_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The interval between two pushes of events to a user: events in between are pushed together, each subject once.
const EVENT_PUSH_INTERVAL: Duration = Duration::from_millis(100);

impl UserDelivery<'_> {
    /// Sends due heartbeats; closes connections that have not joined in time, so that their clients reconnect.
    pub(super) async fn maintain_connections(&mut self) -> Result<(), DeliveryEnd> {
        self.drop_expired();
        let verdicts = self.connections.send_due_pings(&*self.deps.edge).await;
        self.drop_gone(&verdicts).await;
        for id in self.connections.overdue(self.deps.clock.now()) {
            tracing::info!("closing a connection whose client did not join a namespace in time");
            self.drop_connection(&id).await;
        }
        self.refresh_if_empty().await?;
        self.catch_up_connections().await
    }

    /// Waits a moment if there are connections but none is ready; returns whether that is so.
    pub(super) async fn wait_for_ready_connection(&mut self) -> Result<bool, DeliveryEnd> {
        if self.connections.is_empty() || self.connections.has_ready(self.deps.clock.now()) {
            return Ok(false);
        }
        self.wait_or_wake(READY_CONNECTION_POLL_INTERVAL).await?;
        self.maintain_connections().await?;
        Ok(true)
    }

    /// Pushes ephemeral events to the connections that know of them.
    pub(super) async fn push_events(&mut self, events: VecDeque<EphemeralEvent>) -> Result<(), DeliveryEnd> {
        self.drop_expired();
        if !self.queue_consumer.owns_unacked() {
            return Err(DeliveryEnd::Lost);
        }
        let gone = self.connections.post_events(&*self.deps.edge, events, self.deps.clock.now()).await;
        // Counted from the end of the push: however many events come, messages get their turn.
        self.next_event_push_at = Instant::now() + EVENT_PUSH_INTERVAL;
        for id in &gone {
            self.drop_connection(id).await;
        }
        self.refresh_if_empty().await
    }

    /// Pushes replies of the functions to single connections. A reply that the edge does not take soon is dropped: the
    /// client can ask again.
    pub(super) async fn push_replies(
        &mut self,
        replies: VecDeque<(ConnectionId, ServerFrame)>,
    ) -> Result<(), DeliveryEnd> {
        for (id, frame) in replies {
            if !self.connections.is_ready(&id, self.deps.clock.now()) {
                // The connection may have joined and sent a request before the last registry read.
                self.refresh_connections().await?;
                self.catch_up_connections().await?;
            }
            self.push_reply(&id, &frame).await?;
        }
        Ok(())
    }

    async fn push_reply(&mut self, id: &ConnectionId, frame: &ServerFrame) -> Result<(), DeliveryEnd> {
        for attempt in 1..=MAX_POST_ATTEMPTS_ONCE_ACCEPTED {
            if !self.connections.is_ready(id, self.deps.clock.now()) {
                return Ok(());
            }
            match self.connections.post_one(&*self.deps.edge, id, frame).await {
                PostVerdict::Busy | PostVerdict::NotYetKnown => {
                    self.wait_or_wake(BUSY_EDGE_BACKOFF.wait(attempt)).await?;
                }
                PostVerdict::Gone => self.drop_connection(id).await,
                PostVerdict::Accepted | PostVerdict::Refused => return Ok(()),
            }
        }
        Ok(())
    }
}
