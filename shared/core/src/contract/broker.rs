//! Clauses of [`Publisher`], [`QueueManager`] and `RoomBindings`.

use std::time::Duration;

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, join_all},
    stream,
};
use kschat_protocol::{Message, RoomId, TraceContext, UserId};
use uuid::Uuid;

use tokio::{sync::Notify, time::Instant};

use super::{message, unique_connection, unique_user};
use crate::ports::{
    BindOutcome, BoxError, DeadLetterReason, Delivery, PublishError, Publisher, QueueConsumer, QueueManager,
    QueueStatus, RoomBindings,
};

/// A cancellation that never comes.
fn never() -> BoxFuture<'static, ()> {
    std::future::pending().boxed()
}

/// The result of a clause: an error of the port fails the test.
pub type Outcome = Result<(), BoxError>;

/// The time within which a delivery must come.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a clause watches for a delivery that must not come.
const SILENCE_WINDOW: Duration = Duration::from_millis(200);

/// All broker ports together.
pub trait Broker: Publisher + QueueManager + RoomBindings {}

impl<T: Publisher + QueueManager + RoomBindings> Broker for T {}

async fn next(deliveries: &mut Box<dyn QueueConsumer>) -> Result<Delivery, BoxError> {
    let delivery = tokio::time::timeout(DELIVERY_TIMEOUT, deliveries.next()).await?;
    delivery.ok_or_else(|| "the deliveries have ended".into())
}

async fn publish(broker: &impl Broker, to: &UserId, texts: &[&str]) -> Outcome {
    for text in texts {
        broker.publish(to, &message(to, text)).await?;
    }
    Ok(())
}

async fn expect(deliveries: &mut Box<dyn QueueConsumer>, texts: &[&str]) -> Result<Vec<Delivery>, BoxError> {
    let mut all = Vec::new();
    for text in texts {
        let delivery = next(deliveries).await?;
        assert_eq!(Message::from_slice(&delivery.body)?.msg, *text);
        all.push(delivery);
    }
    Ok(all)
}

/// A message to a user without a queue is refused, and accepted once there is a queue.
///
/// # Errors
/// Errors of the port.
pub async fn publish_without_queue_returns_no_route(broker: &impl Broker) -> Outcome {
    let user = unique_user();
    let refused = broker.publish(&user, &message(&user, "early")).await;
    assert!(matches!(refused, Err(PublishError::NoRoute)), "{refused:?}");
    broker.ensure(&user).await?;
    broker.ensure(&user).await?;
    publish(broker, &user, &["kept"]).await?;
    expect(&mut broker.open(&user).await?, &["kept"]).await?;
    Ok(())
}

/// Messages come in order, including those that come while a consumer waits, and none reach another user.
///
/// # Errors
/// Errors of the port.
pub async fn messages_reach_only_recipient_in_order(broker: &impl Broker) -> Outcome {
    let (user, other) = (unique_user(), unique_user());
    broker.ensure(&user).await?;
    broker.ensure(&other).await?;
    publish(broker, &user, &["one", "two"]).await?;
    let mut deliveries = broker.open(&user).await?;
    let mut others = broker.open(&other).await?;
    expect(&mut deliveries, &["one", "two"]).await?;
    publish(broker, &user, &["three"]).await?;
    expect(&mut deliveries, &["three"]).await?;
    assert!(tokio::time::timeout(SILENCE_WINDOW, others.next()).await.is_err());
    Ok(())
}

/// Acked messages never come again; the others come again in order, marked as redelivered, after a requeue.
///
/// # Errors
/// Errors of the port.
pub async fn unacked_messages_are_redelivered_in_order(broker: &impl Broker) -> Outcome {
    let user = unique_user();
    broker.ensure(&user).await?;
    publish(broker, &user, &["one", "two", "three", "four"]).await?;
    let mut deliveries = broker.open(&user).await?;
    let got = expect(&mut deliveries, &["one", "two", "three"]).await?;
    assert!(got.iter().all(|delivery| !delivery.redelivered));
    deliveries.ack(&[got[0].tag]).await?;
    deliveries.close().await;
    publish(broker, &user, &["five"]).await?;
    let mut deliveries = broker.open(&user).await?;
    let again = expect(&mut deliveries, &["two", "three", "four", "five"]).await?;
    assert!(again[0].redelivered && again[1].redelivered && !again[3].redelivered);
    deliveries.ack(&again.iter().map(|delivery| delivery.tag).collect::<Vec<_>>()).await?;
    deliveries.close().await;
    let mut deliveries = broker.open(&user).await?;
    assert!(tokio::time::timeout(SILENCE_WINDOW, deliveries.next()).await.is_err());
    Ok(())
}

