//! The connections of one user and their state.

mod fan_out;

pub(crate) use fan_out::MAX_CONCURRENT_POSTS_PER_USER;

use std::{collections::HashMap, time::Duration};

use kschat_protocol::{
    ConnectionId, ProtocolVersion, ServerFrame,
    dialect::{Heartbeat, Readiness},
};
use tokio::time::Instant;

use crate::{
    Session, Timestamp,
    delivery::in_flight::FrameViewer,
    metrics::{self, GaugeGuard},
    ports::RegisteredConnection,
};

/// How long the edge may not know a connection after we first saw it. A connection is registered before `$connect` has
/// returned, and until then the edge answers as if it were gone.
pub(crate) const NEW_CONNECTION_GRACE_PERIOD: Duration = Duration::from_secs(3);

/// A connection that was taken over gets its first heartbeat within this fraction of the allowed delay. The last
/// heartbeat may have been long ago, and not all should be sent at once.
const TAKEOVER_HEARTBEAT_DIVISOR: u32 = 4;

/// The longest sleep until a token expires: the clock may be set.
const MAX_TOKEN_EXPIRY_SLEEP: Duration = Duration::from_secs(60 * 60);

/// The connections of one user: who is connected, how far each has come, and how it receives frames.
///
/// Holds: a connection is behind from when it is first seen until it has received the unacknowledged messages, and gets
/// no other messages before them; a frame is encoded for each connection when it is posted.
pub(crate) struct Connections {
    states: HashMap<ConnectionId, ConnectionState>,
    heartbeat: Heartbeat,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionStage {
    /// The client waits for the handshake packets.
    New,
    /// The client has the handshake packets and has not joined yet.
    HandshakeSent,
    /// The client receives what is pushed.
    Ready,
    /// The client has not joined in time.
    Overdue,
}

struct ConnectionState {
    /// When this process first saw the connection.
    first_seen: Instant,
    /// A copy, in case the registry loses it.
    session: Session,
    /// Whether it must first receive the unacknowledged messages, as a new connection.
    is_behind: bool,
    /// Whether the handshake packets were sent.
    handshake_sent: bool,
    /// When the server sends the next heartbeat, in a dialect that has server heartbeats.
    next_ping: Option<Instant>,
    _counted: GaugeGuard,
}

impl ConnectionState {
    /// Whether the client acknowledges messages.
    fn acks(&self) -> bool {
        self.session.version == ProtocolVersion::V2
    }

    fn stage(&self, now: Timestamp) -> ConnectionStage {
        match self.readiness(now) {
            Readiness::Ready => ConnectionStage::Ready,
            Readiness::Overdue => ConnectionStage::Overdue,
            Readiness::Waiting(_) if self.handshake_sent => ConnectionStage::HandshakeSent,
            Readiness::Waiting(_) => ConnectionStage::New,
        }
    }

    fn readiness(&self, now: Timestamp) -> Readiness {
        self.session.dialect.readiness(now.since(self.session.connected))
    }

