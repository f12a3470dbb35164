//! Tracks the messages of one user that are in flight.

mod arrivals;

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use kschat_protocol::{ConnectionId, Message, MessageId, Position, ReceiverFrame, ServerFrame, UserId};
use tokio::time::Instant;

use crate::{
    metrics::{self, GaugeGuard},
    ports::{Delivery, DeliveryTag, QueueConsumer},
};

use arrivals::{ArrivalTracker, NextDelivery};

pub use arrivals::MAX_PREFETCH_PER_USER;

/// Messages that await their ack at most; further ones stay in the queue.
const MAX_UNACKED_MESSAGES: usize = 256;

const _: () =
    assert!(MAX_PREFETCH_PER_USER as usize == MAX_UNACKED_MESSAGES, "the prefetch must fit into the unacked window");

/// Delays before unacknowledged messages are redelivered, as the frame or the ack may be lost. The first is the initial
/// delay, which doubles each time up to the second. Clients acknowledge every second; a cold start of a function may
/// take another one.
const ACK_REDELIVERY_DELAYS: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));

/// The shortest interval between redeliveries that a client requests. The requested messages are in flight by then, and
/// the frames before them trigger further requests.
const MIN_REQUESTED_REDELIVERY_INTERVAL: Duration = Duration::from_secs(1);

/// Settled messages of one user that are remembered, so that a copy that comes soon after is recognized.
const MAX_SETTLED_MESSAGES: usize = 64;

/// After this time without any ack the messages are requeued. Whatever acks come, no message is unacked for longer than
/// `MAX_UNACKED_AGE`.
const ACK_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// The longest time that a message stays unacked here. The broker closes a channel on which a message was unacked for
/// too long (`consumer_timeout`), and with it the deliveries of all other users on that channel. This is a third of the
/// broker's time, as a post may be under way at the end.
///
/// Source: RabbitMQ, "Delivery Acknowledgement Timeout", 30 minutes, checked once a minute; Amazon MQ has the same
/// default.
const MAX_UNACKED_AGE: Duration = Duration::from_secs(10 * 60);

/// A message that is being pushed, or was pushed and is not settled.
pub(crate) struct InFlightMessage {
    pub(crate) tag: DeliveryTag,
    pub(crate) message: Message,
    pub(crate) position: Position,
    /// Whether the broker has delivered it before.
    pub(crate) redelivered: bool,
    /// Whether it is a copy of what the user has sent to another user. It is only for connections that did not send it
    /// and know of copies. Its ack is not awaited: the sending connection could not give it, and would be held up by
    /// another one.
    pub(crate) is_own: bool,
    /// Since when the broker may count it as unacked.
    since: Instant,
    /// Since when its ack is awaited, if it is.
    awaiting_ack: Option<(Instant, GaugeGuard)>,
}

impl InFlightMessage {
    /// Whether that viewer receives it.
    pub(crate) fn is_for(&self, viewer: FrameViewer<'_>) -> bool {
        match viewer {
            _ if !self.is_own => true,
            FrameViewer::V1 => false,
            FrameViewer::V2(id) => self.message.sender_connection.as_ref() != Some(id),
        }
    }

    fn awaiting(self) -> Self {
        Self { awaiting_ack: Some((Instant::now(), metrics::UNACKED_MESSAGES.increment_guard())), ..self }
    }
}

/// The tags of these messages.
pub(crate) fn tags(messages: &[InFlightMessage]) -> Vec<DeliveryTag> {
    messages.iter().map(|one| one.tag).collect()
}

/// A viewer of a user's messages.
#[derive(Clone, Copy)]
pub(crate) enum FrameViewer<'a> {
    /// A v1 client, which does not know of copies.
    V1,
    /// That connection of a v2 client.
    V2(&'a ConnectionId),
}

