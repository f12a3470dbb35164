//! Who hears what is pushed to one user.

use std::{borrow::Cow, collections::HashMap, time::Duration};

use kschat_protocol::{
    ConnectionId, Version,
    dialect::{Heartbeat, Readiness},
};
use tokio::time::Instant;

use crate::{
    Session, Timestamp,
    metrics::{self, Present},
    ports::Reachable,
    unacked::Viewer,
};

/// For how long a connection may be unknown to the edge after we first saw it: it is registered before
/// `$connect` has returned, and until then the edge answers as if it were gone.
pub(crate) const GRACE: Duration = Duration::from_secs(3);

/// A connection that we have taken over gets its first heartbeat within this part of the time for which it may be late:
/// the last one may have been long ago, and not all should come at once.
const CATCH_UP: u32 = 4;

/// The connections of one user.
pub(crate) struct Audience {
    listeners: HashMap<ConnectionId, Listener>,
    heartbeat: Heartbeat,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its client waits for the first word.
    New,
    /// Its client has heard the first word and has not joined yet.
    Greeted,
    /// Its client hears what is pushed.
    Hears,
    /// Its client has not joined in time.
    Overdue,
}

pub(crate) struct Listener {
    /// When we first saw the connection.
    seen: Instant,
    /// Kept, in case the registry loses it.
    session: Session,
    /// Whether it has got all that waits for an ack: who comes later must get that first.
    pub(crate) is_up_to_date: bool,
    /// Whether the dialect's first word was said.
    greeted: bool,
    /// When the next heartbeat of ours is due, in a dialect that has such.
    next_ping: Option<Instant>,
    _counted: Present,
}

impl Listener {
    /// Whether it acknowledges what it gets.
    pub(crate) fn acks(&self) -> bool {
        self.session.version == Version::V2
    }

    pub(crate) fn stage(&self, now: Timestamp) -> Stage {
        match self.readiness(now) {
            Readiness::Hears => Stage::Hears,
            Readiness::Overdue => Stage::Overdue,
            Readiness::Waits(_) if self.greeted => Stage::Greeted,
            Readiness::Waits(_) => Stage::New,
        }
    }

    fn readiness(&self, now: Timestamp) -> Readiness {
        self.session.dialect.readiness(now.since(self.session.connected))
    }

    /// How long until its stage changes by itself.
    fn changes_in(&self, now: Timestamp) -> Option<Duration> {
        match self.readiness(now) {
            Readiness::Waits(left) => Some(left),
            // It is to be ended.
            Readiness::Overdue => Some(Duration::ZERO),
            Readiness::Hears => None,
        }
    }
}

