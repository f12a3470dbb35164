//! An in-memory registry.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use kschat_protocol::{ConnectionId, ProtocolVersion, RoomId, UserId};
use tokio::time::Instant;

use crate::{
    Clock, Partition, Partitions, Session, SystemClock, Timestamp,
    limits::{
        BLOCK_DURATION, CLOSE_REQUEST_INTERVAL, CONNECTION_CHECK_COOLDOWN, DAILY_SEND_RATE, ENDED_CONNECTION_RETENTION,
        MAX_KNOWN_RECIPIENTS, REFUSAL_RATE, Rate, Share,
    },
    ports::{
        Admission, BacklogStore, Charge, ChargeVerdict, ChargedSession, Claim, ClaimOutcome, ConnectionRegistry,
        CreateOutcome, IdempotencyStore, LastSeen, Presence, PresenceStore, RateClass, Receipt, ReceiptPositions,
        ReceiptStage, ReceiptStore, RegisteredConnection, RoomMemberships, SenderShares, Unavailable, UpdateOutcome,
        UserRooms,
    },
};

/// `rno`s that are stored at most; beyond that the oldest is dropped.
const MAX_STORED_CLAIMS: usize = 100_000;

/// The minimum time for which a left room is recorded.
const LEFT_ROOM_RETENTION: Duration = Duration::from_secs(60);
/// Buckets that are kept at most; beyond that the full ones are dropped.
const MAX_STORED_BUCKETS: usize = 100_000;

/// Stores connections until the process ends.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use kschat_core::{Clock, Partitions, Session, SystemClock, memory::MemoryRegistry};
/// use kschat_core::ports::{Admission, ConnectionRegistry, CreateOutcome};
/// use kschat_protocol::{ConnectionId, ProtocolVersion, UserId, dialect::Dialect};
///
/// let (registry, now) = (MemoryRegistry::new(Partitions::default()), SystemClock.now());
/// let (alice, id) = (UserId::try_from("alice")?, ConnectionId::try_from("L0SM9cOFvHcCIhw=")?);
/// let session = Session {
///     user: alice.clone(),
///     version: ProtocolVersion::V2,
///     connected: now,
///     expires: None,
///     dialect: Dialect::Raw,
///     rooms: None,
///     source: None,
/// };
/// let admission = Admission { replaced_user: None, limit: 100, rate: None, now };
/// assert_eq!(registry.create(&id, &session, &admission).await?, CreateOutcome::Done);
/// assert_eq!(registry.connections(&alice, now).await?.len(), 1);
/// # Ok(())
/// # }
/// ```
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
    epoch_markers: HashSet<Partition>,
    /// When the queue of an offline user is due for a check.
    backlogs: HashMap<UserId, Timestamp>,
    /// The positions by author and reader.
    receipts: HashMap<(UserId, UserId), ReceiptPositions>,
    /// When users were last online.
    seen: HashMap<UserId, LastSeen>,
    /// The watchers of a user, with their expiry.
    watchers: HashMap<UserId, HashMap<UserId, Timestamp>>,
    rooms: HashMap<UserId, BTreeSet<RoomId>>,
    /// When users have left rooms.
    left_rooms: HashMap<UserId, BTreeMap<RoomId, Instant>>,
    /// Connections that have ended lately, each with its user if that was known.
    ended: HashMap<ConnectionId, (Option<UserId>, Timestamp)>,
    /// Until when the connections of a user need not be checked again.
    checked: HashMap<UserId, Timestamp>,
    counts: Counts,
}

