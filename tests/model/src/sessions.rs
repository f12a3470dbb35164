//! Model of sessions: the registry's connections, and all processes that change them concurrently.
//!
//! Each function is one atomic, conditional step of the registry; [`Mistake`] shows what fails otherwise. A connection
//! is in its handshake, open or closed at the edge. The registry may lose all data; owners keep what they read last and
//! write it back. A token is a number: a greater one expires later, and lists other rooms.

use crate::search::Model;

/// Maximum number of connections.
pub const CONNECTIONS: usize = 3;

/// Named users; each has an owner.
const USERS: usize = 2;

/// Owners: those of the named users, and that of the unauthenticated connections.
const OWNERS: usize = USERS + 1;

/// User of an unauthenticated connection.
const UNAUTHENTICATED: usize = USERS;

/// Maximum invocations that are between two steps.
const IN_FLIGHT: usize = 2;

/// The token of every handshake. One other token expires sooner, another later.
const FIRST_TOKEN: u8 = 1;
const TOKENS: u8 = 3;

/// Maximum number of each fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// The registry loses all data.
    pub flushed: u8,
    /// A function dies before it has answered a handshake.
    pub died: u8,
    /// The edge never reports the end of a connection.
    pub unheard: u8,
    /// An owner is killed; the next one starts from the registry.
    pub killed: u8,
}

/// A mistake that a protocol could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A handshake counts the user's connections, and registers its own in a later step.
    CountsThenCreates,
    /// A handshake registers a connection whose end is already processed.
    CreatesWhatHasEnded,
    /// A user at the limit is refused without probing its connections.
    RefusesWithoutProbing,
    /// A connection in its handshake counts as gone, as the edge answers 410.
    ProbesHandshakes,
    /// A renewal reads the session, and writes it in a later step.
    ReadsThenRenews,
    /// A renewal keeps the later expiry, and the rooms of the newest token.
    KeepsTheLaterEnd,
    /// A connection is removed from its provisional user, and registered under its own in a later step.
    RemovesThenRegisters,
    /// A token in a CONNECT packet also renames a connection that has a user.
    NamesWhatIsNamed,
    /// A token in a CONNECT packet names a connection that the registry does not know.
    NamesWhatIsUnknown,
    /// The end of a connection is processed by reading its user, and removing it in a later step.
    ReadsThenRemoves,
    /// An owner also writes back what the registry already knows.
    RestoresWhatIsKnown,
    /// An owner writes back connections beyond the limit.
    RestoresBeyondTheLimit,
    /// An owner writes back a connection whose end was processed since the data loss.
    RestoresWhatHasEnded,
    /// An owner writes back a connection whose end was processed, unknown to it, before the data loss.
    RestoresWithoutProbing,
    /// The owner of unauthenticated connections writes them back, too.
    RestoresTheUnauthenticated,
    /// An owner that is about to write back reads first, and trusts the result.
    LooksBeforeItRestores,
}

/// The protocol and its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Sessions {
    /// Connections of the first user, which authenticates in the handshake.
    pub authenticated: usize,
    /// Connections that authenticate later.
    pub unauthenticated: usize,
    /// Maximum sessions of a user.
    pub limit: usize,
    /// Number of tokens for renewals.
    pub renewals: u8,
    /// Number of CONNECT packets with a token.
    pub authentications: u8,
    /// Possible faults.
    pub faults: Faults,
    /// The protocol's mistake.
    pub mistake: Option<Mistake>,
}

/// The edge's state of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Edge {
    #[default]
    Unused,
    /// The handshake's function has not returned: calls for the connection are answered 410.
    Handshake,
    Open,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Session {
    user: u8,
    /// The token that determines its expiry.
    end: u8,
    /// The token that lists its rooms.
    rooms: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Connection {
    edge: Edge,
    /// Registry: the session of the connection.
    session: Option<Session>,
    /// Registry: users that list this connection, in a set.
    listed: u8,
    /// Registry, for a while: its end was processed.
    has_ended: bool,
    /// The edge will report its end.
    end_is_due: bool,
    /// Its end was processed.
    end_is_processed: bool,
    /// The handshake's function has registered it, or has finished otherwise.
    is_created: bool,
    /// It was open once, so its client may have sent a request.
    was_open: bool,
    /// All users that it ever belonged to, in a set.
    ever: u8,
    /// The expiry that the last accepted renewal has promised.
    promised: u8,
}

/// State of a user's owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Owner {
    /// The sessions as last read.
    held: [Option<Session>; CONNECTIONS],
    /// It has seen its epoch marker in the registry, which a data loss removes.
    has_seen_marker: bool,
    /// It has detected a data loss, and is writing back what it holds.
    restores: bool,
    /// Connections just read, until it has checked the epoch marker, in a set.
    looked: Option<u8>,
    /// Connections that it is about to write back, as the edge reports them open, in a set.
    probed: u8,
}

