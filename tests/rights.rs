//! Functions and consumer have separate broker users with least privileges: those of `kschat broker-users`, and so of
//! `infra/rabbitmq.json`.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::process::Command;

use kschat::stack::{Backends, Options, Stack};
use kschat_tests::{
    client::Client,
    eventually, free_port,
    process::binary,
    stack::{self, Consumer, Services, connect, options, unique_user},
};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, ErrorKind, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
    },
    types::FieldTable,
};
use serde_json::json;
use tempfile::TempDir;

/// A deployment whose components have separate users.
struct Deployment {
    services: Services,
    stack: Stack,
    _consumer: Consumer,
    functions: String,
    consumer: String,
}

/// Output of `kschat` with that configuration directory.
fn kschat(folder: &TempDir, arguments: &[&str]) -> String {
    let mut command = Command::new(binary("kschat"));
    command.env_clear().env("XDG_CONFIG_HOME", folder.path()).args(arguments);
    let output = command.output().expect("the command starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

impl Deployment {
    async fn start(refuse_strangers: bool) -> Self {
        let services = Services::start().await;
        let folder = TempDir::with_prefix("kschat-settings-").expect("a temporary folder");
        // Twice, as it must be idempotent.
        for _ in 0..2 {
            services.rabbitmq.control(&kschat(&folder, &["broker-users"]));
        }
        let url = |part| {
            let settings = kschat(&folder, &["env", part]);
            let url = settings.lines().find_map(|line| line.strip_prefix("AMQP_URL=\"")?.strip_suffix('"'));
            url.expect("a URL").replace(":5672/", &format!(":{}/", services.rabbitmq.port()))
        };
        let (functions, consumer) = (url("functions"), url("consumer"));

        // Functions may not declare anything, so the consumer starts first.
        let listen = ([127, 0, 0, 1], free_port()).into();
        let own = [
            ("AMQP_URL", consumer.clone()),
            ("UNKNOWN_RECIPIENT", if refuse_strangers { "refuse" } else { "queue" }.to_owned()),
        ];
        let running = Consumer::start_with(&services, &format!("http://{listen}/dev"), &own).await;
        let broker = functions.parse().expect("a broker URL");
        let backends = Some(Backends { broker, ..services.backends() });
        let mut options = Options { listen, backends, consumer: false, ..options() };
        if refuse_strangers {
            options.unknown_recipients = kschat_core::inbound::send::UnknownRecipientPolicy::Reject;
        }
        let stack = stack::start(options).await;
        Self { services, stack, _consumer: running, functions, consumer }
    }

    async fn connect(&self, user: &str) -> Client {
        connect(&self.stack.websocket_url(), user).await
    }
}

/// A channel of that broker user.
async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("the broker answers");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirm mode");
    (connection, channel)
}

/// Whether the error is a missing permission.
fn is_refused<T>(outcome: Result<T, lapin::Error>) -> bool {
    let code = outcome.err().map(|error| match error.kind() {
        ErrorKind::ProtocolError(refused) => refused.get_id(),
        _ => panic!("{error}"),
    });
    code == Some(403)
}

/// An action at the broker.
#[derive(Clone, Copy, Debug)]
enum BrokerAction {
    Consume(&'static str),
    Get(&'static str),
    Purge(&'static str),
    DeleteQueue(&'static str),
    DeclareQueue(&'static str),
    /// Queue, exchange, key.
    Bind(&'static str, &'static str, &'static str),
    DeclareExchange(&'static str),
    DeleteExchange(&'static str),
    /// Exchange, key.
    Publish(&'static str, &'static str),
}

/// Performs an action on a separate channel.
async fn perform(connection: &Connection, deed: BrokerAction) -> Result<(), lapin::Error> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let none = FieldTable::default;
    match deed {
        BrokerAction::Consume(queue) => {
            channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), none()).await.map(drop)
        }
        BrokerAction::Get(queue) => channel.basic_get(queue.into(), BasicGetOptions::default()).await.map(drop),
        BrokerAction::Purge(queue) => channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.map(drop),
        BrokerAction::DeleteQueue(queue) => {
            channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map(drop)
        }
        BrokerAction::DeclareQueue(queue) => {
            channel.queue_declare(queue.into(), QueueDeclareOptions::default(), none()).await.map(drop)
        }
        BrokerAction::Bind(queue, exchange, key) => {
            channel.queue_bind(queue.into(), exchange.into(), key.into(), QueueBindOptions::default(), none()).await
        }
        BrokerAction::DeclareExchange(exchange) => {
            let options = ExchangeDeclareOptions::default();
            channel.exchange_declare(exchange.into(), ExchangeKind::Fanout, options, none()).await
        }
        BrokerAction::DeleteExchange(exchange) => {
            channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await
        }
        BrokerAction::Publish(exchange, key) => {
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            channel.basic_publish(exchange.into(), key.into(), options, b"x", properties).await?.await.map(drop)
        }
    }
}

async fn assert_all_refused(connection: &Connection, deeds: impl IntoIterator<Item = BrokerAction>) {
    for deed in deeds {
        assert!(is_refused(perform(connection, deed).await), "{deed:?} was not refused");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn least_privilege_users_serve_chat() {
    let deployment = Deployment::start(false).await;
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (deployment.connect(&a).await, deployment.connect(&b).await);
    alice.deliver(&b, "hello").await;
    assert_eq!(bob.texts(1).await, ["hello"]);

    // The owner creates an unknown recipient's queue; a later connect finds the message.
    let s = unique_user("unknown");
    alice.deliver(&s, "later").await;
    assert_eq!(deployment.connect(&s).await.texts(1).await, ["later"]);

    // Functions bind rooms.
    let room = unique_user("room");
    for client in [&mut alice, &mut bob] {
        let joined = client.ask(json!({ "action": "join", "gId": room }), "RESPROOM").await;
        assert_eq!(joined["ER"], 0, "{joined}");
    }
    alice
        .send_text(json!({ "action": "send", "uId": a, "gId": room, "msg": "all", "rno": "r1", "time": 0 }).to_string())
        .await;
    assert_eq!(bob.texts(1).await, ["all"]);
    let left = bob.ask(json!({ "action": "leave", "gId": room }), "RESPROOM").await;
    assert_eq!(left["ER"], 0, "{left}");

    // Events and acks use the exchange of control messages; undeliverable messages are dead-lettered.
    alice.send_text(json!({ "action": "typing", "pId": b, "on": true }).to_string()).await;
    assert_eq!(bob.next("RESPTYPING").await["UID"], json!(a));
    let (_connection, guest) = channel(&deployment.services.rabbitmq.url()).await;
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent = guest.basic_publish("kschat.direct".into(), format!("ks_{b}").into(), options, b"{", properties).await;
    sent.expect("the message is published").await.expect("a confirm");
    eventually("an unreadable message is dead-lettered", async || {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = guest.queue_declare("kschat.dead".into(), options, FieldTable::default()).await;
        queue.expect("a queue").message_count() == 1
    })
    .await;
    // Acknowledged messages are not redelivered: the queue is empty.
    bob.close().await;
    let mut bob = deployment.connect(&b).await;
    alice.deliver(&b, "after").await;
    assert_eq!(bob.texts(1).await, ["after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn least_privilege_connect_enrolls_user() {
    let deployment = Deployment::start(true).await;
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = deployment.connect(&a).await;
    assert_eq!(alice.send(&b, "who?").await["ER"], 10);
    let mut bob = deployment.connect(&b).await;
    alice.deliver(&b, "hello").await;
    assert_eq!(bob.texts(1).await, ["hello"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_user_cannot_read_or_delete_queues() {
    let deployment = Deployment::start(false).await;
    let mut mallory = deployment.connect("mallory").await;
    assert_eq!(mallory.send("victim", "so that there is a queue").await["ER"], 0);
    let (connection, _) = channel(&deployment.functions).await;
    for queue in ["kschat.user.victim", "kschat.user.mallory", "kschat.control.0", "kschat.members", "kschat.dead"] {
        let deeds = [
            BrokerAction::Consume(queue),
            BrokerAction::Get(queue),
            BrokerAction::Purge(queue),
            BrokerAction::DeleteQueue(queue),
        ];
        assert_all_refused(&connection, deeds).await;
        assert_all_refused(&connection, [BrokerAction::DeclareQueue(queue)]).await;
    }
    let exchanges = ["kschat.direct", "kschat.rooms", "kschat.broadcast", "kschat.dead", "kschat.control"];
    assert_all_refused(&connection, exchanges.map(BrokerAction::DeclareExchange)).await;
    assert_all_refused(&connection, exchanges.map(BrokerAction::DeleteExchange)).await;
    let more = [
        BrokerAction::DeclareQueue(""),
        BrokerAction::DeclareQueue("kschat.user.new"),
        BrokerAction::DeclareExchange("mine"),
        // The default exchange reaches every queue.
        BrokerAction::Publish("", "kschat.user.victim"),
        BrokerAction::Publish("", "kschat.dead"),
        BrokerAction::Publish("kschat.dead", ""),
        BrokerAction::Publish("kschat.broadcast", ""),
        BrokerAction::Publish("amq.topic", "x"),
        BrokerAction::Publish("kschat.rooms", "no.room"),
        // To eavesdrop on another user, or on many rooms.
        BrokerAction::Bind("kschat.user.mallory", "kschat.direct", "ks_victim"),
        BrokerAction::Bind("kschat.user.mallory", "kschat.broadcast", ""),
        BrokerAction::Bind("kschat.user.mallory", "kschat.rooms", "#"),
        BrokerAction::Bind("kschat.user.mallory", "kschat.rooms", "room.#"),
        BrokerAction::Bind("kschat.user.mallory", "kschat.rooms", "room.*"),
        BrokerAction::Bind("kschat.user.mallory", "kschat.control", "kschat.control.0"),
        BrokerAction::Bind("kschat.control.0", "kschat.rooms", "room.team"),
    ];
    assert_all_refused(&connection, more).await;
    for deed in [
        BrokerAction::Bind("kschat.user.mallory", "kschat.rooms", "room.team.7"),
        BrokerAction::Publish("kschat.direct", "ks_victim"),
        BrokerAction::Publish("kschat.rooms", "room.team.7"),
        BrokerAction::Publish("kschat.control", "kschat.control.0"),
    ] {
        perform(&connection, deed).await.unwrap_or_else(|error| panic!("{deed:?} is needed: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_user_cannot_publish_messages() {
    let deployment = Deployment::start(false).await;
    let (connection, _) = channel(&deployment.consumer).await;
    assert_all_refused(
        &connection,
        [
            BrokerAction::Publish("kschat.direct", "ks_victim"),
            BrokerAction::Publish("kschat.rooms", "room.team"),
            BrokerAction::Publish("kschat.broadcast", ""),
            BrokerAction::Publish("", "kschat.user.victim"),
            BrokerAction::DeclareQueue("mine"),
            BrokerAction::DeclareExchange("mine"),
            BrokerAction::Get("kschat.users"),
            BrokerAction::Get("somebody.elses"),
        ],
    )
    .await;
}
