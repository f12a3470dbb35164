//! Clauses of [`Publisher`] and [`Mailbox`].

use std::time::Duration;

use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use kschat_protocol::{Message, RoomId, TraceContext, UserId};
use uuid::Uuid;

use tokio::{sync::Notify, time::Instant};

use super::{connection, message, somebody};
use crate::ports::{
    Bound, BoxError, Deliveries, Delivery, Mailbox, PublishError, Publisher, Retired, RoomBindings, Undeliverable,
};

/// Nobody calls back.
fn never() -> BoxFuture<'static, ()> {
    std::future::pending().boxed()
}

/// What a clause returns: the port's own failure fails the test.
pub type Outcome = Result<(), BoxError>;

/// How long a delivery may take to come.
const SOON: Duration = Duration::from_secs(10);

/// How long we watch for a delivery that must not come.
const A_WHILE: Duration = Duration::from_millis(200);

/// Everything that a broker is to the use-cases.
pub trait Broker: Publisher + Mailbox + RoomBindings {}

impl<T: Publisher + Mailbox + RoomBindings> Broker for T {}

async fn next(deliveries: &mut Box<dyn Deliveries>) -> Result<Delivery, BoxError> {
    let delivery = tokio::time::timeout(SOON, deliveries.next()).await?;
    delivery.ok_or_else(|| "the deliveries have ended".into())
}

async fn publish(broker: &impl Broker, to: &UserId, texts: &[&str]) -> Outcome {
    for text in texts {
        broker.publish(to, &message(to, text)).await?;
    }
    Ok(())
}

async fn expect(deliveries: &mut Box<dyn Deliveries>, texts: &[&str]) -> Result<Vec<Delivery>, BoxError> {
    let mut all = Vec::new();
    for text in texts {
        let delivery = next(deliveries).await?;
        assert_eq!(Message::from_slice(&delivery.body)?.msg, *text);
        all.push(delivery);
    }
    Ok(all)
}

/// A message for somebody without a queue is refused, and accepted once there is one.
///
/// # Errors
/// The port's own.
pub async fn a_message_needs_a_queue(broker: &impl Broker) -> Outcome {
    let user = somebody();
    let refused = broker.publish(&user, &message(&user, "early")).await;
    assert!(matches!(refused, Err(PublishError::NoRoute)), "{refused:?}");
    broker.ensure(&user).await?;
    broker.ensure(&user).await?;
    publish(broker, &user, &["kept"]).await?;
    expect(&mut broker.open(&user).await?, &["kept"]).await?;
    Ok(())
}

/// What waits comes in order, also what comes while somebody listens, and nothing comes to another user.
///
/// # Errors
/// The port's own.
pub async fn messages_come_in_order_to_their_receiver_only(broker: &impl Broker) -> Outcome {
    let (user, other) = (somebody(), somebody());
    broker.ensure(&user).await?;
    broker.ensure(&other).await?;
    publish(broker, &user, &["one", "two"]).await?;
    let mut deliveries = broker.open(&user).await?;
    let mut others = broker.open(&other).await?;
    expect(&mut deliveries, &["one", "two"]).await?;
    publish(broker, &user, &["three"]).await?;
    expect(&mut deliveries, &["three"]).await?;
    assert!(tokio::time::timeout(A_WHILE, others.next()).await.is_err());
    Ok(())
}

/// What is acked never comes again; what is not comes again in order, marked, once the loans went back.
///
/// # Errors
/// The port's own.
pub async fn what_is_not_acked_comes_again_in_order(broker: &impl Broker) -> Outcome {
    let user = somebody();
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
    assert!(tokio::time::timeout(A_WHILE, deliveries.next()).await.is_err());
    Ok(())
}

