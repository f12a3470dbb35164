//! Model of a consumer: it competes for the partition, and as owner its delivery task serves the user.

use super::{DEVICES, Protocol, State, Step, Steps, message};
use crate::{
    faults::Mistake,
    ids::{Id, Ids},
};

/// A consumer process, with the broker's state of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Consumer {
    is_frozen: bool,
    /// Whether the broker has its connection, and so its unacked deliveries.
    is_linked: bool,
    /// Whether it believes that the unacked messages are its own.
    owns_unacked: bool,
    /// Whether no more copies are in flight to the queue that it has unbound.
    has_waited: bool,
    /// The user's delivery task, if any.
    delivery: Option<DeliveryState>,
}

/// State of the delivery task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct DeliveryState {
    connections: [ConnectionState; DEVICES],
    /// Pushed, and not acknowledged.
    unacked: Ids,
    /// The frame that is being pushed.
    posting: Option<Posting>,
    /// Delivered by the broker, and not pushed.
    buffered: Ids,
    /// Messages that it remembers as settled, in a set.
    settled: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct ConnectionState {
    /// The device's connection as the task knows it.
    connection: Option<u8>,
    /// Whether it must first receive the unacknowledged messages.
    is_behind: bool,
}

/// A frame while it is posted to one connection after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Posting {
    frame: Frame,
    /// Devices that have not received it, in a set.
    targets: u8,
    /// Whether it was never pushed before.
    is_new: bool,
    /// Whether the edge has accepted it for any device.
    is_taken: bool,
}

/// A `RESPRECEIVER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Frame {
    /// Name of the previously pushed message, if unacknowledged.
    pub(crate) prev: Option<Id>,
    /// Copies of messages.
    pub(crate) copies: Ids,
}

/// Result of a post.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Taken,
    Swallowed,
    /// It was accepted, and the response was lost: it will be posted again.
    TakenUnheard,
    Gone,
}

impl Consumer {
    pub(crate) fn is_linked(&self) -> bool {
        self.is_linked
    }

    pub(crate) fn has_waited(&self) -> bool {
        self.has_waited
    }

    /// Its unacked deliveries, in queue order.
    pub(crate) fn in_flight(&self) -> Ids {
        self.delivery.map(|delivery| delivery.in_flight()).unwrap_or_default()
    }
}

impl DeliveryState {
    fn in_flight(&self) -> Ids {
        let posting = self.posting.filter(|posting| posting.is_new).map(|posting| posting.frame.copies);
        self.unacked.then(posting.unwrap_or_default()).then(self.buffered)
    }

    /// Whether the message was pushed, and is unacknowledged or settled.
    fn knows(&self, copy: Id) -> bool {
        let is_unacked = self.unacked.iter().any(|one| message(one) == message(copy));
        is_unacked || self.settled & 1 << message(copy) != 0
    }

    /// Devices that satisfy a predicate, in a set.
    fn connections_where(&self, is_so: impl Fn(&ConnectionState) -> bool) -> u8 {
        let listens = |d: &usize| self.connections[*d].connection.is_some() && is_so(&self.connections[*d]);
        (0..DEVICES).filter(listens).fold(0, |all, d| all | 1 << d)
    }

    /// Starts to redeliver all unacknowledged messages.
    fn repeat(&mut self, targets: u8) {
        if !self.unacked.is_empty() {
            let frame = Frame { prev: None, copies: self.unacked };
            self.posting = Some(Posting { frame, targets, is_new: false, is_taken: false });
        }
    }
}

impl State {
    fn with_consumer(&self, c: usize, consumer: Consumer) -> Self {
        let mut next = *self;
        next.consumers[c] = consumer;
        next
    }

    pub(crate) fn with_waited(&self, c: usize, has_waited: bool) -> Self {
        self.with_consumer(c, Consumer { has_waited, ..self.consumers[c] })
    }

    fn with_delivery(&self, c: usize, delivery: DeliveryState) -> Self {
        self.with_consumer(c, Consumer { delivery: Some(delivery), ..self.consumers[c] })
    }

