//! Posts to the edge, retries and failures.

use kschat_core::ports::OwnerMessage;
use std::time::Duration;

use kschat_core::delivery::DeliveryEnd;

use crate::fixture::Fixture;

#[tokio::test(start_paused = true)]
async fn waiting_messages_share_one_frame() {
    let fixture = Fixture::new().await;
    let device = fixture.device(vec![]).await;
    fixture.queue(&["one", "two", "three"]).await;
    let delivery = fixture.serve();
    fixture.wait_a_minute().await;
    assert_eq!(fixture.received_texts(&device), [["one", "two", "three"]]);
    assert_eq!(fixture.stop(delivery).await, DeliveryEnd::Stopped);
    assert!(fixture.queued_texts().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn new_connection_gone_answer_is_retried() {
    let fixture = Fixture::new().await;
    let device = fixture.device(vec![410; 5]).await;
    fixture.queue(&["one"]).await;
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(fixture.received_texts(&device), [["one"]]);
    assert_eq!(fixture.registered().await, [device]);
    fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn gone_connection_does_not_block_others() {
    let fixture = Fixture::new().await;
    let (gone, here) = (fixture.device(vec![410; 1000]).await, fixture.device(vec![]).await);
    fixture.queue(&["one"]).await;
    let delivery = fixture.serve();
    fixture.wait_a_minute().await;
    fixture.queue(&["two"]).await;
    fixture.wait_a_minute().await;
    assert!(fixture.received_texts(&gone).is_empty());
    assert_eq!(fixture.received_texts(&here), [["one"], ["two"]]);
    assert_eq!(fixture.registered().await, [here]);
    fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn busy_edge_is_retried_in_order() {
    let fixture = Fixture::new().await;
    let device = fixture.device(vec![429, 500, 429]).await;
    fixture.queue(&["one", "two"]).await;
    let delivery = fixture.serve();
    fixture.wait_a_minute().await;
    fixture.queue(&["three"]).await;
    fixture.wait_a_minute().await;
    assert_eq!(fixture.received_texts(&device), [vec!["one", "two"], vec!["three"]]);
    fixture.stop(delivery).await;
    assert!(fixture.queued_texts().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn busy_edge_loses_no_message() {
    let fixture = Fixture::new().await;
    fixture.device(vec![500; 1000]).await;
    fixture.queue(&["one", "two"]).await;
    assert_eq!(fixture.serve().await.expect("the task does not panic"), DeliveryEnd::Failed);
    assert_eq!(fixture.queued_texts().await, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn busy_device_blocks_others_only_briefly() {
    let fixture = Fixture::new().await;
    let (busy, here) = (fixture.device(vec![429; 1000]).await, fixture.device(vec![]).await);
    fixture.queue(&["one"]).await;
    let delivery = fixture.serve();
    fixture.wait_a_minute().await;
    fixture.queue(&["two"]).await;
    fixture.wait_a_minute().await;
    assert_eq!(fixture.received_texts(&here), [["one"], ["two"]]);
    assert!(fixture.received_texts(&busy).is_empty());
    fixture.stop(delivery).await;
    assert!(fixture.queued_texts().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn rejected_frame_is_dead_lettered() {
    let fixture = Fixture::new().await;
    let device = fixture.device(vec![413]).await;
    fixture.queue(&["one"]).await;
    let delivery = fixture.serve();
    fixture.wait_a_minute().await;
    fixture.queue(&["two"]).await;
    fixture.wait_a_minute().await;
    assert_eq!(fixture.received_texts(&device), [["two"]]);
    fixture.stop(delivery).await;
    assert!(fixture.queued_texts().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn device_connecting_during_retry_receives_frame() {
    let fixture = Fixture::new().await;
    let first = fixture.device(vec![429; 3]).await;
    fixture.queue(&["one"]).await;
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let second = fixture.device(vec![]).await;
    fixture.signals.inbox.put(OwnerMessage::Refresh);
    fixture.wait_a_minute().await;
    assert_eq!(
        (fixture.received_texts(&first), fixture.received_texts(&second)),
        (vec![vec!["one".to_owned()]], vec![vec!["one".to_owned()]])
    );
    fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn stop_during_backoff_requeues_all() {
    let fixture = Fixture::new().await;
    fixture.device(vec![500; 1000]).await;
    fixture.queue(&["one", "two"]).await;
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(fixture.stop(delivery).await, DeliveryEnd::Stopped);
    assert_eq!(fixture.queued_texts().await, ["one", "two"]);
}

/// Large messages, such that each frame leaves one over for the next.
async fn backlog(fixture: &Fixture) -> Vec<String> {
    let texts: Vec<String> = (0..40).map(|n| format!("{n} {}", "x".repeat(20_000))).collect();
    fixture.queue(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    texts
}

#[tokio::test(start_paused = true)]
async fn stop_during_backlog_keeps_order() {
    let fixture = Fixture::new().await;
    let device = fixture.device(vec![]).await;
    let texts = backlog(&fixture).await;
    let delivery = fixture.serve();
    while fixture.received_texts(&device).is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(fixture.stop(delivery).await, DeliveryEnd::Stopped);
    let heard: Vec<String> = fixture.received_texts(&device).concat();
    assert!(heard.len() < texts.len(), "it did not listen until the backlog was done");
    assert_eq!([heard, fixture.queued_texts().await].concat(), texts);
}

#[tokio::test(start_paused = true)]
async fn device_joining_mid_backlog_receives_rest() {
    let fixture = Fixture::new().await;
    let first = fixture.device(vec![]).await;
    let texts = backlog(&fixture).await;
    let delivery = fixture.serve();
    while fixture.received_texts(&first).is_empty() {
        tokio::task::yield_now().await;
    }
    let second = fixture.device(vec![]).await;
    fixture.signals.inbox.put(OwnerMessage::Refresh);
    fixture.wait_a_minute().await;
    let (one, two) = (fixture.received_texts(&first).concat(), fixture.received_texts(&second).concat());
    assert_eq!(one, texts);
    assert!(!two.is_empty() && texts.ends_with(&two), "{} messages", two.len());
    fixture.stop(delivery).await;
}