/// What comes again is in its place before the rest of a backlog, most of which was never on loan.
///
/// # Errors
/// The port's own.
pub async fn a_long_backlog_keeps_its_order_through_every_loan(broker: &impl Broker) -> Outcome {
    let user = somebody();
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

/// A discarded message does not come again, and those behind it do come.
///
/// # Errors
/// The port's own.
pub async fn a_discarded_message_is_out_of_the_way(broker: &impl Broker) -> Outcome {
    let user = somebody();
    broker.ensure(&user).await?;
    publish(broker, &user, &["bad", "good"]).await?;
    let mut deliveries = broker.open(&user).await?;
    let got = expect(&mut deliveries, &["bad", "good"]).await?;
    deliveries.discard(got[0].tag, &got[0].body, Undeliverable::Refused).await?;
    deliveries.close().await;
    expect(&mut broker.open(&user).await?, &["good"]).await?;
    Ok(())
}

/// The trace of a message comes with it, and so does the connection that sent it, also the next time; who has none gets
/// none.
///
/// # Errors
/// The port's own.
pub async fn a_trace_travels_with_its_message(broker: &impl Broker) -> Outcome {
    let user = somebody();
    broker.ensure(&user).await?;
    let trace = TraceContext::new(7, 8, 1, Some("vendor=1"));
    broker.publish(&user, &Message { trace: trace.clone(), ..message(&user, "traced") }).await?;
    publish(broker, &user, &["plain"]).await?;
    let via = Some(connection());
    broker.publish(&user, &Message { via: via.clone(), ..message(&user, "own") }).await?;
    for _ in 0..2 {
        let mut deliveries = broker.open(&user).await?;
        let got = expect(&mut deliveries, &["traced", "plain", "own"]).await?;
        assert_eq!([&got[0].trace, &got[1].trace, &got[2].trace], [&trace, &None, &None]);
        assert_eq!([&got[0].via, &got[1].via, &got[2].via], [&None, &None, &via]);
        deliveries.close().await;
    }
    Ok(())
}

/// Waiting can be given up at any moment without losing a message.
///
/// # Errors
/// The port's own.
pub async fn giving_up_waiting_loses_nothing(broker: &impl Broker) -> Outcome {
    let user = somebody();
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

/// Taking only what is already here, with more to come, keeps the order.
///
/// # Errors
/// The port's own.
pub async fn what_is_here_already_can_be_taken_without_waiting(broker: &impl Broker) -> Outcome {
    let user = somebody();
    broker.ensure(&user).await?;
    publish(broker, &user, &["one", "two"]).await?;
    let mut deliveries = broker.open(&user).await?;
    expect(&mut deliveries, &["one"]).await?;
    tokio::time::sleep(A_WHILE).await;
    let second = deliveries.try_next().ok_or("the second is not here")?;
    assert_eq!(Message::from_slice(&second.body)?.msg, "two");
    assert_eq!(deliveries.try_next(), None);
    Ok(())
}

/// Of many publishes at once, each hears of its own route, not of its neighbour's.
///
/// # Errors
/// The port's own.
pub async fn each_publish_hears_of_its_own_route(broker: &impl Broker) -> Outcome {
    let (user, stranger) = (somebody(), somebody());
    broker.ensure(&user).await?;
    let publish = |n: usize| {
        let (user, stranger) = (&user, &stranger);
        async move {
            let to = if n.is_multiple_of(3) { stranger } else { user };
            (to, broker.publish(to, &message(to, &n.to_string())).await)
        }
    };
    for (to, outcome) in join_all((0..300).map(publish)).await {
        match outcome {
            Ok(()) => assert_eq!(to, &user),
            Err(PublishError::NoRoute) => assert_eq!(to, &stranger),
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}

/// A queue in which messages wait is not removed, nor is one from which a message is on loan.
///
/// # Errors
/// The port's own.
pub async fn a_queue_in_which_messages_wait_is_kept(broker: &impl Broker) -> Outcome {
    let user = somebody();
    assert_eq!(broker.retire(&user, never()).await?, Retired::Gone, "nobody has made it");
    broker.ensure(&user).await?;
    publish(broker, &user, &["one", "two"]).await?;
    assert!(matches!(broker.retire(&user, never()).await?, Retired::Waiting(_)));
    let mut deliveries = broker.open(&user).await?;
    let got = expect(&mut deliveries, &["one", "two"]).await?;
    deliveries.ack(&[got[0].tag]).await?;
    deliveries.close().await;
    assert!(matches!(broker.retire(&user, never()).await?, Retired::Waiting(_)));
    let mut deliveries = broker.open(&user).await?;
    let got = expect(&mut deliveries, &["two"]).await?;
    deliveries.ack(&[got[0].tag]).await?;
    deliveries.close().await;
    assert!(!matches!(broker.retire(&user, never()).await?, Retired::Waiting(_)));
    Ok(())
}

/// An empty queue is called gone only if the next message has no route. One that stays takes it unseen, and is said to
/// stay for a while.
///
/// # Errors
/// The port's own.
pub async fn an_empty_queue_that_stays_is_not_called_gone(broker: &impl Broker) -> Outcome {
    let user = somebody();
    assert_eq!(broker.look(&user).await?, Retired::Gone, "nobody has made it");
    broker.ensure(&user).await?;
    assert!(matches!(broker.look(&user).await?, Retired::Idle(safe) if !safe.is_zero()));
    let retired = broker.retire(&user, never()).await?;
    let published = broker.publish(&user, &message(&user, "away")).await;
    match retired {
        Retired::Gone => assert!(matches!(published, Err(PublishError::NoRoute)), "{published:?}"),
        Retired::Idle(safe) => {
            published?;
            assert!(!safe.is_zero());
            assert!(matches!(broker.look(&user).await?, Retired::Waiting(_)));
        }
        other => panic!("{other:?}"),
    }
    Ok(())
}

/// An empty queue is removed: the next message has no route, until the queue is made again.
///
/// # Errors
/// The port's own.
pub async fn an_empty_queue_is_removed(broker: &impl Broker) -> Outcome {
    let user = somebody();
    for _ in 0..2 {
        broker.ensure(&user).await?;
        publish(broker, &user, &["one"]).await?;
        let mut deliveries = broker.open(&user).await?;
        let got = expect(&mut deliveries, &["one"]).await?;
        deliveries.ack(&[got[0].tag]).await?;
        deliveries.close().await;
        assert_eq!(broker.retire(&user, never()).await?, Retired::Gone);
        let refused = broker.publish(&user, &message(&user, "late")).await;
        assert!(matches!(refused, Err(PublishError::NoRoute)), "{refused:?}");
    }
    Ok(())
}

/// What is said in a room comes to everybody whose queue is bound to it, also to those who are away, and to nobody else.
/// No character of its id makes it another room, or all of them.
///
/// # Errors
/// The port's own.
pub async fn what_is_said_in_a_room_comes_to_all_who_are_in_it(broker: &impl Broker) -> Outcome {
    let (one, two, other) = (somebody(), somebody(), somebody());
    let name = Uuid::now_v7();
    let room = |suffix: &str| RoomId::try_from(format!("{name}{suffix}"));
    let (here, all) = (room(".1 \"%\"")?, room(".*#")?);
    assert_eq!(broker.bind(&one, &here).await?, Bound::NoQueue);
    let nobody = broker.publish_to_room(&here, &message(&one, "early")).await;
    assert!(matches!(nobody, Err(PublishError::NoRoute)), "{nobody:?}");
    for user in [&one, &two, &other] {
        broker.ensure(user).await?;
        assert!(matches!(broker.look(user).await?, Retired::Idle(_)));
    }
    assert_eq!((broker.bind(&one, &here).await?, broker.bind(&one, &here).await?), (Bound::Done, Bound::Done));
    broker.bind_rooms(&two, &[here.clone(), all.clone()]).await?;
    assert_eq!(broker.bind(&other, &all).await?, Bound::Done);
    for text in ["one", "two"] {
        broker.publish_to_room(&here, &message(&one, text)).await?;
    }
    assert!(matches!(broker.look(&two).await?, Retired::Waiting(_)));
    let mut deliveries = broker.open(&one).await?;
    expect(&mut deliveries, &["one", "two"]).await?;
    broker.unbind(&one, &here).await?;
    broker.unbind(&somebody(), &here).await?;
    broker.publish_to_room(&here, &message(&one, "three")).await?;
    expect(&mut broker.open(&two).await?, &["one", "two", "three"]).await?;
    assert!(tokio::time::timeout(A_WHILE, deliveries.next()).await.is_err(), "it has left");
    assert!(tokio::time::timeout(A_WHILE, broker.open(&other).await?.next()).await.is_err(), "it is in another");
    Ok(())
}

/// A queue that its owner takes out of rooms hears of these no more, and of the others still. It need not have been in
/// them, nor be there.
///
/// # Errors
/// The port's own.
pub async fn unbound_queue_hears_its_other_rooms_only(broker: &impl Broker) -> Outcome {
    let (user, name) = (somebody(), Uuid::now_v7());
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
const REMOVING: Duration = Duration::from_secs(4);

/// Nothing is lost when a queue is removed as often as possible while messages are sent: each is either in the queue or
/// was refused as having no route, upon which the owner makes the queue again.
///
/// # Errors
/// The port's own.
pub async fn removing_a_queue_loses_no_message(broker: &impl Broker) -> Outcome {
    let (user, wanted, began) = (somebody(), Notify::new(), Instant::now());
    let send = |name: &'static str| {
        let (user, wanted) = (&user, &wanted);
        async move {
            let mut accepted = Vec::new();
            while began.elapsed() < REMOVING {
                let text = format!("{name} {}", accepted.len());
                match broker.publish(user, &message(user, &text)).await {
                    Ok(()) => accepted.push(text),
                    Err(PublishError::NoRoute) => wanted.notify_one(),
                    Err(other) => return Err(BoxError::from(other)),
                }
                // Long enough now and then for the queue to go.
                let pause = if accepted.len() % 100 == 99 { 1_200 } else { fastrand::u64(0..30) };
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            Ok(accepted)
        }
    };
    let own = async {
        let mut taken = Vec::new();
        while began.elapsed() < REMOVING {
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
    let of = |name: &str| taken.iter().filter(|text| text.starts_with(name)).cloned().collect::<Vec<_>>();
    assert_eq!((of("one"), of("two")), (one, two));
    Ok(())
}

/// One test a clause, against what `$setup` (an async expression) makes. `an_empty_queue_is_removed` is for brokers that can.
#[macro_export]
macro_rules! broker_contract {
    ($setup:expr) => {
        $crate::broker_contract!(@ $setup,
            a_message_needs_a_queue,
            messages_come_in_order_to_their_receiver_only,
            what_is_not_acked_comes_again_in_order,
            a_long_backlog_keeps_its_order_through_every_loan,
            a_discarded_message_is_out_of_the_way,
            a_trace_travels_with_its_message,
            giving_up_waiting_loses_nothing,
            what_is_here_already_can_be_taken_without_waiting,
            each_publish_hears_of_its_own_route,
            a_queue_in_which_messages_wait_is_kept,
            an_empty_queue_that_stays_is_not_called_gone,
            what_is_said_in_a_room_comes_to_all_who_are_in_it,
            unbound_queue_hears_its_other_rooms_only,
            removing_a_queue_loses_no_message,
        );
    };
    (@ $setup:expr, $($clause:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $clause() {
            let broker = $setup.await;
            $crate::contract::broker::$clause(&broker).await.expect("the broker failed");
        })*
    };
}