/// A function between two steps; only mistakes have such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Flight {
    Create(u8, Session),
    Write(u8, Session),
    Remove(u8, u8),
}

/// State of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    connections: [Connection; CONNECTIONS],
    owners: [Owner; OWNERS],
    /// Each owner's epoch marker in the registry, in a set.
    epoch_markers: u8,
    flights: [Option<Flight>; IN_FLIGHT],
    /// Tokens below this one have expired.
    ended: u8,
    renewals: u8,
    authentications: u8,
    was_flushed: bool,
    wrong: Option<&'static str>,
    faults: Faults,
}

/// A step. The numbers are a connection's, an owner's or a user's, a token's.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each is documented where it is taken")]
pub enum Step {
    Handshake(usize),
    Create(usize),
    Count(usize),
    Refuse(usize),
    Probe(usize),
    Answer(usize),
    Die(usize),
    Close(usize),
    ProcessEnd(usize),
    ReadEnd(usize),
    LoseEnd(usize),
    Renew(usize, u8),
    Name(usize, usize),
    Land(usize),
    TokenEnds(u8),
    Read(usize),
    Look(usize),
    Forget(usize, usize),
    Watch(usize),
    Restore(usize, usize),
    Restored(usize),
    Kill(usize),
    Flush,
}

type Steps = Vec<(Step, State)>;

fn bit(number: usize) -> u8 {
    1 << number
}

impl Session {
    fn of(user: usize, token: u8) -> Self {
        Self { user: user as u8, end: token, rooms: token }
    }
}

impl Connection {
    fn is_of(&self, user: usize) -> bool {
        self.listed & bit(user) != 0
    }

    /// Writes the session to the registry, and leaves other entries.
    fn write(&mut self, session: Session) {
        self.session = Some(session);
        self.listed |= bit(session.user.into());
        if usize::from(session.user) != UNAUTHENTICATED {
            self.ever |= bit(session.user.into());
        }
    }

    fn remove(&mut self) {
        (self.session, self.listed) = (None, 0);
    }
}

impl State {
    fn with(&self, c: usize, change: impl FnOnce(&mut Connection)) -> Self {
        let mut next = *self;
        change(&mut next.connections[c]);
        next
    }

    fn with_owner(&self, o: usize, change: impl FnOnce(&mut Owner)) -> Self {
        let mut next = *self;
        change(&mut next.owners[o]);
        next
    }

    fn with_flight(&self, flight: Flight) -> Option<Self> {
        let mut next = *self;
        *next.flights.iter_mut().find(|place| place.is_none())? = Some(flight);
        Some(next)
    }

    fn count(&self, user: usize) -> usize {
        self.connections.iter().filter(|connection| connection.is_of(user)).count()
    }

    fn is_marked(&self, o: usize) -> bool {
        self.epoch_markers & bit(o) != 0
    }
}

impl Sessions {
    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn user(&self, c: usize) -> usize {
        if c < self.authenticated { 0 } else { UNAUTHENTICATED }
    }

    fn has_room(&self, state: &State, user: usize) -> bool {
        user == UNAUTHENTICATED || state.count(user) < self.limit
    }

    /// A client starts a handshake, and disconnects at any time.
    fn client(&self, state: &State, c: usize, steps: &mut Steps) {
        match state.connections[c].edge {
            Edge::Unused => {
                steps.push((Step::Handshake(c), state.with(c, |connection| connection.edge = Edge::Handshake)));
            }
            Edge::Handshake | Edge::Open => {
                let left =
                    |connection: &mut Connection| (connection.edge, connection.end_is_due) = (Edge::Closed, true);
                steps.push((Step::Close(c), state.with(c, left)));
            }
            Edge::Closed => {}
        }
    }