/// The counters of each user.
#[derive(Debug, Default)]
struct Counts {
    /// When each bucket is full again, in milliseconds since 1970.
    buckets: HashMap<(UserId, Bucket), f64>,
    /// Until when users are blocked, and when their owners are notified again.
    blocked: HashMap<UserId, (Timestamp, Timestamp)>,
    /// Recent recipients of each user, the newest last.
    recipients: HashMap<UserId, VecDeque<UserId>>,
    /// Each sender's share for a recipient, as counted since the last rotation and before.
    shares: HashMap<UserId, [HashMap<UserId, u64>; 2]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Bucket {
    Class(RateClass),
    Connects,
    Refusals,
    NewRecipients,
    InRooms,
    Day,
}

impl Counts {
    /// Takes from a bucket; on failure returns how long to wait.
    fn take(&mut self, user: &UserId, bucket: Bucket, rate: Rate, cost: u32, now: Timestamp) -> Result<(), Duration> {
        let now = now.millis() as f64;
        if self.buckets.len() >= MAX_STORED_BUCKETS {
            self.buckets.retain(|_, full_at| *full_at > now);
        }
        let key = (user.clone(), bucket);
        let full_at = rate.take(self.buckets.get(&key).copied(), cost, now)?;
        self.buckets.insert(key, full_at);
        Ok(())
    }

    /// How long a user is still blocked, if it is.
    fn blocked(&mut self, user: &UserId, now: Timestamp) -> Option<Duration> {
        let (until, _) = self.blocked.get(user)?;
        if *until > now {
            return Some(until.since(now));
        }
        self.blocked.remove(user);
        None
    }

    fn verdict(&mut self, user: &UserId, charge: &Charge<'_>, now: Timestamp) -> ChargeVerdict {
        if let Some(left) = self.blocked(user, now) {
            return self.still_blocked(user, left, now);
        }
        match self.charge(user, charge, now) {
            Ok(()) => ChargeVerdict::Granted,
            // Messages of others cause acks, so too many acks block nobody.
            Err(ChargeVerdict::Limited(retry)) if charge.class != RateClass::Acks => self.refuse(user, retry, now),
            Err(other) => other,
        }
    }

    fn still_blocked(&mut self, user: &UserId, left: Duration, now: Timestamp) -> ChargeVerdict {
        let should_disconnect = match self.blocked.get_mut(user) {
            Some((_, again)) if *again <= now => {
                *again = now.plus(CLOSE_REQUEST_INTERVAL);
                true
            }
            _ => false,
        };
        ChargeVerdict::Blocked { left, should_disconnect }
    }

    /// Blocks a user who continues too long in spite of refusals.
    fn refuse(&mut self, user: &UserId, retry: Duration, now: Timestamp) -> ChargeVerdict {
        if self.take(user, Bucket::Refusals, REFUSAL_RATE, 1, now).is_ok() {
            return ChargeVerdict::Limited(retry);
        }
        self.blocked.insert(user.clone(), (now.plus(BLOCK_DURATION), now));
        self.still_blocked(user, BLOCK_DURATION, now)
    }

    fn charge(&mut self, user: &UserId, charge: &Charge<'_>, now: Timestamp) -> Result<(), ChargeVerdict> {
        if let Some(rate) = charge.rate {
            self.take(user, Bucket::Class(charge.class), rate, charge.cost, now).map_err(ChargeVerdict::Limited)?;
        }
        if charge.rate.is_some() && charge.class == RateClass::Sends {
            self.take(user, Bucket::Day, DAILY_SEND_RATE, 1, now).map_err(ChargeVerdict::Limited)?;
        }
        let Some(message) = &charge.message else { return Ok(()) };
        match message.to {
            Some(to) if to == user => Ok(()),
            Some(to) => {
                self.count_recipient(user, to, message.new_recipients, now)?;
                message.share.map_or(Ok(()), |share| self.count_share(user, to, share, message.bytes))
            }
            None => match message.share {
                Some(share) => {
                    let (rate, cost) = share.in_rooms(message.bytes);
                    self.take(user, Bucket::InRooms, rate, cost, now).map_err(ChargeVerdict::Limited)
                }
                None => Ok(()),
            },
        }
    }

    /// Records a user's recipient, unless the rate of new recipients is exceeded.
    fn count_recipient(
        &mut self,
        user: &UserId,
        to: &UserId,
        rate: Option<Rate>,
        now: Timestamp,
    ) -> Result<(), ChargeVerdict> {
        let Some(rate) = rate else { return Ok(()) };
        if self.recipients.get(user).is_some_and(|known| known.contains(to)) {
            return Ok(());
        }
        self.take(user, Bucket::NewRecipients, rate, 1, now).map_err(ChargeVerdict::Limited)?;
        let known = self.recipients.entry(user.clone()).or_default();
        known.push_back(to.clone());
        if known.len() > MAX_KNOWN_RECIPIENTS {
            known.pop_front();
        }
        Ok(())
    }