/// The messages that the broker has delivered and may count as unacked: those that are pushed and not settled, with
/// their positions and redeliveries, and an estimate for those that are unread.
///
/// Holds: `unacked` is in the order of the positions, an ack removes a prefix of it, and what has left it is remembered
/// for a while as settled.
pub(crate) struct InFlight {
    /// Distinguishes the positions of this run from those of others.
    run: u32,
    /// The last assigned number.
    last: u64,
    /// Pushed and not acknowledged, in the order of the pushes.
    unacked: VecDeque<InFlightMessage>,
    /// Hashes of the last settled messages, the oldest first.
    settled: VecDeque<u64>,
    /// Seeded at random for each user and run: nobody can provoke a collision.
    hasher: RandomState,
    arrivals: ArrivalTracker,
    /// When the last ack came, or the first message that awaits one was pushed.
    since: Instant,
    /// How often the unacked messages were redelivered since then.
    redeliveries: u32,
    redeliver_at: Instant,
    /// When everything was last redelivered.
    redelivered_at: Option<Instant>,
}

impl InFlight {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            run: fastrand::u32(..Position::MAX_RUNS),
            last: 0,
            unacked: VecDeque::new(),
            settled: VecDeque::new(),
            hasher: RandomState::new(),
            arrivals: ArrivalTracker::new(),
            since: now,
            redeliveries: 0,
            redeliver_at: now,
            redelivered_at: None,
        }
    }

    /// Waits for the next message of the queue, and records when there was none.
    pub(crate) fn next_delivery<'a>(&'a mut self, queue_consumer: &'a mut dyn QueueConsumer) -> NextDelivery<'a> {
        NextDelivery::of(queue_consumer, &mut self.arrivals)
    }

    /// Records that a message was read from the queue.
    pub(crate) fn note_read(&mut self) {
        self.arrivals.note_read();
    }

    /// Assigns the next position to a message that was just read.
    pub(crate) fn assign_position(&mut self, delivery: &Delivery, message: Message, user: &UserId) -> InFlightMessage {
        self.last += 1;
        InFlightMessage {
            tag: delivery.tag,
            position: Position { run: self.run, number: self.last },
            redelivered: delivery.redelivered,
            is_own: message.is_own_of(user),
            message,
            since: self.arrivals.since(),
            awaiting_ack: None,
        }
    }

    /// Whether that message was pushed before, and is unacknowledged or settled: a repeated send may be in the queue
    /// twice.
    pub(crate) fn knows(&self, message: &Message) -> bool {
        self.settled.contains(&self.identity_hash(message))
            || self.unacked.iter().any(|one| one.message.is_duplicate_of(message))
    }

    /// Remembers those messages as settled.
    pub(crate) fn note_settled<'a>(&mut self, settled: impl IntoIterator<Item = &'a InFlightMessage>) {
        for InFlightMessage { message, .. } in settled {
            if self.settled.len() == MAX_SETTLED_MESSAGES {
                self.settled.pop_front();
            }
            self.settled.push_back(self.identity_hash(message));
        }
    }

    /// 64 bits are enough to tell a few messages of one user apart.
    fn identity_hash(&self, message: &Message) -> u64 {
        self.hasher.hash_one(message.identity())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.unacked.is_empty()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.unacked.len() < MAX_UNACKED_MESSAGES
    }

    /// When all messages must be requeued, whatever holds the user up. `reads` tells whether the task reads from the queue:
    /// then no message waits unread.
    pub(crate) fn requeue_deadline(&self, reads: bool) -> Option<Instant> {
        let unread = (!reads).then(|| self.arrivals.since());
        let oldest = self.unacked.front().map(|one| one.since).into_iter().chain(unread).min();
        oldest.map(|since| since + MAX_UNACKED_AGE)
    }

    /// Awaits the acks of messages that were pushed. Returns the tags of copies, which are settled by the push.
    pub(crate) fn add(&mut self, pushed: Vec<InFlightMessage>) -> Vec<DeliveryTag> {
        if self.unacked.is_empty() {
            self.reset_redelivery();
        }
        let (copies, waiting): (Vec<_>, Vec<_>) = pushed.into_iter().partition(|one| one.is_own);
        self.unacked.extend(waiting.into_iter().map(InFlightMessage::awaiting));
        self.note_settled(&copies);
        tags(&copies)
    }

    /// Removes and returns what those acks cover: all up to the furthest known one.
    pub(crate) fn take_acked<'a>(&mut self, acked: impl IntoIterator<Item = &'a AckTarget>) -> Vec<InFlightMessage> {
        let count = acked.into_iter().map(|ack| self.acked_prefix(ack)).max().unwrap_or_default();
        if count == 0 {
            return Vec::new();
        }
        self.reset_redelivery();
        for (since, _) in self.unacked.iter().take(count).filter_map(|one| one.awaiting_ack.as_ref()) {
            metrics::ACK.record_duration(since.elapsed());
        }
        self.take(count)
    }

    /// How many messages an ack covers. An ack with a position of another run covers none. One that names only a
    /// message covers all up to its first copy.
    fn acked_prefix(&self, ack: &AckTarget) -> usize {
        match ack {
            AckTarget::Position(position) if position.run == self.run => {
                self.unacked.partition_point(|one| one.position.number <= position.number)
            }
            AckTarget::Position(_) => 0,
            AckTarget::Message(id) => self.unacked.iter().position(|one| one.message.id == *id).map_or(0, |at| at + 1),
        }
    }

    /// Removes and returns everything.
    pub(crate) fn take_all(&mut self) -> Vec<InFlightMessage> {
        self.take(self.unacked.len())
    }

    fn take(&mut self, count: usize) -> Vec<InFlightMessage> {
        let taken: Vec<InFlightMessage> = self.unacked.drain(..count).collect();
        self.note_settled(&taken);
        taken
    }

    /// When everything is redelivered, unless an ack comes before.
    pub(crate) fn redeliver_at(&self) -> Instant {
        self.redeliver_at
    }

    /// Records a redelivery; returns whether further ones are still worthwhile.
    pub(crate) fn note_redelivery(&mut self) -> bool {
        self.redeliveries += 1;
        let now = Instant::now();
        self.redelivered_at = Some(now);
        self.redeliver_at =
            now + (ACK_REDELIVERY_DELAYS.0 * 2_u32.saturating_pow(self.redeliveries)).min(ACK_REDELIVERY_DELAYS.1);
        self.since.elapsed() < ACK_TIMEOUT
    }

    /// Records that a client has missed something: everything is redelivered as soon as that makes sense.
    pub(crate) fn request_redelivery(&mut self) {
        let now = Instant::now();
        let soonest = self.redelivered_at.map_or(now, |last| now.max(last + MIN_REQUESTED_REDELIVERY_INTERVAL));
        self.redeliver_at = self.redeliver_at.min(soonest);
    }

    /// The position of the last pushed message, if it awaits its ack.
    pub(crate) fn last_position(&self) -> Option<Position> {
        self.unacked.back().map(|one| one.position)
    }

    /// Everything once more, in as few frames as possible.
    pub(crate) fn frames(&self) -> Vec<ServerFrame> {
        let mut frames = Vec::new();
        let mut frame = ReceiverFrame::after(None);
        let mut previous = None;
        for one in &self.unacked {
            let message = &one.message;
            if !frame.push(message, true) {
                let full = std::mem::replace(&mut frame, ReceiverFrame::after(previous));
                frames.extend(previous.map(|position| full.finish(position)));
                // It fitted at the first push; the redelivery marks may be too much for the very largest.
                if !frame.push(message, true) {
                    frame = ReceiverFrame::after(None);
                    let _ = frame.push(message, false);
                }
            }
            previous = Some(one.position);
        }
        frames.extend(previous.map(|position| frame.finish(position)));
        frames
    }

    fn reset_redelivery(&mut self) {
        self.since = Instant::now();
        self.redeliveries = 0;
        self.redeliver_at = self.since + ACK_REDELIVERY_DELAYS.0;
    }
}