    /// Registers the connection of a handshake within the limit, unless it has already ended; and answers. A disconnect
    /// does not stop the function. A user at the limit is refused if all its connections are open.
    fn handshake(&self, state: &State, c: usize, steps: &mut Steps) {
        let (connection, user) = (state.connections[c], self.user(c));
        let is_waiting = connection.edge == Edge::Handshake;
        if let (true, Some(died)) = (is_waiting, state.faults.died.checked_sub(1)) {
            let died = State { faults: Faults { died, ..state.faults }, ..*state };
            let end = |connection: &mut Connection| (connection.edge, connection.is_created) = (Edge::Closed, true);
            steps.push((Step::Die(c), died.with(c, end)));
        }
        if connection.is_created || connection.edge == Edge::Unused {
            if is_waiting {
                let open = |connection: &mut Connection| (connection.edge, connection.was_open) = (Edge::Open, true);
                steps.push((Step::Answer(c), state.with(c, open)));
            }
            return;
        }
        let session = Session::of(user, FIRST_TOKEN);
        let created = state.with(c, |connection| connection.is_created = true);
        if connection.has_ended && !self.is(Mistake::CreatesWhatHasEnded) {
            steps.push((Step::Refuse(c), created));
        } else if !self.has_room(state, user) {
            self.probe(state, c, steps);
        } else if self.is(Mistake::CountsThenCreates) {
            steps.extend(created.with_flight(Flight::Create(c as u8, session)).map(|next| (Step::Count(c), next)));
        } else {
            steps.push((Step::Create(c), created.with(c, |connection| connection.write(session))));
        }
    }

    fn probe(&self, state: &State, c: usize, steps: &mut Steps) {
        let user = self.user(c);
        let all = (0..CONNECTIONS).filter(|other| state.connections[*other].is_of(user));
        let is_gone = |other: &usize| match state.connections[*other].edge {
            Edge::Handshake => self.is(Mistake::ProbesHandshakes),
            edge => edge != Edge::Open,
        };
        let gone: Vec<usize> = all.filter(is_gone).collect();
        if gone.is_empty() || self.is(Mistake::RefusesWithoutProbing) {
            let lives = |other: &Connection| matches!(other.edge, Edge::Open | Edge::Handshake) && other.is_of(user);
            let is_wrong = state.connections.iter().filter(|other| lives(other)).count() < self.limit;
            let mut next = state.with(c, |connection| (connection.edge, connection.is_created) = (Edge::Closed, true));
            next.wrong = is_wrong.then_some("a user is refused who has fewer connections than the limit");
            steps.push((Step::Refuse(c), next));
            return;
        }
        steps.extend(gone.into_iter().map(|other| (Step::Probe(other), state.with(other, Connection::remove))));
    }

    /// The edge may report the end of a connection. It is also recorded for one that the registry does not know, so
    /// that it can't be registered later.
    fn end(&self, state: &State, c: usize, steps: &mut Steps) {
        let connection = state.connections[c];
        if !connection.end_is_due {
            return;
        }
        let heard = state.with(c, |connection| connection.end_is_due = false);
        if let Some(unheard) = state.faults.unheard.checked_sub(1) {
            steps.push((Step::LoseEnd(c), State { faults: Faults { unheard, ..state.faults }, ..heard }));
        }
        if let (true, Some(session)) = (self.is(Mistake::ReadsThenRemoves), connection.session) {
            let flight = Flight::Remove(c as u8, session.user);
            steps.extend(heard.with_flight(flight).map(|next| (Step::ReadEnd(c), next)));
            return;
        }
        let ended = |connection: &mut Connection| {
            connection.remove();
            (connection.has_ended, connection.end_is_processed) = (true, true);
        };
        steps.push((Step::ProcessEnd(c), heard.with(c, ended)));
    }

