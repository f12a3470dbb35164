//! Functions and consumer have users of the broker of their own, which may do what they need and nothing else: those that
//! `kschat broker-users` makes, and so those of `infra/rabbitmq.json`.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::process::Command;

use kschat::stack::{Backends, Options, Stack};
use kschat_tests::{
    client::Client,
    eventually, free_port,
    process::binary,
    stack::{Consumer, Services, connect, options, somebody},
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

/// A deployment whose parts have users of their own.
struct Deployment {
    services: Services,
    stack: Stack,
    _consumer: Consumer,
    functions: String,
    consumer: String,
}

/// What `kschat` prints for whoever has that folder of settings.
fn kschat(folder: &TempDir, arguments: &[&str]) -> String {
    let mut command = Command::new(binary("kschat"));
    command.env_clear().env("XDG_CONFIG_HOME", folder.path()).args(arguments);
    let output = command.output().expect("it can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

impl Deployment {
    async fn start(refuse_strangers: bool) -> Self {
        let services = Services::start().await;
        let folder = TempDir::with_prefix("kschat-settings-").expect("a temporary folder");
        // Twice, as somebody might.
        for _ in 0..2 {
            services.rabbitmq.control(&kschat(&folder, &["broker-users"]));
        }
        let url = |part| {
            let settings = kschat(&folder, &["env", part]);
            let url = settings.lines().find_map(|line| line.strip_prefix("AMQP_URL=\"")?.strip_suffix('"'));
            url.expect("a URL").replace(":5672/", &format!(":{}/", services.rabbitmq.port()))
        };
        let (functions, consumer) = (url("functions"), url("consumer"));

        // Functions may make nothing, so the first consumer comes first.
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
            options.strangers = kschat_core::send::Strangers::Refuse;
        }
        let stack = Stack::start(options).await.expect("the stack starts");
        Self { services, stack, _consumer: running, functions, consumer }
    }

    async fn connect(&self, user: &str) -> Client {
        connect(&self.stack.websocket_url(), user).await
    }
}

/// A channel of that user of the broker.
async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("the broker answers");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("it confirms");
    (connection, channel)
}

/// Whether that was refused for want of a permission, and not for another reason.
fn is_refused<T>(outcome: Result<T, lapin::Error>) -> bool {
    let code = outcome.err().map(|error| match error.kind() {
        ErrorKind::ProtocolError(refused) => refused.get_id(),
        _ => panic!("{error}"),
    });
    code == Some(403)
}

/// What somebody might do.
#[derive(Clone, Copy, Debug)]
enum Deed {
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

/// Does it, over a channel that nobody else has.
async fn does(connection: &Connection, deed: Deed) -> Result<(), lapin::Error> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let none = FieldTable::default;
    match deed {
        Deed::Consume(queue) => {
            channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), none()).await.map(drop)
        }
        Deed::Get(queue) => channel.basic_get(queue.into(), BasicGetOptions::default()).await.map(drop),
        Deed::Purge(queue) => channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.map(drop),
        Deed::DeleteQueue(queue) => channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map(drop),
        Deed::DeclareQueue(queue) => {
            channel.queue_declare(queue.into(), QueueDeclareOptions::default(), none()).await.map(drop)
        }
        Deed::Bind(queue, exchange, key) => {
            channel.queue_bind(queue.into(), exchange.into(), key.into(), QueueBindOptions::default(), none()).await
        }
        Deed::DeclareExchange(exchange) => {
            let options = ExchangeDeclareOptions::default();
            channel.exchange_declare(exchange.into(), ExchangeKind::Fanout, options, none()).await
        }
        Deed::DeleteExchange(exchange) => {
            channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await
        }
        Deed::Publish(exchange, key) => {
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            channel.basic_publish(exchange.into(), key.into(), options, b"x", properties).await?.await.map(drop)
        }
    }
}

