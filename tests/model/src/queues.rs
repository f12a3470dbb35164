//! How the queue of a user who is away comes and goes: two processes own the partition one after the other, two senders
//! publish, and a sender makes the queue itself when nobody owns the partition.
//!
//! The broker confirms what it has routed, and a queue that is deleted before it lands drops it. So the queue is deleted
//! only by who alone makes it. That no owner removes anything before the senders are through who saw none is a matter of
//! time (`LINGER`), and a condition here.

use crate::search::Model;

const OWNERS: usize = 2;
const SENDERS: usize = 2;

/// How often each thing goes wrong at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// An owner is killed.
    pub killed: u8,
    /// An owner is asked for the partition.
    pub handed_over: u8,
    /// The broker takes longer to do something than an owner waits for it.
    pub late: u8,
    /// A sender dies.
    pub died: u8,
}

/// What could be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The queue is deleted without having been taken out of the routing.
    DeletesWithoutUnbinding,
    /// The queue is deleted before what is on its way has landed.
    DeletesWithoutWaiting,
    /// A new owner removes queues at once, whatever senders have seen before.
    RemovesAtOnce,
    /// An owner goes on while what it has asked for may still be done.
    GoesOnBesideLateCommands,
    /// An owner gives the partition away while what it has asked for may still be done.
    ReleasesBesideLateCommands,
    /// The lock of a killed owner is free before the broker is through with what the owner had asked for.
    UnlocksBesideLateCommands,
    /// Senders make the queue that they miss, and do not ask whether there is an owner.
    MakesBesideAnOwner,
    /// A sender that makes the queue notes only afterwards that somebody must look at it.
    NotesAfterMaking,
}

/// The protocol, and how much happens.
#[derive(Clone, Copy, Debug)]
pub struct Queues {
    /// What can go wrong.
    pub faults: Faults,
    /// What the protocol gets wrong.
    pub mistake: Option<Mistake>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Queue {
    #[default]
    Gone,
    /// It is there, and nothing is routed to it.
    Unbound,
    Bound,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Sender {
    #[default]
    Publishing,
    /// Its message had no route, and nobody owns the partition.
    Alone,
    /// It has noted that there will be a queue to look at.
    Noted,
    Declared,
    /// It has bound the queue, and not noted that.
    Unnoted,
    Heard,
    Dead,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Owner {
    #[default]
    Out,
    Idle,
    /// It has asked for that, and waits.
    Asks(Command),
    /// What it has asked for is not answered in time.
    Unsure,
    /// The queue is out of the routing.
    Unbound,
    /// What was on its way has landed.
    Waited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Command {
    Unbind,
    Delete,
}

/// Everything at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    queue: Queue,
    /// Messages, in sets: confirmed, on the way to the queue, in it, and taken by the user.
    confirmed: u8,
    routed: u8,
    ready: u8,
    taken: u8,
    senders: [Sender; SENDERS],
    owners: [Owner; OWNERS],
    /// Who has the exclusive consumer; the broker may be slow to see that it is dead.
    lock: Option<u8>,
    /// What each owner has asked for, and the broker has not done.
    commands: [Option<Command>; OWNERS],
    /// A sender has asked the owner for the queue.
    is_wanted: bool,
    /// Somebody is going to look at the queue.
    is_noted: bool,
    faults: Faults,
}

/// What can happen. The number is a sender's or an owner's.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each is explained where it happens")]
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

    /// What the owner asks the broker for.
    fn asking(&self, o: usize, command: Command) -> Self {
        let mut next = self.with_owner(o, Owner::Asks(command));
        next.commands[o] = Some(command);
        next
    }

    /// The owner makes the queue, and notes that it must be looked at.
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

    /// A mandatory publish. Without a route the owner is asked for the queue; the sender makes it if there is none.
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
                // A queue that is gone again can't be bound, and the sender begins anew.
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
            // It closes the channel, after which the broker does nothing more of what it was asked for there.
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

    /// An owner makes the queue that a sender asks for, or for a user who has come, who takes all there is. It removes the
    /// queue when it is empty, and not before all senders are through who saw no owner.
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

    /// What the broker does when it gets to it.
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
                    // What is on its way gets lost with it.
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
            Some("a message waits in a queue at which nobody will look")
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
