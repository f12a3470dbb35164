//! Model of rooms: one user, one room. The registry stores the membership, the broker the binding. Several processes
//! change both: the functions of the user's devices and the owner, each of which may die between two steps.
//!
//! Whoever changes the binding re-reads the membership afterwards, until both agree. The registry remembers who left,
//! so that the next owner removes a binding that was added late and never removed.

use crate::search::Model;

/// Maximum concurrent functions.
const FUNCTIONS: usize = 2;

/// Maximum number of each fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A function, or the owner, dies.
    pub died: u8,
    /// The broker answers after the timeout, the function retries, and the broker executes both.
    pub late: u8,
    /// The broker loses the queue with its bindings.
    pub queue_lost: u8,
    /// The owner can't read the registry.
    pub unread: u8,
}

/// A mistake that a protocol could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A leave unbinds first; then the membership is removed.
    LeavesByUnbindingFirst,
    /// A join binds, and does not check for a concurrent leave.
    JoinsWithoutReadingAgain,
    /// A leave unbinds, and does not check for a concurrent join.
    LeavesWithoutReadingAgain,
    /// A send without a route binds, and does not check the membership.
    SendsWithoutReading,
    /// A send without a route checks the membership, and then binds.
    SendsWithoutReadingAgain,
    /// The owner binds what it has read, and does not read again.
    OpensWithoutReadingAgain,
    /// The owner continues without memberships if they can't be read.
    OpensWithoutReading,
    /// The registry does not remember who left.
    ForgetsWhoHasLeft,
    /// The owner deletes the queue of a user in no room, and does not read again.
    DeletesWithoutReadingAgain,
}

/// The protocol and its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Rooms {
    /// Number of joins.
    pub joins: u8,
    /// Number of leaves.
    pub leaves: u8,
    /// Number of sends to the room.
    pub sends: u8,
    /// Number of connects.
    pub visits: u8,
    /// Possible faults.
    pub faults: Faults,
    /// The protocol's mistake.
    pub mistake: Option<Mistake>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Join,
    Leave,
    Send,
}

/// Next step of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Next {
    /// Changes the membership, or reads it before a send.
    Begin,
    /// Binds if it is true, else unbinds.
    Bind(bool),
    /// Compares the binding with the registry.
    Check(bool),
    /// Removes the membership; only by mistake this late.
    Forget,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Function {
    kind: Kind,
    next: Next,
}

/// The registry's state of the user and the room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Registry {
    is_member: bool,
    has_left: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Owner {
    /// The user is not served.
    #[default]
    Idle,
    /// It has ensured that the queue exists.
    Opened,
    /// It has read this state.
    Read(Registry),
    /// It has bound or unbound accordingly.
    Bound(Registry),
    Serving,
    /// The user is offline and was in no room: the queue is about to be deleted.
    Retiring,
    Deleted,
}

/// What the last reply guarantees, unless the membership has changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Promise {
    Joined,
    Left,
}

/// State of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    registry: Registry,
    has_queue: bool,
    is_bound: bool,
    is_online: bool,
    functions: [Option<Function>; FUNCTIONS],
    owner: Owner,
    promise: Option<Promise>,
    /// A command that the broker will still execute after its timeout.
    late: Option<bool>,
    /// A process died midway: until an owner has started to open the queue again (2), and has finished (1).
    unsettled: u8,
    joins: u8,
    leaves: u8,
    sends: u8,
    visits: u8,
    faults: Faults,
}

/// A step. The number is a function's.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each is documented where it is taken")]
pub enum Step {
    Connect,
    Disconnect,
    Join,
    Leave,
    Send,
    ChangeMembership(usize),
    ReadBeforeSend(usize),
    Bind(usize),
    Unbind(usize),
    Check(usize),
    AskAgain(usize),
    BrokerCatchesUp,
    Die(usize),
    Open,
    Read,
    ReadNothing,
    Settle,
    ReadAgain,
    StopServing,
    MakeQueue,
    Retire,
    Delete,
    KillOwner,
    LoseQueue,
}

type Steps = Vec<(Step, State)>;

impl State {
    fn with_function(&self, f: usize, function: Option<Function>) -> Self {
        let mut next = *self;
        next.functions[f] = function;
        next
    }

    fn with_membership(self, is_member: bool) -> Self {
        let has_left = !is_member && (self.registry.has_left || self.registry.is_member);
        Self { registry: Registry { is_member, has_left }, promise: None, ..self }
    }

    fn with_binding(self, is_bound: bool) -> Self {
        Self { is_bound: is_bound && self.has_queue, ..self }
    }

    /// The function replies: the reply is true at this moment, or guarantees nothing.
    fn answered(&self, f: usize, kind: Kind) -> Self {
        let promise = match (kind, self.registry.is_member) {
            (Kind::Join, true) => Some(Promise::Joined),
            (Kind::Leave, false) => Some(Promise::Left),
            _ => self.promise,
        };
        Self { promise, ..self.with_function(f, None) }
    }

