//! Who gets what, and when is it acked: the consumer's use-case against an edge that answers as told.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use kschat_core::{
    Partitions, Timestamp,
    contract::{ManualClock, connection, message, session, somebody},
    deliver::{Deps, End, Signals, serve},
    memory::{MemoryBroker, MemoryRegistry},
    ports::{ConnectionRegistry, ConnectionsApi, Mailbox, PostError, Publisher, Queues, Unavailable},
};
use kschat_protocol::{ConnectionId, UserId};
use tokio::{task::JoinHandle, time::timeout};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

const HOUR: Duration = Duration::from_secs(3600);

/// What the edge answers to the posts of one connection, in this order; 200 after that.
type Script = Vec<u16>;

/// An edge that answers by script and remembers what it took.
#[derive(Default)]
struct Edge {
    scripts: Mutex<HashMap<ConnectionId, Script>>,
    taken: Mutex<Vec<(ConnectionId, String)>>,
}

#[async_trait]
impl ConnectionsApi for Edge {
    async fn post(&self, connection: &ConnectionId, frame: &str) -> Result<(), PostError> {
        // As over a network, others get their turn meanwhile.
        tokio::task::yield_now().await;
        let mut scripts = self.scripts.lock().expect("no test panics here");
        let script = scripts.entry(connection.clone()).or_default();
        let status = if script.is_empty() { 200 } else { script.remove(0) };
        let report = || Unavailable::new("edge", "post", status.to_string());
        match status {
            200 => {
                self.taken.lock().expect("no test panics here").push((connection.clone(), frame.to_owned()));
                Ok(())
            }
            410 => Err(PostError::Gone),
            413 => Err(PostError::Refused(report())),
            _ => Err(PostError::Retryable(report())),
        }
    }
}

/// One user with a queue, and what serves it.
struct Scene {
    user: UserId,
    registry: Arc<MemoryRegistry>,
    broker: MemoryBroker,
    edge: Arc<Edge>,
    clock: Arc<ManualClock>,
    signals: Signals,
}

impl Scene {
    async fn new() -> Self {
        let partitions = Partitions::default();
        let scene = Self {
            user: somebody(),
            registry: Arc::new(MemoryRegistry::new(partitions)),
            broker: MemoryBroker::new(partitions).0,
            edge: Arc::default(),
            clock: Arc::new(ManualClock::new(NOW)),
            signals: Signals::default(),
        };
        scene.broker.ensure(&scene.user).await.expect("memory");
        scene
    }

    async fn device(&self, script: Script) -> ConnectionId {
        let id = connection();
        self.edge.scripts.lock().expect("no test panics here").insert(id.clone(), script);
        let session = session(&self.user, NOW, HOUR);
        self.registry.register(&id, &session).await.expect("memory");
        id
    }

    async fn queue(&self, texts: &[&str]) {
        for text in texts {
            self.broker.publish(&self.user, &message(&self.user, text)).await.expect("memory");
        }
    }

    fn serve(&self) -> JoinHandle<End> {
        let broker = Arc::new(self.broker.clone());
        let deps = Deps::new(self.registry.clone(), broker, self.edge.clone(), self.clock.clone());
        let (user, signals) = (self.user.clone(), self.signals.clone());
        tokio::spawn(async move { serve(&deps, &user, &signals).await })
    }