    fn count_share(&mut self, user: &UserId, to: &UserId, share: Share, bytes: usize) -> Result<(), ChargeVerdict> {
        let [recent, before] = self.shares.entry(to.clone()).or_default();
        let waits = recent.get(user).copied().unwrap_or_default() + before.get(user).copied().unwrap_or_default();
        let weight = share.weight(bytes);
        if waits + weight > share.bytes {
            return Err(ChargeVerdict::ShareFull);
        }
        *recent.entry(user.clone()).or_default() += weight;
        Ok(())
    }
}

impl MemoryRegistry {
    /// An empty registry over that many partitions.
    #[must_use]
    pub fn new(partitions: Partitions) -> Self {
        Self { partitions, state: Mutex::default() }
    }

    /// Drops all data, as a registry without a disk does at a restart.
    pub fn flush_all(&self) {
        *self.state() = State::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_ended(&self, connection: &ConnectionId, now: Timestamp) -> bool {
        self.ended.get(connection).is_some_and(|(_, until)| *until > now)
    }

    fn take(&mut self, key: (UserId, String), claim: Claim) {
        self.claimed.push_back(key.clone());
        self.claims.insert(key, (claim, false));
        if self.claimed.len() > MAX_STORED_CLAIMS
            && let Some(oldest) = self.claimed.pop_front()
        {
            self.claims.remove(&oldest);
        }
    }
}

#[async_trait]
impl ConnectionRegistry for MemoryRegistry {
    async fn create(
        &self,
        connection: &ConnectionId,
        session: &Session,
        admission: &Admission,
    ) -> Result<CreateOutcome, Unavailable> {
        let Admission { replaced_user, limit, rate, now } = admission;
        let mut state = self.state();
        if state.has_ended(connection, *now) {
            return Ok(CreateOutcome::Gone);
        }
        match state.sessions.get(connection) {
            Some(known) if known.user == session.user => return Ok(CreateOutcome::Done),
            Some(known) if Some(&known.user) != replaced_user.as_ref() => return Ok(CreateOutcome::Taken),
            None if replaced_user.is_some() => return Ok(CreateOutcome::Gone),
            _ => {}
        }
        if let Some(left) = state.counts.blocked(&session.user, *now) {
            return Ok(CreateOutcome::Limited(left));
        }
        if let Some(rate) = rate
            && let Err(retry) = state.counts.take(&session.user, Bucket::Connects, *rate, 1, *now)
        {
            return Ok(CreateOutcome::Limited(retry));
        }
        let open = |known: &&Session| known.user == session.user && known.retained_until() > *now;
        if state.sessions.values().filter(open).count() >= *limit {
            let checked = state.checked.get(&session.user).is_some_and(|until| *until > *now);
            if !checked {
                state.checked.insert(session.user.clone(), now.plus(CONNECTION_CHECK_COOLDOWN));
            }
            return Ok(CreateOutcome::LimitReached { check: !checked });
        }
        state.sessions.insert(connection.clone(), session.clone());
        Ok(CreateOutcome::Done)
    }

    async fn update(
        &self,
        connection: &ConnectionId,
        old: &Session,
        new: &Session,
    ) -> Result<UpdateOutcome, Unavailable> {
        Ok(match self.state().sessions.get_mut(connection) {
            Some(known) if known == old || known == new => {
                known.clone_from(new);
                UpdateOutcome::Done
            }
            Some(known) => UpdateOutcome::Changed(known.clone()),
            None => UpdateOutcome::Gone,
        })
    }

    async fn restore(
        &self,
        connection: &ConnectionId,
        session: &Session,
        limit: usize,
    ) -> Result<CreateOutcome, Unavailable> {
        let mut state = self.state();
        if state.ended.contains_key(connection) {
            return Ok(CreateOutcome::Gone);
        }
        if !state.sessions.contains_key(connection) {
            if state.sessions.values().filter(|known| known.user == session.user).count() >= limit {
                return Ok(CreateOutcome::LimitReached { check: false });
            }
            state.sessions.insert(connection.clone(), session.clone());
        }
        Ok(CreateOutcome::Done)
    }

