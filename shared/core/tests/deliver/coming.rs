//! Who is told that a user has come or gone.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use kschat_core::{
    Clock,
    contract::somebody,
    deliver::{Deps, End},
    ports::{Notices, Presences, Unavailable},
    presence::Crier,
};
use kschat_protocol::{ConnectionId, Notice, UserId};

use crate::scene::{HOUR, NOW, Scene};

/// Remembers whom it was to tell.
#[derive(Default)]
struct Told(Mutex<Vec<(UserId, bool)>>);

#[async_trait]
impl Notices for Told {
    async fn notify(&self, user: &UserId, notice: &Notice) -> Result<(), Unavailable> {
        let Notice::Presence(told) = notice else { panic!("{notice:?}") };
        self.0.lock().expect("no test panics here").push((user.clone(), told.on));
        Ok(())
    }
}

/// A user whom somebody watches.
struct Watched {
    scene: Scene,
    told: Arc<Told>,
    watcher: UserId,
}

impl Watched {
    async fn new() -> Self {
        let (scene, watcher) = (Scene::new().await, somebody());
        let users = [scene.user.clone()];
        scene.registry.watch(&watcher, &users, NOW, NOW.plus(HOUR)).await.expect("memory");
        Self { scene, told: Arc::default(), watcher }
    }

    fn serve(&self) -> tokio::task::JoinHandle<End> {
        let (registry, clock) = (self.scene.registry.clone(), self.scene.clock.clone());
        let crier = Arc::new(Crier::new(registry.clone(), registry, self.told.clone(), clock));
        self.scene.serve_with(|deps: Deps| deps.with_presence(crier))
    }

    /// Lets time pass, on the clock, too.
    async fn pass(&self, span: Duration) {
        // Whoever was told something a moment ago sees the time of that moment.
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.scene.clock.set(self.scene.clock.now().plus(span));
        tokio::time::sleep(span).await;
    }

    async fn leave(&self, device: &ConnectionId) {
        self.scene.leave(device).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// What the watcher was told since the last look.
    fn news(&self) -> Vec<bool> {
        let told = std::mem::take(&mut *self.told.0.lock().expect("no test panics here"));
        assert!(told.iter().all(|(to, _)| *to == self.watcher));
        told.into_iter().map(|(_, on)| on).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_away_for_a_moment_is_no_news_and_who_stays_away_is() {
    let watched = Watched::new().await;
    let device = watched.scene.acking(vec![]).await;
    let courier = watched.serve();
    watched.pass(Duration::from_secs(1)).await;
    assert_eq!(watched.news(), [true]);
    watched.leave(&device).await;
    watched.pass(Duration::from_secs(3)).await;
    let device = watched.scene.acking(vec![]).await;
    watched.scene.signals.refresh.notify_one();
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
    let courier = watched.serve();
    watched.pass(Duration::from_secs(30)).await;
    assert!(watched.news().is_empty());
    watched.leave(&device).await;
    watched.pass(Duration::from_secs(4)).await;
    assert!(watched.news().is_empty());
    watched.pass(Duration::from_secs(20)).await;
    assert_eq!(watched.news(), [false]);
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
    watched.scene.acking(vec![]).await;
    let courier = watched.serve();
    watched.pass(Duration::from_secs(1)).await;
    assert_eq!(watched.news(), [true]);
    watched.scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_served_by_another_owner_is_no_news() {
    let watched = Watched::new().await;
    watched.scene.acking(vec![]).await;
    let mut watched = watched;
    for news in [vec![true], vec![]] {
        let courier = watched.serve();
        watched.pass(Duration::from_secs(1)).await;
        assert_eq!(watched.news(), news);
        assert_eq!(watched.scene.stop(courier).await, End::Stopped);
        watched.scene.signals = kschat_core::deliver::Signals::default();
        watched.pass(Duration::from_secs(20)).await;
        assert!(watched.news().is_empty());
    }
}