    /// A fresh token of the same user: both its expiry and its rooms, or neither.
    fn renew(&self, state: &State, c: usize, steps: &mut Steps) {
        let (Some(left), connection) = (state.renewals.checked_sub(1), state.connections[c]) else { return };
        let Some(session) = connection.session.filter(|session| usize::from(session.user) != UNAUTHENTICATED) else {
            return;
        };
        if !connection.was_open {
            return;
        }
        for token in (state.ended..TOKENS).filter(|token| *token != session.end) {
            let asked = State { renewals: left, ..*state };
            let renewed = if self.is(Mistake::KeepsTheLaterEnd) {
                Session { end: session.end.max(token), rooms: token, ..session }
            } else if token > session.end {
                Session { end: token, rooms: token, ..session }
            } else {
                session
            };
            if self.is(Mistake::ReadsThenRenews) {
                let flight = Flight::Write(c as u8, renewed);
                steps.extend(asked.with_flight(flight).map(|next| (Step::Renew(c, token), next)));
            } else {
                let renew = |connection: &mut Connection| {
                    connection.write(renewed);
                    connection.promised = renewed.end;
                };
                steps.push((Step::Renew(c, token), asked.with(c, renew)));
            }
        }
    }

    /// A token in a CONNECT packet gives an unauthenticated connection its user, and no other.
    fn name(&self, state: &State, c: usize, steps: &mut Steps) {
        let (Some(namings), connection) = (state.authentications.checked_sub(1), state.connections[c]) else { return };
        if !connection.was_open || c < self.authenticated {
            return;
        }
        let session = connection.session;
        let is_unauthenticated = session.is_some_and(|session| usize::from(session.user) == UNAUTHENTICATED);
        let is_unknown = session.is_none() && self.is(Mistake::NamesWhatIsUnknown) && connection.edge == Edge::Open;
        let is_named = session.is_some() && self.is(Mistake::NamesWhatIsNamed);
        for user in (0..USERS).filter(|user| self.has_room(state, *user)) {
            let asked = State { authentications: namings, ..*state };
            let named = Session::of(user, FIRST_TOKEN);
            if is_unauthenticated && self.is(Mistake::RemovesThenRegisters) {
                let removed = asked.with(c, |connection| connection.listed = 0);
                steps
                    .extend(removed.with_flight(Flight::Write(c as u8, named)).map(|next| (Step::Name(c, user), next)));
            } else if is_unauthenticated || is_unknown || is_named {
                let name = |connection: &mut Connection| {
                    connection.remove();
                    connection.write(named);
                };
                steps.push((Step::Name(c, user), asked.with(c, name)));
            }
        }
    }

    /// The second step of a function that should have one.
    fn land(&self, state: &State, steps: &mut Steps) {
        for (at, flight) in state.flights.iter().enumerate() {
            let mut next = *state;
            next.flights[at] = None;
            match *flight {
                Some(Flight::Create(c, _)) if state.connections[usize::from(c)].has_ended => {}
                Some(Flight::Create(c, session) | Flight::Write(c, session)) => {
                    next = next.with(c.into(), |connection| connection.write(session));
                }
                Some(Flight::Remove(c, user)) => {
                    next = next.with(c.into(), |connection| {
                        connection.session = None;
                        connection.listed &= !bit(user.into());
                        (connection.has_ended, connection.end_is_processed) = (true, true);
                    });
                }
                None => continue,
            }
            steps.push((Step::Land(at), next));
        }
    }

    /// An owner reads its connections, and then checks the epoch marker: without it, or while writing back, a
    /// connection missing from the registry does not count as gone.
    fn owner(&self, state: &State, o: usize, steps: &mut Steps) {
        let owner = state.owners[o];
        match owner.looked {
            None => {
                let found = (0..CONNECTIONS).filter(|c| state.connections[*c].is_of(o)).fold(0, |all, c| all | bit(c));
                steps.push((Step::Read(o), state.with_owner(o, |owner| owner.looked = Some(found))));
            }
            Some(found) => steps.push((Step::Look(o), self.look(state, o, found))),
        }
        for c in (0..CONNECTIONS).filter(|c| owner.held[*c].is_some()) {
            if state.connections[c].edge == Edge::Closed {
                // A push is answered 410.
                let forgotten = state.with_owner(o, |owner| owner.held[c] = None);
                steps.push((Step::Forget(o, c), forgotten.with(c, Connection::remove)));
            }
            if owner.restores || !state.is_marked(o) {
                self.restore(state, o, c, steps);
            }
        }
        let is_told = |c: usize| owner.held[c].is_none() || state.connections[c].session.is_some();
        if owner.restores && (0..CONNECTIONS).all(is_told) {
            steps.push((Step::Restored(o), state.with_owner(o, |owner| owner.restores = false)));
        }
        self.watch(state, o, steps);
        if let Some(killed) = state.faults.killed.checked_sub(1) {
            // The next owner sets the epoch marker at once: without it no connection counts as gone.
            let next = state.with_owner(o, |owner| *owner = Owner { has_seen_marker: true, ..Owner::default() });
            let faults = Faults { killed, ..state.faults };
            steps.push((Step::Kill(o), State { faults, epoch_markers: state.epoch_markers | bit(o), ..next }));
        }
    }

