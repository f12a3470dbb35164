//! Token expiry: the warning, renewal and the end of the connection.

use kschat_core::ports::OwnerMessage;
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
    delivery::DeliveryEnd,
    memory::MemoryRegistry,
    ports::{
        Admission, Charge, ChargedSession, ConnectionRegistry, CreateOutcome, RegisteredConnection, Unavailable,
        UpdateOutcome,
    },
};
use kschat_protocol::{ConnectionId, UserId};

use crate::fixture::{Fixture, HOUR, NOW};

const TOKEN_EXPIRED_FRAME: &str =
    r#"{"event":"RESPCTRL","RC":1,"ER":4,"OP":"reconnect","AFTER":0,"WHY":"the token has expired"}"#;

#[tokio::test(start_paused = true)]
async fn expired_connection_is_notified_then_closed() {
    let fixture = Fixture::new().await;
    let (v1, device) = (fixture.device(vec![]).await, fixture.acking_device(vec![]).await);
    let delivery = fixture.serve();
    tokio::time::sleep(HOUR / 2).await;
    fixture.clock.set(NOW.plus(HOUR));
    // Nothing happens meanwhile: the task must wake up by itself.
    tokio::time::sleep(HOUR / 2 + Duration::from_secs(1)).await;
    assert_eq!((fixture.frames(&device), fixture.frames(&v1)), (vec![TOKEN_EXPIRED_FRAME.to_owned()], vec![]));
    let closed = || fixture.edge.closed.lock().expect("no test panics here").clone();
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(closed().is_empty(), "there is time for a fresh token");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut closed = closed();
    closed.sort();
    let mut both = [v1, device];
    both.sort();
    assert_eq!(closed, both);
    assert_eq!(delivery.await.expect("the task does not panic"), DeliveryEnd::Offline);
}

#[tokio::test(start_paused = true)]
async fn renewal_within_grace_keeps_connection() {
    let fixture = Fixture::new().await;
    let (early, late) = (fixture.acking_device(vec![]).await, fixture.acking_device(vec![]).await);
    let old = session(&fixture.user, NOW, HOUR);
    let renewed = Session { expires: Some(NOW.plus(HOUR + HOUR / 2)), ..old.clone() };
    fixture.registry.update(&early, &old, &renewed).await.expect("memory");
    fixture.signals.inbox.put(OwnerMessage::Refresh);
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    fixture.clock.set(NOW.plus(HOUR));
    tokio::time::sleep(HOUR).await;
    assert_eq!((fixture.frames(&early), fixture.frames(&late)), (vec![], vec![TOKEN_EXPIRED_FRAME.to_owned()]));
    fixture.registry.update(&late, &old, &renewed).await.expect("memory");
    fixture.signals.inbox.put(OwnerMessage::Refresh);
    fixture.wait_a_minute().await;
    assert!(fixture.edge.closed.lock().expect("no test panics here").is_empty());
    fixture.queue(&["still here"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.received_texts(&early).concat(), ["still here"]);
    assert_eq!(fixture.received_texts(&late).concat(), ["still here"]);
    fixture.stop(delivery).await;
}

/// A registry that is unavailable at times.
struct FlakyRegistry {
    inner: Arc<MemoryRegistry>,
    is_away: AtomicBool,
}

impl FlakyRegistry {
    fn reach(&self) -> Result<&MemoryRegistry, Unavailable> {
        let is_away = self.is_away.load(Ordering::Relaxed);
        if is_away { Err(Unavailable::new("redis", "answer", "it is away")) } else { Ok(&self.inner) }
    }
}

#[async_trait]
impl ConnectionRegistry for FlakyRegistry {
    async fn create(
        &self,
        connection: &ConnectionId,
        session: &Session,
        admission: &Admission,
    ) -> Result<CreateOutcome, Unavailable> {
        self.reach()?.create(connection, session, admission).await
    }

    async fn update(
        &self,
        connection: &ConnectionId,
        old: &Session,
        new: &Session,
    ) -> Result<UpdateOutcome, Unavailable> {
        self.reach()?.update(connection, old, new).await
    }

    async fn restore(
        &self,
        connection: &ConnectionId,
        session: &Session,
        limit: usize,
    ) -> Result<CreateOutcome, Unavailable> {
        self.reach()?.restore(connection, session, limit).await
    }

    async fn charge_session(
        &self,
        connection: &ConnectionId,
        charge: &Charge<'_>,
        now: Timestamp,
    ) -> Result<Option<ChargedSession>, Unavailable> {
        self.reach()?.charge_session(connection, charge, now).await
    }

    async fn end_connection(&self, connection: &ConnectionId) -> Result<Option<UserId>, Unavailable> {
        self.reach()?.end_connection(connection).await
    }

    async fn session(&self, connection: &ConnectionId) -> Result<Option<Session>, Unavailable> {
        self.reach()?.session(connection).await
    }

    async fn remove(&self, user: &UserId, connection: &ConnectionId) -> Result<(), Unavailable> {
        self.reach()?.remove(user, connection).await
    }

    async fn connections(&self, user: &UserId, now: Timestamp) -> Result<Vec<RegisteredConnection>, Unavailable> {
        self.reach()?.connections(user, now).await
    }

    async fn online_users(&self, partition: Partition, now: Timestamp) -> Result<Vec<UserId>, Unavailable> {
        self.reach()?.online_users(partition, now).await
    }

    async fn set_epoch_marker(&self, partition: Partition) -> Result<bool, Unavailable> {
        self.reach()?.set_epoch_marker(partition).await
    }

    async fn has_epoch_marker(&self, partition: Partition) -> Result<bool, Unavailable> {
        self.reach()?.has_epoch_marker(partition).await
    }
}

#[tokio::test(start_paused = true)]
async fn expired_connection_closes_after_registry_recovers() {
    let fixture = Fixture::new().await;
    let device = fixture.acking_device(vec![]).await;
    let registry = Arc::new(FlakyRegistry { inner: fixture.registry.clone(), is_away: AtomicBool::new(false) });
    let away = registry.clone();
    let delivery = fixture.serve_with(|mut deps| {
        deps.registry = away;
        deps
    });
    tokio::time::sleep(HOUR / 2).await;
    registry.is_away.store(true, Ordering::Relaxed);
    fixture.clock.set(NOW.plus(HOUR));
    tokio::time::sleep(HOUR / 2 + Duration::from_secs(5 * 60)).await;
    assert!(fixture.frames(&device).is_empty(), "as long as nobody can tell, nobody is cut off");
    registry.is_away.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(fixture.frames(&device), [TOKEN_EXPIRED_FRAME]);
    // It fails again before the connection is closed.
    registry.is_away.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(5 * 60)).await;
    registry.is_away.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((fixture.frames(&device).len(), fixture.edge.closed.lock().expect("no test panics here").len()), (1, 1));
    assert_eq!(delivery.await.expect("the task does not panic"), DeliveryEnd::Failed, "nobody knows who is there");
}
