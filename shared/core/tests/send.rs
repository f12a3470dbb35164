//! Sends when the broker, the registry or the client does something unusual.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use kschat_core::Session;
use kschat_core::{
    Partitions, Timestamp,
    contract::{ManualClock, unique_connection},
    inbound::caller::Caller,
    inbound::send::{Deps, UnknownRecipientPolicy, send},
    memory::{MemoryBroker, MemoryHash, MemoryRegistry},
    ports::{
        ChargeVerdict, Claim, IdempotencyStore, PublishError, Publisher, QueueManager, QueueProvisioner,
        QueueRequestOutcome, Unavailable,
    },
    rooms,
};
use kschat_protocol::{
    ClientFrame, Message, MessageId, ProtocolVersion, RoomId, SendFrame, ServerFrame, UserId, dialect::Dialect,
};

fn frame(text: &str) -> SendFrame {
    match ClientFrame::parse(text).expect("a frame") {
        ClientFrame::Send(frame) => frame,
        other => panic!("{other:?}"),
    }
}

/// A broker that fails as scripted before it works.
struct Faulty {
    broker: MemoryBroker,
    faults: Mutex<Vec<PublishError>>,
    /// Whether a message is published although a fault is reported.
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

struct Fixture {
    deps: Deps,
    broker: MemoryBroker,
    clock: Arc<ManualClock>,
    alice: Caller,
    bob: UserId,
}

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

impl Fixture {
    async fn new(version: ProtocolVersion, faults: Vec<PublishError>, gets_through: bool) -> Self {
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
            policy: Arc::new(rooms::AllowAllRooms),
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
            unknown_recipients: UnknownRecipientPolicy::Queue,
        };
        let verdict = ChargeVerdict::Granted;
        let alice =
            Caller { connection: unique_connection(), session, has_other_devices: false, verdict, share_weight: 0 };
        Self { deps, broker, clock, alice, bob }
    }

