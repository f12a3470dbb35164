//! Message identity: an honest and a hostile sender, and one receiver who is also in a room.
//!
//! A message has a sender, a recipient (the receiver, or the room), an `rno` and a content. Its identity is the sender
//! and a tail, a keyed hash over all four. The registry stores claims of `rno`s, and may lose them between two tries of
//! a send. The consumer drops copies of what it pushed or recently settled, the client of what it has shown.

use crate::search::Model;

/// A possible message, by number: a bit for each of the four parts.
pub type Kind = u8;

/// The bits of a [`Kind`].
pub const SENDER: u8 = 1;
/// Set for the room.
pub const RECIPIENT: u8 = 2;
/// Set for the second `rno`.
pub const RNO: u8 = 4;
/// Set for the second content.
pub const CONTENT: u8 = 8;

/// In tails: the key that was used.
const KEY: u8 = 16;

const TRIES: usize = 2;
const QUEUED: usize = 4;
const UNACKED: usize = 2;

/// Maximum number of each fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// The registry loses all claims.
    pub claims_lost: u8,
    /// A publish, or its confirm, is lost.
    pub unconfirmed: u8,
    /// The edge accepts a frame, and delivers it to nobody.
    pub swallowed: u8,
    /// Unacknowledged messages are requeued.
    pub requeued: u8,
    /// The key changes.
    pub key_rotated: u8,
}

/// A mistake that a protocol could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A retry of an unconfirmed send is answered as if it was confirmed.
    TakesPendingForDone,
    /// A retry of an `rno` is answered like the first send, whatever its content.
    ClaimsByRnoAlone,
    /// Dropping a copy also settles messages pushed before it.
    DropSettlesTheFirst,
    /// The consumer remembers pushed messages, not settled ones.
    RemembersWhatWasPushed,
}

/// The protocol and its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Messages that the honest and the hostile sender may send, a bit for each [`Kind`].
    pub kinds: [u16; 2],
    /// Number of tries of each.
    pub tries: [u8; 2],
    /// Input of the tail.
    pub tail: u8,
    /// Whether the tail is a keyed hash. If not, the hostile sender finds an `rno` for any tail.
    pub is_keyed: bool,
    /// Whether the consumer compares senders besides tails.
    pub consumer_compares_sender: bool,
    /// Whether the client does.
    pub client_compares_sender: bool,
    /// Possible faults.
    pub faults: Faults,
    /// The protocol's mistake.
    pub mistake: Option<Mistake>,
}

/// A message with its tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Message {
    kind: Kind,
    tail: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Claim {
    message: Message,
    is_done: bool,
}

/// A send in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Try {
    message: Message,
    is_confirmed: bool,
}

/// A sequence of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Row<const N: usize>([Option<Message>; N]);

/// State of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// By sender and `rno`.
    claims: [[Option<Claim>; 2]; 2],
    tries: [Option<Try>; TRIES],
    queue: Row<QUEUED>,
    unacked: Row<UNACKED>,
    /// The message that the consumer remembers as settled.
    settled: Option<Message>,
    /// Messages that the client has shown, with their tails.
    seen: Row<QUEUED>,
    /// In sets of kinds.
    accepted: u16,
    shown: u16,
    key: u8,
    left: [u8; 2],
    faults: Faults,
    wrong: Option<&'static str>,
}

/// A step. The number is a kind, or that of a try.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each is documented where it is taken")]
pub enum Step {
    Send(Kind),
    Forge(Kind, u8),
    Publish(usize),
    LosePublish(usize),
    LoseConfirm(usize),
    Settle(usize),
    LoseClaims,
    RotateKey,
    Drop,
    Push,
    Swallow,
    Repeat,
    Ack,
    Requeue,
}

type Steps = Vec<(Step, State)>;

impl<const N: usize> Row<N> {
    const EMPTY: Self = Self([None; N]);

    fn iter(&self) -> impl Iterator<Item = Message> {
        self.0.into_iter().flatten()
    }

    fn len(&self) -> usize {
        self.iter().count()
    }

    fn of(messages: impl Iterator<Item = Message>) -> Self {
        let mut row = Self::EMPTY;
        row.0.iter_mut().zip(messages).for_each(|(place, message)| *place = Some(message));
        row
    }

    fn with(&self, message: Message) -> Self {
        Self::of(self.iter().chain([message]))
    }

