//! Connections and `rno`s in a map.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use kschat_protocol::{ConnectionId, RoomId, UserId};
use tokio::time::Instant;

use crate::{
    Partition, Partitions, Session, Timestamp,
    ports::{
        Backlogs, Claim, Claimed, ConnectionRegistry, IdempotencyStore, Marks, Memberships, Presence, Presences,
        RateLimits, Reachable, Receipt, Receipts, RoomsOfUser, Seen, Stage, Unavailable,
    },
};

/// How many `rno`s are remembered; then the oldest is forgotten.
const CLAIMS: usize = 100_000;

/// How long it is remembered at least that a user has left a room.
const LEFT: Duration = Duration::from_secs(60);

/// Remembers connections until the process ends.
#[derive(Debug, Default)]
pub struct MemoryRegistry {
    partitions: Partitions,
    // A std mutex: no guard is held across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<ConnectionId, Session>,
    claims: HashMap<(UserId, String), (Claim, bool)>,
    /// The keys of `claims`, the oldest first.
    claimed: VecDeque<(UserId, String)>,
    marks: HashSet<Partition>,
    /// When the queue of a user who is away must be looked at.
    backlogs: HashMap<UserId, Timestamp>,
    /// What each author's readers have done with it.
    receipts: HashMap<(UserId, UserId), Marks>,
    /// When users were there last.
    seen: HashMap<UserId, Seen>,
    /// Who watches a user, and until when.
    watchers: HashMap<UserId, HashMap<UserId, Timestamp>>,
    rooms: HashMap<UserId, BTreeSet<RoomId>>,
    /// When users have left rooms.
    left_rooms: HashMap<UserId, BTreeMap<RoomId, Instant>>,
    /// The window of each connection: when it began, and how many requests it holds.
    requests: HashMap<ConnectionId, (Instant, u64)>,
}

impl MemoryRegistry {
    /// An empty registry over that many partitions.
    #[must_use]
    pub fn new(partitions: Partitions) -> Self {
        Self { partitions, state: Mutex::default() }
    }

    /// Loses everything, as a registry without a disk does when it starts again.
    pub fn lose_everything(&self) {
        *self.state() = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, key: (UserId, String), claim: Claim) {
        self.claimed.push_back(key.clone());
        self.claims.insert(key, (claim, false));
        if self.claimed.len() > CLAIMS
            && let Some(oldest) = self.claimed.pop_front()
        {
            self.claims.remove(&oldest);
        }
    }
}

#[async_trait]
impl ConnectionRegistry for MemoryRegistry {
    async fn register(&self, connection: &ConnectionId, session: &Session) -> Result<(), Unavailable> {
        self.state().sessions.insert(connection.clone(), session.clone());
        Ok(())
    }

    async fn session(&self, connection: &ConnectionId) -> Result<Option<Session>, Unavailable> {
        Ok(self.state().sessions.get(connection).cloned())
    }

    async fn remove(&self, _user: &UserId, connection: &ConnectionId) -> Result<(), Unavailable> {
        let mut state = self.state();
        state.sessions.remove(connection);
        state.requests.remove(connection);
        Ok(())
    }

    async fn connections(&self, user: &UserId, now: Timestamp) -> Result<Vec<Reachable>, Unavailable> {
        let state = self.state();
        let theirs = state.sessions.iter().filter(|(_, session)| session.user == *user);
        let reachable = theirs.filter(|(_, session)| session.reachable_until() > now);
        Ok(reachable.map(|(id, session)| Reachable { connection: id.clone(), session: session.clone() }).collect())
    }

    async fn online(&self, partition: Partition, now: Timestamp) -> Result<Vec<UserId>, Unavailable> {
        let state = self.state();
        let reachable =
            |session: &&Session| self.partitions.of(&session.user) == partition && session.reachable_until() > now;
        let mut users: Vec<UserId> = state.sessions.values().filter(reachable).map(|s| s.user.clone()).collect();
        users.sort_unstable();
        users.dedup();
        Ok(users)
    }

    async fn mark(&self, partition: Partition) -> Result<bool, Unavailable> {
        Ok(!self.state().marks.insert(partition))
    }

    async fn is_marked(&self, partition: Partition) -> Result<bool, Unavailable> {
        Ok(self.state().marks.contains(&partition))
    }
}

#[async_trait]
impl IdempotencyStore for MemoryRegistry {
    async fn claim(&self, user: &UserId, rno: &str, claim: &Claim) -> Result<Claimed, Unavailable> {
        let key = (user.clone(), rno.to_owned());
        let mut state = self.state();
        let earlier = state.claims.get(&key).cloned();
        Ok(match earlier {
            Some((claim, true)) => Claimed::Done(claim),
            Some((claim, false)) => Claimed::Pending(claim),
            None => {
                state.take(key, claim.clone());
                Claimed::First
            }
        })
    }

    async fn settle(&self, user: &UserId, rno: &str, claim: &Claim) -> Result<(), Unavailable> {
        // One that was forgotten meanwhile stays so.
        if let Some(entry) = self.state().claims.get_mut(&(user.clone(), rno.to_owned())) {
            *entry = (claim.clone(), true);
        }
        Ok(())
    }
}

#[async_trait]
impl Receipts for MemoryRegistry {
    async fn note_receipts(&self, receipts: &[Receipt]) -> Result<(), Unavailable> {
        let mut state = self.state();
        for Receipt { author, reader, stage, message } in receipts {
            let marks = state.receipts.entry((author.clone(), reader.clone())).or_default();
            let mark = match stage {
                Stage::Delivered => &mut marks.delivered,
                Stage::Read => &mut marks.read,
            };
            if mark.as_ref().is_none_or(|mark| mark < message) {
                *mark = Some(message.clone());
            }
        }
        Ok(())
    }

