//! Sessions: what the registry knows of each connection, and everybody who changes it at the same time.
//!
//! Each function is one atomic step of the registry with a condition, and [`Mistake`] says what becomes of it otherwise.
//! A connection is in its handshake, open or closed at the edge; the registry may lose everything; the owners keep what
//! they have read last and write it back. A token is a number: the greater one ends later, and lists other rooms.

use crate::search::Model;

/// Connections at most.
pub const CONNECTIONS: usize = 3;

/// The named users; each has an owner.
const USERS: usize = 2;

/// Owners: those of the named users, and the one of the unauthenticated connections.
const OWNERS: usize = USERS + 1;

/// Who is behind a connection that has not said so yet.
const UNAUTHENTICATED: usize = USERS;

/// Invocations that are between two steps.
const IN_FLIGHT: usize = 2;

/// The token with which everybody connects. There is one that ends sooner, and one that ends later.
const FIRST_TOKEN: u8 = 1;
const TOKENS: u8 = 3;

/// How often each thing goes wrong at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// The registry loses everything.
    pub flushed: u8,
    /// A function dies before it has answered a handshake.
    pub died: u8,
    /// The edge never says that a connection has ended.
    pub unheard: u8,
    /// An owner is killed; the next one knows what the registry knows.
    pub killed: u8,
}

/// What could be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A handshake counts the user's connections first, and registers its own in a later step.
    CountsThenCreates,
    /// A handshake registers a connection whose end was processed before.
    CreatesWhatHasEnded,
    /// A user who has reached the limit is refused without a look at whether its connections are open.
    RefusesWithoutProbing,
    /// A connection whose handshake is not over is taken for gone, as the edge says so.
    ProbesHandshakes,
    /// A renewal reads the session, and writes it in a later step.
    ReadsThenRenews,
    /// A renewal keeps the later end, and the rooms of the token that was brought last.
    KeepsTheLaterEnd,
    /// A connection is forgotten under its provisional user, and registered under its own in a later step.
    RemovesThenRegisters,
    /// A token in a CONNECT packet names also a connection that has a user.
    NamesWhatIsNamed,
    /// A token in a CONNECT packet names a connection of which the registry knows nothing.
    NamesWhatIsUnknown,
    /// The end of a connection is processed by reading whose it is, and removing it from there in a later step.
    ReadsThenRemoves,
    /// An owner writes back also what the registry knows already.
    RestoresWhatIsKnown,
    /// An owner writes back whatever number of connections it holds.
    RestoresBeyondTheLimit,
    /// An owner writes back a connection whose end was processed since the loss.
    RestoresWhatHasEnded,
    /// An owner writes back a connection whose end was processed before the loss, of which it had not heard.
    RestoresWithoutProbing,
    /// The owner of unauthenticated connections writes them back, too.
    RestoresTheUnauthenticated,
    /// An owner that is to write back looks first, and believes what it sees.
    LooksBeforeItRestores,
}

/// The protocol, and how much happens.
#[derive(Clone, Copy, Debug)]
pub struct Sessions {
    /// Connections of the first user, which brings its token in the handshake.
    pub named: usize,
    /// Connections that bring their token later.
    pub unnamed: usize,
    /// Sessions that a user may have.
    pub limit: usize,
    /// Tokens that are brought for a renewal.
    pub renewals: u8,
    /// CONNECT packets with a token.
    pub namings: u8,
    /// What can go wrong.
    pub faults: Faults,
    /// What the protocol gets wrong.
    pub mistake: Option<Mistake>,
}

/// What the edge knows of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Edge {
    #[default]
    Unused,
    /// The function of the handshake has not returned: whoever asks for the connection hears 410.
    Handshake,
    Open,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Session {
    user: u8,
    /// The token that says when it ends.
    end: u8,
    /// The token that lists its rooms.
    rooms: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Connection {
    edge: Edge,
    /// In the registry, under the connection.
    session: Option<Session>,
    /// In the registry: the users among whose connections it stands, in a set.
    listed: u8,
    /// In the registry, for a while: its end was processed.
    has_ended: bool,
    /// The edge will say that it has ended.
    end_is_due: bool,
    /// Its end was processed.
    end_is_processed: bool,
    /// The function of its handshake has registered it, or is through with it otherwise.
    is_created: bool,
    /// It was open at some time, so that its client may have asked for something.
    was_open: bool,
    /// All users that it ever was of, in a set.
    ever: u8,
    /// The end that the last accepted renewal has promised.
    promised: u8,
}

/// What the owner of a user keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Owner {
    /// The sessions as it has read them last.
    held: [Option<Session>; CONNECTIONS],
    /// It has seen the mark in the registry that is gone when everything is.
    has_seen_mark: bool,
    /// It has seen that everything is lost, and is to write back what it holds.
    restores: bool,
    /// Connections that it has just read, until it has looked for the mark, in a set.
    looked: Option<u8>,
    /// Connections that it is about to write back, as the edge has called them open, in a set.
    probed: u8,
}

/// A function between two steps, which only mistakes need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Flight {
    Create(u8, Session),
    Write(u8, Session),
    Remove(u8, u8),
}

/// Everything at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    connections: [Connection; CONNECTIONS],
    owners: [Owner; OWNERS],
    /// Each owner's mark in the registry, in a set.
    marks: u8,
    flights: [Option<Flight>; IN_FLIGHT],
    /// The tokens below have ended.
    ended: u8,
    renewals: u8,
    namings: u8,
    was_flushed: bool,
    wrong: Option<&'static str>,
    faults: Faults,
}

