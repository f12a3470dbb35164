//! Model of delivery: one user with one or two devices, two consumers that share the user's partition, a broker with
//! the user's queue, and several senders. Time is left out: a timeout may fire at any time.
//!
//! The terms are those of `shared/docs/PROTOCOL.md` and `shared/core/src/delivery/mod.rs`.

use crate::{
    faults::{Faults, Mistake},
    ids::{Id, Ids},
    search::Model,
};

mod consumer;
mod device;

pub use consumer::Consumer;
pub use device::Device;

pub(crate) const CONSUMERS: usize = 2;
pub(crate) const DEVICES: usize = 2;

/// Maximum number of messages, so that a second copy of message n can be n + 4.
pub const MESSAGES: Id = 4;

/// The message of a copy.
pub(crate) fn message(copy: Id) -> Id {
    (copy - 1) % MESSAGES + 1
}

/// How acks and `PREV` name pushed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// By the message's id, which two copies share.
    Messages,
    /// By an id of each copy in the queue.
    Copies,
}

/// The protocol and its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// Number of messages.
    pub messages: Id,
    /// Number of the user's devices.
    pub devices: usize,
    /// Maximum unacked deliveries of a consumer.
    pub window: u32,
    /// Whether the queue is created on demand and deleted when unused.
    pub deletes: bool,
    /// How acks and `PREV` name pushed messages.
    pub names: Names,
    /// Whether a consumer drops copies of messages that it remembers.
    pub drops: bool,
    /// Possible faults.
    pub faults: Faults,
    /// The protocol's mistake.
    pub mistake: Option<Mistake>,
}

/// The user's queue, without its contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Queue {
    #[default]
    Gone,
    /// It exists without a binding.
    Unbound,
    Bound,
}

/// State of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// Number of messages sent so far.
    sent: Id,
    /// Messages whose senders have no reply yet, and will retry.
    unheard: Ids,
    /// Order in which the messages were enqueued, each with its first copy.
    order: Ids,
    /// Copies that were routed, and are not in the queue yet.
    routed: Ids,
    queue: Queue,
    pub(crate) ready: Ids,
    /// Unacked on a closed connection, until the broker requeues them: the lock may be free sooner.
    pub(crate) stranded: Ids,
    /// The consumer with the exclusive lock.
    pub(crate) owner: Option<u8>,
    pub(crate) consumers: [Consumer; CONSUMERS],
    pub(crate) devices: [Device; DEVICES],
    /// Acks in flight to the owner, in a set, as they may arrive late and in any order.
    pub(crate) acks: u16,
    pub(crate) wrong: Option<&'static str>,
    pub(crate) faults: Faults,
}

/// A step. The numbers are a consumer's, then a device's; or a copy's.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each is documented where it is taken")]
pub enum Step {
    Publish(Id),
    LoseConfirm(Id),
    LosePublish(Id),
    Land,
    TakeBack,
    Declare,
    Acquire(usize),
    Open(usize),
    Take(usize),
    Drop(usize),
    Frame(usize),
    FrameOfOne(usize),
    Post(usize, usize),
    Swallow(usize, usize),
    PostTwice(usize, usize),
    Gone(usize, usize),
    Repeat(usize),
    CatchUp(usize, usize),
    LookAgain(usize),
    HandOver(usize),
    NoticeLoss(usize),
    Unbind(usize),
    Wait(usize),
    Delete(usize),
    Settle(usize, Id),
    Kill(usize),
    Freeze(usize),
    Thaw(usize),
    CutOff(usize),
    Connect(usize),
    Leave(usize),
    Receive(usize),
    Ack(usize),
    LoseAck(usize),
}

/// Possible next steps, each with its resulting state.
pub(crate) type Steps = Vec<(Step, State)>;

impl Protocol {
    pub(crate) fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// The name of a copy in acks and in `PREV`.
    pub(crate) fn name(&self, copy: Id) -> Id {
        if self.names == Names::Messages { message(copy) } else { copy }
    }

    /// Steps of the senders. Each waits for the reply before it sends its next message, but not for other senders: a
    /// retry may come behind their messages.
    fn senders(&self, state: &State, steps: &mut Steps) {
        let next = (state.sent < self.messages).then_some(state.sent + 1);
        for id in state.unheard.iter().chain(next) {
            let unheard = state.unheard.only(|one| one != id);
            let heard = State { sent: state.sent.max(id), unheard, ..*state };
            let unheard = State { unheard: unheard.with(id), ..heard };
            // A mandatory publish without a queue is returned: nothing has changed, and the owner is asked for a queue.
            if state.queue == Queue::Bound {
                let copy = if id <= state.sent && state.has_come(id) { id + MESSAGES } else { id };
                steps.push((Step::Publish(id), self.route(heard, copy)));
                if let Some(remaining) = state.faults.unconfirmed()
                    && copy == id
                {
                    steps.push((Step::LoseConfirm(id), self.route(State { faults: remaining, ..unheard }, copy)));
                }
            } else if self.is(Mistake::SenderDeclaresQueue) {
                steps.push((Step::Declare, State { queue: Queue::Bound, ..*state }));
            }
            if let Some(remaining) = state.faults.unconfirmed() {
                let believed = if self.is(Mistake::SkipsConfirm) { heard } else { unheard };
                steps.push((Step::LosePublish(id), State { faults: remaining, ..believed }));
            }
        }
        if let Some(copy) = state.routed.first() {
            steps.push((Step::Land, State { routed: state.routed.split(1).1, ..*state }.land(copy)));
        }
    }

