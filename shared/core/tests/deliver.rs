//! Who gets what, and when is it acked: the consumer's use-case against an edge that answers as told.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use kschat_core::{
    Partitions, Session, Timestamp,
    contract::{ManualClock, connection, message, session, somebody},
    deliver::{Deps, End, Signals, serve},
    memory::{MemoryBroker, MemoryRegistry},
    ports::{Backlogs, ConnectionRegistry, ConnectionsApi, Mailbox, PostError, PublishError, Publisher, Unavailable},
};
use kschat_protocol::{AckFrame, ConnectionId, Message, MessageId, Position, UserId, Version};
use serde_json::Value;
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
    closed: Mutex<Vec<ConnectionId>>,
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

    async fn close(&self, connection: &ConnectionId) -> Result<(), Unavailable> {
        self.closed.lock().expect("no test panics here").push(connection.clone());
        Ok(())
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
        // As its owner does.
        scene.registry.mark(partitions.of(&scene.user)).await.expect("memory");
        scene
    }

    /// A client of the seed's kind.
    async fn device(&self, script: Script) -> ConnectionId {
        self.device_of(Version::Seed, script).await
    }

    /// A client that acknowledges what it gets, when the test says so.
    async fn acking(&self, script: Script) -> ConnectionId {
        self.device_of(Version::V2, script).await
    }

    async fn device_of(&self, version: Version, script: Script) -> ConnectionId {
        let id = connection();
        self.edge.scripts.lock().expect("no test panics here").insert(id.clone(), script);
        let session = Session { version, ..session(&self.user, NOW, HOUR) };
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
        let (registry, edge, clock) = (self.registry.clone(), self.edge.clone(), self.clock.clone());
        let deps = Deps::new(registry.clone(), broker, registry, edge, clock, Partitions::default());
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

    /// Acknowledges the message with that text, as far as a device has got it.
    fn ack(&self, text: &str) {
        let taken = self.edge.taken.lock().expect("no test panics here");
        let item = taken.iter().rev().find_map(|(_, frame)| {
            let frame: Value = serde_json::from_str(frame).expect("JSON");
            frame["MSG"].as_array().expect("messages").iter().find(|item| item["msg"] == text).cloned()
        });
        let id = item.expect("it was pushed")["mId"].as_str().expect("text").to_owned();
        self.signals.acks.put(AckFrame { message: Some(MessageId::from(id)), position: None, again: false });
    }

    /// A device is gone, and the owner is told.
    async fn leave(&self, device: &ConnectionId) {
        self.registry.remove(&self.user, device).await.expect("memory");
        self.signals.refresh.notify_one();
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

#[tokio::test(start_paused = true)]
async fn what_a_client_acknowledges_leaves_the_queue_and_the_rest_stays() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    scene.queue(&["one", "two", "three"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.heard(&device), [["one", "two", "three"]]);
    // It stands for all before it.
    scene.ack("two");
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.stop(courier).await;
    assert_eq!(scene.left().await, ["three"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_acknowledged_comes_again_in_order_and_marked() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    scene.queue(&["one", "two"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.queue(&["three"]).await;
    scene.quiet().await;
    let heard = scene.heard(&device);
    assert_eq!(heard[..2], [vec!["one", "two"], vec!["three"]]);
    assert!(heard.len() > 2 && heard[2..].iter().all(|frame| *frame == ["one", "two", "three"]), "{heard:?}");
    let taken = scene.edge.taken.lock().expect("no test panics here")[2].1.clone();
    assert_eq!(taken.matches(r#""redelivered":true"#).count(), 3);
    scene.ack("three");
    scene.quiet().await;
    let count = scene.heard(&device).len();
    scene.quiet().await;
    assert_eq!(scene.heard(&device).len(), count, "what is acknowledged does not come again");
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn when_the_client_goes_what_it_has_not_acknowledged_waits_in_order() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    scene.queue(&["one", "two", "three"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.ack("one");
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.leave(&device).await;
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
    assert_eq!(scene.left().await, ["two", "three"]);
}

#[tokio::test(start_paused = true)]
async fn who_comes_later_gets_first_what_is_not_acknowledged() {
    let scene = Scene::new().await;
    let half_open = scene.acking(vec![]).await;
    scene.queue(&["one", "two"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The edge does not know the new one yet, as `$connect` has not returned.
    let again = scene.acking(vec![410; 3]).await;
    scene.signals.refresh.notify_one();
    scene.queue(&["three"]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.heard(&again).concat(), ["one", "two", "three"]);
    assert_eq!(scene.heard(&half_open).concat(), ["one", "two", "three"]);
    scene.ack("three");
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_of_the_seeds_kind_settles_what_others_have_not_acknowledged() {
    let scene = Scene::new().await;
    let silent = scene.acking(vec![]).await;
    scene.queue(&["one"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seed = scene.device(vec![]).await;
    scene.signals.refresh.notify_one();
    scene.queue(&["two"]).await;
    scene.quiet().await;
    // Nothing comes twice to a client that would show it twice.
    assert_eq!(scene.heard(&seed).concat(), ["one", "two"]);
    assert_eq!(scene.heard(&silent).concat(), ["one", "two"]);
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_an_ack_is_bounded() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    let texts: Vec<String> = (0..2_000).map(|n| n.to_string()).collect();
    scene.queue(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let heard = scene.heard(&device).concat();
    assert!(heard.len() < 600, "{} messages are under way", heard.len());
    for _ in 0..20 {
        scene.ack(scene.heard(&device).concat().last().expect("it has got some"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(scene.heard(&device).concat(), texts);
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_minutes_without_any_ack_the_messages_go_back() {
    let scene = Scene::new().await;
    scene.acking(vec![]).await;
    scene.queue(&["one", "two"]).await;
    let began = tokio::time::Instant::now();
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Stuck);
    let took = began.elapsed();
    assert!((Duration::from_secs(300)..Duration::from_secs(420)).contains(&took), "{took:?}");
    assert_eq!(scene.left().await, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_has_lost_everything_is_told_again_and_nobody_is_given_up() {
    let scene = Scene::new().await;
    let (one, two) = (scene.device(vec![]).await, scene.acking(vec![]).await);
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = scene.registry.session(&two).await.expect("memory");
    scene.registry.lose_everything();
    // Whatever makes it look: it must not believe that everybody has left.
    scene.signals.refresh.notify_one();
    scene.queue(&["after"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        (scene.heard(&one), scene.heard(&two)),
        (vec![vec!["after".to_owned()]], vec![vec!["after".to_owned()]])
    );
    assert_eq!(scene.registry.session(&two).await.expect("memory"), before);
    // From then on who leaves has left.
    scene.registry.mark(Partitions::default().of(&scene.user)).await.expect("memory");
    scene.leave(&one).await;
    scene.leave(&two).await;
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
}

#[tokio::test(start_paused = true)]
async fn the_owner_can_have_everything_told_again() {
    let scene = Scene::new().await;
    let device = scene.device(vec![]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.registry.lose_everything();
    scene.signals.restore.notify_one();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.registered().await, [device]);
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn who_has_missed_a_frame_gets_everything_again_at_once_but_not_all_the_time() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    let courier = scene.serve();
    for text in ["one", "two"] {
        scene.queue(&[text]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ask = || scene.signals.acks.put(AckFrame { message: None, position: None, again: true });
    ask();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(scene.heard(&device), [vec!["one"], vec!["two"], vec!["one", "two"]]);
    for _ in 0..9 {
        ask();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let count = scene.heard(&device).len();
    assert!(count <= 5, "once a second is enough, and not {count} frames");
    scene.ack("two");
    tokio::time::sleep(Duration::from_millis(100)).await;
    ask();
    scene.quiet().await;
    assert_eq!(scene.heard(&device).len(), count, "nothing is left to repeat");
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_copy_is_not_pushed_and_an_ack_of_it_counts_for_nothing_else() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    let courier = scene.serve();
    let twice = message(&scene.user, "twice");
    let queue = async |message: &Message| scene.broker.publish(&scene.user, message).await.expect("memory");
    queue(&twice).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The first try was confirmed too late, and another sender came in between.
    queue(&message(&scene.user, "between")).await;
    queue(&twice).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(scene.heard(&device), [["twice"], ["between"]]);
    for _ in 0..2 {
        scene.ack("twice");
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Another copy, after the first one has left the queue.
        queue(&twice).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    scene.stop(courier).await;
    assert_eq!(scene.left().await, ["between"]);
}

#[tokio::test(start_paused = true)]
async fn copies_that_wait_together_share_no_frame() {
    let scene = Scene::new().await;
    let device = scene.device(vec![]).await;
    let twice = message(&scene.user, "twice");
    for message in [&twice, &message(&scene.user, "between"), &twice] {
        scene.broker.publish(&scene.user, message).await.expect("memory");
    }
    let courier = scene.serve();
    scene.quiet().await;
    scene.broker.publish(&scene.user, &twice).await.expect("memory");
    scene.quiet().await;
    assert_eq!(scene.heard(&device), [["twice", "between"]]);
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_edge_calls_gone_is_cut_off_in_case_it_is_not() {
    let scene = Scene::new().await;
    let gone = scene.device(vec![410; 1000]).await;
    scene.queue(&["one"]).await;
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Offline);
    assert_eq!(*scene.edge.closed.lock().expect("no test panics here"), [gone]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_queue_goes_with_its_user_and_one_in_which_messages_wait_is_counted() {
    let scene = Scene::new().await;
    let partition = Partitions::default().of(&scene.user);
    let backlogs = async || scene.registry.count(partition).await.expect("memory");
    let device = scene.device(vec![]).await;
    let courier = scene.serve();
    scene.queue(&["one"]).await;
    scene.quiet().await;
    scene.leave(&device).await;
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
    let publish = async || scene.broker.publish(&scene.user, &message(&scene.user, "away")).await;
    assert!(matches!(publish().await, Err(PublishError::NoRoute)), "the queue is still there");
    assert_eq!(backlogs().await, 0);

    scene.broker.ensure(&scene.user).await.expect("memory");
    publish().await.expect("memory");
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Offline);
    assert_eq!((backlogs().await, scene.left().await), (1, vec!["away".to_owned()]));
    let due = async |now| scene.registry.due(partition, now, 10).await.expect("memory");
    assert_eq!((due(NOW).await, due(NOW.plus(HOUR * 24 * 365)).await), (vec![], vec![scene.user.clone()]));

    let back = scene.device(vec![]).await;
    let courier = scene.serve();
    scene.quiet().await;
    assert_eq!((backlogs().await, scene.heard(&back)), (0, vec![vec!["away".to_owned()]]));
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn an_ack_counts_for_what_stood_before_its_place_in_this_run_only() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    let courier = scene.serve();
    for text in ["one", "two", "three"] {
        scene.queue(&[text]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let place = |n: usize| {
        let taken = scene.edge.taken.lock().expect("no test panics here");
        let frame: Value = serde_json::from_str(&taken[n].1).expect("JSON");
        (frame["PREV"].clone(), frame["POS"].as_str().expect("text").parse::<Position>().expect("a place"))
    };
    let (one, two, three) = (place(0), place(1), place(2));
    assert_eq!((one.0, two.0, three.0), (Value::Null, one.1.to_string().into(), two.1.to_string().into()));
    let ack = async |position| {
        let message = Some(MessageId::from("whatever".to_owned()));
        scene.signals.acks.put(AckFrame { message, position: Some(position), again: false });
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // Of an owner before this one, which has counted further.
    ack(Position { run: one.1.run ^ 1, number: 99 }).await;
    ack(two.1).await;
    ack(one.1).await;
    scene.leave(&device).await;
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
    assert_eq!(scene.left().await, ["three"]);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_soon_finds_the_queue_and_so_does_a_sender_who_asks() {
    let scene = Scene::new().await;
    let publish = async || scene.broker.publish(&scene.user, &message(&scene.user, "hello")).await;
    let device = scene.device(vec![]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.leave(&device).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let began = tokio::time::Instant::now();
    let back = scene.device(vec![]).await;
    scene.signals.refresh.notify_one();
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
    assert!(began.elapsed() < Duration::from_millis(100), "whoever is back must not wait");
    publish().await.expect("the queue is there");
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.heard(&back), [["hello"]]);
    scene.leave(&back).await;
    courier.await.expect("it does not panic");
    assert!(matches!(publish().await, Err(PublishError::NoRoute)));
    // The owner is asked, and begins to serve a user who is not there.
    scene.signals.wanted.notify_one();
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Offline);
    publish().await.expect("the queue is made");
    assert_eq!(scene.registry.count(Partitions::default().of(&scene.user)).await.expect("memory"), 1);
}