    fn without_first(&self) -> Self {
        Self::of(self.iter().skip(1))
    }

    fn has_kind(&self, kind: Kind) -> bool {
        self.iter().any(|one| one.kind == kind)
    }
}

fn sender(kind: Kind) -> usize {
    usize::from(kind & SENDER)
}

fn is_same(one: Message, other: Message, compares_sender: bool) -> bool {
    one.tail == other.tail && (!compares_sender || sender(one.kind) == sender(other.kind))
}

impl Identity {
    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn kinds(&self, sender: usize) -> impl Iterator<Item = Kind> {
        let allowed = self.kinds[sender];
        (0..16).filter(move |kind| allowed & 1 << kind != 0)
    }

    fn message(&self, state: &State, kind: Kind) -> Message {
        Message { kind, tail: kind & self.tail | state.key }
    }

    /// A sender claims the `rno`; an earlier claim stands for this send if the content is the same.
    fn senders(&self, state: &State, steps: &mut Steps) {
        for who in 0..2 {
            let Some(left) = state.left[who].checked_sub(1) else { continue };
            let mut next = *state;
            next.left[who] = left;
            for kind in self.kinds(who) {
                let message = self.message(state, kind);
                steps.extend(self.claim(&next, message).map(|next| (Step::Send(kind), next)));
                if who == 1 && !self.is_keyed {
                    let tails = self.kinds(0).map(|kind| self.message(state, kind).tail);
                    let forged = tails.map(|tail| (tail, self.claim(&next, Message { kind, tail })));
                    steps.extend(forged.filter_map(|(tail, next)| Some((Step::Forge(kind, tail), next?))));
                }
            }
        }
    }

    fn claim(&self, state: &State, message: Message) -> Option<State> {
        let kind = message.kind;
        let mut next = *state;
        let claim = &mut next.claims[sender(kind)][usize::from(kind & RNO != 0)];
        let is_new = claim.is_none();
        let claimed = *claim.get_or_insert(Claim { message, is_done: false });
        let is_same = claimed.message.kind == kind;
        if !is_same && !self.is(Mistake::ClaimsByRnoAlone) {
            return None;
        }
        if claimed.is_done || !is_same || (self.is(Mistake::TakesPendingForDone) && !is_new) {
            next.accepted |= 1 << kind;
            return Some(next);
        }
        let free = next.tries.iter_mut().find(|one| one.is_none())?;
        *free = Some(Try { message: claimed.message, is_confirmed: false });
        Some(next)
    }

    fn publish(&self, state: &State, at: usize, one: Try, steps: &mut Steps) {
        let message = one.message;
        let ended = |state: State| {
            let mut next = state;
            next.tries[at] = None;
            next
        };
        if one.is_confirmed {
            let mut next = ended(*state);
            let claim = &mut next.claims[sender(message.kind)][usize::from(message.kind & RNO != 0)];
            *claim = Some(Claim { message, is_done: true });
            steps.push((Step::Settle(at), next));
            return;
        }
        let unconfirmed = state.faults.unconfirmed.checked_sub(1);
        let faults = unconfirmed.map(|unconfirmed| Faults { unconfirmed, ..state.faults });
        if state.queue.len() < QUEUED {
            let queued = State { queue: state.queue.with(message), ..*state };
            let mut heard = State { accepted: state.accepted | 1 << message.kind, ..queued };
            heard.tries[at] = Some(Try { is_confirmed: true, ..one });
            steps.push((Step::Publish(at), heard));
            steps.extend(faults.map(|faults| (Step::LoseConfirm(at), State { faults, ..ended(queued) })));
        }
        steps.extend(faults.map(|faults| (Step::LosePublish(at), State { faults, ..ended(*state) })));
    }