    /// Routes a copy. The broker confirms it before it is enqueued; the gap only matters where queues are deleted.
    fn route(&self, state: State, copy: Id) -> State {
        if self.deletes { State { routed: state.routed.with(copy), ..state } } else { state.land(copy) }
    }

    /// The owner creates the queue, and deletes it while it serves nobody: it unbinds the queue, waits until all copies
    /// in flight are enqueued, and deletes the queue if it is empty. The broker checks nothing else.
    pub(crate) fn keep_queue(&self, state: &State, c: usize, steps: &mut Steps) {
        let is_wanted = state.sent < self.messages || !state.unheard.is_empty();
        if state.queue != Queue::Bound && is_wanted {
            steps.push((Step::Declare, state.with_queue(c)));
        }
        if !self.deletes {
            return;
        }
        if state.queue == Queue::Bound {
            steps.push((Step::Unbind(c), State { queue: Queue::Unbound, ..*state }));
        }
        if state.queue == Queue::Unbound && state.routed.is_empty() {
            steps.push((Step::Wait(c), state.with_waited(c, true)));
        }
        let may_delete = state.consumers[c].has_waited() || self.is(Mistake::DeletesWithoutUnbinding);
        let is_empty = state.ready.is_empty() && state.stranded.is_empty();
        if may_delete && (is_empty || self.is(Mistake::DeletesWhatIsFull)) {
            let gone = state.with_waited(c, false);
            steps.push((
                Step::Delete(c),
                State { queue: Queue::Gone, ready: Ids::default(), stranded: Ids::default(), ..gone },
            ));
        }
    }
}

impl State {
    /// Whether the first copy of the message is, was or will be in the queue.
    fn has_come(&self, id: Id) -> bool {
        self.order.has(id) || self.routed.has(id)
    }

    fn land(mut self, copy: Id) -> Self {
        // A deleted queue drops the copy, unnoticed.
        if self.queue != Queue::Gone {
            self.ready = self.ready.with(copy);
            if !self.order.has(message(copy)) {
                self.order = self.order.with(message(copy));
            }
        }
        self
    }

    /// Requeues unacked deliveries at their original place.
    pub(crate) fn requeue(mut self, in_flight: Ids, protocol: &Protocol) -> Self {
        let to_the_end = protocol.is(Mistake::RequeuesAtTail);
        self.ready = if to_the_end { self.ready.then(in_flight) } else { in_flight.then(self.ready) };
        self
    }

    pub(crate) fn is_online(&self) -> bool {
        self.devices.iter().any(|device| device.connection().is_some())
    }

    /// The owner ensures that the queue exists.
    pub(crate) fn with_queue(self, owner: usize) -> Self {
        Self { queue: Queue::Bound, ..self.with_waited(owner, false) }
    }

    pub(crate) fn place(&self, message: Id) -> Option<usize> {
        self.order.iter().position(|one| one == message)
    }

    fn is_shown(&self, id: Id) -> bool {
        self.devices.iter().any(|device| device.shown.has(id))
    }

    /// Whether the broker still has the message.
    fn is_kept(&self, id: Id) -> bool {
        let in_flight = self.consumers.iter().filter(|consumer| consumer.is_linked()).map(Consumer::in_flight);
        let mut places = in_flight.chain([self.stranded, self.ready, self.routed]);
        places.any(|copies| copies.iter().any(|copy| message(copy) == id))
    }
}

impl Model for Protocol {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        let queue = if self.deletes { Queue::Gone } else { Queue::Bound };
        State { queue, faults: self.faults, ..State::default() }
    }

    fn steps(&self, state: &State) -> Steps {
        let mut steps = Vec::new();
        self.senders(state, &mut steps);
        if !state.stranded.is_empty() {
            let taken_back = state.requeue(state.stranded, self);
            steps.push((Step::TakeBack, State { stranded: Ids::default(), ..taken_back }));
        }
        (0..CONSUMERS).for_each(|c| self.consumer(state, c, &mut steps));
        (0..self.devices).for_each(|d| self.device(state, d, &mut steps));
        steps
    }

    fn wrong(&self, state: &State) -> Option<&'static str> {
        let lenders = state.consumers.iter().filter(|one| one.is_linked() && !one.in_flight().is_empty());
        let mut accepted = (1..=state.sent).filter(|id| !state.unheard.has(*id));
        if state.wrong.is_some() {
            state.wrong
        } else if lenders.count() + usize::from(!state.stranded.is_empty()) > 1 {
            Some("two consumers have unacked deliveries")
        } else if accepted.any(|id| !state.is_shown(id) && !state.is_kept(id)) {
            Some("a message was accepted, no device has shown it, and it is gone")
        } else {
            None
        }
    }

    fn is_done(&self, state: &State) -> bool {
        let on_loan = state.consumers.iter().any(|one| one.is_linked() && !one.in_flight().is_empty());
        let waits = [state.unheard, state.routed, state.stranded, state.ready].iter().any(|ids| !ids.is_empty());
        state.sent == self.messages && !on_loan && !waits && (1..=self.messages).all(|id| state.is_shown(id))
    }

    fn is_fault(&self, step: &Step) -> bool {
        matches!(
            step,
            Step::LoseConfirm(_)
                | Step::LosePublish(_)
                | Step::Swallow(..)
                | Step::PostTwice(..)
                | Step::Kill(_)
                | Step::Freeze(_)
                | Step::CutOff(_)
                | Step::HandOver(_)
                | Step::Leave(_)
                | Step::LoseAck(_)
        )
    }
}