    /// Ends the delivery task and requeues its unacked deliveries.
    fn requeue_unacked(self, c: usize, protocol: &Protocol) -> Self {
        let consumer = self.consumers[c];
        let mut next = if consumer.is_linked { self.requeue(consumer.in_flight(), protocol) } else { self };
        next.consumers[c].delivery = None;
        next
    }

    /// The broker closes a consumer's connection: the lock is released, the unacked deliveries are requeued later. The
    /// consumer does not notice.
    fn cut_off(self, c: usize) -> Self {
        let consumer = self.consumers[c];
        let mut next = self.with_consumer(c, Consumer { is_linked: false, ..consumer });
        if consumer.is_linked {
            next.stranded = self.stranded.then(consumer.in_flight());
        }
        next.owner = self.owner.filter(|owner| usize::from(*owner) != c);
        next
    }

    fn is_owner(&self, c: usize) -> bool {
        self.owner.is_some_and(|owner| usize::from(owner) == c)
    }
}

impl Protocol {
    pub(super) fn consumer(&self, state: &State, c: usize, steps: &mut Steps) {
        let consumer = state.consumers[c];
        match consumer.delivery {
            None if state.is_owner(c) => {
                let is_free = state.stranded.is_empty() || self.is(Mistake::OpensBesideInFlight);
                if state.is_online() && is_free {
                    let delivery = DeliveryState::default().joined_by(state, false);
                    steps.push((Step::Open(c), state.with_queue(c).with_delivery(c, delivery)));
                }
                self.keep_queue(state, c, steps);
            }
            None => self.acquire(state, c, steps),
            Some(delivery) => {
                self.take(state, c, delivery, steps);
                if !consumer.is_frozen {
                    self.delivery(state, c, delivery, steps);
                }
                self.freeze(state, c, steps);
            }
        }
        if consumer.is_linked
            && let Some(remaining) = state.faults.killed()
        {
            let killed = state.cut_off(c).with_consumer(c, Consumer::default());
            steps.push((Step::Kill(c), State { faults: remaining, ..killed }));
        }
    }

    /// An idle consumer becomes the owner. Idle ones are interchangeable, so only the first one does.
    fn acquire(&self, state: &State, c: usize, steps: &mut Steps) {
        let is_first = state.consumers[..c].iter().all(|other| other.delivery.is_some());
        if state.owner.is_none() && is_first {
            let consumer = Consumer { is_linked: true, owns_unacked: true, ..Consumer::default() };
            let owner = u8::try_from(c).ok();
            steps.push((Step::Acquire(c), State { owner, ..state.with_consumer(c, consumer) }));
        }
    }

    /// The broker delivers up to the window, also to a frozen consumer.
    fn take(&self, state: &State, c: usize, delivery: DeliveryState, steps: &mut Steps) {
        if let (true, Some(copy)) = (state.consumers[c].is_linked, state.ready.first())
            && delivery.in_flight().len() < self.window
        {
            let delivery = DeliveryState { buffered: delivery.buffered.with(copy), ..delivery };
            steps.push((Step::Take(c), State { ready: state.ready.split(1).1, ..state.with_delivery(c, delivery) }));
        }
    }

    fn freeze(&self, state: &State, c: usize, steps: &mut Steps) {
        let consumer = state.consumers[c];
        if !consumer.is_frozen {
            if let Some(remaining) = state.faults.frozen() {
                let frozen = Consumer { is_frozen: true, ..consumer };
                steps.push((Step::Freeze(c), State { faults: remaining, ..state.with_consumer(c, frozen) }));
            }
            if let (true, Some(remaining)) = (consumer.is_linked, state.faults.cut_off()) {
                steps.push((Step::CutOff(c), State { faults: remaining, ..state.cut_off(c) }));
            }
            return;
        }
        let thawed = Consumer { is_frozen: false, ..consumer };
        steps.push((Step::Thaw(c), state.with_consumer(c, thawed)));
        if consumer.is_linked {
            // No heartbeat. When it thaws, its pause guard shows that it was away.
            let mut next = state.cut_off(c);
            next.consumers[c].owns_unacked = self.is(Mistake::IgnoresPause);
            steps.push((Step::CutOff(c), next));
        }
    }