    async fn marks(&self, author: &UserId, readers: &[UserId]) -> Result<Vec<Marks>, Unavailable> {
        let state = self.state();
        let marks = |reader: &UserId| state.receipts.get(&(author.clone(), reader.clone())).cloned();
        Ok(readers.iter().map(|reader| marks(reader).unwrap_or_default()).collect())
    }
}

#[async_trait]
impl Presences for MemoryRegistry {
    async fn watch(
        &self,
        watcher: &UserId,
        users: &[UserId],
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Presence>, Unavailable> {
        let mut state = self.state();
        let mut known = Vec::new();
        for user in users {
            let watchers = state.watchers.entry(user.clone()).or_default();
            watchers.retain(|_, end| *end > now);
            watchers.insert(watcher.clone(), until);
            let mut sessions = state.sessions.values();
            let is_reachable = sessions.any(|session| session.user == *user && session.reachable_until() > now);
            known.push(Presence { is_reachable, seen: state.seen.get(user).copied().unwrap_or(Seen::Never) });
        }
        Ok(known)
    }

    async fn came(&self, user: &UserId) -> Result<Seen, Unavailable> {
        Ok(self.state().seen.insert(user.clone(), Seen::Here).unwrap_or(Seen::Never))
    }

    async fn left(&self, user: &UserId, now: Timestamp) -> Result<(), Unavailable> {
        self.state().seen.insert(user.clone(), Seen::Left(now));
        Ok(())
    }

    async fn watchers(&self, user: &UserId, now: Timestamp) -> Result<Vec<UserId>, Unavailable> {
        let state = self.state();
        let watchers = state.watchers.get(user).into_iter().flatten();
        Ok(watchers.filter(|(_, end)| **end > now).map(|(watcher, _)| watcher.clone()).collect())
    }
}

#[async_trait]
impl Memberships for MemoryRegistry {
    async fn join(&self, user: &UserId, room: &RoomId, limit: usize) -> Result<bool, Unavailable> {
        let mut state = self.state();
        let rooms = state.rooms.entry(user.clone()).or_default();
        let fits = rooms.contains(room) || rooms.len() < limit;
        if fits {
            rooms.insert(room.clone());
            state.left_rooms.entry(user.clone()).or_default().remove(room);
        }
        Ok(fits)
    }

    async fn leave(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
        let mut state = self.state();
        if let Some(rooms) = state.rooms.get_mut(user) {
            rooms.remove(room);
        }
        state.left_rooms.entry(user.clone()).or_default().insert(room.clone(), Instant::now());
        Ok(())
    }

    async fn rooms_and_left(&self, user: &UserId) -> Result<RoomsOfUser, Unavailable> {
        let state = self.state();
        let rooms = state.rooms.get(user).into_iter().flatten().cloned().collect();
        let left = state.left_rooms.get(user).into_iter().flat_map(BTreeMap::keys).cloned().collect();
        Ok(RoomsOfUser { rooms, left })
    }

    async fn forget_left(&self, user: &UserId) -> Result<(), Unavailable> {
        if let Some(left) = self.state().left_rooms.get_mut(user) {
            left.retain(|_, since| since.elapsed() < LEFT);
        }
        Ok(())
    }

    async fn rooms(&self, user: &UserId) -> Result<Vec<RoomId>, Unavailable> {
        Ok(self.state().rooms.get(user).into_iter().flatten().cloned().collect())
    }

    async fn is_member(&self, user: &UserId, room: &RoomId) -> Result<bool, Unavailable> {
        Ok(self.state().rooms.get(user).is_some_and(|rooms| rooms.contains(room)))
    }
}

#[async_trait]
impl RateLimits for MemoryRegistry {
    async fn count_request(
        &self,
        connection: &ConnectionId,
        weight: u32,
        window: Duration,
    ) -> Result<u64, Unavailable> {
        let mut state = self.state();
        // Whoever is not connected leaves nothing behind.
        if !state.sessions.contains_key(connection) {
            return Ok(weight.into());
        }
        let (began, count) = state.requests.entry(connection.clone()).or_insert((Instant::now(), 0));
        if began.elapsed() >= window {
            (*began, *count) = (Instant::now(), 0);
        }
        *count += u64::from(weight);
        Ok(*count)
    }
}

#[async_trait]
impl Backlogs for MemoryRegistry {
    async fn note(&self, user: &UserId, look_at: Timestamp) -> Result<(), Unavailable> {
        self.state().backlogs.insert(user.clone(), look_at);
        Ok(())
    }

    async fn clear(&self, user: &UserId) -> Result<(), Unavailable> {
        self.state().backlogs.remove(user);
        Ok(())
    }

    async fn due(&self, partition: Partition, now: Timestamp, limit: usize) -> Result<Vec<UserId>, Unavailable> {
        let state = self.state();
        let mut due: Vec<_> =
            state.backlogs.iter().filter(|(user, at)| **at <= now && self.partitions.of(user) == partition).collect();
        due.sort_by_key(|(_, at)| **at);
        Ok(due.into_iter().take(limit).map(|(user, _)| user.clone()).collect())
    }

    async fn count(&self, partition: Partition) -> Result<u64, Unavailable> {
        let state = self.state();
        Ok(state.backlogs.keys().filter(|user| self.partitions.of(user) == partition).count() as u64)
    }
}
