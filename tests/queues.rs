//! Life cycle of users' queues: retention, limits and dead letters.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::{
    num::NonZero,
    ops::Range,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::join_all};
use kschat::stack::{Options, Stack};
use kschat_adapters::rabbitmq::{QueueKind, QueueSettings, RabbitMqConsumer, RabbitMqPublisher};
use kschat_core::{
    Partition, Partitions,
    contract::message,
    ports::{
        Ownership, OwnershipEvent, PublishError, Publisher, QueueConsumer, QueueManager, QueueProvisioner, QueueStatus,
    },
};
use kschat_protocol::{Message, UserId};
use kschat_tests::{
    eventually, eventually_within,
    proxy::Proxy,
    stack::{self, Consumer, Services, add_fault_rule, connect, options, unique_user},
};
use lapin::{
    BasicProperties, Channel,
    options::{
        BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions,
    },
    types::FieldTable,
};
use tokio::time::sleep;

/// Several retention periods of four seconds, plus the broker's delay of a few seconds.
const SHORT_RETENTION: Duration = Duration::from_secs(20);

async fn stack(services: &Services, queues: QueueSettings) -> Stack {
    let options = Options { backends: Some(services.backends()), queues, ..options() };
    stack::start(options).await
}

/// A private channel of the test to the broker.
async fn broker(services: &Services) -> (lapin::Connection, Channel) {
    let properties = lapin::ConnectionProperties::default();
    let broker = lapin::Connection::connect(&services.rabbitmq.url(), properties).await.expect("the broker answers");
    let channel = broker.create_channel().await.expect("a channel");
    (broker, channel)
}

/// Number of ready messages in a user's queue, if it exists.
async fn waiting(broker: &lapin::Connection, user: &str) -> Option<u32> {
    // A passive declare of a missing queue closes the channel.
    let channel = broker.create_channel().await.expect("a channel");
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let name = format!("kschat.user.{user}");
    channel.queue_declare(name.into(), options, FieldTable::default()).await.ok().map(|queue| queue.message_count())
}

