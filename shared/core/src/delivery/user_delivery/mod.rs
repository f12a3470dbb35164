//! The delivery task of one user: takes messages from the user's queue and pushes them to the user's connections.

use std::{convert::Infallible, future::ready, time::Duration};

use kschat_protocol::UserId;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument;

use super::{
    batch::QueuedMessage,
    connections::Connections,
    deps::Deps,
    in_flight::{InFlight, tags},
    inbox::{Item, PendingAcks, Wanted},
    post_outcome::BatchOutcome,
    signals::{DeliveryEnd, DeliverySignals},
};
use crate::{
    ports::{Delivery, DeliveryTag, QueueConsumer},
    rooms,
};

mod close_connections;
mod maintenance;
mod push;
mod queue;
mod redelivery;
mod registry;
mod sender_shares;

use sender_shares::ShareRotation;

/// The delay before a failed registry read is repeated.
const REGISTRY_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Binds a queue, which may be new, to exactly the rooms of its user. Returns when to retry, if that fails for now.
pub(super) async fn rebind_rooms(deps: &Deps, user: &UserId) -> Option<Instant> {
    let settled = rooms::reconcile_all_bindings(deps.rooms.as_deref()?, &*deps.queue_manager, user).await;
    let error = settled.err()?;
    tracing::warn!(error = &error as &dyn std::error::Error, "binding a user's queue to its rooms failed; retrying");
    Some(Instant::now() + REGISTRY_RETRY_DELAY)
}

/// Delivers one user's queue to that user's connections. It holds the ports and decides what comes next; [`Connections`],
/// [`InFlight`] and, during a push, a [`Batch`](super::batch::Batch) hold what must stay true.
pub(super) struct UserDelivery<'a> {
    deps: &'a Deps,
    user: &'a UserId,
    signals: &'a DeliverySignals,
    queue_consumer: Box<dyn QueueConsumer>,
    connections: Connections,
    in_flight: InFlight,
    /// Did not fit into the last batch; opens the next one. Until then nothing is read from the queue.
    overflow: Option<QueuedMessage>,
    /// Tracks which parts of the senders' shares have left the queue.
    shares: ShareRotation,
    /// When to repeat a failed registry read.
    refresh_at: Option<Instant>,
    /// When to retry binding the queue to the user's rooms.
    rebind_at: Option<Instant>,
    /// When the connections were last checked against the edge.
    checked_at: Option<Instant>,
    /// When events may be pushed again.
    next_event_push_at: Instant,
    /// Whether replies were pushed since messages had their turn.
    replies_were_pushed: bool,
}

impl<'a> UserDelivery<'a> {
    /// Starts with these connections and that queue; `rebind_at` is when to retry binding the queue to the user's
    /// rooms.
    pub(super) fn new(
        deps: &'a Deps,
        user: &'a UserId,
        signals: &'a DeliverySignals,
        connections: Connections,
        queue_consumer: Box<dyn QueueConsumer>,
        rebind_at: Option<Instant>,
    ) -> Self {
        Self {
            deps,
            user,
            signals,
            queue_consumer,
            connections,
            in_flight: InFlight::new(),
            overflow: None,
            shares: ShareRotation::new(deps.clock.now()),
            refresh_at: None,
            rebind_at,
            checked_at: None,
            next_event_push_at: Instant::now(),
            replies_were_pushed: false,
        }
    }

    /// Stops taking from the queue: what is not acknowledged is requeued, in order.
    pub(super) async fn close(self) {
        self.queue_consumer.close().await;
    }
}

/// An event that a delivery task handles.
enum Event {
    Stop,
    /// The registry has lost its data.
    Restore,
    /// The maximum age of unacked messages is reached.
    UnackedTooLong,
    /// A token expires, or a failed registry read is to be repeated.
    ConnectionsDue,
    /// The queue is to be bound to the user's rooms once more.
    RebindDue,
    Inbox(Item),
    /// A heartbeat is due, or a client should have joined.
    MaintenanceDue,
    /// The pushed messages were not acknowledged in time.
    RedeliveryDue,
    /// Senders' shares are to be updated.
    SharesDue,
    /// The message that did not fit into the last frame is next.
    Overflow,
    /// The next message of the queue; `None` if the queue is lost.
    Delivery(Option<Delivery>),
    /// Nothing else was due.
    Idle,
}

