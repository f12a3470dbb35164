//! Notifications of watchers when a user comes online or goes offline.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use kschat_core::{
    Clock,
    contract::unique_user,
    delivery::presence_notifier::PresenceNotifier,
    delivery::{DeliveryEnd, Deps},
    ports::{OwnerChannel, OwnerMessage, PresenceStore, Unavailable},
};
use kschat_protocol::{ConnectionId, EphemeralEvent, UserId};

use crate::fixture::{Fixture, HOUR, NOW};

/// Records the notified watchers.
#[derive(Default)]
struct RecordingEvents(Mutex<Vec<(UserId, bool)>>);

#[async_trait]
impl OwnerChannel for RecordingEvents {
    async fn send(&self, user: &UserId, message: OwnerMessage) -> Result<(), Unavailable> {
        let OwnerMessage::Event(EphemeralEvent::Presence(event)) = message else { panic!("{message:?}") };
        self.0.lock().expect("no test panics here").push((user.clone(), event.on));
        Ok(())
    }
}

/// A user with a watcher.
struct WatchedUser {
    fixture: Fixture,
    events: Arc<RecordingEvents>,
    watcher: UserId,
}

impl WatchedUser {
    async fn new() -> Self {
        let (fixture, watcher) = (Fixture::new().await, unique_user());
        let users = [fixture.user.clone()];
        fixture.registry.watch(&watcher, &users, NOW, NOW.plus(HOUR)).await.expect("memory");
        Self { fixture, events: Arc::default(), watcher }
    }

    fn serve(&self) -> tokio::task::JoinHandle<DeliveryEnd> {
        let (registry, clock) = (self.fixture.registry.clone(), self.fixture.clock.clone());
        let notifier = Arc::new(PresenceNotifier::new(registry.clone(), registry, self.events.clone(), clock));
        self.fixture.serve_with(|deps: Deps| deps.with_presence(notifier))
    }

    /// Advances the time, on the clock, too.
    async fn pass(&self, span: Duration) {
        // A task that was notified just now must see this time.
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.fixture.clock.set(self.fixture.clock.now().plus(span));
        tokio::time::sleep(span).await;
    }

    async fn leave(&self, device: &ConnectionId) {
        self.fixture.leave(device).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// The notifications since the last call.
    fn news(&self) -> Vec<bool> {
        let events = std::mem::take(&mut *self.events.0.lock().expect("no test panics here"));
        assert!(events.iter().all(|(to, _)| *to == self.watcher));
        events.into_iter().map(|(_, on)| on).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn brief_absence_is_not_announced() {
    let watched = WatchedUser::new().await;
    let device = watched.fixture.acking_device(vec![]).await;
    let delivery = watched.serve();
    watched.pass(Duration::from_secs(1)).await;
    assert_eq!(watched.news(), [true]);
    watched.leave(&device).await;
    watched.pass(Duration::from_secs(3)).await;
    let device = watched.fixture.acking_device(vec![]).await;
    watched.fixture.signals.inbox.put(OwnerMessage::Refresh);
    assert_eq!(delivery.await.expect("the task does not panic"), DeliveryEnd::Offline);
    let delivery = watched.serve();
    watched.pass(Duration::from_secs(30)).await;
    assert!(watched.news().is_empty());
    watched.leave(&device).await;
    watched.pass(Duration::from_secs(4)).await;
    assert!(watched.news().is_empty());
    watched.pass(Duration::from_secs(20)).await;
    assert_eq!(watched.news(), [false]);
    assert_eq!(delivery.await.expect("the task does not panic"), DeliveryEnd::Offline);
    watched.fixture.acking_device(vec![]).await;
    let delivery = watched.serve();
    watched.pass(Duration::from_secs(1)).await;
    assert_eq!(watched.news(), [true]);
    watched.fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn ownership_change_is_not_announced() {
    let watched = WatchedUser::new().await;
    watched.fixture.acking_device(vec![]).await;
    let mut watched = watched;
    for news in [vec![true], vec![]] {
        let delivery = watched.serve();
        watched.pass(Duration::from_secs(1)).await;
        assert_eq!(watched.news(), news);
        assert_eq!(watched.fixture.stop(delivery).await, DeliveryEnd::Stopped);
        watched.fixture.signals = kschat_core::delivery::DeliverySignals::default();
        watched.pass(Duration::from_secs(20)).await;
        assert!(watched.news().is_empty());
    }
}
