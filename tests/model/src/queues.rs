//! Life cycle of an offline user's queue: two processes own the partition in turn, two senders publish, and a sender
//! creates the queue itself while the partition has no owner.
//!
//! The broker confirms after routing, and deleting the queue before the message is enqueued loses it. So only the
//! process that alone creates the queue deletes it. No owner removes a queue before senders that saw no owner are done:
//! a delay in reality (`QUEUE_REMOVAL_DELAY`), a condition here.

use crate::search::Model;

const OWNERS: usize = 2;
const SENDERS: usize = 2;

/// Maximum number of each fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// An owner is killed.
    pub killed: u8,
    /// An owner is asked to hand over the partition.
    pub handed_over: u8,
    /// The broker executes a command after the owner's timeout.
    pub late: u8,
    /// A sender dies.
    pub died: u8,
}

/// A mistake that a protocol could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The queue is deleted without being unbound.
    DeletesWithoutUnbinding,
    /// The queue is deleted before messages in flight are enqueued.
    DeletesWithoutWaiting,
    /// A new owner removes queues at once, despite senders that saw no owner.
    RemovesAtOnce,
    /// An owner continues while a command that timed out may still be executed.
    GoesOnBesideLateCommands,
    /// An owner releases the partition while such a command may still be executed.
    ReleasesBesideLateCommands,
    /// The lock of a killed owner is released before the broker has executed its commands.
    UnlocksBesideLateCommands,
    /// Senders create a missing queue without checking for an owner.
    MakesBesideAnOwner,
    /// A sender that creates the queue records only afterwards that it must be checked.
    NotesAfterMaking,
}