    /// The frames that a device got, each as the texts of its messages.
    fn heard(&self, device: &ConnectionId) -> Vec<Vec<String>> {
        let texts = |frame: &str| {
            let items = frame.split(r#""msg":""#).skip(1);
            items.map(|item| item.split('"').next().expect("text").to_owned()).collect()
        };
        let taken = self.edge.taken.lock().expect("no test panics here");
        taken.iter().filter(|(id, _)| id == device).map(|(_, frame)| texts(frame)).collect()
    }

    async fn registered(&self) -> Vec<ConnectionId> {
        let reachable = self.registry.connections(&self.user, NOW).await.expect("memory");
        reachable.into_iter().map(|reachable| reachable.connection).collect()
    }

    async fn quiet(&self) {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }

    /// The texts that are still in the queue.
    async fn left(&self) -> Vec<String> {
        let mut deliveries = self.broker.open(&self.user).await.expect("nobody serves it");
        let mut texts = Vec::new();
        while let Some(delivery) = deliveries.try_next() {
            texts.push(kschat_protocol::Message::from_slice(&delivery.body).expect("a message").msg);
        }
        deliveries.close().await;
        texts
    }

    async fn stop(&self, courier: JoinHandle<End>) -> End {
        self.signals.stop.cancel();
        timeout(Duration::from_secs(60), courier).await.expect("it stops").expect("it does not panic")
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_shares_a_frame_and_leaves_the_queue() {
    let scene = Scene::new().await;
    let device = scene.device(vec![]).await;
    scene.queue(&["one", "two", "three"]).await;
    let courier = scene.serve();
    scene.quiet().await;
    assert_eq!(scene.heard(&device), [["one", "two", "three"]]);
    assert_eq!(scene.stop(courier).await, End::Stopped);
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_edge_does_not_know_yet_is_waited_for() {
    let scene = Scene::new().await;
    let device = scene.device(vec![410; 5]).await;
    scene.queue(&["one"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.heard(&device), [["one"]]);
    assert_eq!(scene.registered().await, [device]);
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn a_gone_connection_is_forgotten_and_the_rest_still_hear() {
    let scene = Scene::new().await;
    let (gone, here) = (scene.device(vec![410; 1000]).await, scene.device(vec![]).await);
    scene.queue(&["one"]).await;
    let courier = scene.serve();
    scene.quiet().await;
    scene.queue(&["two"]).await;
    scene.quiet().await;
    assert!(scene.heard(&gone).is_empty());
    assert_eq!(scene.heard(&here), [["one"], ["two"]]);
    assert_eq!(scene.registered().await, [here]);
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn without_any_connection_the_queue_is_left_alone() {
    let scene = Scene::new().await;
    scene.queue(&["one"]).await;
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Offline);
    assert_eq!(scene.left().await, ["one"]);
}

#[tokio::test(start_paused = true)]
async fn when_the_last_connection_is_gone_the_messages_wait_in_order() {
    let scene = Scene::new().await;
    scene.device(vec![410; 1000]).await;
    scene.queue(&["one", "two"]).await;
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Offline);
    assert_eq!(scene.left().await, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn a_busy_edge_is_tried_again_in_order() {
    let scene = Scene::new().await;
    let device = scene.device(vec![429, 500, 429]).await;
    scene.queue(&["one", "two"]).await;
    let courier = scene.serve();
    scene.quiet().await;
    scene.queue(&["three"]).await;
    scene.quiet().await;
    assert_eq!(scene.heard(&device), [vec!["one", "two"], vec!["three"]]);
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_stays_busy_costs_no_message() {
    let scene = Scene::new().await;
    scene.device(vec![500; 1000]).await;
    scene.queue(&["one", "two"]).await;
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Stuck);
    assert_eq!(scene.left().await, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn one_device_that_stays_busy_does_not_hold_up_another_for_ever() {
    let scene = Scene::new().await;
    let (busy, here) = (scene.device(vec![429; 1000]).await, scene.device(vec![]).await);
    scene.queue(&["one"]).await;
    let courier = scene.serve();
    scene.quiet().await;
    scene.queue(&["two"]).await;
    scene.quiet().await;
    assert_eq!(scene.heard(&here), [["one"], ["two"]]);
    assert!(scene.heard(&busy).is_empty());
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_refused_for_good_is_out_of_the_way() {
    let scene = Scene::new().await;
    let device = scene.device(vec![413]).await;
    scene.queue(&["one"]).await;
    let courier = scene.serve();
    scene.quiet().await;
    scene.queue(&["two"]).await;
    scene.quiet().await;
    assert_eq!(scene.heard(&device), [["two"]]);
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_while_the_edge_is_busy_hears_it_too() {
    let scene = Scene::new().await;
    let first = scene.device(vec![429; 3]).await;
    scene.queue(&["one"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let second = scene.device(vec![]).await;
    scene.signals.refresh.notify_one();
    scene.quiet().await;
    assert_eq!(
        (scene.heard(&first), scene.heard(&second)),
        (vec![vec!["one".to_owned()]], vec![vec!["one".to_owned()]])
    );
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn being_stopped_while_waiting_to_try_again_gives_everything_back() {
    let scene = Scene::new().await;
    scene.device(vec![500; 1000]).await;
    scene.queue(&["one", "two"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(scene.stop(courier).await, End::Stopped);
    assert_eq!(scene.left().await, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_hears_anything_beyond_the_end_of_a_token() {
    let scene = Scene::new().await;
    let device = scene.device(vec![]).await;
    scene.queue(&["in time"]).await;
    let courier = scene.serve();
    scene.quiet().await;
    scene.clock.set(NOW.plus(HOUR));
    scene.queue(&["too late"]).await;
    let end = timeout(Duration::from_secs(60), courier).await.expect("it ends").expect("it does not panic");
    assert_eq!(end, End::Offline);
    assert_eq!(scene.heard(&device), [["in time"]]);
    assert_eq!(scene.left().await, ["too late"]);
}

/// So many large messages that each frame leaves one over for the next.
async fn backlog(scene: &Scene) -> Vec<String> {
    let texts: Vec<String> = (0..40).map(|n| format!("{n} {}", "x".repeat(20_000))).collect();
    scene.queue(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    texts
}

#[tokio::test(start_paused = true)]
async fn being_stopped_in_the_middle_of_a_backlog_keeps_the_rest_in_order() {
    let scene = Scene::new().await;
    let device = scene.device(vec![]).await;
    let texts = backlog(&scene).await;
    let courier = scene.serve();
    while scene.heard(&device).is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.stop(courier).await, End::Stopped);
    let heard: Vec<String> = scene.heard(&device).concat();
    assert!(heard.len() < texts.len(), "it did not listen until the backlog was done");
    assert_eq!([heard, scene.left().await].concat(), texts);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_in_the_middle_of_a_backlog_hears_the_rest() {
    let scene = Scene::new().await;
    let first = scene.device(vec![]).await;
    let texts = backlog(&scene).await;
    let courier = scene.serve();
    while scene.heard(&first).is_empty() {
        tokio::task::yield_now().await;
    }
    let second = scene.device(vec![]).await;
    scene.signals.refresh.notify_one();
    scene.quiet().await;
    let (one, two) = (scene.heard(&first).concat(), scene.heard(&second).concat());
    assert_eq!(one, texts);
    assert!(!two.is_empty() && texts.ends_with(&two), "{} messages", two.len());
    scene.stop(courier).await;
}