impl Audience {
    pub(crate) fn new(heartbeat: Heartbeat) -> Self {
        Self { listeners: HashMap::new(), heartbeat }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// Takes in what the registry says, and forgets the rest.
    pub(crate) fn replace(&mut self, reachable: Vec<Reachable>) {
        let mut known = std::mem::take(&mut self.listeners);
        self.listeners = reachable.into_iter().map(|one| self.listener(&mut known, one)).collect();
    }

    /// Takes in what the registry says, and keeps the rest.
    pub(crate) fn add(&mut self, reachable: Vec<Reachable>) {
        for one in reachable {
            let mut known = std::mem::take(&mut self.listeners);
            let (connection, listener) = self.listener(&mut known, one);
            self.listeners = known;
            self.listeners.insert(connection, listener);
        }
    }

    fn listener(&self, known: &mut HashMap<ConnectionId, Listener>, one: Reachable) -> (ConnectionId, Listener) {
        let Reachable { connection, session } = one;
        let listener = match known.remove(&connection) {
            Some(listener) => Listener { session, ..listener },
            None => {
                let (counted, seen) = (metrics::CONNECTIONS.one_more(), Instant::now());
                let next_ping = self.first_ping(&session, seen);
                Listener { seen, session, is_up_to_date: false, greeted: false, next_ping, _counted: counted }
            }
        };
        (connection, listener)
    }

    /// Who comes now gets it in its time; whom somebody else has served until now may have waited long.
    fn first_ping(&self, session: &Session, now: Instant) -> Option<Instant> {
        session.dialect.ping()?;
        let is_new = session.dialect.readiness(Duration::ZERO) != Readiness::Hears;
        let wait = (self.heartbeat.timeout / CATCH_UP).mul_f64(fastrand::f64());
        Some(now + if is_new { self.heartbeat.interval } else { wait })
    }

    /// Whether somebody hears what is pushed.
    pub(crate) fn hears(&self, now: Timestamp) -> bool {
        self.listeners.values().any(|listener| listener.stage(now) == Stage::Hears)
    }

    /// The packets by which the talk with a connection begins.
    pub(crate) fn greeting(&self, id: &ConnectionId) -> Vec<String> {
        let listener = self.listeners.get(id);
        listener.map(|listener| listener.session.dialect.greeting(id, self.heartbeat)).unwrap_or_default()
    }

    pub(crate) fn set_greeted(&mut self, id: &ConnectionId) {
        if let Some(listener) = self.listeners.get_mut(id) {
            listener.greeted = true;
        }
    }

    /// A frame as that connection gets it: the one place where a frame becomes what goes over the wire.
    pub(crate) fn encode<'a>(&self, id: &ConnectionId, frame: &'a str) -> Cow<'a, str> {
        self.listeners.get(id).map_or(Cow::Borrowed(frame), |listener| listener.session.dialect.encode(frame))
    }

    /// When somebody's stage changes or a heartbeat is due.
    pub(crate) fn tend_at(&self, now: Timestamp) -> Option<Instant> {
        let changes = self.listeners.values().filter_map(|listener| listener.changes_in(now));
        let change = changes.min().map(|span| Instant::now() + span);
        let pings = self.listeners.values().filter_map(|listener| listener.next_ping);
        change.into_iter().chain(pings).min()
    }

    /// Takes out the heartbeats that are due, and notes when the next ones are.
    pub(crate) fn take_pings(&mut self) -> Vec<(ConnectionId, &'static str)> {
        let (now, interval) = (Instant::now(), self.heartbeat.interval);
        let is_due = |listener: &Listener| listener.next_ping.is_some_and(|due| due <= now);
        let due = self.listeners.iter_mut().filter(|(_, listener)| is_due(listener));
        due.filter_map(|(id, listener)| {
            listener.next_ping = Some(now + interval);
            let ping = listener.session.dialect.ping()?;
            Some((id.clone(), ping))
        })
        .collect()
    }

    /// Those that need something before they get what is pushed, each with how far it is.
    pub(crate) fn in_need(&self, now: Timestamp) -> Vec<(ConnectionId, Stage)> {
        let behind = self.listeners.iter().filter(|(_, listener)| !listener.is_up_to_date);
        behind.map(|(id, listener)| (id.clone(), listener.stage(now))).collect()
    }

    /// Each connection with what its handshake has told us.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (&ConnectionId, &Session)> {
        self.listeners.iter().map(|(id, listener)| (id, &listener.session))
    }

    /// Whether that connection hears what is pushed.
    pub(crate) fn is_heard_by(&self, id: &ConnectionId, now: Timestamp) -> bool {
        self.listeners.get(id).is_some_and(|listener| listener.stage(now) == Stage::Hears)
    }

    pub(crate) fn remove(&mut self, id: &ConnectionId) {
        self.listeners.remove(id);
    }

    /// Whether all of them are among these.
    pub(crate) fn is_within(&self, reachable: &[Reachable]) -> bool {
        self.listeners.keys().all(|id| reachable.iter().any(|one| one.connection == *id))
    }

    /// Nobody outlives a token, not even by listening: takes out those who would.
    pub(crate) fn take_expired(&mut self, now: Timestamp) -> Vec<(ConnectionId, Session)> {
        let over = self.listeners.extract_if(|_, listener| listener.session.reachable_until() <= now);
        over.map(|(id, listener)| (id, listener.session)).collect()
    }

    /// When the first of them ends.
    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        self.listeners.values().map(|listener| listener.session.reachable_until()).min()
    }

    pub(crate) fn acks(&self, id: &ConnectionId) -> bool {
        self.listeners.get(id).is_some_and(Listener::acks)
    }

    /// As whom a connection looks at the messages.
    pub(crate) fn viewer<'a>(&self, id: &'a ConnectionId) -> Viewer<'a> {
        if self.acks(id) { Viewer::V2(id) } else { Viewer::Seed }
    }

    /// All connections.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &ConnectionId> {
        self.listeners.keys()
    }

    pub(crate) fn set_up_to_date(&mut self, id: &ConnectionId) {
        if let Some(listener) = self.listeners.get_mut(id) {
            listener.is_up_to_date = true;
        }
    }

    /// Those of whom that is so.
    pub(crate) fn who(&self, is_so: impl Fn(&Listener) -> bool) -> Vec<ConnectionId> {
        self.listeners.iter().filter(|(_, listener)| is_so(listener)).map(|(id, _)| id.clone()).collect()
    }

    pub(crate) fn is_young(&self, id: &ConnectionId) -> bool {
        self.listeners.get(id).is_some_and(|listener| listener.seen.elapsed() < GRACE)
    }
}