    async fn send(&self, text: &str) -> String {
        ServerFrame::from(send(&self.deps, &self.alice, frame(text)).await).to_text()
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
async fn unconfirmed_send_retries_same_id() {
    let fixture = Fixture::new(ProtocolVersion::V2, vec![PublishError::Unconfirmed(lost())], true).await;
    assert!(fixture.send(HELLO).await.contains(r#""ER":18"#));
    let reply = fixture.send(HELLO).await;
    assert!(reply.contains(r#""ER":0"#) && !reply.contains("DUP"), "{reply}");
    let queued = fixture.queued().await;
    assert_eq!(queued.len(), 2, "the broker had it both times");
    assert_eq!(queued[0], queued[1], "but the receiver shows it once");
    assert!(fixture.send(HELLO).await.contains(r#""DUP":1"#));
    assert_eq!(fixture.queued().await.len(), 2);
}

#[tokio::test]
async fn retry_after_definite_failure_is_not_duplicate() {
    let fixture = Fixture::new(ProtocolVersion::V2, vec![PublishError::Unavailable(lost())], false).await;
    let refused = fixture.send(HELLO).await;
    assert!(refused.contains(r#""ER":2"#) && refused.contains(r#""RANDOMNO":"r""#), "{refused}");
    assert!(fixture.send(HELLO).await.contains(r#""ER":0"#));
    assert_eq!(fixture.queued().await.len(), 1);
}

#[tokio::test]
async fn full_queue_returns_backlog_full() {
    let fixture = Fixture::new(ProtocolVersion::V1, vec![PublishError::Full], false).await;
    assert!(fixture.send(HELLO).await.contains(r#""ER":11"#));
}

#[tokio::test]
async fn publish_without_route_creates_queue() {
    let fixture = Fixture::new(ProtocolVersion::V1, vec![], false).await;
    let reply = fixture.send(r#"{"uId":"alice","pId":"unknown","msg":"hello","rno":1}"#).await;
    assert!(reply.contains(r#""ER":0"#), "{reply}");
    let fixture = Fixture {
        deps: Deps { unknown_recipients: UnknownRecipientPolicy::Reject, ..fixture.deps.clone() },
        ..fixture
    };
    let reply = fixture.send(r#"{"uId":"alice","pId":"another","msg":"hello","rno":1}"#).await;
    assert!(reply.contains(r#""ER":10"#), "{reply}");
}

#[tokio::test]
async fn send_requires_valid_token_of_sender() {
    let fixture = Fixture::new(ProtocolVersion::V1, vec![], false).await;
    let stolen = fixture.send(r#"{"uId":"bob","pId":"bob","msg":"hello","rno":1}"#).await;
    assert!(stolen.contains(r#""ER":5"#), "{stolen}");
    fixture.clock.set(NOW.plus(Duration::from_secs(60)));
    assert!(fixture.send(HELLO).await.contains(r#""ER":4"#));
    assert!(fixture.queued().await.is_empty());
}

#[tokio::test]
async fn v2_send_requires_rno() {
    let fixture = Fixture::new(ProtocolVersion::V2, vec![], false).await;
    let reply = fixture.send(r#"{"uId":"alice","pId":"bob","msg":"hello"}"#).await;
    assert!(reply.contains(r#""ER":7"#) && reply.contains(r#"{"F":"rno","ER":7,"T":"required"}"#), "{reply}");
    let v1 = Fixture::new(ProtocolVersion::V1, vec![], false).await;
    assert!(v1.send(r#"{"uId":"alice","pId":"bob","msg":"hello"}"#).await.contains(r#""ER":0"#));
}

#[tokio::test]
async fn send_to_forbidden_room_is_refused() {
    let fixture = Fixture::new(ProtocolVersion::V2, vec![], false).await;
    let rooms = rooms::Deps { policy: Arc::new(rooms::RoomsListedInToken), ..fixture.deps.rooms.clone() };
    let fixture = Fixture { deps: Deps { rooms, ..fixture.deps.clone() }, ..fixture };
    let say = async |listed: &[&str], room: &str, rno: &str| {
        let rooms = Some(listed.iter().map(|room| (*room).to_owned()).collect());
        let alice = Caller { session: Session { rooms, ..fixture.alice.session.clone() }, ..fixture.alice.clone() };
        let text = format!(r#"{{"uId":"alice","gId":"{room}","msg":"hello","rno":"{rno}"}}"#);
        ServerFrame::from(send(&fixture.deps, &alice, frame(&text)).await).to_text()
    };
    for room in ["team.1", "news"] {
        let room = RoomId::try_from(room).expect("an id");
        assert!(fixture.deps.rooms.memberships.join(&fixture.alice.session.user, &room, 2).await.expect("memory"));
    }
    assert!(say(&["team.*", "news"], "team.1", "1").await.contains(r#""ER":0"#));

    let refused = say(&["news"], "team.1", "2").await;
    assert!(refused.contains(r#""ER":14"#), "{refused}");
    assert!(say(&["news"], "news", "3").await.contains(r#""ER":0"#), "a listed room stays allowed");
    assert!(say(&["team.*"], "team.1", "2").await.contains(r#""ER":0"#), "the sender is still a member");
}

#[tokio::test]
async fn send_beyond_limit_is_refused_with_retry() {
    let mut fixture = Fixture::new(ProtocolVersion::V2, vec![], false).await;
    fixture.alice.verdict = ChargeVerdict::Limited(Duration::from_millis(40));
    let refused = fixture.send(HELLO).await;
    assert!(refused.contains(r#""ER":9"#) && refused.contains(r#""RETRY":40"#), "{refused}");
    assert!(refused.contains(r#""RANDOMNO":"r""#), "{refused}");
    fixture.alice.verdict = ChargeVerdict::ShareFull;
    assert!(fixture.send(HELLO).await.contains(r#""ER":11"#));
    assert!(fixture.queued().await.is_empty());
}

/// A registry with a claim of another release, or another key, for the `rno` in [`HELLO`].
async fn claimed(fixture: &mut Fixture, claim: &Claim) {
    let store = Arc::new(MemoryRegistry::new(Partitions::default()));
    let alice = UserId::try_from("alice").expect("an id");
    store.claim(&alice, "r", claim).await.expect("memory");
    fixture.deps.idempotency = store;
}

#[tokio::test]
async fn claim_of_previous_release_matches_same_text() {
    let mut fixture = Fixture::new(ProtocolVersion::V2, vec![], true).await;
    let id = MessageId::from("018bcfe5-6800-7000-a000-00000000002a".to_owned());
    // The former hash of "bob" and "hello".
    let digest = 0x4ead_9e8b_1f5f_9955_5c24_899f_5c21_03e0;
    claimed(&mut fixture, &Claim { id: id.clone(), time: NOW, digest, content: None }).await;
    let reply = fixture.send(&HELLO.replace("hello", "another")).await;
    assert!(reply.contains(r#""ER":13"#), "{reply}");
    let reply = fixture.send(HELLO).await;
    assert!(reply.contains(r#""ER":0"#) && reply.contains(id.as_str()), "{reply}");
    assert_eq!(fixture.queued().await, [id.as_str()]);
    assert!(fixture.send(HELLO).await.contains(r#""DUP":1"#));
}

#[tokio::test]
async fn claim_survives_another_key() {
    let mut fixture = Fixture::new(ProtocolVersion::V2, vec![PublishError::Unconfirmed(lost())], true).await;
    assert!(fixture.send(HELLO).await.contains(r#""ER":18"#));
    fixture.deps.hash = Arc::new(MemoryHash::new());
    assert!(fixture.send(HELLO).await.contains(r#""ER":0"#));
    let queued = fixture.queued().await;
    assert!(queued.len() == 2 && queued[0] == queued[1], "{queued:?}");
    assert!(fixture.send(&HELLO.replace("hello", "another")).await.contains(r#""ER":13"#));
}

#[tokio::test]
async fn equal_former_digest_is_not_same_message() {
    let mut fixture = Fixture::new(ProtocolVersion::V2, vec![], true).await;
    let id = MessageId::from("018bcfe5-6800-7000-a000-00000000002a".to_owned());
    let digest = 0x4ead_9e8b_1f5f_9955_5c24_899f_5c21_03e0;
    claimed(&mut fixture, &Claim { id, time: NOW, digest, content: Some(1) }).await;
    assert!(fixture.send(HELLO).await.contains(r#""ER":13"#));
}

#[tokio::test]
async fn queued_body_has_rno_only_for_sender() {
    let fixture = Fixture::new(ProtocolVersion::V2, vec![], true).await;
    assert!(fixture.send(HELLO).await.contains(r#""RANDOMNO":"r""#));
    assert!(fixture.send(r#"{"uId":"alice","pId":"alice","msg":"a note","rno":"s"}"#).await.contains(r#""ER":0"#));
    for (user, rno) in [("bob", None), ("alice", Some("s"))] {
        let user = UserId::try_from(user).expect("an id");
        let mut deliveries = fixture.broker.open(&user).await.expect("memory");
        let body = deliveries.try_next().expect("a message").body;
        let message = Message::from_slice(&body).expect("a message");
        assert_eq!(message.rno.map(|rno| rno.to_string()).as_deref(), rno);
    }
}

#[tokio::test]
async fn retry_after_lost_claim_keeps_identity() {
    let mut fixture = Fixture::new(ProtocolVersion::V2, vec![], true).await;
    let text = |rno: &str| format!(r#"{{"uId":"alice","pId":"bob","msg":"hello","rno":"{rno}"}}"#);
    assert!(fixture.send(&text("r1")).await.contains(r#""ER":0"#));
    fixture.deps.idempotency = Arc::new(MemoryRegistry::new(Partitions::default()));
    fixture.clock.set(NOW.plus(Duration::from_secs(2)));
    for rno in ["r1", "r2"] {
        assert!(fixture.send(&text(rno)).await.contains(r#""ER":0"#));
    }
    let ids: Vec<MessageId> = fixture.queued().await.into_iter().map(MessageId::from).collect();
    let [first, again, other] = ids.as_slice() else { panic!("{ids:?}") };
    assert_ne!(first, again, "the ids differ in time");
    assert_eq!(first.dedup_key(), again.dedup_key());
    assert_ne!(again.dedup_key(), other.dedup_key());
    assert!(first < again, "ids sort by time");
}

/// An owner that needs that long to create a queue, or none.
struct SlowOwner {
    broker: MemoryBroker,
    takes: Duration,
    exists: bool,
    asked: Mutex<Option<tokio::time::Instant>>,
}

#[async_trait]
impl QueueProvisioner for SlowOwner {
    async fn enroll_user(&self, _user: &UserId) -> Result<(), Unavailable> {
        Ok(())
    }

    async fn request_queue(&self, user: &UserId, _asker: &UserId) -> Result<QueueRequestOutcome, Unavailable> {
        let first = self.asked.lock().expect("no test panics here").replace(tokio::time::Instant::now());
        if first.is_none() && self.exists {
            let (broker, user, takes) = (self.broker.clone(), user.clone(), self.takes);
            tokio::spawn(async move {
                tokio::time::sleep(takes).await;
                broker.ensure(&user).await.expect("memory");
            });
        }
        Ok(QueueRequestOutcome::Pending { has_owner: self.exists })
    }
}

async fn send_to_somebody_new(takes: Duration, exists: bool) -> (String, Duration) {
    let mut fixture = Fixture::new(ProtocolVersion::V2, Vec::new(), false).await;
    let owner = SlowOwner { broker: fixture.broker.clone(), takes, exists, asked: Mutex::default() };
    fixture.deps.queues = Arc::new(owner);
    let began = tokio::time::Instant::now();
    let reply = fixture.send(r#"{"action":"send","uId":"alice","pId":"carol","msg":"hi","rno":"1"}"#).await;
    (reply, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn send_to_queue_that_owner_makes_slowly_waits_for_it() {
    let (reply, _) = send_to_somebody_new(Duration::from_secs(3), true).await;
    assert!(reply.contains(r#""ER":0"#), "{reply}");
}

#[tokio::test(start_paused = true)]
async fn send_without_owner_to_make_queue_fails_early() {
    let (reply, took) = send_to_somebody_new(Duration::ZERO, false).await;
    assert!(reply.contains(r#""ER":2"#), "{reply}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}
