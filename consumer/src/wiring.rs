//! The dependencies of delivery, assembled in one place.

use std::sync::Arc;

use kschat_core::{
    Clock, Partitions,
    delivery::{self, presence_notifier::PresenceNotifier, receipt_batcher::ReceiptBatcher},
    ports::{ConnectionsApi, OwnerChannel, QueueManager, Registry},
};

/// The services behind deliveries, and their settings.
pub struct Services {
    /// Sessions, backlogs, shares, receipts, presence and rooms.
    pub registry: Arc<dyn Registry>,
    /// Opens the queues of users.
    pub queues: Arc<dyn QueueManager>,
    /// Sends events to the owners of other users.
    pub owners: Arc<dyn OwnerChannel>,
    /// Posts frames to connections.
    pub edge: Arc<dyn ConnectionsApi>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The number of partitions.
    pub partitions: Partitions,
    /// Whether authors are told what was delivered.
    pub sends_receipts: bool,
}

impl Services {
    /// The dependencies of [`run`](crate::run).
    #[must_use]
    pub fn delivery(self) -> delivery::Deps {
        let Self { registry, queues, owners, edge, clock, partitions, sends_receipts } = self;
        let notifier = PresenceNotifier::new(registry.clone(), registry.clone(), owners.clone(), clock.clone());
        let deps = delivery::Deps::new(registry.clone(), queues, registry.clone(), edge, clock, partitions)
            .with_presence(Arc::new(notifier))
            .with_rooms(registry.clone())
            .with_shares(registry.clone());
        if sends_receipts { deps.with_receipts(Arc::new(ReceiptBatcher::new(registry, owners))) } else { deps }
    }
}