/// The target of an ack.
#[derive(Debug)]
pub(crate) enum AckTarget {
    /// A position, which belongs to one copy.
    Position(Position),
    /// A message, from a client that does not name its position.
    Message(MessageId),
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::contract::{message, unique_connection, unique_user};

    /// Assigns positions to new messages of that user, and pushes them.
    fn push(in_flight: &mut InFlight, user: &UserId, count: u64) -> Vec<Message> {
        let messages: Vec<Message> = (0..count).map(|n| message(user, &n.to_string())).collect();
        let pushed = messages.iter().map(|one| assigned(in_flight, user, one.clone())).collect();
        assert!(in_flight.add(pushed).is_empty(), "there are no copies");
        messages
    }

    fn assigned(in_flight: &mut InFlight, user: &UserId, message: Message) -> InFlightMessage {
        let delivery = Delivery {
            tag: DeliveryTag(in_flight.last + 1),
            body: Vec::new(),
            redelivered: false,
            trace: None,
            sender_connection: None,
        };
        in_flight.assign_position(&delivery, message, user)
    }

    #[tokio::test(start_paused = true)]
    async fn ack_settles_prefix_of_its_own_run() {
        let (mut in_flight, user) = (InFlight::new(), unique_user());
        let messages = push(&mut in_flight, &user, 4);
        let last = in_flight.last_position().unwrap();
        let other_run = Position { run: last.run ^ 1, ..last };
        assert!(in_flight.take_acked(&[AckTarget::Position(other_run)]).is_empty());
        let acks = [AckTarget::Message(messages[0].id.clone()), AckTarget::Position(Position { number: 3, ..last })];
        assert_eq!(tags(&in_flight.take_acked(&acks)), [1, 2, 3].map(DeliveryTag));
        assert!(messages.iter().all(|one| in_flight.knows(one)), "settled ones are remembered");
        assert_eq!(in_flight.last_position(), Some(last));
        assert_eq!(tags(&in_flight.take_all()), [DeliveryTag(4)]);
        assert!(in_flight.is_empty() && in_flight.last_position().is_none());
        push(&mut in_flight, &user, MAX_SETTLED_MESSAGES as u64);
        in_flight.take_all();
        assert!(!in_flight.knows(&messages[3]), "only the last ones are remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn copies_are_settled_by_push() {
        let (mut in_flight, user, phone) = (InFlight::new(), unique_user(), unique_connection());
        let copy =
            Message { from: (&user).into(), sender_connection: Some(phone.clone()), ..message(&unique_user(), "mine") };
        let one = assigned(&mut in_flight, &user, copy.clone());
        assert!(one.is_own && !one.is_for(FrameViewer::V1) && !one.is_for(FrameViewer::V2(&phone)));
        assert!(one.is_for(FrameViewer::V2(&unique_connection())));
        assert_eq!(in_flight.add(vec![one]), [DeliveryTag(1)]);
        assert!(in_flight.is_empty() && in_flight.knows(&copy));
    }

    #[tokio::test(start_paused = true)]
    async fn redelivery_delay_doubles_until_ack() {
        let (mut in_flight, start) = (InFlight::new(), Instant::now());
        let user = unique_user();
        push(&mut in_flight, &user, 2);
        for seconds in [3, 6, 12, 24, 48, 60, 60] {
            assert_eq!(in_flight.redeliver_at() - Instant::now(), Duration::from_secs(seconds));
            advance(Duration::from_secs(seconds)).await;
            assert!(in_flight.note_redelivery());
        }
        advance(start + ACK_TIMEOUT - Instant::now()).await;
        assert!(!in_flight.note_redelivery(), "no client acknowledges anything");
        let first = Position { number: 1, ..in_flight.last_position().unwrap() };
        in_flight.take_acked(&[AckTarget::Position(first)]);
        assert_eq!(in_flight.redeliver_at() - Instant::now(), ACK_REDELIVERY_DELAYS.0);
        in_flight.note_redelivery();
        in_flight.request_redelivery();
        assert_eq!(in_flight.redeliver_at() - Instant::now(), MIN_REQUESTED_REDELIVERY_INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn window_and_age_are_bounded() {
        let (mut in_flight, start) = (InFlight::new(), Instant::now());
        assert_eq!(in_flight.requeue_deadline(true), None);
        assert_eq!(in_flight.requeue_deadline(false), Some(start + MAX_UNACKED_AGE), "a message may wait unread");
        push(&mut in_flight, &unique_user(), MAX_UNACKED_MESSAGES as u64 - 1);
        assert!(in_flight.has_room());
        advance(Duration::from_secs(1)).await;
        push(&mut in_flight, &unique_user(), 1);
        assert!(!in_flight.has_room());
        assert_eq!(in_flight.requeue_deadline(true), Some(start + MAX_UNACKED_AGE));
    }
}