/// Redelivered messages come before the rest of a backlog, most of which was never delivered.
///
/// # Errors
/// Errors of the port.
pub async fn long_backlog_keeps_order_across_requeues(broker: &impl Broker) -> Outcome {
    let user = unique_user();
    broker.ensure(&user).await?;
    let texts: Vec<String> = (0..150).map(|n| n.to_string()).collect();
    let mut left: Vec<&str> = texts.iter().map(String::as_str).collect();
    publish(broker, &user, &left).await?;
    while !left.is_empty() {
        let mut deliveries = broker.open(&user).await?;
        let taken = expect(&mut deliveries, &left[..left.len().min(25)]).await?;
        let settled: Vec<_> = taken.iter().take(10).map(|delivery| delivery.tag).collect();
        deliveries.ack(&settled).await?;
        deliveries.close().await;
        left.drain(..settled.len());
    }
    Ok(())
}

/// A dead-lettered message does not come again, and those behind it do come.
///
/// # Errors
/// Errors of the port.
pub async fn dead_lettered_message_is_not_redelivered(broker: &impl Broker) -> Outcome {
    let user = unique_user();
    broker.ensure(&user).await?;
    publish(broker, &user, &["bad", "good"]).await?;
    let mut deliveries = broker.open(&user).await?;
    let got = expect(&mut deliveries, &["bad", "good"]).await?;
    deliveries.dead_letter(got[0].tag, &got[0].body, DeadLetterReason::Rejected).await?;
    deliveries.close().await;
    expect(&mut broker.open(&user).await?, &["good"]).await?;
    Ok(())
}

/// A message comes with its trace and its sender's connection, also when redelivered; one without them comes without.
///
/// # Errors
/// Errors of the port.
pub async fn trace_context_travels_with_message(broker: &impl Broker) -> Outcome {
    let user = unique_user();
    broker.ensure(&user).await?;
    let trace = TraceContext::new(7, 8, 1, Some("vendor=1"));
    broker.publish(&user, &Message { trace: trace.clone(), ..message(&user, "traced") }).await?;
    publish(broker, &user, &["plain"]).await?;
    let sender_connection = Some(unique_connection());
    broker.publish(&user, &Message { sender_connection: sender_connection.clone(), ..message(&user, "own") }).await?;
    for _ in 0..2 {
        let mut deliveries = broker.open(&user).await?;
        let got = expect(&mut deliveries, &["traced", "plain", "own"]).await?;
        assert_eq!([&got[0].trace, &got[1].trace, &got[2].trace], [&trace, &None, &None]);
        assert_eq!(
            [&got[0].sender_connection, &got[1].sender_connection, &got[2].sender_connection],
            [&None, &None, &sender_connection]
        );
        deliveries.close().await;
    }
    Ok(())
}

/// A cancelled wait loses no message.
///
/// # Errors
/// Errors of the port.
pub async fn cancelled_next_loses_no_message(broker: &impl Broker) -> Outcome {
    let user = unique_user();
    broker.ensure(&user).await?;
    let mut deliveries = broker.open(&user).await?;
    for n in 0..50 {
        let text = n.to_string();
        let (impatient, published) =
            tokio::join!(tokio::time::timeout(Duration::from_micros(n * 20), deliveries.next()), async {
                publish(broker, &user, &[&text]).await
            });
        published?;
        let delivery = match impatient {
            Ok(delivery) => delivery.ok_or("the deliveries have ended")?,
            Err(_) => next(&mut deliveries).await?,
        };
        assert_eq!(Message::from_slice(&delivery.body)?.msg, text);
        deliveries.ack(&[delivery.tag]).await?;
    }
    Ok(())
}

