//! What happens to messages when parts of the system die, freeze or come back.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use kschat::stack::{Backends, Options, Stack};
use kschat_adapters::rabbitmq::{Consuming, PartitionOwnership, Publishing, QueueSettings};
use kschat_core::{
    Partitions,
    ports::{Acks, Ownership, OwnershipEvent},
};
use kschat_protocol::{AckFrame, MessageId, UserId};
use kschat_tests::{
    client::{Client, Identity, Refused, identity, token},
    eventually,
    proxy::Proxy,
    rabbitmq::RabbitMq,
    stack::{Consumer, SECRET, Services, break_edge, connect, connect_eventually, options, somebody},
};
use lapin::{
    BasicProperties,
    options::{BasicGetOptions, BasicPublishOptions},
};
use tokio::time::timeout;

/// An edge with functions in this process, and the consumer elsewhere.
async fn edge(services: &Services) -> Stack {
    let options = Options { backends: Some(services.backends()), consumer: false, ..options() };
    Stack::start(options).await.expect("the edge starts")
}

const PAIRS: usize = 20;
const MESSAGES: usize = 500;

/// Sends numbered messages one after the other, each until it is accepted, under one `rno` each.
async fn send_all(mut sender: Client, to: String) {
    for n in 0..MESSAGES {
        let rno = format!("r{n}");
        while sender.send_as(&to, &n.to_string(), &rno).await["ER"] != 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What a receiver saw, as its page would show it: no message twice.
async fn receive_all(mut receiver: Client) -> (Vec<usize>, usize) {
    let (mut seen, mut shown, mut repeated) = (HashSet::new(), Vec::new(), 0);
    while shown.len() < MESSAGES {
        for item in receiver.items().await {
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
        let (from, to) = (somebody(&format!("sender{pair}")), somebody(&format!("receiver{pair}")));
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
async fn a_consumer_that_is_asked_to_stop_hands_over_and_repeats_nothing() {
    let services = Services::start().await;
    let stack = edge(&services).await;
    let (url, callback) = (stack.websocket_url(), stack.callback_url());
    let first = Consumer::start(&services, &callback).await;
    let _second = Consumer::start(&services, &callback).await;
    assert_eq!(first.health("live").await, Some(200));
    let mut pairs = Vec::new();
    for pair in 0..8 {
        let (from, to) = (somebody(&format!("sender{pair}")), somebody(&format!("receiver{pair}")));
        pairs.push((connect(&url, &from).await, connect(&url, &to).await, to));
    }
    first.process.signal("TERM");
    // Side by side: who does not listen does not acknowledge, and is pushed to again.
    let talks = pairs.into_iter().map(|(mut sender, mut receiver, to)| async move {
        let send = async {
            for n in 0..50 {
                assert_eq!(sender.send(&to, &n.to_string()).await["ER"], 0);
            }
        };
        let hear = async {
            let (mut ids, mut texts) = (Vec::new(), Vec::new());
            while texts.len() < 50 {
                for item in receiver.items().await {
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
    assert!(first.process.printed().contains("the consumer has stopped"), "{}", first.process.printed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_consumer_loses_its_users_and_disturbs_nobody_when_it_thaws() {
    const HEARTBEAT: Duration = Duration::from_secs(2);
    let mut services = Services::start().await;
    services.heartbeat = Some(HEARTBEAT);
    let stack = edge(&services).await;
    let (url, callback) = (stack.websocket_url(), stack.callback_url());
    let frozen = Consumer::start(&services, &callback).await;
    let (a, b) = (somebody("alice"), somebody("bob"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    alice.send(&b, "before").await;
    assert_eq!(bob.texts(1).await, ["before"]);

    frozen.process.signal("STOP");
    alice.send(&b, "while it is frozen").await;
    let other = Consumer::start(&services, &callback).await;
    // The broker gives the frozen one up after two heartbeats and a half or so.
    assert_eq!(bob.texts(1).await, ["while it is frozen"]);
    frozen.process.signal("CONT");
    let mut shown = HashSet::new();
    for n in 0..40 {
        alice.send(&b, &n.to_string()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut texts = Vec::new();
    while texts.len() < 40 {
        for item in bob.items().await {
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
async fn a_broker_that_dies_and_comes_back_has_lost_no_message_and_no_user() {
    let mut services = Services::start().await;
    let options = Options { backends: Some(services.backends()), ..options() };
    let stack = Stack::start(options).await.expect("the stack starts");
    let url = stack.websocket_url();
    let (a, b, c) = (somebody("alice"), somebody("bob"), somebody("carol"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    for text in ["one", "two", "three"] {
        assert_eq!(alice.send(&c, text).await["ER"], 0);
    }
    services.rabbitmq.kill();
    alice.hears_that_the_broker_is_down().await;
    let handshake = Client::connect_v2(&url, &token(SECRET, &c), &c).await;
    assert_eq!(handshake.err(), Some(Refused(503)));

    services.rabbitmq.run().await;
    // Nobody reconnects: those who were there are served again.
    eventually("a message is accepted again", async || alice.send(&b, "after").await["ER"] == 0).await;
    assert_eq!(bob.texts(1).await, ["after"]);
    let mut carol = connect_eventually(&url, &c).await;
    assert_eq!(carol.texts(3).await, ["one", "two", "three"]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_dies_and_comes_back_is_told_and_forgotten() {
    let mut services = Services::start().await;
    let options = Options { backends: Some(services.backends()), ..options() };
    let stack = Stack::start(options).await.expect("the stack starts");
    let url = stack.websocket_url();
    let (a, b) = (somebody("alice"), somebody("bob"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    services.redis.kill();
    let began = Instant::now();
    let refused = alice.send(&b, "to nobody").await;
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
    assert_eq!(refused["ER"], 17, "{refused}");
    assert_eq!(Client::connect_v2(&url, &token(SECRET, &a), &a).await.err(), Some(Refused(503)));

    services.redis.run().await;
    assert_eq!(alice.send(&b, "after").await["ER"], 0);
    assert_eq!(bob.texts(1).await, ["after"]);
    stack.stop().await;
}

/// Sends until it is accepted; the client repeats what it is told to.
async fn accepted_soon(client: &mut Client, to: &str, text: &str) {
    let rno = somebody("rno");
    eventually(&format!("{text} is accepted"), async || {
        let reply = client.send_as(to, text, &rno).await;
        assert!([0, 17].contains(&reply["ER"].as_u64().expect("a code")), "{reply}");
        reply["ER"] == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stays_connected_is_known_again_after_the_registry_has_lost_everything() {
    let services = Services::start().await;
    let options = Options { backends: Some(services.backends()), ..options() };
    let stack = Stack::start(options).await.expect("the stack starts");
    let url = stack.websocket_url();
    let (a, b) = (somebody("alice"), somebody("bob"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    // Until the owner has seen its marks.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for round in ["one", "two"] {
        services.redis.flush().await;
        let began = Instant::now();
        accepted_soon(&mut alice, &b, round).await;
        assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
        assert_eq!(bob.texts(1).await, [round]);
        accepted_soon(&mut bob, &a, round).await;
        assert_eq!(alice.texts(1).await, [round]);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    // Who leaves after that has left.
    bob.close().await;
    alice.send(&b, "three").await;
    assert_eq!(connect(&url, &b).await.texts(1).await, ["three"]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wire_that_is_cut_without_a_sign_costs_no_message() {
    let services = Services::start().await;
    let (broker, redis) = (services.rabbitmq.port(), services.redis.port());
    let (to_broker, to_redis) = (Proxy::start(broker).await, Proxy::start(redis).await);
    let backends = Backends {
        broker: to_broker.in_front_of(&services.rabbitmq.url(), broker).parse().expect("a URL"),
        redis: to_redis.in_front_of(&services.redis.url(), redis).parse().expect("a URL"),
    };
    // Only the functions' wires are cut; the consumer has its own.
    let options = Options { backends: Some(backends), consumer: false, ..options() };
    let stack = Stack::start(options).await.expect("the edge starts");
    let _consumer = Consumer::start(&services, &stack.callback_url()).await;
    let (a, b) = (somebody("alice"), somebody("bob"));
    let (mut alice, mut bob) = (connect(&stack.websocket_url(), &a).await, connect(&stack.websocket_url(), &b).await);
    for (text, wire) in [("without a broker", &to_broker), ("without a registry", &to_redis)] {
        alice.send(&b, "before").await;
        wire.cut();
        let began = Instant::now();
        let reply = alice.send(&b, text).await;
        assert_eq!(reply["ER"], 0, "{reply}");
        assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
        assert_eq!(bob.texts(2).await, ["before", text]);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_end_nobody_told_is_forgotten_and_holds_nobody_up() {
    let services = Services::start().await;
    let lost = edge(&services).await;
    let (a, b) = (somebody("alice"), somebody("bob"));
    let ghost = connect(&lost.websocket_url(), &b).await;
    let options = Options { backends: Some(services.backends()), ..options() };
    // An edge of its own does not know the ghost's connection, as after a disconnect that got lost.
    let stack = Stack::start(options).await.expect("the stack starts");
    let url = stack.websocket_url();
    let connections = async || {
        let client = redis::Client::open(services.redis.url()).expect("a URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("Redis answers");
        let key = format!("ks:u:{{{b}}}:c");
        redis::cmd("HLEN").arg(key).query_async::<u64>(&mut connection).await.expect("a count")
    };
    // Nothing was posted to it yet, so nobody can know.
    assert_eq!(connections().await, 1);
    let mut alice = connect(&url, &a).await;
    assert_eq!(alice.send(&b, "to a ghost").await["ER"], 0);
    eventually("the ghost is forgotten", async || connections().await == 0).await;
    let mut bob = connect(&url, &b).await;
    assert_eq!(bob.texts(1).await, ["to a ghost"]);
    drop(ghost);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_message_is_set_aside_and_holds_nobody_up() {
    let services = Services::start().await;
    let options = Options { backends: Some(services.backends()), ..options() };
    let stack = Stack::start(options).await.expect("the stack starts");
    let url = stack.websocket_url();
    let (a, b) = (somebody("alice"), somebody("bob"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    // From then on there is a queue to write into.
    assert_eq!(alice.send(&b, "before it").await["ER"], 0);
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
        publish.await.expect("it is sent").await.expect("it is taken");
    }
    alice.send(&b, "behind it").await;
    assert_eq!(bob.texts(1).await, ["behind it"]);
    let mut reasons = Vec::new();
    eventually("all three are set aside", async || {
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
async fn who_is_slow_delays_nobody_else() {
    let services = Services::start().await;
    let options = Options { backends: Some(services.backends()), ..options() };
    let stack = Stack::start(options).await.expect("the stack starts");
    let url = stack.websocket_url();
    let slow: Vec<String> = (0..10).map(|n| somebody(&format!("slow{n}"))).collect();
    let mut crowd = Vec::new();
    for user in &slow {
        crowd.push(connect(&url, user).await);
    }
    for id in stack.edge().ids() {
        break_edge(&stack, &format!("post=delay:4s connection={id}")).await;
    }
    let (a, b) = (somebody("alice"), somebody("bob"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    for n in 0..20 {
        for user in &slow {
            assert_eq!(alice.send(user, &n.to_string()).await["ER"], 0);
        }
        assert_eq!(alice.send(&b, &n.to_string()).await["ER"], 0);
    }
    let expected: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(bob.texts(20).await, expected);
    for client in &mut crowd {
        let next = client.try_next("RESPRECEIVER", Duration::from_millis(1)).await;
        let texts = next.iter().flat_map(|frame| frame["MSG"].as_array().expect("messages")).count();
        assert!(texts < 20, "the slow one was not slow");
    }
    stack.stop().await;
}

/// The next ack that the owner of all partitions hears of, if one comes.
async fn next_ack(ownership: &mut PartitionOwnership) -> Option<UserId> {
    let acked = async {
        loop {
            if let OwnershipEvent::Acked(user, _) = ownership.next().await {
                return user;
            }
        }
    };
    timeout(Duration::from_secs(5), acked).await.ok()
}

/// Nobody waits for the broker to confirm an ack. One that is written to a connection which has died unnoticed is lost, and
/// comes again from the client; but a function that was frozen finds out with the first one.
#[tokio::test(flavor = "multi_thread")]
async fn ack_after_long_silence_finds_dead_connection() {
    let rabbitmq = RabbitMq::start().await;
    let wire = Proxy::start(rabbitmq.port()).await;
    let url = wire.in_front_of(&rabbitmq.url(), rabbitmq.port()) + "?heartbeat=4";
    let (partitions, queues) = (Partitions::new(1).expect("a number"), QueueSettings::default());
    let consuming = Consuming::new(rabbitmq.url().parse().expect("a URL"), partitions, 8, queues);
    let mut ownership = consuming.ownership();
    let publishing = Publishing::new(url.parse().expect("a URL"), partitions, queues);
    let ack = AckFrame { message: Some(MessageId::from("m".to_owned())), position: None, again: false };
    let [before, after] = ["before", "after"].map(|name| UserId::try_from(name).expect("an id"));
    publishing.acked(&before, &ack).await.expect("it is written");
    assert_eq!(next_ack(&mut ownership).await.as_ref(), Some(&before));
    wire.cut();
    // Longer than the heartbeat, and not as long as it takes the library to notice.
    tokio::time::sleep(Duration::from_secs(5)).await;
    publishing.acked(&after, &ack).await.expect("it is written");
    assert_eq!(next_ack(&mut ownership).await.as_ref(), Some(&after));
}
