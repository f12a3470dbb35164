//! How long a user's queue lives, what it keeps, and what becomes of what it can't keep.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::{
    num::NonZero,
    ops::Range,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::join_all};
use kschat::stack::{Options, Stack};
use kschat_adapters::rabbitmq::{Consuming, Publishing, QueueKind, QueueSettings};
use kschat_core::{
    Partition, Partitions,
    contract::message,
    ports::{Deliveries, Mailbox, Ownership, OwnershipEvent, PublishError, Publisher, Queues, Retired},
};
use kschat_protocol::{Message, UserId};
use kschat_tests::{
    eventually,
    proxy::Proxy,
    stack::{Consumer, Services, break_edge, connect, options, somebody},
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

/// Some lives of a queue that is kept for four seconds, and the few seconds by which the broker may be late.
const EXPIRING: Duration = Duration::from_secs(20);

async fn stack(services: &Services, queues: QueueSettings) -> Stack {
    let options = Options { backends: Some(services.backends()), queues, ..options() };
    Stack::start(options).await.expect("the stack starts")
}

/// A channel of the test's own to the broker.
async fn broker(services: &Services) -> (lapin::Connection, Channel) {
    let properties = lapin::ConnectionProperties::default();
    let broker = lapin::Connection::connect(&services.rabbitmq.url(), properties).await.expect("the broker answers");
    let channel = broker.create_channel().await.expect("a channel");
    (broker, channel)
}

/// How many messages wait in a user's queue, if there is one.
async fn waiting(broker: &lapin::Connection, user: &str) -> Option<u32> {
    // Asking for a queue that is not there closes the channel.
    let channel = broker.create_channel().await.expect("a channel");
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let name = format!("kschat.user.{user}");
    channel.queue_declare(name.into(), options, FieldTable::default()).await.ok().map(|queue| queue.message_count())
}

/// The text header of that name of the next dead letter, and the letter itself.
async fn dead_letter(channel: &Channel, header: &str) -> (String, Vec<u8>) {
    let mut letter = None;
    eventually("something is set aside", async || {
        let found = channel.basic_get("kschat.dead".into(), BasicGetOptions { no_ack: true }).await;
        letter = found.expect("the queue is there");
        letter.is_some()
    })
    .await;
    let letter = letter.expect("it is here by now");
    let headers = letter.properties.headers().as_ref().expect("headers").inner();
    let text = headers[header].as_long_string().expect("text").to_string();
    (text, letter.delivery.data)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_lives_while_its_user_is_online_or_messages_wait() {
    let services = Services::start().await;
    let stack = stack(&services, QueueSettings::default()).await;
    let (broker, _) = broker(&services).await;
    let url = stack.websocket_url();
    let (a, b) = (somebody("alice"), somebody("bob"));
    let mut alice = connect(&url, &a).await;
    for round in 0..2 {
        let bob = connect(&url, &b).await;
        eventually("the owner has made the queue", async || waiting(&broker, &b).await == Some(0)).await;
        bob.close().await;
        eventually("the empty queue is removed", async || waiting(&broker, &b).await.is_none()).await;
        assert_eq!(alice.send(&b, &format!("while away {round}")).await["ER"], 0);
        assert_eq!(waiting(&broker, &b).await, Some(1));
        let mut bob = connect(&url, &b).await;
        assert_eq!(bob.texts(1).await, [format!("while away {round}")]);
        bob.close().await;
        eventually("the drained queue is removed", async || waiting(&broker, &b).await.is_none()).await;
    }
    // What is not acknowledged keeps the queue.
    let mut bob = connect(&url, &b).await;
    bob.fall_silent();
    alice.send(&b, "unacknowledged").await;
    bob.texts(1).await;
    bob.close().await;
    eventually("it is back in the queue", async || waiting(&broker, &b).await == Some(1)).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_full_is_told_to_the_sender_and_keeps_what_it_has() {
    let services = Services::start().await;
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let max_messages = NonZero::new(3).expect("not zero");
        let stack = stack(&services, QueueSettings { kind, max_messages, ..QueueSettings::default() }).await;
        let url = stack.websocket_url();
        let (a, b) = (somebody("alice"), somebody("bob"));
        let mut alice = connect(&url, &a).await;
        let mut accepted = Vec::new();
        // A quorum queue notices a little late that it is full.
        eventually("the queue is full", async || {
            let text = accepted.len().to_string();
            let answer = alice.send_as(&b, &text, &somebody("rno")).await["ER"].clone();
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
async fn what_waits_too_long_is_set_aside_with_the_reason() {
    let services = Services::start().await;
    let retention = Duration::from_secs(2);
    let stack = stack(&services, QueueSettings { retention, ..QueueSettings::default() }).await;
    let (_broker, channel) = broker(&services).await;
    let b = somebody("bob");
    let mut alice = connect(&stack.websocket_url(), &somebody("alice")).await;
    assert_eq!(alice.send(&b, "too old").await["ER"], 0);
    let (reason, body) = dead_letter(&channel, "x-first-death-reason").await;
    assert_eq!(reason, "expired");
    assert!(String::from_utf8_lossy(&body).contains("too old"));
    assert_eq!(alice.send(&b, "fresh").await["ER"], 0);
    assert_eq!(connect(&stack.websocket_url(), &b).await.texts(1).await, ["fresh"]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_looked_at_in_time_does_not_expire() {
    let services = Services::start().await;
    let url = || services.rabbitmq.url().parse().expect("a broker URL");
    let (broker, _) = broker(&services).await;
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let queues = QueueSettings { kind, retention: Duration::from_secs(2), ..QueueSettings::default() };
        let mailbox = Consuming::new(url(), Partitions::default(), 32, queues);
        let _ownership = mailbox.ownership();
        eventually("it is connected", async || mailbox.is_connected()).await;
        let publishing = Publishing::new(url(), Partitions::default(), queues);
        let [seen, unseen] = [(); 2].map(|()| kschat_core::contract::somebody());
        mailbox.ensure(&seen).await.expect("the broker works");
        mailbox.ensure(&unseen).await.expect("the broker works");
        let until = Instant::now() + EXPIRING;
        while Instant::now() < until {
            let Retired::Idle(safe) = mailbox.look(&seen).await.expect("the broker works") else {
                panic!("{kind:?}: it is gone, or not empty");
            };
            sleep(safe / 2).await;
        }
        for text in ["one", "two"] {
            publishing.publish(&seen, &message(&seen, text)).await.expect("the queue is there");
        }
        assert!(matches!(mailbox.look(&seen).await, Ok(Retired::Waiting(_))), "{kind:?}");
        let mut deliveries = mailbox.open(&seen).await.expect("the broker works");
        for text in ["one", "two"] {
            let next = deliveries.next().await.expect("the loans are ours");
            let next = Message::from_slice(&next.body).expect("it was written here");
            assert_eq!(next.msg, text, "{kind:?}: a look leaves what waits in its place");
        }
        assert_eq!(waiting(&broker, unseen.as_str()).await, None, "{kind:?}: nothing expires here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_was_made_with_other_settings_is_used_as_it_is_and_made_anew_when_empty() {
    let services = Services::start().await;
    let before = stack(&services, QueueSettings::default()).await;
    let users: Vec<String> = (0..20).map(|n| somebody(&format!("bob{n}"))).collect();
    let mut alice = connect(&before.websocket_url(), &somebody("alice")).await;
    for user in &users {
        assert_eq!(alice.send(user, "from before").await["ER"], 0);
    }
    before.stop().await;
    let max_messages = NonZero::new(1).expect("not zero");
    let after = stack(&services, QueueSettings { max_messages, ..QueueSettings::default() }).await;
    let url = after.websocket_url();
    let mut alice = connect(&url, &somebody("alice")).await;
    // All at once: one refusal closes the channel of the others' declarations.
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
    // From now on it is as the settings say.
    let answers = [alice.send(&users[0], "one").await, alice.send(&users[0], "two").await];
    assert_eq!(answers.map(|answer| answer["ER"].as_u64()), [Some(0), Some(11)]);
    after.stop().await;
}

const PAIRS: usize = 5;
const MESSAGES: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn quorum_queues_keep_everything_in_order_when_a_consumer_is_killed() {
    let services = Services::start().await;
    let queues = QueueSettings { kind: QueueKind::Quorum, ..QueueSettings::default() };
    let options = Options { backends: Some(services.backends()), consumer: false, queues, ..options() };
    let stack = Stack::start(options).await.expect("the edge starts");
    let (url, callback) = (stack.websocket_url(), stack.callback_url());
    let quorum = [("QUEUE_TYPE", "quorum".to_owned())];
    let mut doomed = Consumer::start_with(&services, &callback, &quorum).await;
    let _other = Consumer::start_with(&services, &callback, &quorum).await;
    let mut pairs = Vec::new();
    for n in 0..PAIRS {
        let (from, to) = (somebody(&format!("sender{n}")), somebody(&format!("receiver{n}")));
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

/// How many messages wait for one user, of what size, and how much more memory the consumer may hold meanwhile: a small
/// part of them.
const BURST: usize = 100_000;
/// All of them together fit into a queue (`QUEUE_MAX_BYTES`).
const SIZE: usize = 400;
const MEMORY: u64 = 20 * 1024 * 1024;

/// Writes numbered messages to a user's queue, as any service could.
async fn burst(services: &Services, id: &UserId, numbers: Range<usize>, size: usize) {
    let (_broker, channel) = broker(services).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("it confirms");
    let properties = BasicProperties::default().with_delivery_mode(2);
    let mut confirms = std::collections::VecDeque::new();
    for n in numbers {
        let text = format!("{n} {}", "x".repeat(size));
        let (key, body) = (format!("ks_{}", id.as_str()), message(id, &text).to_vec());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent = channel.basic_publish("kschat.direct".into(), key.into(), options, &body, properties.clone());
        confirms.push_back(sent.await.expect("it is sent"));
        if confirms.len() == 1_000 {
            let confirmed = confirms.pop_front().expect("it has some").await.expect("it is confirmed");
            assert!(confirmed.is_ack(), "{confirmed:?}");
        }
    }
    for confirm in confirms {
        assert!(confirm.await.expect("it is confirmed").is_ack());
    }
}

/// The number that such a message begins with.
fn number_of(text: &str) -> usize {
    text.split(' ').next().expect("a word").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_a_hundred_thousand_messages_to_one_user_comes_in_order_and_in_bounded_memory() {
    let services = Services::start().await;
    let options = Options { backends: Some(services.backends()), consumer: false, ..options() };
    let stack = Stack::start(options).await.expect("the edge starts");
    // It is throttled now and then, too: that must slow the consumer, not fill it.
    break_edge(&stack, "post=429 share=1%").await;
    let consumer = Consumer::start(&services, &stack.callback_url()).await;
    let (a, b) = (somebody("alice"), somebody("bob"));
    let mut alice = connect(&stack.websocket_url(), &a).await;
    // The first one makes the queue.
    assert_eq!(alice.send(&b, "0 first").await["ER"], 0);
    burst(&services, &UserId::try_from(b.as_str()).expect("a valid user"), 1..BURST, SIZE).await;
    let before = consumer.process.resident_bytes();
    let mut bob = connect(&stack.websocket_url(), &b).await;
    let (mut next, mut most) = (0, 0);
    while next < BURST {
        let items = bob.items().await;
        for item in &items {
            let number = number_of(item["msg"].as_str().expect("text"));
            // What comes again has come before; nothing is left out.
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
async fn who_is_called_gone_by_mistake_is_cut_off_and_loses_nothing() {
    let stack = Stack::start(options()).await.expect("the stack starts");
    let url = stack.websocket_url();
    let (a, b) = (somebody("alice"), somebody("bob"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    // Until then the edge's word is not believed.
    tokio::time::sleep(Duration::from_secs(4)).await;
    break_edge(&stack, "post=410 next=1").await;
    assert_eq!(alice.send(&b, "for one who is not gone").await["ER"], 0);
    assert_eq!(bob.closed().await, 1000);
    assert_eq!(connect(&url, &b).await.texts(1).await, ["for one who is not gone"]);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_not_opened_before_all_that_a_dead_owner_had_on_loan_is_back() {
    let services = Services::start().await;
    let (broker, _) = broker(&services).await;
    let url = || services.rabbitmq.url().parse().expect("a URL");
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let queues = QueueSettings { kind, ..QueueSettings::default() };
        let mailbox = Consuming::new(url(), Partitions::default(), 32, queues);
        let _ownership = mailbox.ownership();
        eventually("it is connected", async || mailbox.is_connected()).await;
        let user = kschat_core::contract::somebody();
        mailbox.ensure(&user).await.expect("the broker works");
        let publishing = Publishing::new(url(), Partitions::default(), queues);
        let texts: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        for text in &texts {
            publishing.publish(&user, &message(&user, text)).await.expect("the queue is there");
        }

        // The lock of the one that has died is free already, this channel of it is not known as dead yet.
        let dead = broker.create_channel().await.expect("a channel");
        dead.basic_qos(10, BasicQosOptions::default()).await.expect("a limit");
        let queue = format!("kschat.user.{}", user.as_str());
        let consume =
            dead.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
        let mut loans = consume.await.expect("a consumer");
        for _ in 0..10 {
            loans.next().await.expect("a delivery").expect("a delivery");
        }
        let refused = mailbox.open(&user).await.err().expect("it is not free");
        assert!(format!("{refused:?}").contains("somebody else"), "{refused:?}");
        assert!(mailbox.is_connected(), "others must not pay for it");

        let ((), opened) = tokio::join!(
            async {
                sleep(Duration::from_millis(500)).await;
                dead.close(200, "dead".into()).await.expect("it closes");
            },
            mailbox.open(&user)
        );
        let mut deliveries = opened.expect("it is free");
        for text in &texts {
            let delivery = deliveries.next().await.expect("a delivery");
            assert_eq!(Message::from_slice(&delivery.body).expect("a message").msg, *text, "{kind:?}");
        }
        deliveries.close().await;
    }
}

/// How many messages of a user and of an earlier one are on loan over one channel. For each of the user's that is given back
/// the broker goes through all the earlier ones, which keeps it busy for longer than anybody waits for a queue to be closed.
const LOANS: usize = 4_000;
const EARLIER_LOANS: usize = 50_000;

/// Waits until a partition is acquired.
async fn acquired(ownership: &mut impl Ownership) -> Partition {
    loop {
        if let OwnershipEvent::Acquired(partition) = ownership.next().await {
            return partition;
        }
    }
}

/// Waits until a partition is asked for.
async fn asked(ownership: &mut impl Ownership) -> Partition {
    loop {
        if let OwnershipEvent::Asked(partition) = ownership.next().await {
            return partition;
        }
    }
}

/// Opens a queue as soon as it is free.
async fn open(mailbox: &Consuming, user: &UserId) -> Box<dyn Deliveries> {
    let mut opened = None;
    eventually("the queue is free", async || {
        opened = mailbox.open(user).await.ok();
        opened.is_some()
    })
    .await;
    opened.expect("it is open")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_kept_until_a_busy_broker_has_taken_back_what_is_on_loan() {
    let services = Services::start().await;
    let partitions = Partitions::new(2).expect("a number of partitions");
    let consuming = || {
        let url = services.rabbitmq.url().parse().expect("a URL");
        Consuming::new(url, partitions, u16::try_from(EARLIER_LOANS).expect("a prefetch"), QueueSettings::default())
    };
    let (former, successor) = (consuming(), consuming());
    let mut owner = former.ownership();
    for _ in partitions.all() {
        acquired(&mut owner).await;
    }
    let mut other = successor.ownership();
    // With two of them, each has one.
    let asked = asked(&mut owner).await;
    let user = std::iter::repeat_with(kschat_core::contract::somebody).find(|user| partitions.of(user) == asked);
    let (user, neighbour) = (user.expect("there is no end of users"), kschat_core::contract::somebody());

    let mut open_queues = Vec::new();
    for (user, loans) in [(&neighbour, EARLIER_LOANS), (&user, LOANS)] {
        former.ensure(user).await.expect("the broker works");
        burst(&services, user, 0..loans, 0).await;
        let mut deliveries = former.open(user).await.expect("it is free");
        for _ in 0..loans {
            deliveries.next().await.expect("a delivery");
        }
        open_queues.push(deliveries);
    }
    let began = Instant::now();
    open_queues.pop().expect("there are two").close().await;
    assert!(began.elapsed() > Duration::from_secs(4), "the broker was not busy enough: this would prove nothing");
    burst(&services, &user, LOANS..LOANS + 10, 0).await;
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
    for number in 0..LOANS + 10 {
        let delivery = deliveries.next().await.expect("a delivery");
        assert_eq!(number_of(&Message::from_slice(&delivery.body).expect("a message").msg), number);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_change_of_a_queue_gives_the_connection_up() {
    let services = Services::start().await;
    let proxy = Proxy::start(services.rabbitmq.port()).await;
    let url = proxy.in_front_of(&services.rabbitmq.url(), services.rabbitmq.port()).parse().expect("a broker URL");
    let mailbox = Consuming::new(url, Partitions::default(), 32, QueueSettings::default());
    let _ownership = mailbox.ownership();
    eventually("it is connected", async || mailbox.is_connected()).await;
    let user = kschat_core::contract::somebody();
    mailbox.ensure(&user).await.expect("the broker works");
    let never = std::future::pending().boxed();
    let removing = tokio::spawn({
        let (mailbox, user) = (mailbox.clone(), user.clone());
        async move { mailbox.retire(&user, never).await }
    });
    // It is out of the routing, and about to be deleted.
    sleep(Duration::from_millis(300)).await;
    proxy.cut();
    removing.await.expect("it does not panic").expect_err("the broker does not answer");
    // The broker may do it at any later time: nothing may be done over that connection any more, nor over another one
    // before the locks of this one have gone.
    assert!(!mailbox.is_connected());
    mailbox.open(&user).await.err().expect("a queue that is opened now could be removed later");
    assert!(mailbox.ensure(&user).await.is_err());
}

/// A sender who writes to somebody who has no queue, as a function does it; says how long that took.
async fn write_to_stranger(publishing: &Publishing, asker: &UserId) -> Option<Duration> {
    let (began, stranger) = (Instant::now(), kschat_core::contract::somebody());
    let mut wait = Duration::from_millis(5);
    while began.elapsed() < Duration::from_secs(2) {
        match publishing.publish(&stranger, &message(&stranger, "hello")).await {
            Ok(()) => return Some(began.elapsed()),
            Err(PublishError::NoRoute) => {
                publishing.request(&stranger, asker).await.ok()?;
                sleep(wait).await;
                wait *= 2;
            }
            Err(_) => return None,
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn sender_who_wants_a_thousand_queues_delays_no_other() {
    let services = Services::start().await;
    let stack = stack(&services, QueueSettings::default()).await;
    let publishing = || {
        let url = services.rabbitmq.url().parse().expect("a broker URL");
        Publishing::new(url, Partitions::default(), QueueSettings::default())
    };
    let (greedy, honest) = (publishing(), publishing());
    let [mallory, alice] = [(); 2].map(|()| kschat_core::contract::somebody());
    greedy.check().await.expect("the broker works");
    honest.check().await.expect("the broker works");
    let strangers: Vec<UserId> = (0..1_000).map(|_| kschat_core::contract::somebody()).collect();
    let flood = async {
        let began = Instant::now();
        join_all(strangers.iter().map(|stranger| greedy.request(stranger, &mallory))).await;
        began.elapsed()
    };
    let talk = async {
        let mut took = Vec::new();
        for _ in 0..15 {
            sleep(Duration::from_millis(200)).await;
            took.push(write_to_stranger(&honest, &alice).await);
        }
        took
    };
    let (asked, took) = tokio::join!(flood, talk);
    let mut honest: Vec<Duration> = took.iter().copied().flatten().collect();
    honest.sort();
    let (median, last) = (honest.get(honest.len() / 2), honest.last());
    let report = format!("asked for in {asked:?}; the other: {} of 15, p50 {median:?}, worst {last:?}", honest.len());
    assert_eq!(honest.len(), took.len(), "{report}");
    stack.stop().await;
}