/// Taking only buffered messages, with more to come, keeps the order.
///
/// # Errors
/// Errors of the port.
pub async fn try_next_returns_buffered_message(broker: &impl Broker) -> Outcome {
    let user = unique_user();
    broker.ensure(&user).await?;
    publish(broker, &user, &["one", "two"]).await?;
    let mut deliveries = broker.open(&user).await?;
    expect(&mut deliveries, &["one"]).await?;
    let mut second = None;
    for _ in 0..1_000 {
        second = deliveries.try_next();
        if second.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second = second.ok_or("the second is not here")?;
    assert_eq!(Message::from_slice(&second.body)?.msg, "two");
    assert_eq!(deliveries.try_next(), None);
    Ok(())
}

/// Each of many concurrent publishes gets the outcome of its own route, not of its neighbour's.
///
/// # Errors
/// Errors of the port.
pub async fn concurrent_publishes_get_own_outcome(broker: &impl Broker) -> Outcome {
    let (user, unknown) = (unique_user(), unique_user());
    broker.ensure(&user).await?;
    let publish = |n: usize| {
        let (user, unknown) = (&user, &unknown);
        async move {
            let to = if n.is_multiple_of(3) { unknown } else { user };
            (to, broker.publish(to, &message(to, &n.to_string())).await)
        }
    };
    for (to, outcome) in join_all((0..300).map(publish)).await {
        match outcome {
            Ok(()) => assert_eq!(to, &user),
            Err(PublishError::NoRoute) => assert_eq!(to, &unknown),
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}

/// With hundreds in flight all the time, some without a queue, each publish gets the outcome of its own route, and
/// routed messages come in the order of their publishes.
///
/// # Errors
/// Errors of the port.
pub async fn publishes_at_full_speed_keep_routes_and_order(broker: &impl Broker) -> Outcome {
    const MESSAGES: usize = 6_000;
    let users: Vec<UserId> = (0..7).map(|_| unique_user()).collect();
    let (known, unknown) = users.split_at(3);
    for user in known {
        broker.ensure(user).await?;
    }
    // Publishes that wait for a connection may overtake one another.
    assert!(matches!(broker.publish(&unknown[0], &message(&unknown[0], "first")).await, Err(PublishError::NoRoute)));
    // Runs of different lengths, so that confirms of several at once begin and end anywhere.
    let recipient = |n: usize| &users[(n * n / 3 + n / 5) % users.len()];
    let publish =
        |n: usize| async move { (n, broker.publish(recipient(n), &message(recipient(n), &n.to_string())).await) };
    let mut outcomes = stream::iter((0..MESSAGES).map(publish)).buffer_unordered(200);
    while let Some((n, outcome)) = outcomes.next().await {
        match outcome {
            Ok(()) => assert!(known.contains(recipient(n)), "{n} has no queue"),
            Err(PublishError::NoRoute) => assert!(unknown.contains(recipient(n)), "{n} has a queue"),
            Err(other) => return Err(other.into()),
        }
    }
    for user in known {
        let mut deliveries = broker.open(user).await?;
        for n in (0..MESSAGES).filter(|n| recipient(*n) == user) {
            let got = expect(&mut deliveries, &[&n.to_string()]).await?;
            deliveries.ack(&[got[0].tag]).await?;
        }
        deliveries.close().await;
    }
    Ok(())
}

/// A queue with ready or unacked messages is not removed.
///
/// # Errors
/// Errors of the port.
pub async fn queue_with_backlog_is_kept(broker: &impl Broker) -> Outcome {
    let user = unique_user();
    assert_eq!(broker.retire(&user, never()).await?, QueueStatus::Gone, "no queue was created");
    broker.ensure(&user).await?;
    publish(broker, &user, &["one", "two"]).await?;
    assert!(matches!(broker.retire(&user, never()).await?, QueueStatus::Backlogged(_)));
    let mut deliveries = broker.open(&user).await?;
    let got = expect(&mut deliveries, &["one", "two"]).await?;
    deliveries.ack(&[got[0].tag]).await?;
    deliveries.close().await;
    assert!(matches!(broker.retire(&user, never()).await?, QueueStatus::Backlogged(_)));
    let mut deliveries = broker.open(&user).await?;
    let got = expect(&mut deliveries, &["two"]).await?;
    deliveries.ack(&[got[0].tag]).await?;
    deliveries.close().await;
    assert!(!matches!(broker.retire(&user, never()).await?, QueueStatus::Backlogged(_)));
    Ok(())
}

/// An empty queue is reported as gone only if the next message has no route. A kept one takes that message, and is
/// reported to stay for a while.
///
/// # Errors
/// Errors of the port.
pub async fn kept_empty_queue_is_not_reported_missing(broker: &impl Broker) -> Outcome {
    let user = unique_user();
    assert_eq!(broker.queue_status(&user).await?, QueueStatus::Gone, "no queue was created");
    broker.ensure(&user).await?;
    assert!(matches!(broker.queue_status(&user).await?, QueueStatus::Empty(safe) if !safe.is_zero()));
    let retired = broker.retire(&user, never()).await?;
    let published = broker.publish(&user, &message(&user, "away")).await;
    match retired {
        QueueStatus::Gone => assert!(matches!(published, Err(PublishError::NoRoute)), "{published:?}"),
        QueueStatus::Empty(safe) => {
            published?;
            assert!(!safe.is_zero());
            assert!(matches!(broker.queue_status(&user).await?, QueueStatus::Backlogged(_)));
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

/// An empty queue is removed: the next message has no route until the queue is created again.
///
/// # Errors
/// Errors of the port.
pub async fn empty_queue_is_removed(broker: &impl Broker) -> Outcome {
    let user = unique_user();
    for _ in 0..2 {
        broker.ensure(&user).await?;
        publish(broker, &user, &["one"]).await?;
        let mut deliveries = broker.open(&user).await?;
        let got = expect(&mut deliveries, &["one"]).await?;
        deliveries.ack(&[got[0].tag]).await?;
        deliveries.close().await;
        assert_eq!(broker.retire(&user, never()).await?, QueueStatus::Gone);
        let refused = broker.publish(&user, &message(&user, "late")).await;
        assert!(matches!(refused, Err(PublishError::NoRoute)), "{refused:?}");
    }
    Ok(())
}

/// A message to a room reaches every user whose queue is bound to it, also offline ones, and no other. No character of
/// its id makes it another room, or all of them.
///
/// # Errors
/// Errors of the port.
pub async fn room_publish_reaches_every_bound_queue(broker: &impl Broker) -> Outcome {
    let (one, two, other) = (unique_user(), unique_user(), unique_user());
    let name = Uuid::now_v7();
    let room = |suffix: &str| RoomId::try_from(format!("{name}{suffix}"));
    let (here, all) = (room(".1 \"%\"")?, room(".*#")?);
    assert_eq!(broker.bind(&one, &here).await?, BindOutcome::NoQueue);
    let nobody = broker.publish_to_room(&here, &message(&one, "early")).await;
    assert!(matches!(nobody, Err(PublishError::NoRoute)), "{nobody:?}");
    for user in [&one, &two, &other] {
        broker.ensure(user).await?;
        assert!(matches!(broker.queue_status(user).await?, QueueStatus::Empty(_)));
    }
    assert_eq!(
        (broker.bind(&one, &here).await?, broker.bind(&one, &here).await?),
        (BindOutcome::Done, BindOutcome::Done)
    );
    broker.bind_rooms(&two, &[here.clone(), all.clone()]).await?;
    assert_eq!(broker.bind(&other, &all).await?, BindOutcome::Done);
    for text in ["one", "two"] {
        broker.publish_to_room(&here, &message(&one, text)).await?;
    }
    assert!(matches!(broker.queue_status(&two).await?, QueueStatus::Backlogged(_)));
    let mut deliveries = broker.open(&one).await?;
    expect(&mut deliveries, &["one", "two"]).await?;
    broker.unbind(&one, &here).await?;
    broker.unbind(&unique_user(), &here).await?;
    broker.publish_to_room(&here, &message(&one, "three")).await?;
    expect(&mut broker.open(&two).await?, &["one", "two", "three"]).await?;
    assert!(tokio::time::timeout(SILENCE_WINDOW, deliveries.next()).await.is_err(), "the member has left the room");
    assert!(
        tokio::time::timeout(SILENCE_WINDOW, broker.open(&other).await?.next()).await.is_err(),
        "the user is in another room"
    );
    Ok(())
}

/// A queue that its owner unbinds from rooms gets only messages of other rooms. It need not have been bound, nor exist.
///
/// # Errors
/// Errors of the port.
pub async fn unbound_queue_receives_only_other_rooms(broker: &impl Broker) -> Outcome {
    let (user, name) = (unique_user(), Uuid::now_v7());
    let rooms = ["a", "b", "c", "d"].map(|suffix| RoomId::try_from(format!("{name}.{suffix}")));
    let [Ok(left), Ok(stays), Ok(also_left), Ok(never)] = rooms else { unreachable!("valid ids") };
    let gone = [left.clone(), also_left.clone(), never];
    broker.unbind_rooms(&user, &gone).await?;
    broker.ensure(&user).await?;
    broker.bind_rooms(&user, &[left.clone(), stays.clone(), also_left.clone()]).await?;
    for _ in 0..2 {
        broker.unbind_rooms(&user, &gone).await?;
    }
    for room in [&left, &also_left] {
        let nobody = broker.publish_to_room(room, &message(&user, "left")).await;
        assert!(matches!(nobody, Err(PublishError::NoRoute)), "{nobody:?}");
    }
    broker.publish_to_room(&stays, &message(&user, "stays")).await?;
    expect(&mut broker.open(&user).await?, &["stays"]).await?;
    Ok(())
}

/// How long queues are removed while messages are sent.
const REMOVAL_TEST_DURATION: Duration = Duration::from_secs(4);

/// Nothing is lost when a queue is removed as often as possible during sends. Each message is either in the queue or
/// was refused for lack of a route, upon which the owner creates the queue again.
///
/// # Errors
/// Errors of the port.
pub async fn removing_a_queue_loses_no_message(broker: &impl Broker) -> Outcome {
    let (mut sent, mut taken) = send_while_queue_is_removed(broker).await?;
    sent.iter_mut().chain(&mut taken).for_each(|texts| texts.sort());
    assert_eq!(taken, sent);
    Ok(())
}

/// The messages of each sender keep their order meanwhile. Not so for quorum queues: see LIMITS.
///
/// # Errors
/// Errors of the port.
pub async fn removing_a_queue_keeps_order(broker: &impl Broker) -> Outcome {
    let (sent, taken) = send_while_queue_is_removed(broker).await?;
    assert_eq!(taken, sent);
    Ok(())
}

/// Returns what each of two senders has sent, and what has come of each.
async fn send_while_queue_is_removed(broker: &impl Broker) -> Result<([Vec<String>; 2], [Vec<String>; 2]), BoxError> {
    let (user, wanted, began) = (unique_user(), Notify::new(), Instant::now());
    let send = |name: &'static str| {
        let (user, wanted) = (&user, &wanted);
        async move {
            let mut accepted = Vec::new();
            while began.elapsed() < REMOVAL_TEST_DURATION {
                let text = format!("{name} {}", accepted.len());
                match broker.publish(user, &message(user, &text)).await {
                    Ok(()) => accepted.push(text),
                    Err(PublishError::NoRoute) => wanted.notify_one(),
                    Err(other) => return Err(BoxError::from(other)),
                }
                // Now and then long enough for the queue to be removed.
                let pause = if accepted.len() % 100 == 99 { 1_200 } else { fastrand::u64(0..30) };
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            Ok(accepted)
        }
    };
    let own = async {
        let mut taken = Vec::new();
        while began.elapsed() < REMOVAL_TEST_DURATION {
            let mut deliveries = broker.open(&user).await?;
            while let Ok(Some(delivery)) = tokio::time::timeout(Duration::from_millis(3), deliveries.next()).await {
                taken.push(Message::from_slice(&delivery.body)?.msg);
                deliveries.ack(&[delivery.tag]).await?;
            }
            deliveries.close().await;
            broker.retire(&user, wanted.notified().boxed()).await?;
        }
        broker.ensure(&user).await?;
        Ok::<_, BoxError>(taken)
    };
    let (one, two, mut taken) = futures_util::future::try_join3(send("one"), send("two"), own).await?;
    let mut deliveries = broker.open(&user).await?;
    while taken.len() < one.len() + two.len() {
        let delivery = next(&mut deliveries).await?;
        taken.push(Message::from_slice(&delivery.body)?.msg);
        deliveries.ack(&[delivery.tag]).await?;
    }
    let of = |name: &str| taken.iter().filter(|text| text.starts_with(name)).cloned().collect();
    Ok(([one, two], ["one", "two"].map(of)))
}

/// One test per clause, on the broker that `$setup` (an async expression) makes. `empty_queue_is_removed` is for
/// brokers that can.
#[macro_export]
macro_rules! broker_contract {
    ($setup:expr) => {
        $crate::broker_contract!(@ $setup,
            publish_without_queue_returns_no_route,
            messages_reach_only_recipient_in_order,
            unacked_messages_are_redelivered_in_order,
            long_backlog_keeps_order_across_requeues,
            dead_lettered_message_is_not_redelivered,
            trace_context_travels_with_message,
            cancelled_next_loses_no_message,
            try_next_returns_buffered_message,
            concurrent_publishes_get_own_outcome,
            publishes_at_full_speed_keep_routes_and_order,
            queue_with_backlog_is_kept,
            kept_empty_queue_is_not_reported_missing,
            room_publish_reaches_every_bound_queue,
            unbound_queue_receives_only_other_rooms,
            removing_a_queue_loses_no_message,
        );
    };
    (@ $setup:expr, $($clause:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $clause() {
            let broker = $setup.await;
            $crate::contract::hold(async || $crate::contract::broker::$clause(&broker).await).await;
        })*
    };
}