impl UserDelivery<'_> {
    /// Serves the user until something ends it.
    pub(super) async fn run(&mut self) -> DeliveryEnd {
        let Err(end) = self.handle_events().await;
        end
    }

    /// Handles one event after another. What is rare is boxed: the task of each online user is as large as its largest
    /// branch.
    async fn handle_events(&mut self) -> Result<Infallible, DeliveryEnd> {
        // A client that waits for its handshake packets must not wait for the first message.
        Box::pin(self.catch_up_connections()).await?;
        loop {
            match self.next_event().await {
                Event::Stop => return Err(DeliveryEnd::Stopped),
                Event::Restore => Box::pin(self.restore()).await,
                Event::UnackedTooLong => self.check_requeue_deadline()?,
                Event::ConnectionsDue | Event::Inbox(Item::Refresh) => Box::pin(self.update_connections()).await?,
                Event::RebindDue => self.rebind_at = Box::pin(rebind_rooms(self.deps, self.user)).await,
                Event::MaintenanceDue => Box::pin(self.maintain_connections()).await?,
                Event::RedeliveryDue => Box::pin(self.redeliver()).await?,
                Event::SharesDue => Box::pin(self.update_shares()).await?,
                Event::Inbox(Item::Close(request)) => Box::pin(self.close_connections(request)).await?,
                Event::Inbox(Item::CheckConnections) => Box::pin(self.check_connections()).await?,
                // The queue exists.
                Event::Inbox(Item::QueueRequest) => self.signals.inbox.clear_queue_request(),
                Event::Inbox(Item::Acks(acks)) => self.apply_acks(&acks).await?,
                Event::Inbox(Item::Events(events)) => Box::pin(self.push_events(events)).await?,
                Event::Inbox(Item::Replies(replies)) => {
                    self.replies_were_pushed = true;
                    Box::pin(self.push_replies(replies)).await?;
                }
                Event::Overflow => {
                    let first = self.overflow.take();
                    self.deliver_from(first).await?;
                }
                Event::Delivery(delivery) => {
                    self.replies_were_pushed = false;
                    let first = self.read(delivery.ok_or(DeliveryEnd::Lost)?).await?;
                    self.deliver_from(first).await?;
                }
                Event::Idle => self.replies_were_pushed = false,
            }
        }
    }

    /// Waits for the first event; of several ready ones, returns the most urgent.
    async fn next_event(&mut self) -> Event {
        let now = self.deps.clock.now();
        let takes = self.in_flight.has_room() && self.connections.has_ready(now);
        let maintenance_due_at = self.connections.maintenance_due_at(now);
        let requeue_at = self.in_flight.requeue_deadline(takes && self.overflow.is_none());
        let wanted = Wanted {
            refresh: true,
            close: true,
            check: true,
            queue_request: true,
            acks: true,
            events_at: Some(self.next_event_push_at),
            // Endless replies must not keep the messages waiting.
            replies: !self.replies_were_pushed,
        };
        tokio::select! {
            biased;
            () = self.signals.stop.cancelled() => Event::Stop,
            () = self.signals.restore.notified() => Event::Restore,
            () = at(requeue_at), if requeue_at.is_some() => Event::UnackedTooLong,
            () = at(self.refresh_at), if self.refresh_at.is_some() => Event::ConnectionsDue,
            () = sleep_until(self.connections.expiry_due_at(now)) => Event::ConnectionsDue,
            () = at(self.rebind_at), if self.rebind_at.is_some() => Event::RebindDue,
            item = self.signals.inbox.next(wanted) => Event::Inbox(item),
            () = at(maintenance_due_at), if maintenance_due_at.is_some() => Event::MaintenanceDue,
            () = sleep_until(self.in_flight.redeliver_at()), if !self.in_flight.is_empty() => Event::RedeliveryDue,
            () = sleep_until(self.shares.due_at()), if self.deps.shares.is_some() => Event::SharesDue,
            () = ready(()), if self.overflow.is_some() && takes => Event::Overflow,
            delivery = self.in_flight.next_delivery(&mut *self.queue_consumer),
                if self.overflow.is_none() && takes => Event::Delivery(delivery),
            () = ready(()), if self.replies_were_pushed => Event::Idle,
        }
    }

    async fn update_connections(&mut self) -> Result<(), DeliveryEnd> {
        self.refresh_connections().await?;
        self.catch_up_connections().await
    }

    /// Pushes a batch that starts with that message, if there is one.
    async fn deliver_from(&mut self, first: Option<QueuedMessage>) -> Result<(), DeliveryEnd> {
        let Some(batch) = self.collect_batch(first).await? else { return Ok(()) };
        let span = batch.span();
        let posted = self.post(&batch).instrument(span.clone()).await?;
        let messages = batch.into_messages();
        span.in_scope(|| tracing::debug!("a frame was pushed"));
        let settled = match posted {
            BatchOutcome::Settled => {
                self.record_dequeued(messages.last());
                self.in_flight.note_settled(&messages);
                self.queue_consumer.ack(&tags(&messages)).await
            }
            BatchOutcome::Refused => self.dead_letter_all(&messages).await,
            BatchOutcome::AwaitingAcks => {
                let copies = self.in_flight.add(messages);
                return self.ack(&copies).await;
            }
        };
        settled.map_err(|_| DeliveryEnd::Lost)
    }

    /// Removes acknowledged messages from the queue; speeds up redelivery for a client that has missed something.
    async fn apply_acks(&mut self, acks: &PendingAcks) -> Result<(), DeliveryEnd> {
        let settled = self.in_flight.take_acked(&acks.acked);
        if acks.redelivery_requested {
            self.in_flight.request_redelivery();
        }
        if let Some(batcher) = self.deps.receipts.as_ref().filter(|_| !settled.is_empty()) {
            batcher.record_delivered(self.user, settled.iter().map(|pushed| &pushed.message));
        }
        self.record_dequeued(settled.last());
        self.ack(&tags(&settled)).await
    }

    /// Fails once the unacked messages must be requeued.
    fn check_requeue_deadline(&self) -> Result<(), DeliveryEnd> {
        if self.in_flight.requeue_deadline(false).is_none_or(|end| Instant::now() < end) {
            return Ok(());
        }
        tracing::warn!("a user's messages reached the maximum unacked age; requeueing them");
        Err(DeliveryEnd::Failed)
    }

    async fn ack(&mut self, tags: &[DeliveryTag]) -> Result<(), DeliveryEnd> {
        if tags.is_empty() { Ok(()) } else { self.queue_consumer.ack(tags).await.map_err(|_| DeliveryEnd::Lost) }
    }
}

/// Waits until that moment; without one the branch is disabled by the caller.
fn at(moment: Option<Instant>) -> tokio::time::Sleep {
    sleep_until(moment.unwrap_or_else(Instant::now))
}
