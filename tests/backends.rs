//! External services send messages to users over plain AMQP.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use kschat::stack::{Options, Stack};
use kschat_tests::{
    client::Client,
    eventually,
    stack::{self, Services, connect, options, unique_user},
};
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions},
};
use serde_json::{Value, json};

/// A service that only knows the documentation.
struct Backend {
    channel: Channel,
    _connection: lapin::Connection,
    sent: u32,
}

impl Backend {
    async fn connect(services: &Services) -> Self {
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect(&services.rabbitmq.url(), properties).await;
        let connection = connection.expect("the broker answers");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirm mode");
        Self { channel, _connection: connection, sent: 0 }
    }

    /// A body with a fresh id.
    fn body(&mut self, to: &str, msg: &str) -> Value {
        self.sent += 1;
        let id = format!("backend-{}", self.sent);
        json!({ "uId": "billing", "pId": to, "msg": msg, "rStatus": 1, "msgTime": 1_700_000_000_123_u64, "mId": id })
    }

    async fn publish(&self, exchange: &str, key: &str, body: &[u8]) -> Confirmation {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
        let published = self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await;
        published.expect("the message is published").await.expect("a confirm")
    }

    async fn tells(&self, exchange: &str, key: &str, body: &Value) {
        let confirmed = self.publish(exchange, key, body.to_string().as_bytes()).await;
        assert_eq!(confirmed, Confirmation::Ack(None), "{exchange} {key}");
    }
}

async fn stack(services: &Services) -> Stack {
    let options = Options { backends: Some(services.backends()), ..options() };
    stack::start(options).await
}

/// Connects, and waits until the user's queue exists.
async fn arrive(stack: &Stack, user: &str) -> Client {
    let mut client = connect(&stack.websocket_url(), user).await;
    client.send(user, "am I here?").await;
    assert_eq!(client.texts(1).await, ["am I here?"]);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn external_service_publishes_over_amqp() {
    let services = Services::start().await;
    let stack = stack(&services).await;
    let (a, b, room) = (unique_user("alice"), unique_user("bob"), "team.7 *");
    let (mut alice, mut bob) = (arrive(&stack, &a).await, arrive(&stack, &b).await);
    let mut backend = Backend::connect(&services).await;

    let body = backend.body(&a, "your invoice");
    backend.tells("kschat.direct", &format!("ks_{a}"), &body).await;
    assert_eq!(alice.items().await, [body]);

    let body = backend.body("all", "we go down at six");
    backend.tells("kschat.broadcast", "", &body).await;
    assert_eq!((alice.items().await, bob.items().await), (vec![body.clone()], vec![body]));

    assert_eq!(bob.ask(json!({ "action": "join", "gId": room }), "RESPROOM").await["ER"], 0);
    let mut body = backend.body(room, "the build is red");
    body["gId"] = json!(room);
    backend.tells("kschat.rooms", "room.team.7%20%2A", &body).await;
    assert_eq!(bob.items().await, [body]);

    let unroutable = backend.body("nobody", "anybody there?");
    let returned = backend.publish("kschat.direct", "ks_nobody", unroutable.to_string().as_bytes()).await;
    assert!(matches!(returned, Confirmation::Ack(Some(_))), "{returned:?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_external_message_is_dead_lettered() {
    let services = Services::start().await;
    let stack = stack(&services).await;
    let a = unique_user("alice");
    let mut alice = arrive(&stack, &a).await;
    let mut backend = Backend::connect(&services).await;
    let key = format!("ks_{a}");
    let mut without_id = backend.body(&a, "which one?");
    without_id.as_object_mut().expect("an object").remove("mId");
    let wrong = ["not json".to_owned(), "[]".to_owned(), without_id.to_string()];
    for body in &wrong {
        backend.publish("kschat.direct", &key, body.as_bytes()).await;
    }
    let good = backend.body(&a, "better");
    backend.tells("kschat.direct", &key, &good).await;
    assert_eq!(alice.texts(1).await, ["better"]);
    let mut dead_letter = Vec::new();
    eventually("all are dead-lettered", async || {
        let got = backend.channel.basic_get("kschat.dead".into(), BasicGetOptions { no_ack: true }).await;
        if let Some(letter) = got.expect("the queue is there") {
            let headers = letter.properties.headers().as_ref().expect("headers").inner();
            let reason = headers["x-kschat-reason"].as_long_string().expect("text").to_string();
            assert_eq!(reason, "not-a-message");
            dead_letter.push(String::from_utf8(letter.delivery.data).expect("text"));
        }
        dead_letter.len() == wrong.len()
    })
    .await;
    assert_eq!(dead_letter, wrong);
    stack.stop().await;
}
