//! Signals from the owner of a partition to one user's delivery, and how delivery ends.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::inbox::Inbox;

/// The signals to one [`serve`](super::serve).
#[derive(Clone, Debug, Default)]
pub struct DeliverySignals {
    /// The owner's messages about the user.
    pub inbox: Arc<Inbox>,
    /// The registry has lost its data: restore what is known here.
    pub restore: Arc<Notify>,
    /// Finish the posts in flight, requeue the rest, and end.
    pub stop: CancellationToken,
}

/// Why [`serve`](super::serve) ended. In every case the queue holds what was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryEnd {
    /// The user has no connection.
    Offline,
    /// Delivery was stopped.
    Stopped,
    /// The unacknowledged messages no longer belong to this process.
    Lost,
    /// A dependency has failed for too long: try again later.
    Failed,
    /// The task panicked: try again later, as other users may be served.
    Panicked,
}