    /// Removes and closes connections that stay unauthenticated.
    fn pending_auth(&self, state: &State, steps: &mut Steps) {
        for c in (0..CONNECTIONS).filter(|c| state.connections[*c].is_of(UNAUTHENTICATED)) {
            if state.connections[c].edge == Edge::Closed {
                steps.push((Step::Forget(UNAUTHENTICATED, c), state.with(c, Connection::remove)));
            }
        }
    }

    fn look(&self, state: &State, o: usize, found: u8) -> State {
        let owner = state.owners[o];
        let is_believed = state.is_marked(o) && (!owner.restores || self.is(Mistake::LooksBeforeItRestores));
        let mut next = state.with_owner(o, |owner| owner.looked = None);
        for c in 0..CONNECTIONS {
            let (connection, is_found) = (state.connections[c], found & bit(c) != 0);
            let now = connection.session.filter(|session| usize::from(session.user) == o);
            if is_found {
                next.owners[o].held[c] = now.or(owner.held[c]);
            } else if is_believed {
                next.owners[o].held[c] = None;
                if owner.held[c].is_some() && connection.edge == Edge::Open && connection.session.is_none() {
                    next.wrong = Some("an owner gives up a connection that is open");
                }
            }
        }
        next
    }

    /// An owner that misses its epoch marker writes back what it holds, and sets the marker at the next check.
    fn watch(&self, state: &State, o: usize, steps: &mut Steps) {
        let owner = state.owners[o];
        if !owner.has_seen_marker {
            let marked = state.with_owner(o, |owner| owner.has_seen_marker = true);
            steps.push((Step::Watch(o), State { epoch_markers: state.epoch_markers | bit(o), ..marked }));
        } else if !state.is_marked(o) {
            let lost = |owner: &mut Owner| (owner.has_seen_marker, owner.restores) = (false, true);
            steps.push((Step::Watch(o), state.with_owner(o, lost)));
        }
    }

    /// Registers a connection that the registry does not know, within the limit, unless its end was processed; a
    /// refused one is closed.
    fn restore(&self, state: &State, o: usize, c: usize, steps: &mut Steps) {
        let (connection, owner) = (state.connections[c], state.owners[o]);
        let Some(session) = owner.held[c] else { return };
        if o == UNAUTHENTICATED && !self.is(Mistake::RestoresTheUnauthenticated) {
            steps.push((Step::Restore(o, c), state.with_owner(o, |owner| owner.held[c] = None).close(c)));
            return;
        }
        if connection.session.is_some() && !self.is(Mistake::RestoresWhatIsKnown) {
            return;
        }
        if owner.probed & bit(c) == 0 && !self.is(Mistake::RestoresWithoutProbing) {
            let next = if connection.edge == Edge::Open {
                state.with_owner(o, |owner| owner.probed |= bit(c))
            } else {
                state.with_owner(o, |owner| owner.held[c] = None)
            };
            steps.push((Step::Probe(c), next));
            return;
        }
        let has_room = self.has_room(state, o) || connection.is_of(o) || self.is(Mistake::RestoresBeyondTheLimit);
        let may = !connection.has_ended || self.is(Mistake::RestoresWhatHasEnded);
        let state = &state.with_owner(o, |owner| owner.probed &= !bit(c));
        let next = if has_room && may {
            state.with(c, |connection| connection.write(session))
        } else {
            state.with_owner(o, |owner| owner.held[c] = None).close(c)
        };
        if next != *state {
            steps.push((Step::Restore(o, c), next));
        }
    }
}

