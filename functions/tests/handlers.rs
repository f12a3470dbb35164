//! The handlers, given events as the managed edge sends them.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::{sync::Arc, time::Duration};

use kschat_adapters::jwt::{JwtSettings, JwtVerifier, sign_seed_token};
use kschat_core::{
    Clock, Partitions, SystemClock, Timestamp, ack, inbound,
    limits::Limits,
    memory::{MemoryBroker, MemoryHash, MemoryOwnership, MemoryRegistry},
    ports::{ConnectionRegistry, Deliveries, Mailbox, Ownership, OwnershipEvent},
    request, rooms,
    send::Strangers,
};
use kschat_functions::{Event, Response, connect, disconnect, send};
use kschat_protocol::{ConnectionId, MessageId, UserId, Version, dialect::RESTART};
use serde_json::{Value, json};

const SECRET: &str = "a secret that only the tests know";

struct Scene {
    connect: connect::Deps,
    disconnect: disconnect::Deps,
    send: send::Deps,
    broker: MemoryBroker,
    registry: Arc<MemoryRegistry>,
    /// Pokes and acks go to it.
    ownership: MemoryOwnership,
}

impl Scene {
    fn new() -> Self {
        let (broker, ownership) = MemoryBroker::new(Partitions::default());
        let (shared, registry) = (Arc::new(broker.clone()), Arc::new(MemoryRegistry::new(Partitions::default())));
        let clock = Arc::new(SystemClock);
        let rooms = rooms::Deps {
            memberships: registry.clone(),
            bindings: shared.clone(),
            queues: shared.clone(),
            policy: Arc::new(rooms::Everybody),
        };
        let verifier = JwtVerifier::new(&JwtSettings::seed(SECRET.to_owned())).expect("a secret fits HS256");
        let verifier = Arc::new(verifier);
        let connect = connect::Deps {
            verifier: verifier.clone(),
            registry: registry.clone(),
            queues: shared.clone(),
            pokes: shared.clone(),
            supervision: shared.clone(),
            clock: clock.clone(),
            rate: Limits::default().connects,
            requires_token: false,
        };
        Self {
            connect: connect.clone(),
            disconnect: disconnect::Deps { registry: registry.clone(), pokes: shared.clone() },
            send: send::Deps {
                inbound: inbound::Deps {
                    registry: registry.clone(),
                    supervision: shared.clone(),
                    clock: clock.clone(),
                    limits: Limits::default(),
                },
                send: kschat_core::send::Deps {
                    idempotency: registry.clone(),
                    backlogs: registry.clone(),
                    hash: Arc::new(MemoryHash::new()),
                    publisher: shared.clone(),
                    queues: shared.clone(),
                    shares: Some(registry.clone()),
                    clock: clock.clone(),
                    rooms: rooms.clone(),
                    strangers: Strangers::Queue,
                },
                ack: ack::Deps { acks: shared.clone(), clock: clock.clone() },
                request: request::Deps {
                    registry: registry.clone(),
                    receipts: registry.clone(),
                    presences: registry.clone(),
                    rooms,
                    verifier,
                    pokes: shared.clone(),
                    notices: shared.clone(),
                    clock,
                },
                join: connect,
                replies: shared.clone(),
                supervision: shared,
            },
            broker,
            registry,
            ownership,
        }
    }

    async fn connect(&self, change: impl FnOnce(&mut Value)) -> Response {
        connect::handle(&self.connect, event(include_str!("events/connect.json"), change)).await
    }

    async fn send(&self, change: impl FnOnce(&mut Value)) -> (i64, Value) {
        let response = send::handle(&self.send, event(include_str!("events/message.json"), change)).await;
        let body = json!(response)["body"].as_str().expect("a body").to_owned();
        (response.status_code, serde_json::from_str(&body).expect("a frame is JSON"))
    }

    async fn disconnect(&self) -> Response {
        disconnect::handle(&self.disconnect, event(include_str!("events/disconnect.json"), |_| {})).await
    }