    /// How long until the stage changes by itself.
    fn stage_changes_in(&self, now: Timestamp) -> Option<Duration> {
        match self.readiness(now) {
            Readiness::Waiting(left) => Some(left),
            // The connection is to be closed.
            Readiness::Overdue => Some(Duration::ZERO),
            Readiness::Ready => None,
        }
    }
}

impl Connections {
    pub(crate) fn new(heartbeat: Heartbeat) -> Self {
        Self { states: HashMap::new(), heartbeat }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Takes over the registry's list, and drops all other connections.
    pub(crate) fn replace(&mut self, reachable: Vec<RegisteredConnection>) {
        let mut known = std::mem::take(&mut self.states);
        self.states = reachable.into_iter().map(|one| self.state_for(&mut known, one)).collect();
    }

    /// Adds the registry's connections, and keeps the others.
    pub(crate) fn add(&mut self, reachable: Vec<RegisteredConnection>) {
        for one in reachable {
            let mut known = std::mem::take(&mut self.states);
            let (connection, state) = self.state_for(&mut known, one);
            self.states = known;
            self.states.insert(connection, state);
        }
    }

    fn state_for(
        &self,
        known: &mut HashMap<ConnectionId, ConnectionState>,
        one: RegisteredConnection,
    ) -> (ConnectionId, ConnectionState) {
        let RegisteredConnection { connection, session } = one;
        let state = match known.remove(&connection) {
            Some(state) => ConnectionState { session, ..state },
            None => {
                let (counted, seen) = (metrics::CONNECTIONS.increment_guard(), Instant::now());
                let next_ping = self.first_ping_at(&session, seen);
                ConnectionState {
                    first_seen: seen,
                    session,
                    is_behind: true,
                    handshake_sent: false,
                    next_ping,
                    _counted: counted,
                }
            }
        };
        (connection, state)
    }

    /// A new connection gets its first heartbeat after the full interval. One that another process served until now may
    /// have waited long already.
    fn first_ping_at(&self, session: &Session, now: Instant) -> Option<Instant> {
        session.dialect.ping()?;
        let is_new = session.dialect.readiness(Duration::ZERO) != Readiness::Ready;
        let wait = (self.heartbeat.timeout / TAKEOVER_HEARTBEAT_DIVISOR).mul_f64(fastrand::f64());
        Some(now + if is_new { self.heartbeat.interval } else { wait })
    }

    /// Whether any connection is ready for messages.
    pub(crate) fn has_ready(&self, now: Timestamp) -> bool {
        self.states.values().any(|state| state.stage(now) == ConnectionStage::Ready)
    }

    /// The packets that open a conversation with a connection.
    fn handshake_packets(&self, id: &ConnectionId) -> Vec<String> {
        let state = self.states.get(id);
        state.map(|state| state.session.dialect.handshake_packets(id, self.heartbeat)).unwrap_or_default()
    }

    fn set_handshake_sent(&mut self, id: &ConnectionId) {
        if let Some(state) = self.states.get_mut(id) {
            state.handshake_sent = true;
        }
    }

    /// Encodes a frame in the dialect of a connection.
    fn encode(&self, id: &ConnectionId, frame: &ServerFrame) -> String {
        self.states.get(id).map_or_else(|| frame.to_text(), |state| state.session.dialect.encode(frame))
    }

    /// When the next stage changes or a heartbeat is due.
    pub(crate) fn maintenance_due_at(&self, now: Timestamp) -> Option<Instant> {
        let changes = self.states.values().filter_map(|state| state.stage_changes_in(now));
        let change = changes.min().map(|span| Instant::now() + span);
        let pings = self.states.values().filter_map(|state| state.next_ping);
        change.into_iter().chain(pings).min()
    }

    /// Returns the heartbeats that are due, and schedules the next ones.
    fn take_due_pings(&mut self) -> Vec<(ConnectionId, &'static str)> {
        let (now, interval) = (Instant::now(), self.heartbeat.interval);
        let is_due = |state: &ConnectionState| state.next_ping.is_some_and(|due| due <= now);
        let due = self.states.iter_mut().filter(|(_, state)| is_due(state));
        due.filter_map(|(id, state)| {
            state.next_ping = Some(now + interval);
            let ping = state.session.dialect.ping()?;
            Some((id.clone(), ping))
        })
        .collect()
    }

    /// Connections that need something before they receive messages, each with its stage.
    pub(crate) fn needing_catch_up(&self, now: Timestamp) -> Vec<(ConnectionId, ConnectionStage)> {
        let behind = self.states.iter().filter(|(_, state)| state.is_behind);
        behind.map(|(id, state)| (id.clone(), state.stage(now))).collect()
    }

    /// Each connection with its session.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (&ConnectionId, &Session)> {
        self.states.iter().map(|(id, state)| (id, &state.session))
    }

    /// Whether that connection is ready for messages.
    pub(crate) fn is_ready(&self, id: &ConnectionId, now: Timestamp) -> bool {
        self.states.get(id).is_some_and(|state| state.stage(now) == ConnectionStage::Ready)
    }

    pub(crate) fn remove(&mut self, id: &ConnectionId) {
        self.states.remove(id);
    }

    /// Whether all connections are among these.
    pub(crate) fn is_subset_of(&self, reachable: &[RegisteredConnection]) -> bool {
        self.states.keys().all(|id| reachable.iter().any(|one| one.connection == *id))
    }

    /// Removes and returns the connections whose tokens have expired: they may not receive anything either.
    pub(crate) fn take_expired(&mut self, now: Timestamp) -> Vec<(ConnectionId, Session)> {
        let over = self.states.extract_if(|_, state| state.session.reachable_until() <= now);
        over.map(|(id, state)| (id, state.session)).collect()
    }

    /// When the first session expires, or a little earlier.
    pub(crate) fn expiry_due_at(&self, now: Timestamp) -> Instant {
        let first = self.states.values().map(|state| state.session.reachable_until()).min();
        let left = first.map_or(MAX_TOKEN_EXPIRY_SLEEP, |end| end.since(now));
        Instant::now() + left.min(MAX_TOKEN_EXPIRY_SLEEP)
    }

    pub(crate) fn acks(&self, id: &ConnectionId) -> bool {
        self.states.get(id).is_some_and(ConnectionState::acks)
    }