    fn delivery(&self, state: &State, c: usize, delivery: DeliveryState, steps: &mut Steps) {
        if let Some(posting) = delivery.posting {
            (0..DEVICES)
                .filter(|d| posting.targets & 1 << d != 0)
                .for_each(|d| self.post(state, c, d, delivery, posting, steps));
            return;
        }
        if !state.consumers[c].is_linked {
            steps.push((Step::NoticeLoss(c), state.with_consumer(c, Consumer::default())));
        }
        if state.consumers[c].owns_unacked {
            self.push(state, c, delivery, steps);
        }
        let joined = delivery.joined_by(state, true);
        if joined.connections != delivery.connections {
            let looked = state.with_delivery(c, joined);
            let is_offline = joined.connections_where(|_| true) == 0;
            steps.push((Step::LookAgain(c), if is_offline { looked.requeue_unacked(c, self) } else { looked }));
        }
        if state.is_owner(c) {
            self.settle(state, c, delivery, steps);
            if let Some(remaining) = state.faults.handed_over() {
                let stopped =
                    if self.is(Mistake::ReleasesBeforeRequeue) { *state } else { state.requeue_unacked(c, self) };
                steps.push((Step::HandOver(c), State { owner: None, faults: remaining, ..stopped }));
            }
        }
    }

    /// Pushes buffered messages, all or fewer; or redelivers unacknowledged ones. A new connection receives those
    /// before any newer message.
    fn push(&self, state: &State, c: usize, delivery: DeliveryState, steps: &mut Steps) {
        if let Some(copy) = delivery.buffered.first().filter(|copy| self.drops && delivery.knows(*copy)) {
            steps.push((Step::Drop(c), self.drop_copy(state, c, delivery, copy)));
            return;
        }
        let (everybody, behind) =
            (delivery.connections_where(|_| true), delivery.connections_where(|known| known.is_behind));
        if behind == 0 && everybody != 0 {
            let all = delivery.buffered.len() as usize;
            if all > 0 {
                steps.push((Step::Frame(c), self.push_new(state, c, delivery, all)));
            }
            if all > 1 {
                steps.push((Step::FrameOfOne(c), self.push_new(state, c, delivery, 1)));
            }
        }
        let up_to_date = everybody & !behind;
        if up_to_date != 0 && !delivery.unacked.is_empty() && !self.is(Mistake::NeverRedelivers) {
            let mut again = delivery;
            again.repeat(up_to_date);
            steps.push((Step::Repeat(c), state.with_delivery(c, again)));
        }
        for d in (0..DEVICES).filter(|d| behind & 1 << d != 0) {
            let mut caught_up = delivery;
            caught_up.connections[d].is_behind = false;
            caught_up.repeat(1 << d);
            steps.push((Step::CatchUp(c, d), state.with_delivery(c, caught_up)));
        }
    }

    /// Acks the second copy of a pushed message. The first one stays in the queue until it is acknowledged.
    fn drop_copy(&self, state: &State, c: usize, delivery: DeliveryState, copy: Id) -> State {
        let buffered = delivery.buffered.split(1).1;
        let settles = self.is(Mistake::DropSettlesTheFirst);
        let unacked = delivery.unacked.only(|one| !settles || message(one) != message(copy));
        state.with_delivery(c, DeliveryState { buffered, unacked, ..delivery })
    }