    /// Drops a copy of a message that is unacknowledged or recently settled; the broker keeps the first copy until it
    /// is acknowledged. Pushes new messages.
    fn consumer(&self, state: &State, steps: &mut Steps) {
        if let Some(message) = state.queue.iter().next() {
            let taken = State { queue: state.queue.without_first(), ..*state };
            let mut known = state.unacked.iter().chain(state.settled);
            if known.any(|one| is_same(one, message, self.consumer_compares_sender)) {
                let settles = self.is(Mistake::DropSettlesTheFirst);
                let unacked = if settles { Row::EMPTY } else { taken.unacked };
                steps.push((Step::Drop, State { unacked, ..taken }));
            } else if state.unacked.len() < UNACKED {
                let mut pushed = State { unacked: state.unacked.with(message), ..taken };
                if self.is(Mistake::RemembersWhatWasPushed) {
                    pushed.settled = Some(message);
                }
                steps.push((Step::Push, self.show(pushed, message)));
                if let Some(swallowed) = state.faults.swallowed.checked_sub(1) {
                    steps.push((Step::Swallow, State { faults: Faults { swallowed, ..state.faults }, ..pushed }));
                }
            }
        }
        let Some(first) = state.unacked.iter().next() else { return };
        steps.push((Step::Repeat, state.unacked.iter().fold(*state, |state, message| self.show(state, message))));
        if self.has_seen(state, first) {
            let settled = if self.is(Mistake::RemembersWhatWasPushed) { state.settled } else { Some(first) };
            steps.push((Step::Ack, State { unacked: state.unacked.without_first(), settled, ..*state }));
        }
        if let Some(requeued) = state.faults.requeued.checked_sub(1)
            && state.unacked.len() + state.queue.len() <= QUEUED
        {
            let queue = Row::of(state.unacked.iter().chain(state.queue.iter()));
            let settled = state.settled.filter(|_| self.is(Mistake::RemembersWhatWasPushed));
            let faults = Faults { requeued, ..state.faults };
            steps.push((Step::Requeue, State { queue, unacked: Row::EMPTY, settled, faults, ..*state }));
        }
    }

    fn has_seen(&self, state: &State, message: Message) -> bool {
        state.seen.iter().any(|one| is_same(one, message, self.client_compares_sender))
    }

    /// The client shows a message that is new to it.
    fn show(&self, mut state: State, message: Message) -> State {
        if self.has_seen(&state, message) {
            return state;
        }
        if state.shown & 1 << message.kind != 0 && self.is_cared_for(message.kind) {
            state.wrong = Some("a message is shown twice");
        }
        State { shown: state.shown | 1 << message.kind, seen: state.seen.with(message), ..state }
    }

    /// Whoever forges tails may only harm itself.
    fn is_cared_for(&self, kind: Kind) -> bool {
        self.is_keyed || sender(kind) == 0
    }
}

impl Model for Identity {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        State {
            claims: [[None; 2]; 2],
            tries: [None; TRIES],
            queue: Row::EMPTY,
            unacked: Row::EMPTY,
            settled: None,
            seen: Row::EMPTY,
            accepted: 0,
            shown: 0,
            key: 0,
            left: self.tries,
            faults: self.faults,
            wrong: None,
        }
    }

    fn steps(&self, state: &State) -> Steps {
        let mut steps = Vec::new();
        self.senders(state, &mut steps);
        for (at, one) in state.tries.iter().enumerate() {
            if let Some(one) = *one {
                self.publish(state, at, one, &mut steps);
            }
        }
        self.consumer(state, &mut steps);
        if let Some(claims_lost) = state.faults.claims_lost.checked_sub(1) {
            let faults = Faults { claims_lost, ..state.faults };
            steps.push((Step::LoseClaims, State { claims: [[None; 2]; 2], faults, ..*state }));
        }
        if let Some(key_rotated) = state.faults.key_rotated.checked_sub(1) {
            let faults = Faults { key_rotated, ..state.faults };
            steps.push((Step::RotateKey, State { key: state.key ^ KEY, faults, ..*state }));
        }
        steps
    }

    fn wrong(&self, state: &State) -> Option<&'static str> {
        let is_kept = |kind| state.queue.has_kind(kind) || state.unacked.has_kind(kind);
        let mut accepted = (0..16).filter(|kind| state.accepted & 1 << kind != 0 && self.is_cared_for(*kind));
        if state.wrong.is_some() {
            state.wrong
        } else if accepted.any(|kind| state.shown & 1 << kind == 0 && !is_kept(kind)) {
            Some("a message was accepted, is not shown, and is gone")
        } else {
            None
        }
    }

    fn is_done(&self, state: &State) -> bool {
        state.tries.iter().all(Option::is_none) && state.queue.len() == 0 && state.unacked.len() == 0
    }

    fn is_fault(&self, step: &Step) -> bool {
        matches!(
            step,
            Step::LoseClaims
                | Step::LosePublish(_)
                | Step::LoseConfirm(_)
                | Step::Swallow
                | Step::Requeue
                | Step::RotateKey
        )
    }
}
