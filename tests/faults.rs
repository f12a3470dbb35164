//! Messages survive crashes, freezes and restarts of components.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use kschat::stack::{Backends, Options, Stack};
use kschat_adapters::rabbitmq::{PartitionOwnership, QueueSettings, RabbitMqConsumer, RabbitMqPublisher};
use kschat_core::{
    Partitions,
    ports::{OwnerChannel, OwnerMessage, Ownership, OwnershipEvent},
};
use kschat_protocol::{AckFrame, MessageId, UserId};
use kschat_tests::{
    ANSWER_TIMEOUT, EVENTUALLY_TIMEOUT,
    client::{Client, Identity, Refused, identity, token},
    eventually,
    proxy::Proxy,
    rabbitmq::RabbitMq,
    stack::{self, Consumer, SECRET, Services, add_fault_rule, connect, options, unique_user, until_markers_are_known},
};
use lapin::{
    BasicProperties,
    options::{BasicGetOptions, BasicPublishOptions},
};
use tokio::time::timeout;

/// An edge with functions in this process, and a separate consumer.
async fn edge(services: &Services) -> Stack {
    let options = Options { backends: Some(services.backends()), consumer: false, ..options() };
    stack::start(options).await
}

const PAIRS: usize = 20;
const MESSAGES: usize = 500;