    /// Whether no process is midway.
    fn is_quiet(&self) -> bool {
        let is_owner_through = self.owner == if self.is_online { Owner::Serving } else { Owner::Idle };
        let is_settled = self.unsettled == 0 && self.late.is_none();
        is_owner_through && is_settled && self.functions.iter().all(Option::is_none)
    }

    fn wants_queue(&self) -> bool {
        self.functions.iter().flatten().any(|function| function.next == Next::Bind(true))
    }
}

impl Rooms {
    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// Steps of the user: it connects and disconnects, and makes requests on several devices at once.
    fn user(&self, state: &State, steps: &mut Steps) {
        if state.is_online {
            steps.push((Step::Disconnect, State { is_online: false, ..*state }));
        } else if let Some(visits) = state.visits.checked_sub(1) {
            steps.push((Step::Connect, State { is_online: true, visits, ..*state }));
        }
        let Some(f) = state.functions.iter().position(Option::is_none).filter(|_| state.is_online) else { return };
        let begin = |kind| state.with_function(f, Some(Function { kind, next: Next::Begin }));
        if let Some(joins) = state.joins.checked_sub(1) {
            steps.push((Step::Join, State { joins, ..begin(Kind::Join) }));
        }
        if let Some(leaves) = state.leaves.checked_sub(1) {
            steps.push((Step::Leave, State { leaves, ..begin(Kind::Leave) }));
        }
        if let Some(sends) = state.sends.checked_sub(1) {
            steps.push((Step::Send, State { sends, ..begin(Kind::Send) }));
        }
    }

    fn function(&self, state: &State, f: usize, function: Function, steps: &mut Steps) {
        let kind = function.kind;
        let then = |state: &State, next| state.with_function(f, Some(Function { kind, next }));
        match function.next {
            Next::Begin => steps.push(self.begin(state, f, kind)),
            Next::Bind(is_bound) if is_bound && !state.has_queue => {}
            Next::Bind(is_bound) => {
                let step = if is_bound { Step::Bind(f) } else { Step::Unbind(f) };
                let bound = state.with_binding(is_bound);
                let next = match kind {
                    Kind::Leave if self.is(Mistake::LeavesByUnbindingFirst) => then(&bound, Next::Forget),
                    Kind::Join if self.is(Mistake::JoinsWithoutReadingAgain) => bound.answered(f, kind),
                    Kind::Leave if self.is(Mistake::LeavesWithoutReadingAgain) => bound.answered(f, kind),
                    Kind::Send if self.is(Mistake::SendsWithoutReading) => bound.answered(f, kind),
                    Kind::Send if self.is(Mistake::SendsWithoutReadingAgain) => bound.answered(f, kind),
                    _ => then(&bound, Next::Check(is_bound)),
                };
                steps.push((step, next));
                if let (Some(late), None) = (state.faults.late.checked_sub(1), state.late) {
                    let faults = Faults { late, ..state.faults };
                    steps.push((Step::AskAgain(f), State { late: Some(is_bound), unsettled: 2, faults, ..*state }));
                }
            }
            Next::Check(is_bound) => {
                let is_member = state.registry.is_member;
                let is_right = is_bound == is_member;
                let next = if is_right { state.answered(f, kind) } else { then(state, Next::Bind(is_member)) };
                steps.push((Step::Check(f), next));
            }
            Next::Forget => {
                steps.push((Step::ChangeMembership(f), state.with_membership(false).answered(f, kind)));
            }
        }
        if let Some(died) = state.faults.died.checked_sub(1) {
            let faults = Faults { died, ..state.faults };
            steps.push((Step::Die(f), State { unsettled: 2, faults, ..state.with_function(f, None) }));
        }
    }

    fn begin(&self, state: &State, f: usize, kind: Kind) -> (Step, State) {
        let then = |state: State, next| state.with_function(f, Some(Function { kind, next }));
        match kind {
            Kind::Join => (Step::ChangeMembership(f), then(state.with_membership(true), Next::Bind(true))),
            Kind::Leave if self.is(Mistake::LeavesByUnbindingFirst) => (Step::Leave, then(*state, Next::Bind(false))),
            Kind::Leave => (Step::ChangeMembership(f), then(state.with_membership(false), Next::Bind(false))),
            Kind::Send => {
                let may = state.registry.is_member || self.is(Mistake::SendsWithoutReading);
                // The message is routable, or unroutable and the sender is a member.
                let binds = may && !state.is_bound;
                let next = if binds { then(*state, Next::Bind(true)) } else { state.with_function(f, None) };
                (Step::ReadBeforeSend(f), next)
            }
        }
    }