impl State {
    /// The edge closes the connection.
    fn close(&self, c: usize) -> Self {
        self.with(c, |connection| {
            if connection.edge == Edge::Open {
                (connection.edge, connection.end_is_due) = (Edge::Closed, true);
            }
        })
    }
}

impl Model for Sessions {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        let owner = Owner { has_seen_marker: true, ..Owner::default() };
        State {
            owners: [owner; OWNERS],
            epoch_markers: bit(OWNERS) - 1,
            renewals: self.renewals,
            authentications: self.authentications,
            faults: self.faults,
            ..State::default()
        }
    }

    fn steps(&self, state: &State) -> Steps {
        let mut steps = Vec::new();
        for c in 0..self.authenticated + self.unauthenticated {
            self.client(state, c, &mut steps);
            self.handshake(state, c, &mut steps);
            self.end(state, c, &mut steps);
            self.renew(state, c, &mut steps);
            self.name(state, c, &mut steps);
        }
        self.land(state, &mut steps);
        self.pending_auth(state, &mut steps);
        (0..OWNERS).filter(|o| self.serves(*o)).for_each(|o| self.owner(state, o, &mut steps));
        if self.renewals > 0 && state.ended < TOKENS {
            steps.push((Step::TokenEnds(state.ended), State { ended: state.ended + 1, ..*state }));
        }
        if let Some(flushed) = state.faults.flushed.checked_sub(1) {
            let mut next =
                State { epoch_markers: 0, was_flushed: true, faults: Faults { flushed, ..state.faults }, ..*state };
            for connection in &mut next.connections {
                connection.remove();
                (connection.has_ended, connection.promised) = (false, 0);
                // A client that left in its handshake, and is registered after the loss, stays until the next probe.
                connection.end_is_processed &= connection.is_created;
            }
            steps.push((Step::Flush, next));
        }
        steps
    }

    fn wrong(&self, state: &State) -> Option<&'static str> {
        let named = bit(USERS) - 1;
        let outlived = |one: &Connection| {
            one.session.is_some_and(|session| session.end >= state.ended && session.rooms < state.ended)
        };
        let is_short = |one: &Connection| one.session.is_some_and(|session| session.end < one.promised);
        let is_lost = |one: &Connection| one.edge == Edge::Open && one.session.is_none() && !state.was_flushed;
        let has = |is_so: &dyn Fn(&Connection) -> bool| state.connections.iter().any(is_so);
        if state.wrong.is_some() {
            state.wrong
        } else if (0..USERS).any(|user| state.count(user) > self.limit) {
            Some("a user has more sessions than the limit")
        } else if has(&|one| one.end_is_processed && (one.session.is_some() || one.listed != 0)) {
            Some("a connection is present whose end was processed")
        } else if has(&|one| one.ever & named == named || one.listed.count_ones() > 1) {
            Some("a connection belongs to two users")
        } else if has(&outlived) {
            Some("rooms outlive the token that lists them")
        } else if has(&is_short) {
            Some("a renewal was accepted and is lost")
        } else if has(&is_lost) && state.flights.iter().all(Option::is_none) {
            Some("an open connection has no session")
        } else {
            None
        }
    }

    fn is_done(&self, state: &State) -> bool {
        let is_over =
            |one: &Connection| one.edge == Edge::Closed && !one.end_is_due && one.listed == 0 && one.session.is_none();
        let used = &state.connections[..self.authenticated + self.unauthenticated];
        used.iter().all(is_over) && state.flights.iter().all(Option::is_none)
    }

    fn is_fault(&self, step: &Step) -> bool {
        matches!(step, Step::Die(_) | Step::LoseEnd(_) | Step::Kill(_) | Step::Flush)
    }
}

impl Sessions {
    /// Whether any connection may belong to that owner's user. The owner of unauthenticated connections only matters if
    /// it writes back.
    fn serves(&self, o: usize) -> bool {
        match o {
            0 => true,
            UNAUTHENTICATED => self.unauthenticated > 0 && self.is(Mistake::RestoresTheUnauthenticated),
            _ => self.unauthenticated > 0,
        }
    }
}
