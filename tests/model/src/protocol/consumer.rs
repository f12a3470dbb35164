//! A consumer: it owns the partition or would like to, and while it does its courier serves the user.

use super::{DEVICES, Protocol, State, Step, Steps, message};
use crate::{
    faults::Mistake,
    ids::{Id, Ids},
};

/// One consumer process, and what the broker knows of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Consumer {
    is_frozen: bool,
    /// Whether the broker has its connection, and with it the loans.
    is_linked: bool,
    /// Whether it takes itself for the owner: the lease has not ended.
    is_leased: bool,
    /// Whether nothing is under way any more to the queue that it has taken out of the routing.
    has_waited: bool,
    /// The user's courier, while there is one.
    courier: Option<Courier>,
}

/// What serves the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Courier {
    audience: [Listener; DEVICES],
    /// Pushed, and not acknowledged.
    unacked: Ids,
    /// What is being pushed.
    posting: Option<Posting>,
    /// On loan, and not pushed.
    buffered: Ids,
    /// The messages whose copies it knows as settled, in a set.
    settled: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Listener {
    /// The connection under which the device is known.
    connection: Option<u8>,
    /// Whether it must first get what is not acknowledged.
    is_behind: bool,
}

/// A frame, while it goes to one connection after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Posting {
    frame: Frame,
    /// The devices that do not have it yet, in a set.
    targets: u8,
    /// Whether it was never pushed before.
    is_new: bool,
    /// Whether the edge has taken it for somebody.
    is_taken: bool,
}

/// A `RESPRECEIVER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Frame {
    /// The name of the message that was pushed before, if it is not acknowledged.
    pub(crate) prev: Option<Id>,
    /// Copies of messages.
    pub(crate) copies: Ids,
}

/// What the edge answered a post, and what has become of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Taken,
    Swallowed,
    /// It was taken, and the answer was lost: it will be posted again.
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

    /// What the broker has lent it, in the order of the queue.
    pub(crate) fn loans(&self) -> Ids {
        self.courier.map(|courier| courier.loans()).unwrap_or_default()
    }
}

impl Courier {
    fn loans(&self) -> Ids {
        let posting = self.posting.filter(|posting| posting.is_new).map(|posting| posting.frame.copies);
        self.unacked.then(posting.unwrap_or_default()).then(self.buffered)
    }

    /// Whether the message was pushed, and waits for its ack or was settled.
    fn knows(&self, copy: Id) -> bool {
        let is_unacked = self.unacked.iter().any(|one| message(one) == message(copy));
        is_unacked || self.settled & 1 << message(copy) != 0
    }

    /// The devices of which that is so, in a set.
    fn who(&self, is_so: impl Fn(&Listener) -> bool) -> u8 {
        let listens = |d: &usize| self.audience[*d].connection.is_some() && is_so(&self.audience[*d]);
        (0..DEVICES).filter(listens).fold(0, |all, d| all | 1 << d)
    }

    /// Begins to push everything that is not acknowledged once more.
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

    fn with_courier(&self, c: usize, courier: Courier) -> Self {
        self.with_consumer(c, Consumer { courier: Some(courier), ..self.consumers[c] })
    }

    /// The courier ends, and gives back what it had on loan.
    fn give_back(self, c: usize, protocol: &Protocol) -> Self {
        let consumer = self.consumers[c];
        let mut next = if consumer.is_linked { self.requeue(consumer.loans(), protocol) } else { self };
        next.consumers[c].courier = None;
        next
    }