    fn owner(&self, state: &State, steps: &mut Steps) {
        let owned = |owner| State { owner, ..*state };
        match state.owner {
            Owner::Idle => {
                self.idle(state, steps);
                return;
            }
            Owner::Opened | Owner::Read(_) | Owner::Bound(_) => self.open(state, steps),
            Owner::Serving => {
                if !state.is_online {
                    steps.push((Step::StopServing, owned(Owner::Idle)));
                }
            }
            Owner::Retiring => {
                if state.is_online || state.wants_queue() {
                    steps.push((Step::MakeQueue, owned(Owner::Idle)));
                } else {
                    let deleted = State { has_queue: false, is_bound: false, ..owned(Owner::Deleted) };
                    steps.push((Step::Delete, deleted));
                }
            }
            Owner::Deleted => {
                let looks = !self.is(Mistake::DeletesWithoutReadingAgain);
                let registry = self.read(state);
                let next = if looks && registry.is_member {
                    State { has_queue: true, ..owned(Owner::Read(registry)) }
                } else {
                    owned(Owner::Idle)
                };
                steps.push((Step::ReadAgain, next));
            }
        }
        if let Some(died) = state.faults.died.checked_sub(1) {
            let faults = Faults { died, ..state.faults };
            steps.push((Step::KillOwner, State { unsettled: 2, faults, ..owned(Owner::Idle) }));
        }
    }

    /// The owner binds what it reads, and unbinds what was left, until a second read agrees.
    fn open(&self, state: &State, steps: &mut Steps) {
        let owned = |owner| State { owner, ..*state };
        match state.owner {
            Owner::Opened => {
                steps.push((Step::Read, owned(Owner::Read(self.read(state)))));
                if let Some(unread) = state.faults.unread.checked_sub(1) {
                    let owner = if self.is(Mistake::OpensWithoutReading) { Owner::Serving } else { Owner::Opened };
                    let faults = Faults { unread, ..state.faults };
                    steps.push((Step::ReadNothing, State { faults, owner, ..*state }.settled()));
                }
            }
            Owner::Read(registry) => {
                let bound = owned(Owner::Bound(registry));
                let settled = match registry {
                    Registry { is_member: true, .. } => bound.with_binding(true),
                    Registry { has_left: true, .. } => bound.with_binding(false),
                    Registry { .. } => bound,
                };
                steps.push((Step::Settle, settled));
            }
            Owner::Bound(registry) => {
                let mut now = if self.is(Mistake::OpensWithoutReadingAgain) { registry } else { self.read(state) };
                // It also knows what it has bound itself.
                now.has_left |= registry.is_member && !now.is_member;
                let is_through = now.is_member == registry.is_member;
                let next = if is_through { owned(Owner::Serving).settled() } else { owned(Owner::Read(now)) };
                steps.push((Step::ReadAgain, next));
            }
            _ => {}
        }
    }

    fn idle(&self, state: &State, steps: &mut Steps) {
        if state.is_online {
            let unsettled = if state.late.is_none() { state.unsettled.min(1) } else { state.unsettled };
            steps.push((Step::Open, State { has_queue: true, unsettled, owner: Owner::Opened, ..*state }));
        } else if state.has_queue && !state.registry.is_member {
            steps.push((Step::Retire, State { owner: Owner::Retiring, ..*state }));
        }
        if state.wants_queue() && !state.has_queue {
            steps.push((Step::MakeQueue, State { has_queue: true, ..*state }));
        }
    }

    fn read(&self, state: &State) -> Registry {
        let has_left = state.registry.has_left && !self.is(Mistake::ForgetsWhoHasLeft);
        Registry { has_left, ..state.registry }
    }
}

impl State {
    /// The owner is done, if it began after the death of the other process.
    fn settled(self) -> Self {
        let is_through = self.owner == Owner::Serving && self.unsettled == 1;
        Self { unsettled: if is_through { 0 } else { self.unsettled }, ..self }
    }
}

impl Model for Rooms {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        let Self { joins, leaves, sends, visits, faults, .. } = *self;
        State { joins, leaves, sends, visits, faults, ..State::default() }
    }

    fn steps(&self, state: &State) -> Steps {
        let mut steps = Vec::new();
        self.user(state, &mut steps);
        for (f, function) in state.functions.iter().enumerate() {
            if let Some(function) = *function {
                self.function(state, f, function, &mut steps);
            }
        }
        if let Some(is_bound) = state.late {
            steps.push((Step::BrokerCatchesUp, State { late: None, unsettled: 2, ..state.with_binding(is_bound) }));
        }
        self.owner(state, &mut steps);
        if let Some(queue_lost) = state.faults.queue_lost.checked_sub(1) {
            let faults = Faults { queue_lost, ..state.faults };
            let lost = State { has_queue: false, is_bound: false, unsettled: 2, faults, owner: Owner::Idle, ..*state };
            steps.push((Step::LoseQueue, lost));
        }
        steps
    }

    fn wrong(&self, state: &State) -> Option<&'static str> {
        match state.promise.filter(|_| state.is_quiet()) {
            Some(Promise::Left) if state.is_bound => Some("the room was left, and the queue is bound to it"),
            Some(Promise::Joined) if !state.is_bound => Some("the room was joined, and the queue is not bound to it"),
            _ => None,
        }
    }

    fn is_done(&self, state: &State) -> bool {
        let has_died = state.unsettled > 0 && state.visits == 0;
        (state.is_quiet() || has_died) && state.functions.iter().all(Option::is_none)
    }

    fn is_fault(&self, step: &Step) -> bool {
        matches!(step, Step::Die(_) | Step::AskAgain(_) | Step::KillOwner | Step::LoseQueue | Step::ReadNothing)
    }
}
