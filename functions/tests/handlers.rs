//! The handlers, with events in the form of the managed edge.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::{sync::Arc, time::Duration};

use kschat_adapters::jwt::{JwtSettings, JwtVerifier, sign_v1_token};
use kschat_core::{
    Clock, Partitions, SystemClock, Timestamp,
    inbound::send::UnknownRecipientPolicy,
    limits::Limits,
    memory::{MemoryBroker, MemoryHash, MemoryOwnership, MemoryRegistry},
    ports::{ConnectionRegistry, OwnerMessage, Ownership, OwnershipEvent, QueueConsumer, QueueManager},
    rooms,
};
use kschat_functions::{Event, Response, connect, dependencies::Services, disconnect, send};
use kschat_protocol::{ConnectionId, MessageId, ProtocolVersion, UserId, dialect::RECONNECT_PACKET};
use serde_json::{Value, json};

const SECRET: &str = "a secret that only the tests know";

struct Fixture {
    connect: connect::Deps,
    disconnect: disconnect::Deps,
    send: send::Deps,
    broker: MemoryBroker,
    registry: Arc<MemoryRegistry>,
    /// Receives refreshes and acks.
    ownership: MemoryOwnership,
}

impl Fixture {
    fn new() -> Self {
        let (broker, ownership) = MemoryBroker::new(Partitions::default());
        let registry = Arc::new(MemoryRegistry::new(Partitions::default()));
        let verifier = JwtVerifier::new(&JwtSettings::v1(SECRET.to_owned())).expect("a secret fits HS256");
        let services = Services {
            registry: registry.clone(),
            owners: Arc::new(broker.clone()),
            broker: Arc::new(broker.clone()),
            verifier: Arc::new(verifier),
            hash: Arc::new(MemoryHash::new()),
            room_policy: Arc::new(rooms::AllowAllRooms),
            clock: Arc::new(SystemClock),
            limits: Limits::default(),
            requires_token: false,
            unknown_recipients: UnknownRecipientPolicy::Queue,
        };
        let (connect, disconnect, send) = (services.connect(), services.disconnect(), services.send());
        Self { connect, disconnect, send, broker, registry, ownership }
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
async fn ack_reaches_owner_and_answers_only_failure() {
    let mut fixture = Fixture::new();
    let ack =
        |change: &'static str| event(include_str!("events/message.json"), move |event| event["body"] = change.into());
    let early = send::handle(&fixture.send, ack(r#"{"action":"ack","mId":"m-1"}"#)).await;
    assert!(json!(early)["body"].as_str().expect("a body").contains(r#""ER":17"#));
    fixture.connect(|event| event["queryStringParameters"] = json!({ "token": token() })).await;
    let response = send::handle(&fixture.send, ack(r#"{"action":"ack","mId":"m-1"}"#)).await;
    assert_eq!((response.status_code, json!(response)["body"].clone()), (200, Value::Null));
    let refused = send::handle(&fixture.send, ack(r#"{"action":"ack"}"#)).await;
    assert!(json!(refused)["body"].as_str().expect("a body").contains(r#""event":"RESPERROR","RC":1,"ER":7"#));
    loop {
        match fixture.ownership.next().await {
            OwnershipEvent::Message(user, OwnerMessage::Ack(ack)) => {
                let message = ack.message.as_ref().map(MessageId::as_str);
                assert_eq!((user.as_str(), message, ack.redelivery_requested), ("alice", Some("m-1"), false));
                break;
            }
            OwnershipEvent::Acquired(_) | OwnershipEvent::Message(_, OwnerMessage::Refresh) => {}
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
    sign_v1_token(SECRET, &user, now, now.plus(Duration::from_secs(60))).expect("the secret signs")
}

/// The library writes absent fields as null.
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
fn event_fixtures_round_trip() {
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
async fn token_in_query_is_accepted() {
    let fixture = Fixture::new();
    let response =
        fixture.connect(|event| event["queryStringParameters"] = json!({ "token": token(), "ksId": "alice" })).await;
    assert_eq!(response.status_code, 200);
    assert!(response.headers.is_empty());
    let session = fixture.session().await.expect("a session");
    assert_eq!((session.user.as_str(), session.version), ("alice", ProtocolVersion::V1));
}

#[tokio::test]
async fn subprotocols_on_several_lines_are_one_list() {
    let fixture = Fixture::new();
    let lines = ["kschat.v2".to_owned(), format!("bearer.{}", token())];
    let response = fixture
        .connect(|event| {
            event["headers"]["Sec-WebSocket-Protocol"] = json!(lines[1]);
            event["multiValueHeaders"]["Sec-WebSocket-Protocol"] = json!(lines);
        })
        .await;
    assert_eq!(response.status_code, 200);
    assert_eq!(response.headers["Sec-WebSocket-Protocol"], "kschat.v2");
}

#[tokio::test]
async fn token_in_subprotocol_is_accepted_not_echoed() {
    let fixture = Fixture::new();
    let offer = format!("kschat.v2, bearer.{}", token());
    let response = fixture.connect(|event| event["headers"]["Sec-WebSocket-Protocol"] = json!(offer)).await;
    assert_eq!(response.status_code, 200);
    assert_eq!(response.headers["Sec-WebSocket-Protocol"], "kschat.v2");
    assert_eq!(fixture.session().await.expect("a session").version, ProtocolVersion::V2);
}

#[tokio::test]
async fn refused_handshake_registers_nothing() {
    let fixture = Fixture::new();
    assert_eq!(fixture.connect(|_| {}).await.status_code, 401);
    let wrong = |event: &mut Value| event["queryStringParameters"] = json!({ "token": token() + "x" });
    assert_eq!(fixture.connect(wrong).await.status_code, 401);
    let foreign = |event: &mut Value| event["queryStringParameters"] = json!({ "token": token(), "ksId": "bob" });
    let response = fixture.connect(foreign).await;
    assert_eq!(response.status_code, 403);
    assert!(json!(response)["body"].as_str().expect("a body").contains(r#""ER":5"#));
    assert_eq!(fixture.session().await, None);
}

#[tokio::test]
async fn send_enqueues_message_and_replies_in_body() {
    let fixture = Fixture::new();
    fixture.connect(|event| event["queryStringParameters"] = json!({ "token": token() })).await;
    let (status, reply) = fixture.send(|_| {}).await;
    assert_eq!(
        (status, &reply["event"], &reply["ER"], &reply["RANDOMNO"]),
        (200, &json!("RESPSEND"), &json!(0), &json!(7))
    );
    let bob = UserId::try_from("bob").expect("an id");
    let mut deliveries: Box<dyn QueueConsumer> = fixture.broker.open(&bob).await.expect("memory");
    let queued: Value = serde_json::from_slice(&deliveries.try_next().expect("a message").body).expect("JSON");
    assert_eq!((&queued["uId"], &queued["msg"], &queued["mId"]), (&json!("alice"), &json!("hello"), &reply["MID"]));
}

#[tokio::test]
async fn malformed_frame_is_answered_with_200() {
    let fixture = Fixture::new();
    fixture.connect(|event| event["queryStringParameters"] = json!({ "token": token() })).await;
    for (body, encoded, code) in
        [(json!("{"), false, 6), (Value::Null, false, 6), (json!("e30="), true, 6), (json!("{}"), false, 15)]
    {
        let (status, reply) = fixture
            .send(|event| {
                event["body"] = body;
                event["isBase64Encoded"] = json!(encoded);
            })
            .await;
        assert_eq!((status, &reply["event"], &reply["ER"]), (200, &json!("RESPERROR"), &json!(code)));
    }
}

#[tokio::test]
async fn disconnect_is_idempotent() {
    let fixture = Fixture::new();
    fixture.connect(|event| event["queryStringParameters"] = json!({ "token": token() })).await;
    assert_eq!(fixture.disconnect().await.status_code, 200);
    assert_eq!(fixture.session().await, None);
    assert_eq!(fixture.disconnect().await.status_code, 200);
    let (_, reply) = fixture.send(|_| {}).await;
    assert_eq!(reply["ER"], 17);
}

#[tokio::test]
async fn renewal_requires_token_of_same_user() {
    let fixture = Fixture::new();
    let now = SystemClock.now();
    let token = |user: &str, span: i64| {
        let end = Timestamp::from_millis(now.millis().saturating_add_signed(span * 1_000));
        sign_v1_token(SECRET, &UserId::try_from(user).expect("an id"), now, end).expect("the secret signs")
    };
    let ask = async |token: &str| {
        let frame = json!({ "action": "auth", "token": token }).to_string();
        let reply = fixture.send(|event| event["body"] = json!(frame)).await.1;
        assert_eq!(reply["event"], "RESPAUTH");
        reply
    };
    let end =
        async || fixture.session().await.expect("a session").expires.expect("a token with an expiry").millis() / 1_000;
    assert_eq!(ask(&token("alice", 60)).await["ER"], 17, "there is no session yet");
    fixture.connect(|event| event["queryStringParameters"] = json!({ "token": token("alice", 60) })).await;
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
async fn event_without_connection_id_is_refused() {
    let fixture = Fixture::new();
    let response = fixture.connect(|event| event["requestContext"]["connectionId"] = Value::Null).await;
    assert_eq!(response.status_code, 400);
}

#[tokio::test]
async fn connection_limit_refuses_until_one_closes() {
    let fixture = Fixture::new();
    let connect = async |n: usize| {
        let change = move |event: &mut Value| {
            event["queryStringParameters"] = json!({ "token": token() });
            event["requestContext"]["connectionId"] = json!(format!("connection-{n}"));
        };
        fixture.connect(change).await.status_code
    };
    for n in 0..100 {
        assert_eq!(connect(n).await, 200);
    }
    assert_eq!(connect(100).await, 429);
    let (user, gone) = (UserId::try_from("alice"), ConnectionId::try_from("connection-7"));
    fixture.registry.remove(&user.expect("an id"), &gone.expect("an id")).await.expect("memory");
    assert_eq!((connect(101).await, connect(102).await), (200, 429));
}

/// The function's response to a text, if any.
async fn say(fixture: &Fixture, text: &str) -> Option<String> {
    let event = event(include_str!("events/message.json"), |event| event["body"] = json!(text));
    json!(send::handle(&fixture.send, event).await)["body"].as_str().map(str::to_owned)
}

/// The next owner message that is not a refresh.
async fn next_owner_event(fixture: &mut Fixture) -> OwnershipEvent {
    loop {
        match fixture.ownership.next().await {
            OwnershipEvent::Acquired(_) | OwnershipEvent::Message(_, OwnerMessage::Refresh) => {}
            other => return other,
        }
    }
}

#[tokio::test]
async fn raw_session_rejects_socketio_packets() {
    let fixture = Fixture::new();
    fixture.connect(|event| event["queryStringParameters"] = json!({ "token": token() })).await;
    for packet in ["41", "40", "0", "1", "2", "3", "5", "6", "41/kschat,", "42[\"Send\",{}]", "430[]", "44"] {
        let answer = say(&fixture, packet).await.expect("a reply");
        assert!(answer.contains(r#""event":"RESPERROR","RC":1,"ER":6"#), "{packet}: {answer}");
    }
    assert_eq!(fixture.session().await.expect("a session").user.as_str(), "alice");
    assert_eq!(fixture.send(|_| {}).await.1["ER"], 0);
}

#[tokio::test]
async fn socketio_session_rejects_raw_frames() {
    let fixture = Fixture::new();
    let query = json!({ "token": token(), "EIO": "4", "transport": "websocket" });
    fixture.connect(|event| event["queryStringParameters"] = query).await;
    let frame = r#"{"uId":"alice","pId":"bob","msg":"hello","rno":1}"#;
    assert_eq!(
        say(&fixture, frame).await.as_deref(),
        Some(RECONNECT_PACKET),
        "it hears nothing else before it has joined"
    );
    let welcome = say(&fixture, "40/kschat,").await.expect("a reply");
    assert!(welcome.starts_with("40/kschat,{"), "{welcome}");
    let refused = say(&fixture, frame).await.expect("a reply");
    assert!(refused.starts_with(r#"42/kschat,["RESPERROR",{"RC":1,"ER":6"#), "{refused}");
    let bob = UserId::try_from("bob").expect("an id");
    let mut deliveries = fixture.broker.open(&bob).await.expect("memory");
    assert!(deliveries.try_next().is_none());
}

#[tokio::test]
async fn socketio_send_without_object_is_a_failed_send() {
    let fixture = Fixture::new();
    let query = json!({ "token": token(), "EIO": "4", "transport": "websocket" });
    fixture.connect(|event| event["queryStringParameters"] = query).await;
    say(&fixture, "40/kschat,").await.expect("a reply");
    for argument in [r#""hello""#, "[1]", "null", "7", r#"{"pId":"bob"}"#] {
        let answer = say(&fixture, &format!(r#"42/kschat,7["Send",{argument}]"#)).await.expect("a reply");
        assert!(answer.starts_with(r#"42/kschat,0["RESPSEND",{"RC":1,"ER":"#), "{argument}: {answer}");
        assert!(!answer.contains(r#""ER":0"#), "{argument}: {answer}");
    }
    // A field of that name is the application's own.
    let own = r#"42/kschat,7["Send",{"action":"greet","uId":"alice","pId":"bob","msg":"hello"}]"#;
    let answer = say(&fixture, own).await.expect("a reply");
    assert_eq!(answer, r#"43/kschat,7[{"RESPONSE":"Send Emit is success.","uId":"alice"}]"#);
}

#[tokio::test]
async fn socketio_disconnect_counts_until_connection_closes() {
    let mut fixture = Fixture::new();
    let query = json!({ "token": token(), "EIO": "4", "transport": "websocket" });
    fixture.connect(|event| event["queryStringParameters"] = query).await;
    assert_eq!(say(&fixture, "41/kschat,").await, None);
    let user = fixture.session().await.expect("the session remains").user;
    let connection = ConnectionId::try_from("BFHPhfCWIAMCKlQ=").expect("an id");
    assert_eq!(
        next_owner_event(&mut fixture).await,
        OwnershipEvent::Message(user, OwnerMessage::Close { connection: Some(connection) })
    );
}

#[tokio::test]
async fn connect_packet_with_foreign_token_is_refused() {
    let fixture = Fixture::new();
    let query = json!({ "EIO": "4", "transport": "websocket" });
    assert_eq!(fixture.connect(|event| event["queryStringParameters"] = query).await.status_code, 200);
    let token_of = |user: &str| {
        let (user, now) = (UserId::try_from(user).expect("an id"), SystemClock.now());
        sign_v1_token(SECRET, &user, now, now.plus(Duration::from_secs(60))).expect("the secret signs")
    };
    let join = |user: &str| format!(r#"40/kschat,{{"token":"{}"}}"#, token_of(user));
    assert!(say(&fixture, &join("alice")).await.expect("an answer").starts_with("40/kschat,"));
    assert!(say(&fixture, &join("mallory")).await.expect("an answer").starts_with("44/kschat,"));
    assert_eq!(fixture.session().await.expect("a session").user.as_str(), "alice");
}

#[tokio::test]
async fn required_token_missing_refuses_handshake() {
    let mut fixture = Fixture::new();
    fixture.connect.requires_token = true;
    let query = json!({ "EIO": "4", "transport": "websocket" });
    assert_eq!(fixture.connect(|event| event["queryStringParameters"] = query).await.status_code, 401);
    assert_eq!(fixture.session().await, None);
}

#[tokio::test]
async fn flooding_user_is_limited_then_blocked() {
    let mut fixture = Fixture::new();
    fixture.connect(|event| event["queryStringParameters"] = json!({ "token": token() })).await;
    let (mut accepted, mut refused) = (0, 0);
    let left = loop {
        let (_, reply) = fixture.send(|_| {}).await;
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
    assert_eq!(
        next_owner_event(&mut fixture).await,
        OwnershipEvent::Message(user, OwnerMessage::Close { connection: None })
    );
    let again = fixture.connect(|event| {
        event["queryStringParameters"] = json!({ "token": token() });
        event["requestContext"]["connectionId"] = json!("another");
    });
    assert_eq!(again.await.status_code, 429);
}

#[tokio::test]
async fn full_user_checks_connections_before_refusal() {
    let mut fixture = Fixture::new();
    for n in 0..100 {
        let change = |event: &mut Value| {
            event["queryStringParameters"] = json!({ "token": token() });
            event["requestContext"]["connectionId"] = json!(format!("connection-{n}"));
        };
        assert_eq!(fixture.connect(change).await.status_code, 200);
    }
    let (deps, registry) = (fixture.connect.clone(), fixture.registry.clone());
    let late = tokio::spawn(async move {
        let change = |event: &mut Value| {
            event["queryStringParameters"] = json!({ "token": token() });
            event["requestContext"]["connectionId"] = json!("late");
        };
        connect::handle(&deps, event(include_str!("events/connect.json"), change)).await.status_code
    });
    let user = UserId::try_from("alice").expect("an id");
    assert_eq!(
        next_owner_event(&mut fixture).await,
        OwnershipEvent::Message(user.clone(), OwnerMessage::CheckConnections)
    );
    let gone = ConnectionId::try_from("connection-7").expect("an id");
    registry.remove(&user, &gone).await.expect("memory");
    assert_eq!(late.await.expect("the task does not panic"), 200);
}
