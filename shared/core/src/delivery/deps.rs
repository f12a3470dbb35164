//! The dependencies of delivery.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use kschat_protocol::{ConnectionId, dialect::Heartbeat};
use tokio::sync::Semaphore;

use super::{
    fair_slots::FairSlots, pending_auth::PendingAuth, presence_notifier::PresenceNotifier,
    receipt_batcher::ReceiptBatcher,
};
use crate::{
    Clock, Partitions,
    ports::{BacklogStore, ConnectionRegistry, ConnectionsApi, QueueManager, RoomMemberships, SenderShares},
};

/// Users whose connections are read and whose queues are opened at the same time.
const MAX_CONCURRENT_QUEUE_OPENS: usize = 64;

/// Default heartbeats of Socket.IO clients. The managed edge closes a connection that is silent for ten minutes, so
/// heartbeats are as rare as possible while leaving time for a fail-over.
pub const DEFAULT_HEARTBEAT: Heartbeat =
    Heartbeat { interval: Duration::from_secs(8 * 60), timeout: Duration::from_secs(3 * 60) };

/// Connections whose expiry is being handled, each once.
pub(super) type ExpiringConnections = Arc<Mutex<HashSet<ConnectionId>>>;

/// The dependencies of [`serve`](super::serve).
#[derive(Clone)]
pub struct Deps {
    /// Stores the users' connections.
    pub registry: Arc<dyn ConnectionRegistry>,
    /// Opens the users' queues.
    pub queue_manager: Arc<dyn QueueManager>,
    /// Stores which offline users have a backlog.
    pub backlogs: Arc<dyn BacklogStore>,
    /// Posts frames to connections.
    pub edge: Arc<dyn ConnectionsApi>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The number of partitions.
    pub partitions: Partitions,
    /// Sends delivery receipts to authors; `None` turns receipts off.
    pub receipts: Option<Arc<ReceiptBatcher>>,
    /// Sends presence events to watchers; `None` turns presence off.
    pub presence: Option<Arc<PresenceNotifier>>,
    /// Stores who is in a room and so needs a queue while offline; `None` without rooms.
    pub rooms: Option<Arc<dyn RoomMemberships>>,
    /// Counts how much of each sender waits for a user; `None` without shares.
    pub shares: Option<Arc<dyn SenderShares>>,
    /// Bounds concurrent registry reads and queue opens: after a fail-over all users come together.
    pub(super) queue_open_slots: Arc<Semaphore>,
    /// Shares queue creation fairly among requesters.
    pub(crate) queue_creation_slots: Arc<FairSlots>,
    /// Connections whose tokens have expired, while they are warned and closed.
    pub(super) expiring_connections: ExpiringConnections,
    /// Bounds the connections that have not authenticated yet.
    pub(crate) pending_auth: Arc<PendingAuth>,
    /// The heartbeats between Socket.IO clients and the server.
    pub heartbeat: Heartbeat,
}

impl Deps {
    /// Dependencies that all users of this process share.
    #[must_use]
    pub fn new(
        registry: Arc<dyn ConnectionRegistry>,
        queue_manager: Arc<dyn QueueManager>,
        backlogs: Arc<dyn BacklogStore>,
        edge: Arc<dyn ConnectionsApi>,
        clock: Arc<dyn Clock>,
        partitions: Partitions,
    ) -> Self {
        Self {
            registry,
            queue_manager,
            backlogs,
            edge,
            clock,
            partitions,
            receipts: None,
            presence: None,
            rooms: None,
            shares: None,
            queue_open_slots: Arc::new(Semaphore::new(MAX_CONCURRENT_QUEUE_OPENS)),
            queue_creation_slots: FairSlots::new(),
            expiring_connections: ExpiringConnections::default(),
            pending_auth: Arc::default(),
            heartbeat: DEFAULT_HEARTBEAT,
        }
    }

    /// Adds delivery receipts.
    #[must_use]
    pub fn with_receipts(self, batcher: Arc<ReceiptBatcher>) -> Self {
        Self { receipts: Some(batcher), ..self }
    }

    /// Adds rooms: a user who is in a room keeps its queue.
    #[must_use]
    pub fn with_rooms(self, memberships: Arc<dyn RoomMemberships>) -> Self {
        Self { rooms: Some(memberships), ..self }
    }

    /// Adds sender shares: messages that have left a queue no longer count towards their senders' shares.
    #[must_use]
    pub fn with_shares(self, shares: Arc<dyn SenderShares>) -> Self {
        Self { shares: Some(shares), ..self }
    }

    /// Adds presence events for the watchers of a user.
    #[must_use]
    pub fn with_presence(self, notifier: Arc<PresenceNotifier>) -> Self {
        Self { presence: Some(notifier), ..self }
    }
}
