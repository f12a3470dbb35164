//! Acks of clients, and redeliveries without them.

use kschat_core::ports::OwnerMessage;
use std::time::Duration;

use kschat_core::{contract::message, delivery::DeliveryEnd, ports::Publisher};
use kschat_protocol::{AckFrame, Message, MessageId, Position};
use serde_json::Value;

use crate::fixture::Fixture;

#[tokio::test(start_paused = true)]
async fn ack_removes_only_acked_messages() {
    let fixture = Fixture::new().await;
    let device = fixture.acking_device(vec![]).await;
    fixture.queue(&["one", "two", "three"]).await;
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.received_texts(&device), [["one", "two", "three"]]);
    // It covers all before it.
    fixture.ack("two");
    tokio::time::sleep(Duration::from_secs(1)).await;
    fixture.stop(delivery).await;
    assert_eq!(fixture.queued_texts().await, ["three"]);
}

#[tokio::test(start_paused = true)]
async fn unacked_messages_are_redelivered_in_order_and_flagged() {
    let fixture = Fixture::new().await;
    let device = fixture.acking_device(vec![]).await;
    fixture.queue(&["one", "two"]).await;
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    fixture.queue(&["three"]).await;
    fixture.wait_a_minute().await;
    let heard = fixture.received_texts(&device);
    assert_eq!(heard[..2], [vec!["one", "two"], vec!["three"]]);
    assert!(heard.len() > 2 && heard[2..].iter().all(|frame| *frame == ["one", "two", "three"]), "{heard:?}");
    let taken = fixture.edge.taken.lock().expect("no test panics here")[2].1.clone();
    assert_eq!(taken.matches(r#""redelivered":true"#).count(), 3);
    fixture.ack("three");
    fixture.wait_a_minute().await;
    let count = fixture.received_texts(&device).len();
    fixture.wait_a_minute().await;
    assert_eq!(fixture.received_texts(&device).len(), count, "an acknowledged message is not redelivered");
    fixture.stop(delivery).await;
    assert!(fixture.queued_texts().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn disconnect_requeues_unacked_in_order() {
    let fixture = Fixture::new().await;
    let device = fixture.acking_device(vec![]).await;
    fixture.queue(&["one", "two", "three"]).await;
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    fixture.ack("one");
    tokio::time::sleep(Duration::from_secs(1)).await;
    fixture.leave(&device).await;
    assert_eq!(delivery.await.expect("the task does not panic"), DeliveryEnd::Offline);
    assert_eq!(fixture.queued_texts().await, ["two", "three"]);
}

#[tokio::test(start_paused = true)]
async fn late_connection_receives_unacked_first() {
    let fixture = Fixture::new().await;
    let half_open = fixture.acking_device(vec![]).await;
    fixture.queue(&["one", "two"]).await;
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The edge does not know the new one yet, as `$connect` has not returned.
    let again = fixture.acking_device(vec![410; 3]).await;
    fixture.signals.inbox.put(OwnerMessage::Refresh);
    fixture.queue(&["three"]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(fixture.received_texts(&again).concat(), ["one", "two", "three"]);
    assert_eq!(fixture.received_texts(&half_open).concat(), ["one", "two", "three"]);
    fixture.ack("three");
    tokio::time::sleep(Duration::from_secs(1)).await;
    fixture.stop(delivery).await;
    assert!(fixture.queued_texts().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn v1_post_settles_unacked_messages() {
    let fixture = Fixture::new().await;
    let silent = fixture.acking_device(vec![]).await;
    fixture.queue(&["one"]).await;
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let v1 = fixture.device(vec![]).await;
    fixture.signals.inbox.put(OwnerMessage::Refresh);
    fixture.queue(&["two"]).await;
    fixture.wait_a_minute().await;
    // A client that would show duplicates gets none.
    assert_eq!(fixture.received_texts(&v1).concat(), ["one", "two"]);
    assert_eq!(fixture.received_texts(&silent).concat(), ["one", "two"]);
    fixture.stop(delivery).await;
    assert!(fixture.queued_texts().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn unacked_window_is_bounded() {
    let fixture = Fixture::new().await;
    let device = fixture.acking_device(vec![]).await;
    let texts: Vec<String> = (0..2_000).map(|n| n.to_string()).collect();
    fixture.queue(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let heard = fixture.received_texts(&device).concat();
    assert!(heard.len() < 600, "{} messages are under way", heard.len());
    for _ in 0..20 {
        fixture.ack(fixture.received_texts(&device).concat().last().expect("a received message"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(fixture.received_texts(&device).concat(), texts);
    fixture.stop(delivery).await;
    assert!(fixture.queued_texts().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn missing_acks_requeue_messages() {
    let fixture = Fixture::new().await;
    fixture.acking_device(vec![]).await;
    fixture.queue(&["one", "two"]).await;
    let began = tokio::time::Instant::now();
    assert_eq!(fixture.serve().await.expect("the task does not panic"), DeliveryEnd::Failed);
    let took = began.elapsed();
    assert!((Duration::from_secs(300)..Duration::from_secs(420)).contains(&took), "{took:?}");
    assert_eq!(fixture.queued_texts().await, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn redelivery_request_is_immediate_but_throttled() {
    let fixture = Fixture::new().await;
    let device = fixture.acking_device(vec![]).await;
    let delivery = fixture.serve();
    for text in ["one", "two"] {
        fixture.queue(&[text]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ask = || {
        fixture.signals.inbox.put(OwnerMessage::Ack(AckFrame {
            message: None,
            position: None,
            redelivery_requested: true,
        }));
    };
    ask();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fixture.received_texts(&device), [vec!["one"], vec!["two"], vec!["one", "two"]]);
    for _ in 0..9 {
        ask();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let count = fixture.received_texts(&device).len();
    assert!(count <= 5, "once a second is enough, and not {count} frames");
    fixture.ack("two");
    tokio::time::sleep(Duration::from_millis(100)).await;
    ask();
    fixture.wait_a_minute().await;
    assert_eq!(fixture.received_texts(&device).len(), count, "nothing is left to repeat");
    fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn duplicate_delivery_is_not_pushed() {
    let fixture = Fixture::new().await;
    let device = fixture.acking_device(vec![]).await;
    let delivery = fixture.serve();
    let twice = message(&fixture.user, "twice");
    let queue = async |message: &Message| fixture.broker.publish(&fixture.user, message).await.expect("memory");
    queue(&twice).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The first attempt was confirmed too late, and another sender came in between.
    queue(&message(&fixture.user, "between")).await;
    queue(&twice).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fixture.received_texts(&device), [["twice"], ["between"]]);
    for _ in 0..2 {
        fixture.ack("twice");
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Another copy, after the first one has left the queue.
        queue(&twice).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    fixture.stop(delivery).await;
    assert_eq!(fixture.queued_texts().await, ["between"]);
}

#[tokio::test(start_paused = true)]
async fn queued_duplicates_are_pushed_once() {
    let fixture = Fixture::new().await;
    let device = fixture.device(vec![]).await;
    let twice = message(&fixture.user, "twice");
    for message in [&twice, &message(&fixture.user, "between"), &twice] {
        fixture.broker.publish(&fixture.user, message).await.expect("memory");
    }
    let delivery = fixture.serve();
    fixture.wait_a_minute().await;
    fixture.broker.publish(&fixture.user, &twice).await.expect("memory");
    fixture.wait_a_minute().await;
    assert_eq!(fixture.received_texts(&device), [["twice", "between"]]);
    fixture.stop(delivery).await;
    assert!(fixture.queued_texts().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn ack_position_counts_only_within_its_run() {
    let fixture = Fixture::new().await;
    let device = fixture.acking_device(vec![]).await;
    let delivery = fixture.serve();
    for text in ["one", "two", "three"] {
        fixture.queue(&[text]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let place = |n: usize| {
        let taken = fixture.edge.taken.lock().expect("no test panics here");
        let frame: Value = serde_json::from_str(&taken[n].1).expect("JSON");
        (frame["PREV"].clone(), frame["POS"].as_str().expect("text").parse::<Position>().expect("a place"))
    };
    let (one, two, three) = (place(0), place(1), place(2));
    assert_eq!((one.0, two.0, three.0), (Value::Null, one.1.to_string().into(), two.1.to_string().into()));
    let ack = async |position| {
        let message = Some(MessageId::from("whatever".to_owned()));
        fixture.signals.inbox.put(OwnerMessage::Ack(AckFrame {
            message,
            position: Some(position),
            redelivery_requested: false,
        }));
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // From a previous owner, which has counted further.
    ack(Position { run: one.1.run ^ 1, number: 99 }).await;
    ack(two.1).await;
    ack(one.1).await;
    fixture.leave(&device).await;
    assert_eq!(delivery.await.expect("the task does not panic"), DeliveryEnd::Offline);
    assert_eq!(fixture.queued_texts().await, ["three"]);
}

/// The longest time that a message may be unacked: a third of what the broker tolerates.
const MAX_UNACKED_AGE: Duration = Duration::from_secs(10 * 60);

#[tokio::test(start_paused = true)]
async fn slow_acks_requeue_before_broker_timeout() {
    let fixture = Fixture::new().await;
    let device = fixture.acking_device(vec![]).await;
    let texts: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    fixture.queue(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut acked = 0;
    for _ in 0..5 {
        let (began, delivery) = (tokio::time::Instant::now(), fixture.serve());
        // An ack comes every four minutes, so the client never appears to be gone.
        while !delivery.is_finished() {
            tokio::time::sleep(Duration::from_secs(4 * 60)).await;
            if !delivery.is_finished() {
                fixture.ack(&texts[acked]);
                acked += 1;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            assert!(began.elapsed() < MAX_UNACKED_AGE + Duration::from_secs(5 * 60), "redelivery has no end");
        }
        assert_eq!(delivery.await.expect("the task does not panic"), DeliveryEnd::Failed);
        assert_eq!(fixture.queued_texts().await, texts[acked..]);
    }
    assert!(acked >= 10);
    assert_eq!(fixture.received_texts(&device)[0][0], "0");
}

#[tokio::test(start_paused = true)]
async fn prompt_acks_keep_messages_in_flight() {
    let fixture = Fixture::new().await;
    let device = fixture.acking_device(vec![]).await;
    let delivery = fixture.serve();
    for n in 0..3_000 {
        fixture.queue(&[&n.to_string()]).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        if n % 8 == 7 {
            fixture.ack(fixture.received_texts(&device).concat().last().expect("a received message"));
        }
    }
    assert!(!delivery.is_finished(), "25 minutes of talk are no reason to give anything back");
    fixture.wait_a_minute().await;
    fixture.stop(delivery).await;
    assert!(fixture.queued_texts().await.is_empty());
}