    async fn charge_session(
        &self,
        connection: &ConnectionId,
        charge: &Charge<'_>,
        now: Timestamp,
    ) -> Result<Option<ChargedSession>, Unavailable> {
        let mut state = self.state();
        let Some(session) = state.sessions.get(connection).cloned() else { return Ok(None) };
        let is_other = |(id, other): (&ConnectionId, &Session)| {
            let is_reachable = other.version == ProtocolVersion::V2 && other.reachable_until() > now;
            id != connection && other.user == session.user && is_reachable
        };
        let has_others = state.sessions.iter().any(is_other);
        // Of a frame that is not allowed only the frame itself is counted.
        let message = charge.message.clone().filter(|_| !session.is_expired(now));
        let charge = Charge { message, ..charge.clone() };
        let verdict = state.counts.verdict(&session.user, &charge, now);
        let is_send = charge.class == RateClass::Sends && charge.message.is_some_and(|message| message.to.is_some());
        let has_other_devices =
            is_send && has_others && session.version == ProtocolVersion::V2 && verdict == ChargeVerdict::Granted;
        Ok(Some(ChargedSession { session, has_other_devices, verdict }))
    }

    async fn end_connection(&self, connection: &ConnectionId) -> Result<Option<UserId>, Unavailable> {
        let mut state = self.state();
        let now = SystemClock.now();
        state.ended.retain(|_, (_, until)| *until > now);
        let known = state.sessions.remove(connection).map(|session| session.user);
        let (user, _) = state.ended.entry(connection.clone()).or_insert((known, now.plus(ENDED_CONNECTION_RETENTION)));
        Ok(user.clone())
    }

    async fn session(&self, connection: &ConnectionId) -> Result<Option<Session>, Unavailable> {
        Ok(self.state().sessions.get(connection).cloned())
    }

    async fn remove(&self, user: &UserId, connection: &ConnectionId) -> Result<(), Unavailable> {
        let mut state = self.state();
        if state.sessions.get(connection).is_some_and(|session| session.user == *user) {
            state.sessions.remove(connection);
        }
        Ok(())
    }

    async fn connections(&self, user: &UserId, now: Timestamp) -> Result<Vec<RegisteredConnection>, Unavailable> {
        let state = self.state();
        let theirs = state.sessions.iter().filter(|(_, session)| session.user == *user);
        let reachable = theirs.filter(|(_, session)| session.reachable_until() > now);
        Ok(reachable
            .map(|(id, session)| RegisteredConnection { connection: id.clone(), session: session.clone() })
            .collect())
    }

    async fn online_users(&self, partition: Partition, now: Timestamp) -> Result<Vec<UserId>, Unavailable> {
        let state = self.state();
        let reachable =
            |session: &&Session| self.partitions.of(&session.user) == partition && session.reachable_until() > now;
        let mut users: Vec<UserId> = state.sessions.values().filter(reachable).map(|s| s.user.clone()).collect();
        users.sort_unstable();
        users.dedup();
        Ok(users)
    }

    async fn set_epoch_marker(&self, partition: Partition) -> Result<bool, Unavailable> {
        Ok(!self.state().epoch_markers.insert(partition))
    }

    async fn has_epoch_marker(&self, partition: Partition) -> Result<bool, Unavailable> {
        Ok(self.state().epoch_markers.contains(&partition))
    }
}

#[async_trait]
impl IdempotencyStore for MemoryRegistry {
    async fn claim(&self, user: &UserId, rno: &str, claim: &Claim) -> Result<ClaimOutcome, Unavailable> {
        let key = (user.clone(), rno.to_owned());
        let mut state = self.state();
        let earlier = state.claims.get(&key).cloned();
        Ok(match earlier {
            Some((claim, true)) => ClaimOutcome::Done(claim),
            Some((claim, false)) => ClaimOutcome::Pending(claim),
            None => {
                state.take(key, claim.clone());
                ClaimOutcome::New
            }
        })
    }