/// Sends numbered messages in order, each with one `rno` until it is accepted.
async fn send_all(mut sender: Client, to: String) {
    for n in 0..MESSAGES {
        let rno = format!("r{n}");
        while sender.send_as(&to, &n.to_string(), &rno).await["ER"] != 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Receives messages as a page would show them, without duplicates.
async fn receive_all(mut receiver: Client) -> (Vec<usize>, usize) {
    let (mut seen, mut shown, mut repeated) = (HashSet::new(), Vec::new(), 0);
    while shown.len() < MESSAGES {
        for item in receiver.received_items().await {
            if seen.insert(identity(&item)) {
                shown.push(item["msg"].as_str().expect("msg").parse().expect("a number"));
            } else {
                repeated += 1;
            }
        }
    }
    (shown, repeated)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_messages_survive_a_killed_consumer() {
    let services = Services::start().await;
    let stack = edge(&services).await;
    let (url, callback) = (stack.websocket_url(), stack.callback_url());
    let mut doomed = Consumer::start(&services, &callback).await;
    let other = Consumer::start(&services, &callback).await;
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let (from, to) = (unique_user(&format!("sender{pair}")), unique_user(&format!("receiver{pair}")));
        let (sender, receiver) = (connect(&url, &from).await, connect(&url, &to).await);
        senders.push(tokio::spawn(send_all(sender, to)));
        receivers.push(tokio::spawn(receive_all(receiver)));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(receivers.iter().all(|receiver| !receiver.is_finished()), "it must die in the middle");
    doomed.process.kill();
    for sender in senders {
        sender.await.expect("every message was accepted");
    }
    let expected: Vec<usize> = (0..MESSAGES).collect();
    for receiver in receivers {
        let (shown, _) = receiver.await.expect("every message has come");
        assert_eq!(shown, expected);
    }
    assert_eq!(other.health("ready").await, Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_shutdown_hands_over_without_redelivery() {
    let services = Services::start().await;
    let stack = edge(&services).await;
    let (url, callback) = (stack.websocket_url(), stack.callback_url());
    let first = Consumer::start(&services, &callback).await;
    let _second = Consumer::start(&services, &callback).await;
    assert_eq!(first.health("live").await, Some(200));
    let mut pairs = Vec::new();
    for pair in 0..8 {
        let (from, to) = (unique_user(&format!("sender{pair}")), unique_user(&format!("receiver{pair}")));
        pairs.push((connect(&url, &from).await, connect(&url, &to).await, to));
    }
    first.process.signal("TERM");
    // Concurrently: a client that does not read does not acknowledge, and receives redeliveries.
    let talks = pairs.into_iter().map(|(mut sender, mut receiver, to)| async move {
        let send = async {
            for n in 0..50 {
                sender.deliver(&to, &n.to_string()).await;
            }
        };
        let hear = async {
            let (mut ids, mut texts) = (Vec::new(), Vec::new());
            while texts.len() < 50 {
                for item in receiver.received_items().await {
                    ids.push(identity(&item));
                    texts.push(item["msg"].as_str().expect("msg").parse::<usize>().expect("a number"));
                }
            }
            (ids, texts)
        };
        let ((), (ids, texts)) = tokio::join!(send, hear);
        assert_eq!(texts, (0..50).collect::<Vec<_>>());
        ids
    });
    let mut seen: HashMap<Identity, usize> = HashMap::new();
    for id in futures_util::future::join_all(talks).await.concat() {
        *seen.entry(id).or_default() += 1;
    }
    assert!(seen.values().all(|times| *times == 1), "something came twice");
    eventually("the consumer has ended", async || !first.process.is_running()).await;
    assert!(first.process.output().contains("the consumer has stopped"), "{}", first.process.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_consumer_loses_ownership_safely() {
    const HEARTBEAT: Duration = Duration::from_secs(2);
    let mut services = Services::start().await;
    services.heartbeat = Some(HEARTBEAT);
    let stack = edge(&services).await;
    let (url, callback) = (stack.websocket_url(), stack.callback_url());
    let frozen = Consumer::start(&services, &callback).await;
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    alice.deliver(&b, "before").await;
    assert_eq!(bob.texts(1).await, ["before"]);

    frozen.process.signal("STOP");
    alice.deliver(&b, "while it is frozen").await;
    let other = Consumer::start(&services, &callback).await;
    // The broker drops the frozen one after about two and a half heartbeats.
    assert_eq!(bob.texts(1).await, ["while it is frozen"]);
    frozen.process.signal("CONT");
    let mut shown = HashSet::new();
    for n in 0..40 {
        alice.deliver(&b, &n.to_string()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut texts = Vec::new();
    while texts.len() < 40 {
        for item in bob.received_items().await {
            if shown.insert(identity(&item)) {
                texts.push(item["msg"].as_str().expect("msg").to_owned());
            }
        }
    }
    texts.retain(|text| text != "while it is frozen");
    assert_eq!(texts, (0..40).map(|n| n.to_string()).collect::<Vec<_>>()[..texts.len()]);
    eventually("the thawed one is ready again", async || frozen.health("ready").await == Some(200)).await;
    assert_eq!(other.health("ready").await, Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_restart_loses_nothing() {
    let mut services = Services::start().await;
    let options = Options { backends: Some(services.backends()), ..options() };
    let stack = stack::start(options).await;
    let url = stack.websocket_url();
    let (a, b, c) = (unique_user("alice"), unique_user("bob"), unique_user("carol"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    for text in ["one", "two", "three"] {
        alice.deliver(&c, text).await;
    }
    services.rabbitmq.kill();
    alice.expect_broker_unavailable().await;
    let handshake = Client::connect_v2(&url, &token(SECRET, &c), &c).await;
    assert_eq!(handshake.err(), Some(Refused(503)));

    services.rabbitmq.run().await;
    // Nobody reconnects: the open connections are served again.
    eventually("a message is accepted again", async || alice.send(&b, "after").await["ER"] == 0).await;
    assert_eq!(bob.texts(1).await, ["after"]);
    let mut carol = connect(&url, &c).await;
    assert_eq!(carol.texts(3).await, ["one", "two", "three"]);
    stack.stop().await;
}

/// A broker without memory reads nothing from connections that publish. Only acks free memory, so they must go on.
#[tokio::test(flavor = "multi_thread")]
async fn backlog_drains_while_broker_has_no_memory() {
    let mut services = Services::start().await;
    let stack = edge(&services).await;
    let consumer = Consumer::start(&services, &stack.callback_url()).await;
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let url = stack.websocket_url();
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    // The subscription of the consumer is up once an ack has come through.
    alice.deliver(&b, "first").await;
    assert_eq!(bob.texts(1).await, ["first"]);
    // More than are in flight at once, and fewer than a user may send at once.
    for n in 0..150 {
        alice.deliver(&b, &n.to_string()).await;
    }
    services.rabbitmq.control("rabbitmqctl set_vm_memory_high_watermark 0");
    let shown = bob.texts(150).await;
    let expected: Vec<String> = (0..150).map(|n| n.to_string()).collect();
    assert_eq!(shown, expected);
    // The alarm reaches a connection with its next publish.
    eventually("sends are refused", async || alice.send(&b, "while it has none").await["ER"] == 2).await;
    // A restart ends the alarm, and the blocked connections with it.
    services.rabbitmq.kill();
    services.rabbitmq.run().await;
    eventually("a message is accepted again", async || alice.send(&b, "afterwards").await["ER"] == 0).await;
    drop(consumer);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_restart_is_survived() {
    let mut services = Services::start().await;
    let options = Options { backends: Some(services.backends()), ..options() };
    let stack = stack::start(options).await;
    let url = stack.websocket_url();
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    services.redis.kill();
    let began = Instant::now();
    let refused = alice.send(&b, "to nobody").await;
    assert!(began.elapsed() < ANSWER_TIMEOUT, "it took {:?}", began.elapsed());
    assert_eq!(refused["ER"], 17, "{refused}");
    assert_eq!(Client::connect_v2(&url, &token(SECRET, &a), &a).await.err(), Some(Refused(503)));

    services.redis.run().await;
    alice.deliver(&b, "after").await;
    assert_eq!(bob.texts(1).await, ["after"]);
    stack.stop().await;
}

/// Sends until the message is accepted; retries as a client must.
async fn accepted_soon(client: &mut Client, to: &str, text: &str) {
    let rno = unique_user("rno");
    eventually(&format!("{text} is accepted"), async || {
        let reply = client.send_as(to, text, &rno).await;
        assert!([0, 2, 17, 18].contains(&reply["ER"].as_u64().expect("a code")), "{reply}");
        reply["ER"] == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_flush_restores_connected_users() {
    let services = Services::start().await;
    let options = Options { backends: Some(services.backends()), ..options() };
    let stack = stack::start(options).await;
    let url = stack.websocket_url();
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    until_markers_are_known(&services).await;
    for round in ["one", "two"] {
        services.redis.flush().await;
        let began = Instant::now();
        accepted_soon(&mut alice, &b, round).await;
        assert!(began.elapsed() < ANSWER_TIMEOUT, "it took {:?}", began.elapsed());
        assert_eq!(bob.texts(1).await, [round]);
        accepted_soon(&mut bob, &a, round).await;
        assert_eq!(alice.texts(1).await, [round]);
        until_markers_are_known(&services).await;
    }
    // A later disconnect counts.
    bob.close().await;
    alice.deliver(&b, "three").await;
    assert_eq!(connect(&url, &b).await.texts(1).await, ["three"]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_network_cut_loses_no_message() {
    let services = Services::start().await;
    let (broker, redis) = (services.rabbitmq.port(), services.redis.port());
    let (to_broker, to_redis) = (Proxy::start(broker).await, Proxy::start(redis).await);
    let backends = Backends {
        broker: to_broker.in_front_of(&services.rabbitmq.url(), broker).parse().expect("a URL"),
        redis: to_redis.in_front_of(&services.redis.url(), redis).parse().expect("a URL"),
    };
    // Only the functions' connections are cut; the consumer has its own.
    let options = Options { backends: Some(backends), consumer: false, ..options() };
    let stack = stack::start(options).await;
    let _consumer = Consumer::start(&services, &stack.callback_url()).await;
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(&stack.websocket_url(), &a).await, connect(&stack.websocket_url(), &b).await);
    for (text, wire) in [("without a broker", &to_broker), ("without a registry", &to_redis)] {
        alice.deliver(&b, "before").await;
        wire.cut();
        let began = Instant::now();
        let reply = alice.send(&b, text).await;
        assert_eq!(reply["ER"], 0, "{reply}");
        assert!(began.elapsed() < ANSWER_TIMEOUT, "it took {:?}", began.elapsed());
        assert_eq!(bob.texts(2).await, ["before", text]);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_disconnect_does_not_block_delivery() {
    let services = Services::start().await;
    let lost = edge(&services).await;
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let ghost = connect(&lost.websocket_url(), &b).await;
    let options = Options { backends: Some(services.backends()), ..options() };
    // A separate edge does not know the ghost's connection, as after a lost disconnect.
    let stack = stack::start(options).await;
    let url = stack.websocket_url();
    let connections = async || {
        let client = redis::Client::open(services.redis.url()).expect("a URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("Redis answers");
        let key = format!("ks:u:{{{b}}}:c");
        redis::cmd("HLEN").arg(key).query_async::<u64>(&mut connection).await.expect("a count")
    };
    // Nothing was posted to it yet, so its absence is unknown.
    assert_eq!(connections().await, 1);
    let mut alice = connect(&url, &a).await;
    alice.deliver(&b, "to a ghost").await;
    eventually("the ghost is forgotten", async || connections().await == 0).await;
    let mut bob = connect(&url, &b).await;
    assert_eq!(bob.texts(1).await, ["to a ghost"]);
    drop(ghost);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_body_is_dead_lettered() {
    let services = Services::start().await;
    let options = Options { backends: Some(services.backends()), ..options() };
    let stack = stack::start(options).await;
    let url = stack.websocket_url();
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    // From then on the queue exists.
    alice.deliver(&b, "before it").await;
    assert_eq!(bob.texts(1).await, ["before it"]);
    let (broker, properties) = (services.rabbitmq.url(), lapin::ConnectionProperties::default());
    let broker = lapin::Connection::connect(&broker, properties).await.expect("the broker answers");
    let channel = broker.create_channel().await.expect("a channel");
    let key = format!("ks_{b}");
    for body in [b"\xff\x00".as_slice(), b"{}", br#"{"uId":1}"#] {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publish = channel.basic_publish(
            "kschat.direct".into(),
            key.as_str().into(),
            options,
            body,
            BasicProperties::default(),
        );
        publish.await.expect("the message is published").await.expect("the broker confirms");
    }
    alice.deliver(&b, "behind it").await;
    assert_eq!(bob.texts(1).await, ["behind it"]);
    let mut reasons = Vec::new();
    eventually("all three are dead-lettered", async || {
        let found = channel.basic_get("kschat.dead".into(), BasicGetOptions { no_ack: true }).await;
        if let Some(message) = found.expect("the queue is there") {
            let headers = message.properties.headers().as_ref().expect("headers").inner();
            reasons.push(headers["x-kschat-reason"].as_long_string().expect("text").to_string());
        }
        reasons.len() == 3
    })
    .await;
    assert_eq!(reasons, ["not-a-message"; 3]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_client_does_not_delay_others() {
    let services = Services::start().await;
    let options = Options { backends: Some(services.backends()), ..options() };
    let stack = stack::start(options).await;
    let url = stack.websocket_url();
    let slow: Vec<String> = (0..10).map(|n| unique_user(&format!("slow{n}"))).collect();
    let mut crowd = Vec::new();
    for user in &slow {
        crowd.push(connect(&url, user).await);
    }
    for id in stack.edge().ids() {
        add_fault_rule(&stack, &format!("post=delay:4s connection={id}")).await;
    }
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    // As many in all as a user may send at once.
    for n in 0..18 {
        for user in &slow {
            alice.deliver(user, &n.to_string()).await;
        }
        alice.deliver(&b, &n.to_string()).await;
    }
    let expected: Vec<String> = (0..18).map(|n| n.to_string()).collect();
    assert_eq!(bob.texts(18).await, expected);
    for client in &mut crowd {
        let next = client.try_next("RESPRECEIVER", Duration::from_millis(1)).await;
        let texts = next.iter().flat_map(|frame| frame["MSG"].as_array().expect("messages")).count();
        assert!(texts < 18, "the slow one was not slow");
    }
    stack.stop().await;
}

/// The next ack that the owner of all partitions receives, if any.
async fn next_ack(ownership: &mut PartitionOwnership) -> Option<UserId> {
    let acked = async {
        loop {
            if let OwnershipEvent::Message(user, OwnerMessage::Ack(_)) = ownership.next().await {
                return user;
            }
        }
    };
    timeout(EVENTUALLY_TIMEOUT, acked).await.ok()
}

/// Acks are published without confirms. One written to a connection that died unnoticed is lost, and the client repeats
/// it; but a frozen function notices with the first one.
#[tokio::test(flavor = "multi_thread")]
async fn ack_after_idle_detects_dead_connection() {
    let rabbitmq = RabbitMq::start().await;
    let wire = Proxy::start(rabbitmq.port()).await;
    let url = wire.in_front_of(&rabbitmq.url(), rabbitmq.port()) + "?heartbeat=4";
    let (partitions, queues) = (Partitions::new(1).expect("a number"), QueueSettings::default());
    let consuming = RabbitMqConsumer::new(rabbitmq.url().parse().expect("a URL"), partitions, 8, queues);
    let mut ownership = consuming.ownership();
    // Before that, the partition has no queue for owner messages.
    while !matches!(ownership.next().await, OwnershipEvent::Acquired(_)) {}
    let publishing = RabbitMqPublisher::new(url.parse().expect("a URL"), partitions, queues);
    let ack = AckFrame { message: Some(MessageId::from("m".to_owned())), position: None, redelivery_requested: false };
    let [before, after] = ["before", "after"].map(|name| UserId::try_from(name).expect("an id"));
    eventually("the ack is sent", async || publishing.send(&before, OwnerMessage::Ack(ack.clone())).await.is_ok())
        .await;
    assert_eq!(next_ack(&mut ownership).await.as_ref(), Some(&before));
    wire.cut();
    // Longer than the heartbeat, and shorter than the library takes to notice.
    tokio::time::sleep(Duration::from_secs(5)).await;
    eventually("the ack is sent", async || publishing.send(&after, OwnerMessage::Ack(ack.clone())).await.is_ok()).await;
    assert_eq!(next_ack(&mut ownership).await.as_ref(), Some(&after));
}
