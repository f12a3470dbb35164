//! Sends presence events to the watchers of a user.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use kschat_protocol::{EphemeralEvent, JsonId, PeerPresence, UserId};
use tokio::time::sleep;

use crate::{
    Clock, job,
    limits::OFFLINE_GRACE_PERIOD,
    ports::{ConnectionRegistry, LastSeen, OwnerChannel, OwnerMessage, PresenceStore},
};

/// Presence events that are sent at the same time.
const MAX_CONCURRENT_PRESENCE_EVENTS: usize = 16;

/// Notifies watchers when a user comes online or goes offline.
///
/// Events may be lost, or sent twice during a hand-over: a client that shows presence polls it now and then.
pub struct PresenceNotifier {
    registry: Arc<dyn ConnectionRegistry>,
    presences: Arc<dyn PresenceStore>,
    owners: Arc<dyn OwnerChannel>,
    clock: Arc<dyn Clock>,
}

impl PresenceNotifier {
    /// A notifier with these dependencies.
    #[must_use]
    pub fn new(
        registry: Arc<dyn ConnectionRegistry>,
        presences: Arc<dyn PresenceStore>,
        owners: Arc<dyn OwnerChannel>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { registry, presences, owners, clock }
    }

    /// Reports that a user is now served. Watchers are notified, unless another owner served the user before, or the
    /// user was offline for a moment only.
    pub(crate) async fn user_came_online(self: &Arc<Self>, user: &UserId) {
        let before = match self.presences.mark_online(user).await {
            Ok(before) => before,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "announcing an online user failed");
                return;
            }
        };
        let is_news = match before {
            LastSeen::Online => false,
            LastSeen::Never => true,
            LastSeen::OfflineSince(then) => self.clock.now().since(then) >= OFFLINE_GRACE_PERIOD,
        };
        if is_news {
            let (notifier, user) = (Arc::clone(self), user.clone());
            job::spawn("presence", async move { notifier.notify_watchers(&user, true, None).await });
        }
    }

    /// Reports that a user has no connection any more. Watchers are notified if that lasts.
    pub(crate) async fn user_went_offline(self: &Arc<Self>, user: &UserId) {
        let now = self.clock.now();
        if let Err(error) = self.presences.mark_offline(user, now).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "recording when a user went offline failed");
        }
        let (notifier, user) = (Arc::clone(self), user.clone());
        job::spawn("presence", async move {
            sleep(OFFLINE_GRACE_PERIOD).await;
            let connections = notifier.registry.connections(&user, notifier.clock.now()).await;
            if connections.is_ok_and(|connections| connections.is_empty()) {
                notifier.notify_watchers(&user, false, Some(now.millis())).await;
            }
        });
    }

    async fn notify_watchers(&self, user: &UserId, on: bool, last: Option<u64>) {
        let watchers = self.presences.watchers(user, self.clock.now()).await.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "reading a user's watchers failed");
            Vec::new()
        });
        let event = EphemeralEvent::Presence(PeerPresence { user: JsonId::from(user), on, last });
        let tell = async |watcher: UserId| {
            if let Err(error) = self.owners.send(&watcher, OwnerMessage::Event(event.clone())).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "notifying a watcher failed");
            }
        };
        stream::iter(watchers).for_each_concurrent(MAX_CONCURRENT_PRESENCE_EVENTS, tell).await;
    }
}