/// The next dead letter: its text header of that name, and its body.
async fn dead_letter(channel: &Channel, header: &str) -> (String, Vec<u8>) {
    let mut letter = None;
    eventually("a message is dead-lettered", async || {
        let found = channel.basic_get("kschat.dead".into(), BasicGetOptions { no_ack: true }).await;
        letter = found.expect("the queue is there");
        letter.is_some()
    })
    .await;
    let letter = letter.expect("a dead letter");
    let headers = letter.properties.headers().as_ref().expect("headers").inner();
    let text = headers[header].as_long_string().expect("text").to_string();
    (text, letter.delivery.data)
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_exists_while_needed() {
    let services = Services::start().await;
    let stack = stack(&services, QueueSettings::default()).await;
    let (broker, _) = broker(&services).await;
    let url = stack.websocket_url();
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = connect(&url, &a).await;
    for round in 0..2 {
        let bob = connect(&url, &b).await;
        eventually("the owner has made the queue", async || waiting(&broker, &b).await == Some(0)).await;
        bob.close().await;
        eventually("the empty queue is removed", async || waiting(&broker, &b).await.is_none()).await;
        alice.deliver(&b, &format!("while away {round}")).await;
        assert!(waiting(&broker, &b).await >= Some(1));
        let mut bob = connect(&url, &b).await;
        assert_eq!(bob.texts(1).await, [format!("while away {round}")]);
        bob.close().await;
        eventually("the drained queue is removed", async || waiting(&broker, &b).await.is_none()).await;
    }
    // Unacknowledged messages keep the queue.
    let mut bob = connect(&url, &b).await;
    bob.stop_acking();
    alice.deliver(&b, "unacknowledged").await;
    bob.texts(1).await;
    bob.close().await;
    eventually("it is back in the queue", async || waiting(&broker, &b).await == Some(1)).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_queue_rejects_sender_keeps_messages() {
    let services = Services::start().await;
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let max_messages = NonZero::new(3).expect("not zero");
        let stack = stack(&services, QueueSettings { kind, max_messages, ..QueueSettings::default() }).await;
        let url = stack.websocket_url();
        let (a, b) = (unique_user("alice"), unique_user("bob"));
        let mut alice = connect(&url, &a).await;
        let mut accepted = Vec::new();
        // A quorum queue notices with a delay that it is full.
        eventually("the queue is full", async || {
            let text = accepted.len().to_string();
            let answer = alice.settle(&b, &text).await["ER"].clone();
            assert!(answer == 0 || answer == 11, "{answer}");
            accepted.extend((answer == 0).then_some(text));
            answer == 11
        })
        .await;
        assert!((3..10).contains(&accepted.len()), "{kind:?}: {} messages", accepted.len());
        let mut bob = connect(&url, &b).await;
        assert_eq!(bob.texts(accepted.len()).await, accepted);
        eventually("there is room again", async || alice.send(&b, "after").await["ER"] == 0).await;
        assert_eq!(bob.texts(1).await, ["after"]);
        stack.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_message_is_dead_lettered_with_reason() {
    let services = Services::start().await;
    let retention = Duration::from_secs(2);
    let stack = stack(&services, QueueSettings { retention, ..QueueSettings::default() }).await;
    let (_broker, channel) = broker(&services).await;
    let b = unique_user("bob");
    let mut alice = connect(&stack.websocket_url(), &unique_user("alice")).await;
    alice.deliver(&b, "too old").await;
    let (reason, body) = dead_letter(&channel, "x-first-death-reason").await;
    assert_eq!(reason, "expired");
    assert!(String::from_utf8_lossy(&body).contains("too old"));
    // An online user gets it before it expires. A slow machine may need more than one attempt.
    let mut bob = connect(&stack.websocket_url(), &b).await;
    eventually("a fresh message arrives", async || {
        alice.deliver(&b, "fresh").await;
        bob.try_next("RESPRECEIVER", retention).await.is_some_and(|frame| frame["MSG"][0]["msg"] == "fresh")
    })
    .await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checked_queue_does_not_expire() {
    let services = Services::start().await;
    let url = || services.rabbitmq.url().parse().expect("a broker URL");
    let (broker, _) = broker(&services).await;
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let queues = QueueSettings { kind, retention: Duration::from_secs(2), ..QueueSettings::default() };
        let mailbox = RabbitMqConsumer::new(url(), Partitions::default(), 32, queues);
        let _ownership = mailbox.ownership();
        eventually("it is connected", async || mailbox.is_connected()).await;
        let publishing = RabbitMqPublisher::new(url(), Partitions::default(), queues);
        let [seen, unseen] = [(); 2].map(|()| kschat_core::contract::unique_user());
        mailbox.ensure(&seen).await.expect("the broker works");
        mailbox.ensure(&unseen).await.expect("the broker works");
        let until = Instant::now() + SHORT_RETENTION;
        while Instant::now() < until {
            let QueueStatus::Empty(safe) = mailbox.queue_status(&seen).await.expect("the broker works") else {
                panic!("{kind:?}: it is gone, or not empty");
            };
            sleep(safe / 2).await;
        }
        for text in ["one", "two"] {
            publishing.publish(&seen, &message(&seen, text)).await.expect("the queue is there");
        }
        assert!(matches!(mailbox.queue_status(&seen).await, Ok(QueueStatus::Backlogged(_))), "{kind:?}");
        let mut deliveries = mailbox.open(&seen).await.expect("the broker works");
        for text in ["one", "two"] {
            let next = deliveries.next().await.expect("the deliveries are unacked");
            let next = Message::from_slice(&next.body).expect("a message");
            assert_eq!(next.msg, text, "{kind:?}: a look leaves what waits in its place");
        }
        assert_eq!(waiting(&broker, unseen.as_str()).await, None, "{kind:?}: nothing expires here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_with_old_settings_is_replaced_when_empty() {
    let services = Services::start().await;
    let before = stack(&services, QueueSettings::default()).await;
    let users: Vec<String> = (0..20).map(|n| unique_user(&format!("bob{n}"))).collect();
    let mut alice = connect(&before.websocket_url(), &unique_user("alice")).await;
    for user in &users {
        alice.deliver(user, "from before").await;
    }
    before.stop().await;
    let max_messages = NonZero::new(1).expect("not zero");
    let after = stack(&services, QueueSettings { max_messages, ..QueueSettings::default() }).await;
    let url = after.websocket_url();
    let mut alice = connect(&url, &unique_user("alice")).await;
    // Concurrently: one failed declaration closes the channel of the others.
    let returns = users.iter().map(|user| {
        let url = url.clone();
        async move {
            let mut bob = connect(&url, user).await;
            assert_eq!(bob.texts(1).await, ["from before"]);
            bob.close().await;
        }
    });
    futures_util::future::join_all(returns).await;
    let (broker, _) = broker(&services).await;
    for user in &users {
        eventually("the old queue is removed", async || waiting(&broker, user).await.is_none()).await;
    }
    // From now on the settings apply.
    let answers = [alice.send(&users[0], "one").await, alice.send(&users[0], "two").await];
    assert_eq!(answers.map(|answer| answer["ER"].as_u64()), [Some(0), Some(11)]);
    after.stop().await;
}

const PAIRS: usize = 5;
const MESSAGES: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn quorum_queue_keeps_order_after_kill() {
    let services = Services::start().await;
    let queues = QueueSettings { kind: QueueKind::Quorum, ..QueueSettings::default() };
    let options = Options { backends: Some(services.backends()), consumer: false, queues, ..options() };
    let stack = stack::start(options).await;
    let (url, callback) = (stack.websocket_url(), stack.callback_url());
    let quorum = [("QUEUE_TYPE", "quorum".to_owned())];
    let mut doomed = Consumer::start_with(&services, &callback, &quorum).await;
    let _other = Consumer::start_with(&services, &callback, &quorum).await;
    let mut pairs = Vec::new();
    for n in 0..PAIRS {
        let (from, to) = (unique_user(&format!("sender{n}")), unique_user(&format!("receiver{n}")));
        pairs.push((connect(&url, &from).await, connect(&url, &to).await, to));
    }
    for n in 0..MESSAGES {
        for (sender, _, to) in &mut pairs {
            let (text, rno) = (n.to_string(), format!("r{n}"));
            eventually("it is accepted", async || sender.send_as(to, &text, &rno).await["ER"] == 0).await;
        }
        if n == MESSAGES / 2 {
            doomed.process.kill();
        }
    }
    for (_, receiver, _) in &mut pairs {
        let expected: Vec<String> = (0..MESSAGES).map(|n| n.to_string()).collect();
        assert_eq!(receiver.texts(MESSAGES).await, expected);
    }
    stack.stop().await;
}

/// Messages of one user, their size in bytes, and the consumer's permitted memory growth: a small part of them.
const BURST: usize = 100_000;
/// They all fit into a queue (`QUEUE_MAX_BYTES`).
const SIZE: usize = 400;
const MEMORY: u64 = 20 * 1024 * 1024;

/// Writes numbered messages to a user's queue, as an external service could.
async fn burst(services: &Services, id: &UserId, numbers: Range<usize>, size: usize) {
    let (_broker, channel) = broker(services).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirm mode");
    let properties = BasicProperties::default().with_delivery_mode(2);
    let mut confirms = std::collections::VecDeque::new();
    for n in numbers {
        let text = format!("{n} {}", "x".repeat(size));
        let (key, body) = (format!("ks_{}", id.as_str()), message(id, &text).to_vec());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent = channel.basic_publish("kschat.direct".into(), key.into(), options, &body, properties.clone());
        confirms.push_back(sent.await.expect("the message is published"));
        if confirms.len() == 1_000 {
            let confirmed = confirms.pop_front().expect("an outstanding confirm").await.expect("a confirm");
            assert!(confirmed.is_ack(), "{confirmed:?}");
        }
    }
    for confirm in confirms {
        assert!(confirm.await.expect("a confirm").is_ack());
    }
}

/// The number at the start of such a message.
fn number_of(text: &str) -> usize {
    text.split(' ').next().expect("a word").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn large_backlog_drains_in_bounded_memory() {
    let services = Services::start().await;
    let options = Options { backends: Some(services.backends()), consumer: false, ..options() };
    let stack = stack::start(options).await;
    // Throttling must slow the consumer, not fill its memory.
    add_fault_rule(&stack, "post=429 share=1%").await;
    let consumer = Consumer::start(&services, &stack.callback_url()).await;
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = connect(&stack.websocket_url(), &a).await;
    // The first send creates the queue.
    alice.deliver(&b, "0 first").await;
    burst(&services, &UserId::try_from(b.as_str()).expect("a valid user"), 1..BURST, SIZE).await;
    let before = consumer.process.resident_bytes();
    let mut bob = connect(&stack.websocket_url(), &b).await;
    let (mut next, mut most) = (0, 0);
    while next < BURST {
        let items = bob.received_items().await;
        for item in &items {
            let number = number_of(item["msg"].as_str().expect("text"));
            // A redelivery has a lower number; there are no gaps.
            assert!(number <= next, "{number} came where {next} is due");
            next = next.max(number + 1);
        }
        if next % 1_000 < items.len() {
            most = most.max(consumer.process.resident_bytes());
        }
    }
    let grown = most.saturating_sub(before);
    assert!(most > 0 && grown < MEMORY, "the consumer has taken {grown} bytes more");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrongly_gone_connection_loses_nothing() {
    let stack = stack::start(options()).await;
    let url = stack.websocket_url();
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    // Until then a 410 of the edge is not trusted.
    tokio::time::sleep(Duration::from_secs(4)).await;
    add_fault_rule(&stack, "post=410 next=1").await;
    alice.deliver(&b, "for one who is not gone").await;
    assert_eq!(bob.closed().await, 1000);
    assert_eq!(connect(&url, &b).await.texts(1).await, ["for one who is not gone"]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_opens_after_previous_owner_requeue() {
    let services = Services::start().await;
    let (broker, _) = broker(&services).await;
    let url = || services.rabbitmq.url().parse().expect("a URL");
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let queues = QueueSettings { kind, ..QueueSettings::default() };
        let mailbox = RabbitMqConsumer::new(url(), Partitions::default(), 32, queues);
        let _ownership = mailbox.ownership();
        eventually("it is connected", async || mailbox.is_connected()).await;
        let user = kschat_core::contract::unique_user();
        mailbox.ensure(&user).await.expect("the broker works");
        let publishing = RabbitMqPublisher::new(url(), Partitions::default(), queues);
        let texts: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        for text in &texts {
            publishing.publish(&user, &message(&user, text)).await.expect("the queue is there");
        }

        // The lock of the dead one is released; its channel here is not known to be dead yet.
        let dead = broker.create_channel().await.expect("a channel");
        dead.basic_qos(10, BasicQosOptions::default()).await.expect("a limit");
        let queue = format!("kschat.user.{}", user.as_str());
        let consume =
            dead.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let mut loans = consume.await.expect("a consumer");
        for _ in 0..10 {
            loans.next().await.expect("a delivery").expect("a delivery");
        }
        let refused = mailbox.open(&user).await.err().expect("the queue has a consumer");
        assert!(format!("{refused:?}").contains("another consumer"), "{refused:?}");
        assert!(mailbox.is_connected(), "others must not pay for it");

        let ((), opened) = tokio::join!(
            async {
                sleep(Duration::from_millis(500)).await;
                dead.close(200, "dead".into()).await.expect("the connection closes");
            },
            mailbox.open(&user)
        );
        let mut deliveries = opened.expect("the queue has no other consumer");
        for text in &texts {
            let delivery = deliveries.next().await.expect("a delivery");
            assert_eq!(Message::from_slice(&delivery.body).expect("a message").msg, *text, "{kind:?}");
        }
        deliveries.close().await;
    }
}

/// Unacked messages of the user and of an earlier user on one channel. For each requeue of the user's messages the
/// broker scans the earlier ones, which takes longer than the timeout for closing a queue.
const UNACKED_COUNT: usize = 4_000;
const EARLIER_UNACKED_COUNT: usize = 50_000;

/// Waits until a partition is acquired.
async fn acquired(ownership: &mut impl Ownership) -> Partition {
    loop {
        if let OwnershipEvent::Acquired(partition) = ownership.next().await {
            return partition;
        }
    }
}

/// Waits until a partition is requested.
async fn asked(ownership: &mut impl Ownership) -> Partition {
    loop {
        if let OwnershipEvent::ReleaseRequested(partition) = ownership.next().await {
            return partition;
        }
    }
}

/// How long the broker may take to requeue all of them, on a busy machine.
const REQUEUE_TIMEOUT: Duration = Duration::from_secs(300);

/// Opens a queue as soon as its lock is free.
async fn open(mailbox: &RabbitMqConsumer, user: &UserId) -> Box<dyn QueueConsumer> {
    let mut opened = None;
    eventually_within(REQUEUE_TIMEOUT, "the queue is free", async || {
        opened = mailbox.open(user).await.ok();
        opened.is_some()
    })
    .await;
    opened.expect("an open queue")
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_lock_outlasts_requeue() {
    for _ in 0..5 {
        if lock_outlasts_requeue().await {
            return;
        }
    }
    panic!("the owner lost its connection each time before the queue was closed");
}

/// Returns false if the owner loses its connection before the queue is closed, as on a busy machine: that would prove
/// nothing.
async fn lock_outlasts_requeue() -> bool {
    let services = Services::start().await;
    let partitions = Partitions::new(2).expect("a number of partitions");
    let consuming = || {
        let url = services.rabbitmq.url().parse().expect("a URL");
        RabbitMqConsumer::new(
            url,
            partitions,
            u16::try_from(EARLIER_UNACKED_COUNT).expect("a prefetch"),
            QueueSettings::default(),
        )
    };
    let (former, successor) = (consuming(), consuming());
    let mut owner = former.ownership();
    for _ in partitions.all() {
        acquired(&mut owner).await;
    }
    let mut other = successor.ownership();
    // With two members, each has one partition.
    let asked = asked(&mut owner).await;
    let user = std::iter::repeat_with(kschat_core::contract::unique_user).find(|user| partitions.of(user) == asked);
    let (user, neighbour) = (user.expect("there is no end of users"), kschat_core::contract::unique_user());

    let mut open_queues = Vec::new();
    for (user, loans) in [(&neighbour, EARLIER_UNACKED_COUNT), (&user, UNACKED_COUNT)] {
        if former.ensure(user).await.is_err() {
            return false;
        }
        burst(&services, user, 0..loans, 0).await;
        let Ok(mut deliveries) = former.open(user).await else { return false };
        for _ in 0..loans {
            if deliveries.next().await.is_none() {
                return false;
            }
        }
        open_queues.push(deliveries);
    }
    if !former.is_connected() {
        return false;
    }
    let began = Instant::now();
    open_queues.pop().expect("there are two").close().await;
    assert!(began.elapsed() > Duration::from_secs(4), "the broker was not busy enough: this would prove nothing");
    burst(&services, &user, UNACKED_COUNT..UNACKED_COUNT + 10, 0).await;
    owner.release(asked).await;

    let mut deliveries = loop {
        let (partition, mailbox) = tokio::select! {
            partition = acquired(&mut owner) => (partition, &former),
            partition = acquired(&mut other) => (partition, &successor),
        };
        if partition == asked {
            break open(mailbox, &user).await;
        }
    };
    for number in 0..UNACKED_COUNT + 10 {
        let delivery = deliveries.next().await.expect("a delivery");
        assert_eq!(number_of(&Message::from_slice(&delivery.body).expect("a message").msg), number);
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn late_queue_change_drops_connection() {
    let services = Services::start().await;
    let proxy = Proxy::start(services.rabbitmq.port()).await;
    let url = proxy.in_front_of(&services.rabbitmq.url(), services.rabbitmq.port()).parse().expect("a broker URL");
    let mailbox = RabbitMqConsumer::new(url, Partitions::default(), 32, QueueSettings::default());
    let _ownership = mailbox.ownership();
    eventually("it is connected", async || mailbox.is_connected()).await;
    let user = kschat_core::contract::unique_user();
    mailbox.ensure(&user).await.expect("the broker works");
    let never = std::future::pending().boxed();
    let removing = tokio::spawn({
        let (mailbox, user) = (mailbox.clone(), user.clone());
        async move { mailbox.retire(&user, never).await }
    });
    // It is unbound, and about to be deleted.
    sleep(Duration::from_millis(300)).await;
    proxy.cut();
    removing.await.expect("the task does not panic").expect_err("the broker did not reply in time");
    // The broker may execute it at any later time: nothing may use that connection any more, nor another one before
    // this one's locks are released.
    assert!(!mailbox.is_connected());
    mailbox.open(&user).await.err().expect("a queue that is opened now could be removed later");
    assert!(mailbox.ensure(&user).await.is_err());
}

/// Sends to a user without a queue, as a function does; returns the time it took.
async fn send_to_new_user(publishing: &RabbitMqPublisher, asker: &UserId) -> Duration {
    let (began, unknown) = (Instant::now(), kschat_core::contract::unique_user());
    eventually("the queue is made", async || {
        let published = publishing.publish(&unknown, &message(&unknown, "hello")).await;
        if let Err(PublishError::NoRoute) = published {
            // A busy broker may miss a deadline: then it is asked again.
            let _ = publishing.request_queue(&unknown, asker).await;
        }
        published.is_ok()
    })
    .await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_queue_requests_delay_no_other_sender() {
    let services = Services::start().await;
    let stack = stack(&services, QueueSettings::default()).await;
    let publishing = || {
        let url = services.rabbitmq.url().parse().expect("a broker URL");
        RabbitMqPublisher::new(url, Partitions::default(), QueueSettings::default())
    };
    let (greedy, honest) = (publishing(), publishing());
    let [mallory, alice] = [(); 2].map(|()| kschat_core::contract::unique_user());
    greedy.check().await.expect("the broker works");
    honest.check().await.expect("the broker works");
    let unknown_recipients: Vec<UserId> = (0..1_000).map(|_| kschat_core::contract::unique_user()).collect();
    let flood = async {
        let began = Instant::now();
        join_all(unknown_recipients.iter().map(|unknown| greedy.request_queue(unknown, &mallory))).await;
        began.elapsed()
    };
    let talk = async {
        let mut took = Vec::new();
        for _ in 0..15 {
            sleep(Duration::from_millis(200)).await;
            took.push(send_to_new_user(&honest, &alice).await);
        }
        took
    };
    let mut quiet = Vec::new();
    for _ in 0..5 {
        quiet.push(send_to_new_user(&honest, &alice).await);
    }
    quiet.sort();
    let (asked, mut took) = tokio::join!(flood, talk);
    took.sort();
    let limit = Duration::from_secs(2).max(20 * quiet[quiet.len() / 2]);
    let [median, worst] = [took[took.len() / 2], took[took.len() - 1]];
    assert!(worst < limit, "asked for in {asked:?}; the other: p50 {median:?}, worst {worst:?}, limit {limit:?}");
    stack.stop().await;
}
