//! What becomes of a send when the broker, the registry or the client does something unusual.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use kschat_core::Session;
use kschat_core::{
    Partitions, Timestamp,
    contract::{ManualClock, connection},
    inbound::Caller,
    memory::{MemoryBroker, MemoryHash, MemoryRegistry},
    ports::{Claim, IdempotencyStore, Mailbox, PublishError, Publisher, Unavailable, Verdict},
    rooms,
    send::{Deps, Strangers, send},
};
use kschat_protocol::{ClientFrame, Message, MessageId, RoomId, SendFrame, UserId, Version, dialect::Dialect};

fn frame(text: &str) -> SendFrame {
    match ClientFrame::parse(text).expect("a frame") {
        ClientFrame::Send(frame) => frame,
        other => panic!("{other:?}"),
    }
}

/// A broker that fails as told before it works.
struct Faulty {
    broker: MemoryBroker,
    faults: Mutex<Vec<PublishError>>,
    /// Whether a message gets through although a fault is reported.
    gets_through: bool,
}

#[async_trait]
impl Publisher for Faulty {
    async fn publish_to_room(&self, room: &RoomId, message: &Message) -> Result<(), PublishError> {
        self.broker.publish_to_room(room, message).await
    }

    async fn publish(&self, to: &UserId, message: &Message) -> Result<(), PublishError> {
        let fault = self.faults.lock().expect("no test panics here").pop();
        if fault.is_none() || self.gets_through {
            self.broker.publish(to, message).await?;
        }
        fault.map_or(Ok(()), Err)
    }
}

struct Scene {
    deps: Deps,
    broker: MemoryBroker,
    clock: Arc<ManualClock>,
    alice: Caller,
    bob: UserId,
}

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

impl Scene {
    async fn new(version: Version, faults: Vec<PublishError>, gets_through: bool) -> Self {
        let broker = MemoryBroker::new(Partitions::default()).0;
        let registry = Arc::new(MemoryRegistry::new(Partitions::default()));
        let clock = Arc::new(ManualClock::new(NOW));
        let bob = UserId::try_from("bob").expect("an id");
        let user = UserId::try_from("alice").expect("an id");
        let session = Session {
            user,
            version,
            connected: NOW,
            expires: Some(NOW.plus(Duration::from_secs(60))),
            dialect: Dialect::Raw,
            rooms: None,
            source: None,
        };
        broker.ensure(&bob).await.expect("memory");
        let publisher = Faulty { broker: broker.clone(), faults: Mutex::new(faults), gets_through };
        let rooms = rooms::Deps {
            memberships: registry.clone(),
            bindings: Arc::new(broker.clone()),
            queues: Arc::new(broker.clone()),
            policy: Arc::new(rooms::Everybody),
        };
        let deps = Deps {
            idempotency: registry.clone(),
            backlogs: registry.clone(),
            hash: Arc::new(MemoryHash::new()),
            publisher: Arc::new(publisher),
            queues: Arc::new(broker.clone()),
            shares: Some(registry.clone()),
            clock: clock.clone(),
            rooms,
            strangers: Strangers::Queue,
        };
        let verdict = Verdict::Granted;
        let alice = Caller { connection: connection(), session, has_other_devices: false, verdict, counted: 0 };
        Self { deps, broker, clock, alice, bob }
    }

    async fn send(&self, text: &str) -> String {
        send(&self.deps, &self.alice, frame(text)).await.to_text()
    }

    /// The ids in bob's queue.
    async fn queued(&self) -> Vec<String> {
        let mut deliveries = self.broker.open(&self.bob).await.expect("memory");
        let mut ids = Vec::new();
        while let Some(delivery) = deliveries.try_next() {
            ids.push(Message::from_slice(&delivery.body).expect("a message").id.as_str().to_owned());
        }
        deliveries.close().await;
        ids
    }
}

fn lost() -> Unavailable {
    Unavailable::new("broker", "answer", "it is gone")
}

const HELLO: &str = r#"{"uId":"alice","pId":"bob","msg":"hello","rno":"r"}"#;