    async fn mark_published(&self, user: &UserId, rno: &str, claim: &Claim) -> Result<(), Unavailable> {
        // A claim that was dropped meanwhile stays so.
        if let Some(entry) = self.state().claims.get_mut(&(user.clone(), rno.to_owned())) {
            *entry = (claim.clone(), true);
        }
        Ok(())
    }
}

#[async_trait]
impl ReceiptStore for MemoryRegistry {
    async fn record_receipts(&self, receipts: &[Receipt]) -> Result<(), Unavailable> {
        let mut state = self.state();
        for Receipt { author, reader, stage, message } in receipts {
            let marks = state.receipts.entry((author.clone(), reader.clone())).or_default();
            let mark = match stage {
                ReceiptStage::Delivered => &mut marks.delivered,
                ReceiptStage::Read => &mut marks.read,
            };
            if mark.as_ref().is_none_or(|mark| mark < message) {
                *mark = Some(message.clone());
            }
        }
        Ok(())
    }

    async fn receipt_positions(
        &self,
        author: &UserId,
        readers: &[UserId],
    ) -> Result<Vec<ReceiptPositions>, Unavailable> {
        let state = self.state();
        let receipt_positions = |reader: &UserId| state.receipts.get(&(author.clone(), reader.clone())).cloned();
        Ok(readers.iter().map(|reader| receipt_positions(reader).unwrap_or_default()).collect())
    }
}

#[async_trait]
impl PresenceStore for MemoryRegistry {
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
            known.push(Presence { is_reachable, seen: state.seen.get(user).copied().unwrap_or(LastSeen::Never) });
        }
        Ok(known)
    }

    async fn mark_online(&self, user: &UserId) -> Result<LastSeen, Unavailable> {
        Ok(self.state().seen.insert(user.clone(), LastSeen::Online).unwrap_or(LastSeen::Never))
    }

    async fn mark_offline(&self, user: &UserId, now: Timestamp) -> Result<(), Unavailable> {
        self.state().seen.insert(user.clone(), LastSeen::OfflineSince(now));
        Ok(())
    }

    async fn watchers(&self, user: &UserId, now: Timestamp) -> Result<Vec<UserId>, Unavailable> {
        let state = self.state();
        let watchers = state.watchers.get(user).into_iter().flatten();
        Ok(watchers.filter(|(_, end)| **end > now).map(|(watcher, _)| watcher.clone()).collect())
    }
}

#[async_trait]
impl RoomMemberships for MemoryRegistry {
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

    async fn rooms_and_left(&self, user: &UserId) -> Result<UserRooms, Unavailable> {
        let state = self.state();
        let rooms = state.rooms.get(user).into_iter().flatten().cloned().collect();
        let left = state.left_rooms.get(user).into_iter().flat_map(BTreeMap::keys).cloned().collect();
        Ok(UserRooms { rooms, left })
    }

    async fn clear_left_rooms(&self, user: &UserId) -> Result<(), Unavailable> {
        if let Some(left) = self.state().left_rooms.get_mut(user) {
            left.retain(|_, since| since.elapsed() < LEFT_ROOM_RETENTION);
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
impl SenderShares for MemoryRegistry {
    async fn clear_shares(&self, user: &UserId) -> Result<(), Unavailable> {
        self.state().counts.shares.remove(user);
        Ok(())
    }

    async fn release_share(&self, user: &UserId, sender: &UserId, weight: u64) -> Result<(), Unavailable> {
        if let Some([recent, _]) = self.state().counts.shares.get_mut(user)
            && let Some(waits) = recent.get_mut(sender)
        {
            *waits = waits.saturating_sub(weight);
        }
        Ok(())
    }

    async fn rotate_shares(&self, user: &UserId) -> Result<(), Unavailable> {
        let mut state = self.state();
        if let Some([recent, before]) = state.counts.shares.get_mut(user) {
            *before = std::mem::take(recent);
        }
        Ok(())
    }
}

#[async_trait]
impl BacklogStore for MemoryRegistry {
    async fn schedule_check(&self, user: &UserId, check_at: Timestamp) -> Result<(), Unavailable> {
        self.state().backlogs.insert(user.clone(), check_at);
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