/// The protocol and its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Queues {
    /// Possible faults.
    pub faults: Faults,
    /// The protocol's mistake.
    pub mistake: Option<Mistake>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Queue {
    #[default]
    Gone,
    /// It exists without a binding.
    Unbound,
    Bound,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Sender {
    #[default]
    Publishing,
    /// Its message was unroutable, and the partition has no owner.
    Alone,
    /// It has recorded that the queue must be checked.
    Noted,
    Declared,
    /// It has bound the queue, and not recorded it.
    Unnoted,
    Heard,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Owner {
    #[default]
    Out,
    Idle,
    /// It waits for the broker to execute a command.
    Asks(Command),
    /// Its command timed out.
    Unsure,
    /// The queue is unbound.
    Unbound,
    /// Messages in flight have been enqueued.
    Waited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Command {
    Unbind,
    Delete,
}

/// State of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    queue: Queue,
    /// Messages, in sets: confirmed, in flight to the queue, in it, and received by the user.
    confirmed: u8,
    routed: u8,
    ready: u8,
    taken: u8,
    senders: [Sender; SENDERS],
    owners: [Owner; OWNERS],
    /// The owner with the exclusive lock; the broker may notice its death late.
    lock: Option<u8>,
    /// Pending commands of each owner.
    commands: [Option<Command>; OWNERS],
    /// A sender has asked the owner for the queue.
    is_wanted: bool,
    /// The queue is recorded for a check.
    is_noted: bool,
    faults: Faults,
}

/// A step. The number is a sender's or an owner's.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each is documented where it is taken")]
pub enum Step {
    Publish(usize),
    Ask(usize),
    FindNoOwner(usize),
    Note(usize),
    Declare(usize),
    Bind(usize),
    DieSending(usize),
    Land,
    Acquire(usize),
    MakeQueue(usize),
    UserTakes(usize),
    AskToUnbind(usize),
    Wait(usize),
    AskToDelete(usize),
    CallBack(usize),
    TimeOut(usize),
    GetOver(usize),
    BrokerUnbinds(usize),
    BrokerDeletes(usize),
    BrokerDrops(usize),
    HandOver(usize),
    Kill(usize),
    Unlock(usize),
}

type Steps = Vec<(Step, State)>;

impl State {
    fn with_sender(&self, s: usize, sender: Sender) -> Self {
        let mut next = *self;
        next.senders[s] = sender;
        next
    }

    fn with_owner(&self, o: usize, owner: Owner) -> Self {
        let mut next = *self;
        next.owners[o] = owner;
        next
    }

    /// The owner sends a command to the broker.
    fn asking(&self, o: usize, command: Command) -> Self {
        let mut next = self.with_owner(o, Owner::Asks(command));
        next.commands[o] = Some(command);
        next
    }

    /// The owner creates the queue, and records that it must be checked.
    fn with_queue(self) -> Self {
        Self { queue: Queue::Bound, is_wanted: false, is_noted: true, ..self }
    }

    fn is_locked(&self) -> bool {
        self.lock.is_some()
    }
}

impl Queues {
    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// A mandatory publish. If unroutable, the owner is asked for the queue; without one the sender creates it.
    fn sender(&self, state: &State, s: usize, steps: &mut Steps) {
        let declared = if state.queue == Queue::Gone { Queue::Unbound } else { state.queue };
        match state.senders[s] {
            Sender::Publishing if state.queue == Queue::Bound => {
                let (confirmed, routed) = (state.confirmed | 1 << s, state.routed | 1 << s);
                let heard = state.with_sender(s, Sender::Heard);
                steps.push((Step::Publish(s), State { confirmed, routed, ..heard }));
            }
            Sender::Publishing if state.is_locked() && !self.is(Mistake::MakesBesideAnOwner) => {
                steps.push((Step::Ask(s), State { is_wanted: true, ..*state }));
            }
            Sender::Publishing => steps.push((Step::FindNoOwner(s), state.with_sender(s, Sender::Alone))),
            Sender::Alone if self.is(Mistake::NotesAfterMaking) => {
                steps.push((Step::Declare(s), State { queue: declared, ..state.with_sender(s, Sender::Declared) }));
            }
            Sender::Alone => {
                steps.push((Step::Note(s), State { is_noted: true, ..state.with_sender(s, Sender::Noted) }));
            }
            Sender::Noted => {
                steps.push((Step::Declare(s), State { queue: declared, ..state.with_sender(s, Sender::Declared) }));
            }
            Sender::Declared => {
                let late = self.is(Mistake::NotesAfterMaking);
                let then = state.with_sender(s, if late { Sender::Unnoted } else { Sender::Publishing });
                // A deleted queue can't be bound, so the sender restarts.
                let queue = if state.queue == Queue::Gone { Queue::Gone } else { Queue::Bound };
                steps.push((Step::Bind(s), State { queue, ..then }));
            }
            Sender::Unnoted => {
                steps.push((Step::Note(s), State { is_noted: true, ..state.with_sender(s, Sender::Publishing) }));
            }
            Sender::Heard | Sender::Dead => return,
        }
        if let Some(died) = state.faults.died.checked_sub(1) {
            let faults = Faults { died, ..state.faults };
            steps.push((Step::DieSending(s), State { faults, ..state.with_sender(s, Sender::Dead) }));
        }
    }

    fn owner(&self, state: &State, o: usize, steps: &mut Steps) {
        let then = |owner| state.with_owner(o, owner);
        match state.owners[o] {
            Owner::Out => {
                if !state.is_locked() && state.commands[o].is_none() {
                    steps.push((Step::Acquire(o), State { lock: Some(o as u8), ..then(Owner::Idle) }));
                }
                return;
            }
            Owner::Idle => self.idle(state, o, steps),
            Owner::Asks(_) => {
                if let Some(late) = state.faults.late.checked_sub(1) {
                    let faults = Faults { late, ..state.faults };
                    steps.push((Step::TimeOut(o), State { faults, ..then(Owner::Unsure) }));
                }
            }
            // It closes the channel; the broker then drops the channel's pending commands.
            Owner::Unsure => {
                if state.commands[o].is_none() || self.is(Mistake::GoesOnBesideLateCommands) {
                    steps.push((Step::GetOver(o), then(Owner::Idle)));
                }
            }
            Owner::Unbound => {
                if state.routed == 0 || self.is(Mistake::DeletesWithoutWaiting) {
                    steps.push((Step::Wait(o), then(Owner::Waited)));
                }
                steps.push((Step::CallBack(o), then(Owner::Idle).with_queue()));
            }
            Owner::Waited if state.ready == 0 => {
                steps.push((Step::AskToDelete(o), state.asking(o, Command::Delete)));
            }
            Owner::Waited => steps.push((Step::MakeQueue(o), then(Owner::Idle).with_queue())),
        }
        self.end(state, o, steps);
    }

    /// An owner creates the queue on a sender's request, or for a user who connects and receives everything. It removes
    /// an empty queue, but only after all senders that saw no owner are done.
    fn idle(&self, state: &State, o: usize, steps: &mut Steps) {
        if state.queue != Queue::Bound || state.is_wanted {
            steps.push((Step::MakeQueue(o), state.with_queue()));
        }
        if state.queue == Queue::Bound && state.ready != 0 {
            let taken = state.taken | state.ready;
            steps.push((Step::UserTakes(o), State { taken, ready: 0, ..*state }));
        }
        let makes =
            |sender: &Sender| matches!(sender, Sender::Alone | Sender::Noted | Sender::Declared | Sender::Unnoted);
        let lingers = state.senders.iter().any(makes) && !self.is(Mistake::RemovesAtOnce);
        if state.queue != Queue::Gone && state.ready == 0 && (!lingers || self.is(Mistake::MakesBesideAnOwner)) {
            let next = if self.is(Mistake::DeletesWithoutUnbinding) { Command::Delete } else { Command::Unbind };
            steps.push((Step::AskToUnbind(o), state.asking(o, next)));
        }
    }

    fn end(&self, state: &State, o: usize, steps: &mut Steps) {
        let has_lock = state.lock == Some(o as u8);
        let is_through = state.commands[o].is_none();
        if let (true, Some(handed_over)) = (has_lock, state.faults.handed_over.checked_sub(1))
            && (is_through || self.is(Mistake::ReleasesBesideLateCommands))
        {
            let faults = Faults { handed_over, ..state.faults };
            steps.push((Step::HandOver(o), State { lock: None, faults, ..state.with_owner(o, Owner::Out) }));
        }
        if let (true, Some(killed)) = (has_lock, state.faults.killed.checked_sub(1)) {
            let faults = Faults { killed, ..state.faults };
            steps.push((Step::Kill(o), State { faults, ..state.with_owner(o, Owner::Out) }));
        }
    }

    /// The broker executes a pending command.
    fn broker(&self, state: &State, o: usize, steps: &mut Steps) {
        let is_dead = state.owners[o] == Owner::Out;
        if is_dead
            && state.lock == Some(o as u8)
            && (state.commands[o].is_none() || self.is(Mistake::UnlocksBesideLateCommands))
        {
            steps.push((Step::Unlock(o), State { lock: None, ..*state }));
        }
        let Some(command) = state.commands[o] else { return };
        let mut done = *state;
        done.commands[o] = None;
        let is_awaited = state.owners[o] == Owner::Asks(command);
        if is_dead {
            steps.push((Step::BrokerDrops(o), done));
        }
        match command {
            Command::Unbind => {
                if is_awaited {
                    done.owners[o] = Owner::Unbound;
                }
                if done.queue == Queue::Bound {
                    done.queue = Queue::Unbound;
                }
                steps.push((Step::BrokerUnbinds(o), done));
            }
            Command::Delete => {
                let is_deleted = state.ready == 0;
                if is_deleted {
                    // Messages in flight are lost with it.
                    (done.queue, done.routed) = (Queue::Gone, 0);
                }
                if is_awaited {
                    done.owners[o] = Owner::Idle;
                    done = if is_deleted { State { is_noted: false, ..done } } else { done.with_queue() };
                }
                steps.push((Step::BrokerDeletes(o), done));
            }
        }
    }
}

impl Model for Queues {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        State { faults: self.faults, ..State::default() }
    }

    fn steps(&self, state: &State) -> Steps {
        let mut steps = Vec::new();
        (0..SENDERS).for_each(|s| self.sender(state, s, &mut steps));
        for s in (0..SENDERS).filter(|s| state.routed & 1 << s != 0) {
            let (routed, ready) = (state.routed & !(1 << s), state.ready | 1 << s);
            steps.push((Step::Land, State { routed, ready, ..*state }));
        }
        for o in 0..OWNERS {
            self.owner(state, o, &mut steps);
            self.broker(state, o, &mut steps);
        }
        steps
    }

    fn wrong(&self, state: &State) -> Option<&'static str> {
        let is_owned = state.owners.iter().any(|owner| *owner != Owner::Out);
        if state.confirmed & !(state.routed | state.ready | state.taken) != 0 {
            Some("a message was confirmed, and is gone")
        } else if state.ready != 0 && !state.is_noted && !is_owned && state.senders.iter().all(Sender::is_through) {
            Some("a message waits in a queue that will not be checked")
        } else {
            None
        }
    }

    fn is_done(&self, state: &State) -> bool {
        state.senders.iter().all(Sender::is_through) && state.routed == 0
    }

    fn is_fault(&self, step: &Step) -> bool {
        matches!(step, Step::DieSending(_) | Step::TimeOut(_) | Step::HandOver(_) | Step::Kill(_))
    }
}

impl Sender {
    fn is_through(&self) -> bool {
        matches!(self, Self::Heard | Self::Dead)
    }
}
