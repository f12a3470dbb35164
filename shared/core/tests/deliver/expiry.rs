//! What a client hears when its token ends, and how it goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kschat_core::{
    Partition, Session, Timestamp,
    contract::session,
    deliver::End,
    memory::MemoryRegistry,
    ports::{Admission, Charge, ConnectionRegistry, Created, Entered, Reachable, Unavailable, Updated},
};
use kschat_protocol::{ConnectionId, UserId};

use crate::scene::{HOUR, NOW, Scene};

const ENDED: &str = r#"{"event":"RESPCTRL","RC":1,"ER":4,"OP":"reconnect","AFTER":0,"WHY":"the token has expired"}"#;

#[tokio::test(start_paused = true)]
async fn who_has_no_good_token_any_more_is_told_and_cut_off_after_a_while() {
    let scene = Scene::new().await;
    let (seed, device) = (scene.device(vec![]).await, scene.acking(vec![]).await);
    let courier = scene.serve();
    tokio::time::sleep(HOUR / 2).await;
    scene.clock.set(NOW.plus(HOUR));
    // Nothing happens meanwhile: it must wake by itself.
    tokio::time::sleep(HOUR / 2 + Duration::from_secs(1)).await;
    assert_eq!((scene.frames(&device), scene.frames(&seed)), (vec![ENDED.to_owned()], vec![]));
    let closed = || scene.edge.closed.lock().expect("no test panics here").clone();
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(closed().is_empty(), "there is time for a fresh token");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut closed = closed();
    closed.sort();
    let mut both = [seed, device];
    both.sort();
    assert_eq!(closed, both);
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_token_in_time_lets_a_connection_go_on() {
    let scene = Scene::new().await;
    let (early, late) = (scene.acking(vec![]).await, scene.acking(vec![]).await);
    let old = session(&scene.user, NOW, HOUR);
    let renewed = Session { expires: Some(NOW.plus(HOUR + HOUR / 2)), ..old.clone() };
    scene.registry.update(&early, &old, &renewed).await.expect("memory");
    scene.signals.refresh.notify_one();
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.clock.set(NOW.plus(HOUR));
    tokio::time::sleep(HOUR).await;
    assert_eq!((scene.frames(&early), scene.frames(&late)), (vec![], vec![ENDED.to_owned()]));
    scene.registry.update(&late, &old, &renewed).await.expect("memory");
    scene.signals.refresh.notify_one();
    scene.quiet().await;
    assert!(scene.edge.closed.lock().expect("no test panics here").is_empty());
    scene.queue(&["still here"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.heard(&early).concat(), ["still here"]);
    assert_eq!(scene.heard(&late).concat(), ["still here"]);
    scene.stop(courier).await;
}

/// A registry that is out of reach at times.
struct Flaky {
    inner: Arc<MemoryRegistry>,
    is_away: AtomicBool,
}

impl Flaky {
    fn reach(&self) -> Result<&MemoryRegistry, Unavailable> {
        let is_away = self.is_away.load(Ordering::Relaxed);
        if is_away { Err(Unavailable::new("redis", "answer", "it is away")) } else { Ok(&self.inner) }
    }
}

#[async_trait]
impl ConnectionRegistry for Flaky {
    async fn create(
        &self,
        connection: &ConnectionId,
        session: &Session,
        admission: &Admission,
    ) -> Result<Created, Unavailable> {
        self.reach()?.create(connection, session, admission).await
    }

    async fn update(&self, connection: &ConnectionId, old: &Session, new: &Session) -> Result<Updated, Unavailable> {
        self.reach()?.update(connection, old, new).await
    }

    async fn restore(
        &self,
        connection: &ConnectionId,
        session: &Session,
        limit: usize,
    ) -> Result<Created, Unavailable> {
        self.reach()?.restore(connection, session, limit).await
    }

    async fn enter(
        &self,
        connection: &ConnectionId,
        charge: &Charge<'_>,
        now: Timestamp,
    ) -> Result<Option<Entered>, Unavailable> {
        self.reach()?.enter(connection, charge, now).await
    }

    async fn end(&self, connection: &ConnectionId) -> Result<Option<UserId>, Unavailable> {
        self.reach()?.end(connection).await
    }

    async fn session(&self, connection: &ConnectionId) -> Result<Option<Session>, Unavailable> {
        self.reach()?.session(connection).await
    }

    async fn remove(&self, user: &UserId, connection: &ConnectionId) -> Result<(), Unavailable> {
        self.reach()?.remove(user, connection).await
    }

    async fn connections(&self, user: &UserId, now: Timestamp) -> Result<Vec<Reachable>, Unavailable> {
        self.reach()?.connections(user, now).await
    }

    async fn online(&self, partition: Partition, now: Timestamp) -> Result<Vec<UserId>, Unavailable> {
        self.reach()?.online(partition, now).await
    }

    async fn mark(&self, partition: Partition) -> Result<bool, Unavailable> {
        self.reach()?.mark(partition).await
    }

    async fn is_marked(&self, partition: Partition) -> Result<bool, Unavailable> {
        self.reach()?.is_marked(partition).await
    }
}

#[tokio::test(start_paused = true)]
async fn expired_connection_is_told_and_closed_once_registry_is_back() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    let registry = Arc::new(Flaky { inner: scene.registry.clone(), is_away: AtomicBool::new(false) });
    let away = registry.clone();
    let courier = scene.serve_with(|mut deps| {
        deps.registry = away;
        deps
    });
    tokio::time::sleep(HOUR / 2).await;
    registry.is_away.store(true, Ordering::Relaxed);
    scene.clock.set(NOW.plus(HOUR));
    tokio::time::sleep(HOUR / 2 + Duration::from_secs(5 * 60)).await;
    assert!(scene.frames(&device).is_empty(), "as long as nobody can tell, nobody is cut off");
    registry.is_away.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(scene.frames(&device), [ENDED]);
    // It goes away again before the connection is closed.
    registry.is_away.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(5 * 60)).await;
    registry.is_away.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((scene.frames(&device).len(), scene.edge.closed.lock().expect("no test panics here").len()), (1, 1));
    assert_eq!(courier.await.expect("it does not panic"), End::Stuck, "nobody knows who is there");
}
