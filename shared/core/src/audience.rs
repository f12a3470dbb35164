//! Who hears what is pushed to one user.

use std::{collections::HashMap, time::Duration};

use kschat_protocol::{ConnectionId, Version};
use tokio::time::Instant;

use crate::{
    Session, Timestamp,
    metrics::{self, Present},
    ports::Reachable,
};

/// For how long a connection may be unknown to the edge after we first saw it: it is registered before
/// `$connect` has returned, and until then the edge answers as if it were gone.
const GRACE: Duration = Duration::from_secs(3);

/// The connections of one user.
#[derive(Default)]
pub(crate) struct Audience(HashMap<ConnectionId, Listener>);

pub(crate) struct Listener {
    /// When we first saw the connection.
    seen: Instant,
    /// Kept, in case the registry loses it.
    session: Session,
    /// Whether it has got all that waits for an ack: who comes later must get that first.
    pub(crate) is_up_to_date: bool,
    _counted: Present,
}

impl Listener {
    /// Whether it acknowledges what it gets.
    pub(crate) fn acks(&self) -> bool {
        self.session.version == Version::V2
    }
}

impl Audience {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in what the registry says, and forgets the rest.
    pub(crate) fn replace(&mut self, reachable: Vec<Reachable>) {
        let mut known = std::mem::take(&mut self.0);
        self.0 = reachable.into_iter().map(|one| Self::listener(&mut known, one)).collect();
    }

    /// Takes in what the registry says, and keeps the rest.
    pub(crate) fn add(&mut self, reachable: Vec<Reachable>) {
        for one in reachable {
            let (connection, listener) = Self::listener(&mut self.0, one);
            self.0.insert(connection, listener);
        }
    }

    fn listener(known: &mut HashMap<ConnectionId, Listener>, one: Reachable) -> (ConnectionId, Listener) {
        let Reachable { connection, session } = one;
        let listener = match known.remove(&connection) {
            Some(listener) => Listener { session, ..listener },
            None => {
                let counted = metrics::CONNECTIONS.one_more();
                Listener { seen: Instant::now(), session, is_up_to_date: false, _counted: counted }
            }
        };
        (connection, listener)
    }

    /// Each connection with what its handshake has told us.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (&ConnectionId, &Session)> {
        self.0.iter().map(|(id, listener)| (id, &listener.session))
    }

    pub(crate) fn remove(&mut self, id: &ConnectionId) {
        self.0.remove(id);
    }

    /// Whether all of them are among these.
    pub(crate) fn is_within(&self, reachable: &[Reachable]) -> bool {
        self.0.keys().all(|id| reachable.iter().any(|one| one.connection == *id))
    }

    /// Nobody outlives a token, not even by listening: takes out those who would.
    pub(crate) fn take_expired(&mut self, now: Timestamp) -> Vec<(ConnectionId, Session)> {
        let over = self.0.extract_if(|_, listener| listener.session.reachable_until() <= now);
        over.map(|(id, listener)| (id, listener.session)).collect()
    }

    /// When the first of them ends.
    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        self.0.values().map(|listener| listener.session.reachable_until()).min()
    }

    pub(crate) fn acks(&self, id: &ConnectionId) -> bool {
        self.0.get(id).is_some_and(Listener::acks)
    }

    pub(crate) fn set_up_to_date(&mut self, id: &ConnectionId) {
        if let Some(listener) = self.0.get_mut(id) {
            listener.is_up_to_date = true;
        }
    }

    /// Those of whom that is so.
    pub(crate) fn who(&self, is_so: impl Fn(&Listener) -> bool) -> Vec<ConnectionId> {
        self.0.iter().filter(|(_, listener)| is_so(listener)).map(|(id, _)| id.clone()).collect()
    }

    pub(crate) fn is_young(&self, id: &ConnectionId) -> bool {
        self.0.get(id).is_some_and(|listener| listener.seen.elapsed() < GRACE)
    }
}