#[tokio::test]
async fn an_unconfirmed_send_is_repeated_under_its_own_id() {
    let scene = Scene::new(Version::V2, vec![PublishError::Unconfirmed(lost())], true).await;
    assert!(scene.send(HELLO).await.contains(r#""ER":18"#));
    let reply = scene.send(HELLO).await;
    assert!(reply.contains(r#""ER":0"#) && !reply.contains("DUP"), "{reply}");
    let queued = scene.queued().await;
    assert_eq!(queued.len(), 2, "the broker had it both times");
    assert_eq!(queued[0], queued[1], "but the receiver shows it once");
    assert!(scene.send(HELLO).await.contains(r#""DUP":1"#));
    assert_eq!(scene.queued().await.len(), 2);
}

#[tokio::test]
async fn a_send_that_failed_for_sure_is_no_repetition_when_it_succeeds() {
    let scene = Scene::new(Version::V2, vec![PublishError::Unavailable(lost())], false).await;
    let refused = scene.send(HELLO).await;
    assert!(refused.contains(r#""ER":2"#) && refused.contains(r#""RANDOMNO":"r""#), "{refused}");
    assert!(scene.send(HELLO).await.contains(r#""ER":0"#));
    assert_eq!(scene.queued().await.len(), 1);
}

#[tokio::test]
async fn a_full_queue_is_told() {
    let scene = Scene::new(Version::Seed, vec![PublishError::Full], false).await;
    assert!(scene.send(HELLO).await.contains(r#""ER":11"#));
}

#[tokio::test]
async fn a_message_for_somebody_without_a_queue_makes_one() {
    let scene = Scene::new(Version::Seed, vec![], false).await;
    let reply = scene.send(r#"{"uId":"alice","pId":"stranger","msg":"hello","rno":1}"#).await;
    assert!(reply.contains(r#""ER":0"#), "{reply}");
    let scene = Scene { deps: Deps { strangers: Strangers::Refuse, ..scene.deps.clone() }, ..scene };
    let reply = scene.send(r#"{"uId":"alice","pId":"another","msg":"hello","rno":1}"#).await;
    assert!(reply.contains(r#""ER":10"#), "{reply}");
}

#[tokio::test]
async fn nobody_outlives_a_token_or_speaks_for_another() {
    let scene = Scene::new(Version::Seed, vec![], false).await;
    let stolen = scene.send(r#"{"uId":"bob","pId":"bob","msg":"hello","rno":1}"#).await;
    assert!(stolen.contains(r#""ER":5"#), "{stolen}");
    scene.clock.set(NOW.plus(Duration::from_secs(60)));
    assert!(scene.send(HELLO).await.contains(r#""ER":4"#));
    assert!(scene.queued().await.is_empty());
}

#[tokio::test]
async fn a_version_two_send_must_name_its_message() {
    let scene = Scene::new(Version::V2, vec![], false).await;
    let reply = scene.send(r#"{"uId":"alice","pId":"bob","msg":"hello"}"#).await;
    assert!(reply.contains(r#""ER":7"#) && reply.contains(r#"{"F":"rno","ER":7,"T":"required"}"#), "{reply}");
    let seed = Scene::new(Version::Seed, vec![], false).await;
    assert!(seed.send(r#"{"uId":"alice","pId":"bob","msg":"hello"}"#).await.contains(r#""ER":0"#));
}

#[tokio::test]
async fn who_may_not_be_in_a_room_any_more_does_not_speak_there() {
    let scene = Scene::new(Version::V2, vec![], false).await;
    let rooms = rooms::Deps { policy: Arc::new(rooms::ListedInToken), ..scene.deps.rooms.clone() };
    let scene = Scene { deps: Deps { rooms, ..scene.deps.clone() }, ..scene };
    let say = async |listed: &[&str], room: &str, rno: &str| {
        let rooms = Some(listed.iter().map(|room| (*room).to_owned()).collect());
        let alice = Caller { session: Session { rooms, ..scene.alice.session.clone() }, ..scene.alice.clone() };
        let text = format!(r#"{{"uId":"alice","gId":"{room}","msg":"hello","rno":"{rno}"}}"#);
        send(&scene.deps, &alice, frame(&text)).await.to_text()
    };
    for room in ["team.1", "lobby"] {
        let room = RoomId::try_from(room).expect("an id");
        assert!(scene.deps.rooms.memberships.join(&scene.alice.session.user, &room, 2).await.expect("memory"));
    }
    assert!(say(&["team.*", "lobby"], "team.1", "1").await.contains(r#""ER":0"#));

    let refused = say(&["lobby"], "team.1", "2").await;
    assert!(refused.contains(r#""ER":14"#), "{refused}");
    assert!(say(&["lobby"], "lobby", "3").await.contains(r#""ER":0"#), "what is still listed is not touched");
    assert!(say(&["team.*"], "team.1", "2").await.contains(r#""ER":0"#), "it is still a member");
}

#[tokio::test]
async fn send_beyond_limit_is_refused_with_retry() {
    let mut scene = Scene::new(Version::V2, vec![], false).await;
    scene.alice.verdict = Verdict::Limited(Duration::from_millis(40));
    let refused = scene.send(HELLO).await;
    assert!(refused.contains(r#""ER":9"#) && refused.contains(r#""RETRY":40"#), "{refused}");
    assert!(refused.contains(r#""RANDOMNO":"r""#), "{refused}");
    scene.alice.verdict = Verdict::ShareFull;
    assert!(scene.send(HELLO).await.contains(r#""ER":11"#));
    assert!(scene.queued().await.is_empty());
}

/// A registry that remembers another release's, or another key's, claim of the `rno` in [`HELLO`].
async fn claimed(scene: &mut Scene, claim: &Claim) {
    let store = Arc::new(MemoryRegistry::new(Partitions::default()));
    let alice = UserId::try_from("alice").expect("an id");
    store.claim(&alice, "r", claim).await.expect("memory");
    scene.deps.idempotency = store;
}

#[tokio::test]
async fn claim_of_former_release_stands_for_same_text() {
    let mut scene = Scene::new(Version::V2, vec![], true).await;
    let id = MessageId::from("018bcfe5-6800-7000-a000-00000000002a".to_owned());
    // The former hash of "bob" and "hello".
    let digest = 0x4ead_9e8b_1f5f_9955_5c24_899f_5c21_03e0;
    claimed(&mut scene, &Claim { id: id.clone(), time: NOW, digest, content: None }).await;
    let reply = scene.send(&HELLO.replace("hello", "another")).await;
    assert!(reply.contains(r#""ER":13"#), "{reply}");
    let reply = scene.send(HELLO).await;
    assert!(reply.contains(r#""ER":0"#) && reply.contains(id.as_str()), "{reply}");
    assert_eq!(scene.queued().await, [id.as_str()]);
    assert!(scene.send(HELLO).await.contains(r#""DUP":1"#));
}

#[tokio::test]
async fn claim_survives_another_key() {
    let mut scene = Scene::new(Version::V2, vec![PublishError::Unconfirmed(lost())], true).await;
    assert!(scene.send(HELLO).await.contains(r#""ER":18"#));
    scene.deps.hash = Arc::new(MemoryHash::new());
    assert!(scene.send(HELLO).await.contains(r#""ER":0"#));
    let queued = scene.queued().await;
    assert!(queued.len() == 2 && queued[0] == queued[1], "{queued:?}");
    assert!(scene.send(&HELLO.replace("hello", "another")).await.contains(r#""ER":13"#));
}

#[tokio::test]
async fn equal_former_digest_is_not_same_message() {
    let mut scene = Scene::new(Version::V2, vec![], true).await;
    let id = MessageId::from("018bcfe5-6800-7000-a000-00000000002a".to_owned());
    let digest = 0x4ead_9e8b_1f5f_9955_5c24_899f_5c21_03e0;
    claimed(&mut scene, &Claim { id, time: NOW, digest, content: Some(1) }).await;
    assert!(scene.send(HELLO).await.contains(r#""ER":13"#));
}

#[tokio::test]
async fn queued_body_has_rno_only_for_sender() {
    let scene = Scene::new(Version::V2, vec![], true).await;
    assert!(scene.send(HELLO).await.contains(r#""RANDOMNO":"r""#));
    assert!(scene.send(r#"{"uId":"alice","pId":"alice","msg":"a note","rno":"s"}"#).await.contains(r#""ER":0"#));
    for (user, rno) in [("bob", None), ("alice", Some("s"))] {
        let user = UserId::try_from(user).expect("an id");
        let mut deliveries = scene.broker.open(&user).await.expect("memory");
        let body = deliveries.try_next().expect("a message").body;
        let message = Message::from_slice(&body).expect("a message");
        assert_eq!(message.rno.map(|rno| rno.to_string()).as_deref(), rno);
    }
}

#[tokio::test]
async fn a_send_is_known_again_even_when_the_registry_has_lost_what_it_knew_of_it() {
    let mut scene = Scene::new(Version::V2, vec![], true).await;
    let text = |rno: &str| format!(r#"{{"uId":"alice","pId":"bob","msg":"hello","rno":"{rno}"}}"#);
    assert!(scene.send(&text("r1")).await.contains(r#""ER":0"#));
    scene.deps.idempotency = Arc::new(MemoryRegistry::new(Partitions::default()));
    scene.clock.set(NOW.plus(Duration::from_secs(2)));
    for rno in ["r1", "r2"] {
        assert!(scene.send(&text(rno)).await.contains(r#""ER":0"#));
    }
    let ids: Vec<MessageId> = scene.queued().await.into_iter().map(MessageId::from).collect();
    let [first, again, other] = ids.as_slice() else { panic!("{ids:?}") };
    assert_ne!(first, again, "it has another time");
    assert_eq!(first.send(), again.send());
    assert_ne!(again.send(), other.send());
    assert!(first < again, "ids sort by time");
}