    /// Starts to push new messages, in one frame that names its predecessor. Acks a second copy within it.
    fn push_new(&self, state: &State, c: usize, delivery: DeliveryState, count: usize) -> State {
        let (mut copies, buffered) = delivery.buffered.split(count);
        if self.drops {
            copies = copies.iter().fold(Ids::default(), |fresh, copy| {
                let is_known = delivery.knows(copy) || fresh.iter().any(|one| message(one) == message(copy));
                if is_known { fresh } else { fresh.with(copy) }
            });
        }
        let prev = delivery.unacked.last().map(|copy| self.name(copy));
        let frame = Frame { prev: prev.filter(|_| !self.is(Mistake::OmitsPredecessor)), copies };
        let posting = Posting { frame, targets: delivery.connections_where(|_| true), is_new: true, is_taken: false };
        state.with_delivery(c, DeliveryState { buffered, posting: Some(posting), ..delivery })
    }

    /// An ack removes the message that it names, and all that were pushed before it.
    fn settle(&self, state: &State, c: usize, delivery: DeliveryState, steps: &mut Steps) {
        for name in (1..16).filter(|name| state.acks & 1 << name != 0) {
            let places = delivery.unacked.iter().zip(1..).filter(|(copy, _)| self.name(*copy) == name);
            let count = places.map(|(_, count)| count).last().unwrap_or_default();
            let (acked, unacked) = delivery.unacked.split(count);
            let settled =
                acked.iter().filter(|_| self.drops).fold(delivery.settled, |all, copy| all | 1 << message(copy));
            let mut next = state.with_delivery(c, DeliveryState { unacked, settled, ..delivery });
            next.acks &= !(1 << name);
            steps.push((Step::Settle(c, name), next));
        }
    }

    /// Posts a frame to one device. The edge may accept and lose it.
    fn post(&self, state: &State, c: usize, d: usize, delivery: DeliveryState, posting: Posting, steps: &mut Steps) {
        let mut answered = |step, answer, remaining| {
            if let Some(next) = self.posted(state, c, d, delivery, posting, answer) {
                steps.push((step, State { faults: remaining, ..next }));
            }
        };
        let connection = delivery.connections[d].connection;
        if connection.is_some() && connection == state.devices[d].connection() {
            answered(Step::Post(c, d), Answer::Taken, state.faults);
            if let Some(remaining) = state.faults.doubled() {
                answered(Step::PostTwice(c, d), Answer::TakenUnheard, remaining);
            }
        } else {
            answered(Step::Gone(c, d), Answer::Gone, state.faults);
        }
        if let Some(remaining) = state.faults.swallowed() {
            answered(Step::Swallow(c, d), Answer::Swallowed, remaining);
        }
    }

    fn posted(
        &self,
        state: &State,
        c: usize,
        d: usize,
        mut delivery: DeliveryState,
        mut posting: Posting,
        answer: Answer,
    ) -> Option<State> {
        let mut next = *state;
        if matches!(answer, Answer::Taken | Answer::TakenUnheard) {
            next.devices[d].queue_frame(posting.frame)?;
        }
        if answer == Answer::Gone {
            delivery.connections[d] = ConnectionState::default();
        } else {
            posting.is_taken = true;
        }
        if answer != Answer::TakenUnheard {
            posting.targets &= !(1 << d);
        }
        delivery.posting = Some(posting);
        if posting.targets == 0 {
            delivery.posting = None;
            let copies = if posting.is_new { posting.frame.copies } else { Ids::default() };
            if !posting.is_taken {
                delivery.buffered = copies.then(delivery.buffered);
            } else if !self.is(Mistake::TreatsPostAsDelivery) {
                delivery.unacked = delivery.unacked.then(copies);
            }
        }
        let is_over = delivery.posting.is_none() && delivery.connections_where(|_| true) == 0;
        next = next.with_delivery(c, delivery);
        Some(if is_over { next.requeue_unacked(c, self) } else { next })
    }
}

impl DeliveryState {
    /// Updates the connections from the online devices; new ones may be behind.
    fn joined_by(mut self, state: &State, is_behind: bool) -> Self {
        for (known, device) in self.connections.iter_mut().zip(&state.devices) {
            let connection = device.connection();
            if known.connection != connection {
                *known = ConnectionState { connection, is_behind: is_behind && connection.is_some() };
            }
        }
        self
    }
}