    /// The broker gives up a consumer's connection: the lock falls, the loans a little later. What the consumer itself
    /// thinks does not change.
    fn cut_off(self, c: usize) -> Self {
        let consumer = self.consumers[c];
        let mut next = self.with_consumer(c, Consumer { is_linked: false, ..consumer });
        if consumer.is_linked {
            next.stranded = self.stranded.then(consumer.loans());
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
        match consumer.courier {
            None if state.is_owner(c) => {
                let is_free = state.stranded.is_empty() || self.is(Mistake::OpensBesideLoans);
                if state.is_online() && is_free {
                    let courier = Courier::default().joined_by(state, false);
                    steps.push((Step::Open(c), state.with_queue(c).with_courier(c, courier)));
                }
                self.keep_queue(state, c, steps);
            }
            None => self.acquire(state, c, steps),
            Some(courier) => {
                self.take(state, c, courier, steps);
                if !consumer.is_frozen {
                    self.courier(state, c, courier, steps);
                }
                self.freeze(state, c, steps);
            }
        }
        if consumer.is_linked
            && let Some(luck) = state.luck.killed()
        {
            let killed = state.cut_off(c).with_consumer(c, Consumer::default());
            steps.push((Step::Kill(c), State { luck, ..killed }));
        }
    }

    /// Whoever is idle becomes the owner. Those who are idle are alike, so it is enough that the first one does.
    fn acquire(&self, state: &State, c: usize, steps: &mut Steps) {
        let is_first = state.consumers[..c].iter().all(|other| other.courier.is_some());
        if state.owner.is_none() && is_first {
            let consumer = Consumer { is_linked: true, is_leased: true, ..Consumer::default() };
            let owner = u8::try_from(c).ok();
            steps.push((Step::Acquire(c), State { owner, ..state.with_consumer(c, consumer) }));
        }
    }

    /// The broker lends up to the window, also to somebody who is frozen.
    fn take(&self, state: &State, c: usize, courier: Courier, steps: &mut Steps) {
        if let (true, Some(copy)) = (state.consumers[c].is_linked, state.ready.first())
            && courier.loans().len() < self.window
        {
            let courier = Courier { buffered: courier.buffered.with(copy), ..courier };
            steps.push((Step::Take(c), State { ready: state.ready.split(1).1, ..state.with_courier(c, courier) }));
        }
    }

    fn freeze(&self, state: &State, c: usize, steps: &mut Steps) {
        let consumer = state.consumers[c];
        if !consumer.is_frozen {
            if let Some(luck) = state.luck.frozen() {
                let frozen = Consumer { is_frozen: true, ..consumer };
                steps.push((Step::Freeze(c), State { luck, ..state.with_consumer(c, frozen) }));
            }
            if let (true, Some(luck)) = (consumer.is_linked, state.luck.cut_off()) {
                steps.push((Step::CutOff(c), State { luck, ..state.cut_off(c) }));
            }
            return;
        }
        let thawed = Consumer { is_frozen: false, ..consumer };
        steps.push((Step::Thaw(c), state.with_consumer(c, thawed)));
        if consumer.is_linked {
            // No heartbeat. When it thaws, it sees by its lease that it was away.
            let mut next = state.cut_off(c);
            next.consumers[c].is_leased = self.is(Mistake::NeverLooksAtTheLease);
            steps.push((Step::CutOff(c), next));
        }
    }

    fn courier(&self, state: &State, c: usize, courier: Courier, steps: &mut Steps) {
        if let Some(posting) = courier.posting {
            (0..DEVICES)
                .filter(|d| posting.targets & 1 << d != 0)
                .for_each(|d| self.post(state, c, d, courier, posting, steps));
            return;
        }
        if !state.consumers[c].is_linked {
            steps.push((Step::NoticeLoss(c), state.with_consumer(c, Consumer::default())));
        }
        if state.consumers[c].is_leased {
            self.push(state, c, courier, steps);
        }
        let joined = courier.joined_by(state, true);
        if joined.audience != courier.audience {
            let looked = state.with_courier(c, joined);
            let is_offline = joined.who(|_| true) == 0;
            steps.push((Step::LookAgain(c), if is_offline { looked.give_back(c, self) } else { looked }));
        }
        if state.is_owner(c) {
            self.settle(state, c, courier, steps);
            if let Some(luck) = state.luck.handed_over() {
                let stopped =
                    if self.is(Mistake::ReleasesBeforeGivingBack) { *state } else { state.give_back(c, self) };
                steps.push((Step::HandOver(c), State { owner: None, luck, ..stopped }));
            }
        }
    }

    /// Pushes what was taken, as much as there is or less; or, again, what is not acknowledged. Who has joined gets
    /// that before anything newer.
    fn push(&self, state: &State, c: usize, courier: Courier, steps: &mut Steps) {
        if let Some(copy) = courier.buffered.first().filter(|copy| self.drops && courier.knows(*copy)) {
            steps.push((Step::Drop(c), self.drop_copy(state, c, courier, copy)));
            return;
        }
        let (everybody, behind) = (courier.who(|_| true), courier.who(|listener| listener.is_behind));
        if behind == 0 && everybody != 0 {
            let all = courier.buffered.len() as usize;
            if all > 0 {
                steps.push((Step::Frame(c), self.push_new(state, c, courier, all)));
            }
            if all > 1 {
                steps.push((Step::FrameOfOne(c), self.push_new(state, c, courier, 1)));
            }
        }
        let up_to_date = everybody & !behind;
        if up_to_date != 0 && !courier.unacked.is_empty() && !self.is(Mistake::NeverRepeats) {
            let mut again = courier;
            again.repeat(up_to_date);
            steps.push((Step::Repeat(c), state.with_courier(c, again)));
        }
        for d in (0..DEVICES).filter(|d| behind & 1 << d != 0) {
            let mut caught_up = courier;
            caught_up.audience[d].is_behind = false;
            caught_up.repeat(1 << d);
            steps.push((Step::CatchUp(c, d), state.with_courier(c, caught_up)));
        }
    }

    /// The second copy of what was pushed leaves the queue. The first one stays until it is acknowledged.
    fn drop_copy(&self, state: &State, c: usize, courier: Courier, copy: Id) -> State {
        let buffered = courier.buffered.split(1).1;
        let settles = self.is(Mistake::DropSettlesTheFirst);
        let unacked = courier.unacked.only(|one| !settles || message(one) != message(copy));
        state.with_courier(c, Courier { buffered, unacked, ..courier })
    }

    /// Begins to push so many messages that were never pushed, in one frame that names its predecessor. A second copy within
    /// it leaves the queue.
    fn push_new(&self, state: &State, c: usize, courier: Courier, count: usize) -> State {
        let (mut copies, buffered) = courier.buffered.split(count);
        if self.drops {
            copies = copies.iter().fold(Ids::default(), |fresh, copy| {
                let is_known = courier.knows(copy) || fresh.iter().any(|one| message(one) == message(copy));
                if is_known { fresh } else { fresh.with(copy) }
            });
        }
        let prev = courier.unacked.last().map(|copy| self.name(copy));
        let frame = Frame { prev: prev.filter(|_| !self.is(Mistake::NamesNoPredecessor)), copies };
        let posting = Posting { frame, targets: courier.who(|_| true), is_new: true, is_taken: false };
        state.with_courier(c, Courier { buffered, posting: Some(posting), ..courier })
    }

    /// An ack removes the message that it names, and all that were pushed before it.
    fn settle(&self, state: &State, c: usize, courier: Courier, steps: &mut Steps) {
        for name in (1..16).filter(|name| state.acks & 1 << name != 0) {
            let places = courier.unacked.iter().zip(1..).filter(|(copy, _)| self.name(*copy) == name);
            let count = places.map(|(_, count)| count).last().unwrap_or_default();
            let (acked, unacked) = courier.unacked.split(count);
            let settled =
                acked.iter().filter(|_| self.drops).fold(courier.settled, |all, copy| all | 1 << message(copy));
            let mut next = state.with_courier(c, Courier { unacked, settled, ..courier });
            next.acks &= !(1 << name);
            steps.push((Step::Settle(c, name), next));
        }
    }

    /// Posts a frame to one device. The edge may take it and lose it.
    fn post(&self, state: &State, c: usize, d: usize, courier: Courier, posting: Posting, steps: &mut Steps) {
        let mut answered = |step, answer, luck| {
            if let Some(next) = self.posted(state, c, d, courier, posting, answer) {
                steps.push((step, State { luck, ..next }));
            }
        };
        let connection = courier.audience[d].connection;
        if connection.is_some() && connection == state.devices[d].connection() {
            answered(Step::Post(c, d), Answer::Taken, state.luck);
            if let Some(luck) = state.luck.doubled() {
                answered(Step::PostTwice(c, d), Answer::TakenUnheard, luck);
            }
        } else {
            answered(Step::Gone(c, d), Answer::Gone, state.luck);
        }
        if let Some(luck) = state.luck.swallowed() {
            answered(Step::Swallow(c, d), Answer::Swallowed, luck);
        }
    }

    fn posted(
        &self,
        state: &State,
        c: usize,
        d: usize,
        mut courier: Courier,
        mut posting: Posting,
        answer: Answer,
    ) -> Option<State> {
        let mut next = *state;
        if matches!(answer, Answer::Taken | Answer::TakenUnheard) {
            next.devices[d].queue_frame(posting.frame)?;
        }
        if answer == Answer::Gone {
            courier.audience[d] = Listener::default();
        } else {
            posting.is_taken = true;
        }
        if answer != Answer::TakenUnheard {
            posting.targets &= !(1 << d);
        }
        courier.posting = Some(posting);
        if posting.targets == 0 {
            courier.posting = None;
            let copies = if posting.is_new { posting.frame.copies } else { Ids::default() };
            if !posting.is_taken {
                courier.buffered = copies.then(courier.buffered);
            } else if !self.is(Mistake::TakenIsDelivered) {
                courier.unacked = courier.unacked.then(copies);
            }
        }
        let is_over = courier.posting.is_none() && courier.who(|_| true) == 0;
        next = next.with_courier(c, courier);
        Some(if is_over { next.give_back(c, self) } else { next })
    }
}

impl Courier {
    /// Takes in who is online; those who are new may be behind.
    fn joined_by(mut self, state: &State, is_behind: bool) -> Self {
        for (listener, device) in self.audience.iter_mut().zip(&state.devices) {
            let connection = device.connection();
            if listener.connection != connection {
                *listener = Listener { connection, is_behind: is_behind && connection.is_some() };
            }
        }
        self
    }
}