/// What can happen. The numbers are a connection's, an owner's or a user's, a token's.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each is explained where it happens")]
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

    /// Stands in the registry under that session, beside what else stands there.
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
        self.marks & bit(o) != 0
    }
}

impl Sessions {
    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn user(&self, c: usize) -> usize {
        if c < self.named { 0 } else { UNAUTHENTICATED }
    }

    fn has_room(&self, state: &State, user: usize) -> bool {
        user == UNAUTHENTICATED || state.count(user) < self.limit
    }

    /// A client begins a handshake, and leaves whenever it likes.
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

    /// Registers the connection of a handshake under the limit, unless it has ended meanwhile; and answers. A client that
    /// has left does not stop the function. A user who has reached the limit is refused when all its connections are open.
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

    /// The edge says that a connection has ended, or it does not. Noted is that also of one that the registry does not
    /// know, so that nobody registers it any more.
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

    /// A fresh token of the same user: its end and its rooms, or nothing of it.
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

    /// A token in a CONNECT packet: what is unauthenticated, and only that, gets its user.
    fn name(&self, state: &State, c: usize, steps: &mut Steps) {
        let (Some(namings), connection) = (state.namings.checked_sub(1), state.connections[c]) else { return };
        if !connection.was_open || c < self.named {
            return;
        }
        let session = connection.session;
        let is_unauthenticated = session.is_some_and(|session| usize::from(session.user) == UNAUTHENTICATED);
        let is_unknown = session.is_none() && self.is(Mistake::NamesWhatIsUnknown) && connection.edge == Edge::Open;
        let is_named = session.is_some() && self.is(Mistake::NamesWhatIsNamed);
        for user in (0..USERS).filter(|user| self.has_room(state, *user)) {
            let asked = State { namings, ..*state };
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

    /// An owner reads who is there, and then looks for the mark: without it, or when it is to write back, nobody has left
    /// who is not in the registry.
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
                // A push that gets 410.
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
            // The next one sets the mark at once: without it nobody is believed to have left.
            let next = state.with_owner(o, |owner| *owner = Owner { has_seen_mark: true, ..Owner::default() });
            let faults = Faults { killed, ..state.faults };
            steps.push((Step::Kill(o), State { faults, marks: state.marks | bit(o), ..next }));
        }
    }

    /// Whoever is unauthenticated for long is forgotten, and closed.
    fn lobby(&self, state: &State, steps: &mut Steps) {
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

    /// Whoever has seen the mark and misses it writes back what it holds; the mark is set again at the next look.
    fn watch(&self, state: &State, o: usize, steps: &mut Steps) {
        let owner = state.owners[o];
        if !owner.has_seen_mark {
            let marked = state.with_owner(o, |owner| owner.has_seen_mark = true);
            steps.push((Step::Watch(o), State { marks: state.marks | bit(o), ..marked }));
        } else if !state.is_marked(o) {
            let lost = |owner: &mut Owner| (owner.has_seen_mark, owner.restores) = (false, true);
            steps.push((Step::Watch(o), state.with_owner(o, lost)));
        }
    }

    /// Registers what the registry does not know, under the limit, and unless its end was processed; what is refused is
    /// closed.
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
        let owner = Owner { has_seen_mark: true, ..Owner::default() };
        State {
            owners: [owner; OWNERS],
            marks: bit(OWNERS) - 1,
            renewals: self.renewals,
            namings: self.namings,
            faults: self.faults,
            ..State::default()
        }
    }

    fn steps(&self, state: &State) -> Steps {
        let mut steps = Vec::new();
        for c in 0..self.named + self.unnamed {
            self.client(state, c, &mut steps);
            self.handshake(state, c, &mut steps);
            self.end(state, c, &mut steps);
            self.renew(state, c, &mut steps);
            self.name(state, c, &mut steps);
        }
        self.land(state, &mut steps);
        self.lobby(state, &mut steps);
        (0..OWNERS).filter(|o| self.serves(*o)).for_each(|o| self.owner(state, o, &mut steps));
        if self.renewals > 0 && state.ended < TOKENS {
            steps.push((Step::TokenEnds(state.ended), State { ended: state.ended + 1, ..*state }));
        }
        if let Some(flushed) = state.faults.flushed.checked_sub(1) {
            let mut next = State { marks: 0, was_flushed: true, faults: Faults { flushed, ..state.faults }, ..*state };
            for connection in &mut next.connections {
                connection.remove();
                (connection.has_ended, connection.promised) = (false, 0);
                // Whoever left in its handshake, and is registered after the loss, stands there until the next probe.
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
        let used = &state.connections[..self.named + self.unnamed];
        used.iter().all(is_over) && state.flights.iter().all(Option::is_none)
    }

    fn is_fault(&self, step: &Step) -> bool {
        matches!(step, Step::Die(_) | Step::LoseEnd(_) | Step::Kill(_) | Step::Flush)
    }
}

impl Sessions {
    /// Whether anybody may be of that owner's user. That of unauthenticated connections holds nothing that matters, as
    /// long as it writes nothing back.
    fn serves(&self, o: usize) -> bool {
        match o {
            0 => true,
            UNAUTHENTICATED => self.unnamed > 0 && self.is(Mistake::RestoresTheUnauthenticated),
            _ => self.unnamed > 0,
        }
    }
}