async fn are_all_refused(connection: &Connection, deeds: impl IntoIterator<Item = Deed>) {
    for deed in deeds {
        assert!(is_refused(does(connection, deed).await), "{deed:?} was not refused");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chat_with_least_rights_works_end_to_end() {
    let deployment = Deployment::start(false).await;
    let (a, b) = (somebody("alice"), somebody("bob"));
    let (mut alice, mut bob) = (deployment.connect(&a).await, deployment.connect(&b).await);
    assert_eq!(alice.send(&b, "hello").await["ER"], 0);
    assert_eq!(bob.texts(1).await, ["hello"]);

    // A stranger's queue is made by the owner; who comes later finds the message.
    let s = somebody("stranger");
    assert_eq!(alice.send(&s, "later").await["ER"], 0);
    assert_eq!(deployment.connect(&s).await.texts(1).await, ["later"]);

    // Rooms are bound by functions.
    let room = somebody("room");
    for client in [&mut alice, &mut bob] {
        let joined = client.ask(json!({ "action": "join", "gId": room }), "RESPROOM").await;
        assert_eq!(joined["ER"], 0, "{joined}");
    }
    alice
        .say(json!({ "action": "send", "uId": a, "gId": room, "msg": "all", "rno": "r1", "time": 0 }).to_string())
        .await;
    assert_eq!(bob.texts(1).await, ["all"]);
    let left = bob.ask(json!({ "action": "leave", "gId": room }), "RESPROOM").await;
    assert_eq!(left["ER"], 0, "{left}");

    // Events go by the exchange of control messages, acks likewise; what can't be delivered is set aside.
    alice.say(json!({ "action": "typing", "pId": b, "on": true }).to_string()).await;
    assert_eq!(bob.next("RESPTYPING").await["UID"], json!(a));
    let (_connection, guest) = channel(&deployment.services.rabbitmq.url()).await;
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let sent = guest.basic_publish("kschat.direct".into(), format!("ks_{b}").into(), options, b"{", properties).await;
    sent.expect("it is sent").await.expect("it is confirmed");
    eventually("what can't be read is set aside", async || {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = guest.queue_declare("kschat.dead".into(), options, FieldTable::default()).await;
        queue.expect("a queue").message_count() == 1
    })
    .await;
    // What was acknowledged does not come again: nothing waits any more.
    bob.close().await;
    let mut bob = deployment.connect(&b).await;
    assert_eq!(alice.send(&b, "after").await["ER"], 0);
    assert_eq!(bob.texts(1).await, ["after"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn user_with_least_rights_is_known_as_soon_as_connected() {
    let deployment = Deployment::start(true).await;
    let (a, b) = (somebody("alice"), somebody("bob"));
    let mut alice = deployment.connect(&a).await;
    assert_eq!(alice.send(&b, "who?").await["ER"], 10);
    let mut bob = deployment.connect(&b).await;
    assert_eq!(alice.send(&b, "hello").await["ER"], 0);
    assert_eq!(bob.texts(1).await, ["hello"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_user_can_neither_read_nor_remove_nor_overhear() {
    let deployment = Deployment::start(false).await;
    let mut mallory = deployment.connect("mallory").await;
    assert_eq!(mallory.send("victim", "so that there is a queue").await["ER"], 0);
    let (connection, _) = channel(&deployment.functions).await;
    for queue in ["kschat.user.victim", "kschat.user.mallory", "kschat.control.0", "kschat.members", "kschat.dead"] {
        let deeds = [Deed::Consume(queue), Deed::Get(queue), Deed::Purge(queue), Deed::DeleteQueue(queue)];
        are_all_refused(&connection, deeds).await;
        are_all_refused(&connection, [Deed::DeclareQueue(queue)]).await;
    }
    let exchanges = ["kschat.direct", "kschat.rooms", "kschat.broadcast", "kschat.dead", "kschat.control"];
    are_all_refused(&connection, exchanges.map(Deed::DeclareExchange)).await;
    are_all_refused(&connection, exchanges.map(Deed::DeleteExchange)).await;
    let more = [
        Deed::DeclareQueue(""),
        Deed::DeclareQueue("kschat.user.new"),
        Deed::DeclareExchange("mine"),
        // The default exchange leads to every queue.
        Deed::Publish("", "kschat.user.victim"),
        Deed::Publish("", "kschat.dead"),
        Deed::Publish("kschat.dead", ""),
        Deed::Publish("kschat.broadcast", ""),
        Deed::Publish("amq.topic", "x"),
        Deed::Publish("kschat.rooms", "no.room"),
        // To overhear what is for another, or for a whole lot of rooms.
        Deed::Bind("kschat.user.mallory", "kschat.direct", "ks_victim"),
        Deed::Bind("kschat.user.mallory", "kschat.broadcast", ""),
        Deed::Bind("kschat.user.mallory", "kschat.rooms", "#"),
        Deed::Bind("kschat.user.mallory", "kschat.rooms", "room.#"),
        Deed::Bind("kschat.user.mallory", "kschat.rooms", "room.*"),
        Deed::Bind("kschat.user.mallory", "kschat.control", "kschat.control.0"),
        Deed::Bind("kschat.control.0", "kschat.rooms", "room.team"),
    ];
    are_all_refused(&connection, more).await;
    for deed in [
        Deed::Bind("kschat.user.mallory", "kschat.rooms", "room.team.7"),
        Deed::Publish("kschat.direct", "ks_victim"),
        Deed::Publish("kschat.rooms", "room.team.7"),
        Deed::Publish("kschat.control", "kschat.control.0"),
    ] {
        does(&connection, deed).await.unwrap_or_else(|error| panic!("{deed:?} is needed: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_user_can_write_to_nobody_in_anothers_name() {
    let deployment = Deployment::start(false).await;
    let (connection, _) = channel(&deployment.consumer).await;
    are_all_refused(
        &connection,
        [
            Deed::Publish("kschat.direct", "ks_victim"),
            Deed::Publish("kschat.rooms", "room.team"),
            Deed::Publish("kschat.broadcast", ""),
            Deed::Publish("", "kschat.user.victim"),
            Deed::DeclareQueue("mine"),
            Deed::DeclareExchange("mine"),
            Deed::Get("kschat.users"),
            Deed::Get("somebody.elses"),
        ],
    )
    .await;
}