    async fn session(&self) -> Option<kschat_core::Session> {
        let id = ConnectionId::try_from("BFHPhfCWIAMCKlQ=").expect("an id");
        self.registry.session(&id).await.expect("memory")
    }
}

#[tokio::test]
async fn an_ack_goes_to_the_owner_and_is_answered_only_if_it_failed() {
    let mut scene = Scene::new();
    let ack =
        |change: &'static str| event(include_str!("events/message.json"), move |event| event["body"] = change.into());
    let early = send::handle(&scene.send, ack(r#"{"action":"ack","mId":"m-1"}"#)).await;
    assert!(json!(early)["body"].as_str().expect("a body").contains(r#""ER":17"#));
    scene.connect(|event| event["queryStringParameters"] = json!({ "token": token() })).await;
    let response = send::handle(&scene.send, ack(r#"{"action":"ack","mId":"m-1"}"#)).await;
    assert_eq!((response.status_code, json!(response)["body"].clone()), (200, Value::Null));
    let refused = send::handle(&scene.send, ack(r#"{"action":"ack"}"#)).await;
    assert!(json!(refused)["body"].as_str().expect("a body").contains(r#""event":"RESPERROR","RC":1,"ER":7"#));
    loop {
        match scene.ownership.next().await {
            OwnershipEvent::Acked(user, ack) => {
                let message = ack.message.as_ref().map(MessageId::as_str);
                assert_eq!((user.as_str(), message, ack.again), ("alice", Some("m-1"), false));
                break;
            }
            OwnershipEvent::Acquired(_) | OwnershipEvent::Poked(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn event(fixture: &str, change: impl FnOnce(&mut Value)) -> Event {
    let mut event: Value = serde_json::from_str(fixture).expect("a fixture is JSON");
    change(&mut event);
    serde_json::from_value(event).expect("the library reads it")
}

fn token() -> String {
    let (user, now) = (UserId::try_from("alice").expect("an id"), SystemClock.now());
    sign_seed_token(SECRET, &user, now, now.plus(Duration::from_secs(60))).expect("it can sign")
}

/// The library writes what was absent as null.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        other => other,
    }
}

#[test]
fn the_fixtures_read_back_as_they_were() {
    for fixture in ["connect", "message", "disconnect"] {
        let path = format!("{}/tests/events/{fixture}.json", env!("CARGO_MANIFEST_DIR"));
        let captured: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON");
        let read: Event = serde_json::from_value(captured.clone()).expect("the library reads it");
        let written = without_nulls(json!(read));
        for (key, value) in captured["requestContext"].as_object().expect("a context") {
            assert_eq!(&written["requestContext"][key], value, "{fixture}: {key}");
        }
        assert_eq!(written["body"], captured["body"]);
    }
}

#[tokio::test]
async fn a_token_in_the_query_is_let_in_as_the_seed_is() {
    let scene = Scene::new();
    let response =
        scene.connect(|event| event["queryStringParameters"] = json!({ "token": token(), "ksId": "alice" })).await;
    assert_eq!(response.status_code, 200);
    assert!(response.headers.is_empty());
    let session = scene.session().await.expect("a session");
    assert_eq!((session.user.as_str(), session.version), ("alice", Version::Seed));
}

#[tokio::test]
async fn a_token_among_the_subprotocols_is_let_in_and_only_ours_is_echoed() {
    let scene = Scene::new();
    let offer = format!("kschat.v2, bearer.{}", token());
    let response = scene.connect(|event| event["headers"]["Sec-WebSocket-Protocol"] = json!(offer)).await;
    assert_eq!(response.status_code, 200);
    assert_eq!(response.headers["Sec-WebSocket-Protocol"], "kschat.v2");
    assert_eq!(scene.session().await.expect("a session").version, Version::V2);
}

#[tokio::test]
async fn a_refused_handshake_leaves_nothing_behind() {
    let scene = Scene::new();
    assert_eq!(scene.connect(|_| {}).await.status_code, 401);
    let wrong = |event: &mut Value| event["queryStringParameters"] = json!({ "token": token() + "x" });
    assert_eq!(scene.connect(wrong).await.status_code, 401);
    let foreign = |event: &mut Value| event["queryStringParameters"] = json!({ "token": token(), "ksId": "bob" });
    let response = scene.connect(foreign).await;
    assert_eq!(response.status_code, 403);
    assert!(json!(response)["body"].as_str().expect("a body").contains(r#""ER":5"#));
    assert_eq!(scene.session().await, None);
}

#[tokio::test]
async fn a_message_goes_to_its_queue_and_the_reply_is_the_body() {
    let scene = Scene::new();
    scene.connect(|event| event["queryStringParameters"] = json!({ "token": token() })).await;
    let (status, reply) = scene.send(|_| {}).await;
    assert_eq!(
        (status, &reply["event"], &reply["ER"], &reply["RANDOMNO"]),
        (200, &json!("RESPSEND"), &json!(0), &json!(7))
    );
    let bob = UserId::try_from("bob").expect("an id");
    let mut deliveries: Box<dyn Deliveries> = scene.broker.open(&bob).await.expect("memory");
    let queued: Value = serde_json::from_slice(&deliveries.try_next().expect("a message").body).expect("JSON");
    assert_eq!((&queued["uId"], &queued["msg"], &queued["mId"]), (&json!("alice"), &json!("hello"), &reply["MID"]));
}

#[tokio::test]
async fn what_can_not_be_understood_is_answered_with_status_200() {
    let scene = Scene::new();
    scene.connect(|event| event["queryStringParameters"] = json!({ "token": token() })).await;
    for (body, encoded, code) in
        [(json!("{"), false, 6), (Value::Null, false, 6), (json!("e30="), true, 6), (json!("{}"), false, 15)]
    {
        let (status, reply) = scene
            .send(|event| {
                event["body"] = body;
                event["isBase64Encoded"] = json!(encoded);
            })
            .await;
        assert_eq!((status, &reply["event"], &reply["ER"]), (200, &json!("RESPERROR"), &json!(code)));
    }
}

#[tokio::test]
async fn a_disconnect_forgets_and_may_come_twice() {
    let scene = Scene::new();
    scene.connect(|event| event["queryStringParameters"] = json!({ "token": token() })).await;
    assert_eq!(scene.disconnect().await.status_code, 200);
    assert_eq!(scene.session().await, None);
    assert_eq!(scene.disconnect().await.status_code, 200);
    let (_, reply) = scene.send(|_| {}).await;
    assert_eq!(reply["ER"], 17);
}

#[tokio::test]
async fn a_fresh_token_of_the_same_user_lets_the_session_go_on_and_another_one_does_not() {
    let scene = Scene::new();
    let now = SystemClock.now();
    let token = |user: &str, span: i64| {
        let end = Timestamp::from_millis(now.millis().saturating_add_signed(span * 1_000));
        sign_seed_token(SECRET, &UserId::try_from(user).expect("an id"), now, end).expect("it can sign")
    };
    let ask = async |token: &str| {
        let frame = json!({ "action": "auth", "token": token }).to_string();
        let reply = scene.send(|event| event["body"] = json!(frame)).await.1;
        assert_eq!(reply["event"], "RESPAUTH");
        reply
    };
    let end = async || scene.session().await.expect("a session").expires.expect("it ends").millis() / 1_000;
    assert_eq!(ask(&token("alice", 60)).await["ER"], 17, "nobody has connected");
    scene.connect(|event| event["queryStringParameters"] = json!({ "token": token("alice", 60) })).await;
    let seconds = now.millis() / 1_000;
    for (user, span, er) in [("mallory", 600, 5), ("alice", -1, 4)] {
        assert_eq!(ask(&token(user, span)).await["ER"], er);
        assert_eq!(end().await, seconds + 60);
    }
    assert_eq!(ask("no token").await["ER"], 3);
    let reply = ask(&token("alice", 600)).await;
    assert_eq!((&reply["ER"], &reply["EXP"]), (&json!(0), &json!(seconds + 600)));
    assert_eq!(end().await, seconds + 600);
    assert_eq!(ask(&token("alice", 300)).await["ER"], 0);
    assert_eq!(end().await, seconds + 600, "the old token is still good");
}

#[tokio::test]
async fn an_event_without_a_connection_is_refused() {
    let scene = Scene::new();
    let response = scene.connect(|event| event["requestContext"]["connectionId"] = Value::Null).await;
    assert_eq!(response.status_code, 400);
}

#[tokio::test]
async fn a_user_with_too_many_connections_is_refused_until_one_has_gone() {
    let scene = Scene::new();
    let connect = async |n: usize| {
        let change = move |event: &mut Value| {
            event["queryStringParameters"] = json!({ "token": token() });
            event["requestContext"]["connectionId"] = json!(format!("connection-{n}"));
        };
        scene.connect(change).await.status_code
    };
    for n in 0..100 {
        assert_eq!(connect(n).await, 200);
    }
    assert_eq!(connect(100).await, 429);
    let (user, gone) = (UserId::try_from("alice"), ConnectionId::try_from("connection-7"));
    scene.registry.remove(&user.expect("an id"), &gone.expect("an id")).await.expect("memory");
    assert_eq!((connect(101).await, connect(102).await), (200, 429));
}

/// What the function says to a text, if it says anything.
async fn say(scene: &Scene, text: &str) -> Option<String> {
    let event = event(include_str!("events/message.json"), |event| event["body"] = json!(text));
    json!(send::handle(&scene.send, event).await)["body"].as_str().map(str::to_owned)
}

/// What the owner is told next beside changes of connections.
async fn told(scene: &mut Scene) -> OwnershipEvent {
    loop {
        match scene.ownership.next().await {
            OwnershipEvent::Acquired(_) | OwnershipEvent::Poked(_) => {}
            other => return other,
        }
    }
}

#[tokio::test]
async fn raw_client_that_says_packets_is_not_understood_and_stays_known() {
    let scene = Scene::new();
    scene.connect(|event| event["queryStringParameters"] = json!({ "token": token() })).await;
    for packet in ["41", "40", "0", "1", "2", "3", "5", "6", "41/kschat,", "42[\"Send\",{}]", "430[]", "44"] {
        let answer = say(&scene, packet).await.expect("it is answered");
        assert!(answer.contains(r#""event":"RESPERROR","RC":1,"ER":6"#), "{packet}: {answer}");
    }
    assert_eq!(scene.session().await.expect("a session").user.as_str(), "alice");
    assert_eq!(scene.send(|_| {}).await.1["ER"], 0);
}

#[tokio::test]
async fn socketio_client_that_says_raw_frames_is_not_served() {
    let scene = Scene::new();
    let query = json!({ "token": token(), "EIO": "4", "transport": "websocket" });
    scene.connect(|event| event["queryStringParameters"] = query).await;
    let frame = r#"{"uId":"alice","pId":"bob","msg":"hello","rno":1}"#;
    assert_eq!(say(&scene, frame).await.as_deref(), Some(RESTART), "it hears nothing else before it has joined");
    let welcome = say(&scene, "40/kschat,").await.expect("it is answered");
    assert!(welcome.starts_with("40/kschat,{"), "{welcome}");
    let refused = say(&scene, frame).await.expect("it is answered");
    assert!(refused.starts_with(r#"42/kschat,["RESPERROR",{"RC":1,"ER":6"#), "{refused}");
    let bob = UserId::try_from("bob").expect("an id");
    let mut deliveries = scene.broker.open(&bob).await.expect("memory");
    assert!(deliveries.try_next().is_none());
}

#[tokio::test]
async fn socketio_client_that_leaves_counts_until_its_connection_is_closed() {
    let mut scene = Scene::new();
    let query = json!({ "token": token(), "EIO": "4", "transport": "websocket" });
    scene.connect(|event| event["queryStringParameters"] = query).await;
    assert_eq!(say(&scene, "41/kschat,").await, None);
    let user = scene.session().await.expect("it is still known").user;
    let connection = ConnectionId::try_from("BFHPhfCWIAMCKlQ=").expect("an id");
    assert_eq!(told(&mut scene).await, OwnershipEvent::Closing(user, Some(connection)));
}

#[tokio::test]
async fn connect_packet_with_another_users_token_is_refused() {
    let scene = Scene::new();
    let query = json!({ "EIO": "4", "transport": "websocket" });
    assert_eq!(scene.connect(|event| event["queryStringParameters"] = query).await.status_code, 200);
    let token_of = |user: &str| {
        let (user, now) = (UserId::try_from(user).expect("an id"), SystemClock.now());
        sign_seed_token(SECRET, &user, now, now.plus(Duration::from_secs(60))).expect("it can sign")
    };
    let join = |user: &str| format!(r#"40/kschat,{{"token":"{}"}}"#, token_of(user));
    assert!(say(&scene, &join("alice")).await.expect("an answer").starts_with("40/kschat,"));
    assert!(say(&scene, &join("mallory")).await.expect("an answer").starts_with("44/kschat,"));
    assert_eq!(scene.session().await.expect("a session").user.as_str(), "alice");
}

#[tokio::test]
async fn handshake_without_token_is_refused_where_it_is_required() {
    let mut scene = Scene::new();
    scene.connect.requires_token = true;
    let query = json!({ "EIO": "4", "transport": "websocket" });
    assert_eq!(scene.connect(|event| event["queryStringParameters"] = query).await.status_code, 401);
    assert_eq!(scene.session().await, None);
}

#[tokio::test]
async fn flood_is_refused_then_disconnected_and_kept_out() {
    let mut scene = Scene::new();
    scene.connect(|event| event["queryStringParameters"] = json!({ "token": token() })).await;
    let (mut accepted, mut refused) = (0, 0);
    let left = loop {
        let (_, reply) = scene.send(|_| {}).await;
        match (reply["ER"].as_u64(), reply["RETRY"].as_u64()) {
            (Some(0), None) => accepted += 1,
            (Some(9), Some(retry)) if retry > 1_000 => break retry,
            (Some(9), Some(1..)) => refused += 1,
            _ => panic!("{reply}"),
        }
        assert!(accepted + refused < 10_000, "nothing bounds it");
    };
    assert!(accepted >= 200 && refused >= 100, "{accepted} accepted, {refused} refused");
    assert!(left <= 60_000);
    let user = UserId::try_from("alice").expect("an id");
    assert_eq!(told(&mut scene).await, OwnershipEvent::Closing(user, None));
    let again = scene.connect(|event| {
        event["queryStringParameters"] = json!({ "token": token() });
        event["requestContext"]["connectionId"] = json!("another");
    });
    assert_eq!(again.await.status_code, 429);
}

#[tokio::test]
async fn user_without_room_for_a_connection_has_the_others_checked_first() {
    let mut scene = Scene::new();
    for n in 0..100 {
        let change = |event: &mut Value| {
            event["queryStringParameters"] = json!({ "token": token() });
            event["requestContext"]["connectionId"] = json!(format!("connection-{n}"));
        };
        assert_eq!(scene.connect(change).await.status_code, 200);
    }
    let (deps, registry) = (scene.connect.clone(), scene.registry.clone());
    let late = tokio::spawn(async move {
        let change = |event: &mut Value| {
            event["queryStringParameters"] = json!({ "token": token() });
            event["requestContext"]["connectionId"] = json!("late");
        };
        connect::handle(&deps, event(include_str!("events/connect.json"), change)).await.status_code
    });
    let user = UserId::try_from("alice").expect("an id");
    assert_eq!(told(&mut scene).await, OwnershipEvent::Checking(user.clone()));
    let gone = ConnectionId::try_from("connection-7").expect("an id");
    registry.remove(&user, &gone).await.expect("memory");
    assert_eq!(late.await.expect("it does not panic"), 200);
}