    /// How a connection views the messages.
    pub(crate) fn viewer<'a>(&self, id: &'a ConnectionId) -> FrameViewer<'a> {
        if self.acks(id) { FrameViewer::V2(id) } else { FrameViewer::V1 }
    }

    /// All connections.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &ConnectionId> {
        self.states.keys()
    }

    pub(crate) fn set_caught_up(&mut self, id: &ConnectionId) {
        if let Some(state) = self.states.get_mut(id) {
            state.is_behind = false;
        }
    }

    /// The connections that receive what is pushed.
    pub(crate) fn caught_up(&self) -> Vec<ConnectionId> {
        self.ids_where(|state| !state.is_behind)
    }

    /// Those of them whose clients acknowledge.
    pub(crate) fn caught_up_acking(&self) -> Vec<ConnectionId> {
        self.ids_where(|state| !state.is_behind && state.acks())
    }

    /// The connections whose clients have not joined in time.
    pub(crate) fn overdue(&self, now: Timestamp) -> Vec<ConnectionId> {
        self.ids_where(|state| state.stage(now) == ConnectionStage::Overdue)
    }

    fn ids_where(&self, is_so: impl Fn(&ConnectionState) -> bool) -> Vec<ConnectionId> {
        self.states.iter().filter(|(_, state)| is_so(state)).map(|(id, _)| id.clone()).collect()
    }

    /// Whether the edge may not know that connection yet.
    fn is_new_connection(&self, id: &ConnectionId) -> bool {
        self.states.get(id).is_some_and(|state| state.first_seen.elapsed() < NEW_CONNECTION_GRACE_PERIOD)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{HashMap, VecDeque},
        sync::Mutex,
    };

    use async_trait::async_trait;
    use kschat_protocol::{
        EphemeralEvent, JsonId,
        dialect::{Dialect, Namespace, Revision, SocketIo},
    };
    use tokio::time::advance;

    use super::*;
    use crate::{
        contract::{session, unique_connection, unique_user},
        delivery::{deps::DEFAULT_HEARTBEAT, post_outcome::PostVerdict},
        ports::{ConnectionsApi, PostError, Unavailable},
    };

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    fn minute() -> Duration {
        Duration::from_secs(60)
    }

    /// An edge that knows these connections, each with what it has taken.
    #[derive(Default)]
    struct Edge(Mutex<HashMap<ConnectionId, Vec<String>>>);

    impl Edge {
        fn knowing(ids: &[&ConnectionId]) -> Self {
            Self(Mutex::new(ids.iter().map(|id| ((*id).clone(), Vec::new())).collect()))
        }

        fn taken(&self, id: &ConnectionId) -> Vec<String> {
            self.0.lock().unwrap()[id].clone()
        }
    }

    #[async_trait]
    impl ConnectionsApi for Edge {
        async fn post(&self, connection: &ConnectionId, frame: &str) -> Result<(), PostError> {
            let mut known = self.0.lock().unwrap();
            known.get_mut(connection).ok_or(PostError::Gone)?.push(frame.to_owned());
            Ok(())
        }

        async fn close_connection(&self, _: &ConnectionId) -> Result<(), Unavailable> {
            Ok(())
        }

        async fn is_open(&self, connection: &ConnectionId) -> Result<bool, Unavailable> {
            Ok(self.0.lock().unwrap().contains_key(connection))
        }
    }

    /// A connection of a new user, made at `NOW` with a token for a minute.
    fn registered(version: ProtocolVersion, dialect: Dialect) -> RegisteredConnection {
        let session = Session { version, dialect, ..session(&unique_user(), NOW, minute()) };
        RegisteredConnection { connection: unique_connection(), session }
    }

    fn socket_io(namespace: Option<Namespace>) -> Dialect {
        Dialect::SocketIo(SocketIo { revision: Revision::Four, namespace })
    }

    #[tokio::test(start_paused = true)]
    async fn new_connection_is_behind_and_keeps_its_state() {
        let one = registered(ProtocolVersion::V2, Dialect::Raw);
        let waiting = registered(ProtocolVersion::V1, socket_io(None));
        let mut connections = Connections::new(DEFAULT_HEARTBEAT);
        connections.replace(vec![one.clone()]);
        assert_eq!(connections.needing_catch_up(NOW), [(one.connection.clone(), ConnectionStage::Ready)]);
        assert!(connections.caught_up().is_empty());
        connections.set_caught_up(&one.connection);
        connections.add(vec![waiting.clone()]);
        connections.replace(vec![one.clone(), waiting.clone()]);
        assert_eq!(connections.caught_up_acking(), std::slice::from_ref(&one.connection));
        assert_eq!(connections.needing_catch_up(NOW), [(waiting.connection.clone(), ConnectionStage::New)]);
        assert!(!connections.is_ready(&waiting.connection, NOW) && connections.has_ready(NOW));
        assert_eq!(connections.overdue(NOW.plus(minute())), std::slice::from_ref(&waiting.connection));
        assert!(!connections.is_subset_of(std::slice::from_ref(&one)));
        connections.replace(vec![waiting.clone()]);
        assert!(!connections.has_ready(NOW) && connections.caught_up().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn expired_session_is_taken_once() {
        let one = registered(ProtocolVersion::V2, Dialect::Raw);
        let mut connections = Connections::new(DEFAULT_HEARTBEAT);
        assert_eq!(connections.expiry_due_at(NOW), Instant::now() + MAX_TOKEN_EXPIRY_SLEEP);
        connections.replace(vec![one.clone()]);
        assert_eq!(connections.expiry_due_at(NOW), Instant::now() + minute());
        assert!(connections.take_expired(NOW).is_empty());
        assert_eq!(connections.take_expired(NOW.plus(minute())), [(one.connection, one.session)]);
        assert!(connections.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn fan_out_encodes_for_each_dialect() {
        let raw = registered(ProtocolVersion::V2, Dialect::Raw);
        let joined = registered(ProtocolVersion::V2, socket_io(Some(Namespace::main())));
        let mut connections = Connections::new(DEFAULT_HEARTBEAT);
        connections.replace(vec![raw.clone(), joined.clone()]);
        let edge = Edge::knowing(&[&raw.connection, &joined.connection]);
        let text = r#"{"event":"RESPRECEIVER"}"#;
        let frame = ServerFrame::from_text(text).unwrap();
        let frames = [&raw, &joined].map(|one| (one.connection.clone(), &frame));
        let verdicts = connections.post(&edge, frames.to_vec()).await;
        assert!(verdicts.iter().all(|(_, verdict)| *verdict == PostVerdict::Accepted) && verdicts.len() == 2);
        assert_eq!(edge.taken(&raw.connection), [text]);
        assert_eq!(edge.taken(&joined.connection), [joined.session.dialect.encode(&frame)]);
        assert_ne!(edge.taken(&joined.connection), [text]);
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_connection_is_gone_after_grace_period() {
        let frame = ServerFrame::from_text(r#"{"event":"RESPX"}"#).unwrap();
        let one = registered(ProtocolVersion::V2, Dialect::Raw);
        let id = &one.connection;
        let mut connections = Connections::new(DEFAULT_HEARTBEAT);
        connections.replace(vec![one.clone()]);
        let edge = Edge::default();
        let event = EphemeralEvent::Typing { from: JsonId::Text("bob".to_owned()), on: true };
        let events = || VecDeque::from([event.clone()]);
        assert_eq!(connections.post_one(&edge, id, &frame).await, PostVerdict::NotYetKnown);
        assert!(connections.find_gone(&edge).await.is_empty());
        assert!(connections.post_events(&edge, events(), NOW).await.is_empty());
        advance(NEW_CONNECTION_GRACE_PERIOD).await;
        assert_eq!(connections.post_one(&edge, id, &frame).await, PostVerdict::Gone);
        assert_eq!(connections.find_gone(&edge).await, std::slice::from_ref(id));
        assert!(connections.post_events(&edge, events(), NOW).await.contains(id));
        assert!(!connections.is_empty(), "the caller decides whether it is dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn handshake_counts_once_all_packets_are_taken() {
        let one = registered(ProtocolVersion::V2, socket_io(None));
        let id = &one.connection;
        let mut connections = Connections::new(DEFAULT_HEARTBEAT);
        connections.replace(vec![one.clone()]);
        assert_eq!(connections.send_handshake(&Edge::default(), id).await, PostVerdict::NotYetKnown);
        assert_eq!(connections.needing_catch_up(NOW)[0].1, ConnectionStage::New);
        let edge = Edge::knowing(&[id]);
        assert_eq!(connections.send_handshake(&edge, id).await, PostVerdict::Accepted);
        assert_eq!(edge.taken(id), one.session.dialect.handshake_packets(id, DEFAULT_HEARTBEAT));
        assert_eq!(connections.needing_catch_up(NOW)[0].1, ConnectionStage::HandshakeSent);
        assert!(connections.send_due_pings(&edge).await.is_empty());
        advance(DEFAULT_HEARTBEAT.interval).await;
        assert_eq!(connections.send_due_pings(&edge).await, [(id.clone(), PostVerdict::Accepted)]);
        assert!(connections.send_due_pings(&edge).await.is_empty(), "the next one is scheduled");
    }
}
