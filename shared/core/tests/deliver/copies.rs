//! Copies of a user's own messages on its other devices.

use kschat_core::ports::OwnerMessage;
use std::time::Duration;

use kschat_core::{
    contract::{message, unique_connection},
    ports::Publisher,
};
use kschat_protocol::{ConnectionId, JsonId, Message, Position, ProtocolVersion};
use serde_json::Value;

use crate::fixture::Fixture;

/// Queues a copy of what the user has sent to somebody else over that connection.
async fn said(fixture: &Fixture, via: &ConnectionId, text: &str) {
    let copy = Message {
        from: JsonId::from(&fixture.user),
        to: JsonId::Text("bob".to_owned()),
        sender_connection: Some(via.clone()),
        ..message(&fixture.user, text)
    };
    fixture.broker.publish(&fixture.user, &copy).await.expect("memory");
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// Whether a client that follows the rules accepts every frame that a device got, in this order.
fn misses_nothing(fixture: &Fixture, device: &ConnectionId) -> bool {
    let mut last: Option<Position> = None;
    fixture.frames(device).iter().all(|frame| {
        let frame: Value = serde_json::from_str(frame).expect("JSON");
        let place = |field: &str| frame[field].as_str().map(|text| text.parse::<Position>().expect("a place"));
        let takes = place("PREV").is_none_or(|before| last.is_some_and(|last| last.is_after(before)));
        last = place("POS");
        takes
    })
}

#[tokio::test(start_paused = true)]
async fn copy_reaches_other_devices_without_gap_for_sender() {
    let fixture = Fixture::new().await;
    let (phone, desk) = (fixture.acking_device(vec![]).await, fixture.acking_device(vec![]).await);
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_millis(10)).await;
    fixture.queue(&["one"]).await;
    said(&fixture, &phone, "mine").await;
    fixture.queue(&["two"]).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    said(&fixture, &desk, "mine, too").await;
    assert_eq!(fixture.received_texts(&phone).concat(), ["one", "two", "mine, too"]);
    assert_eq!(fixture.received_texts(&desk).concat(), ["one", "mine", "two"]);
    assert!(misses_nothing(&fixture, &phone) && misses_nothing(&fixture, &desk));
    // Messages of others are redelivered; copies are not, as their acks are not awaited.
    let before = (fixture.received_texts(&phone).len(), fixture.received_texts(&desk).len());
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(fixture.received_texts(&phone)[before.0..].concat(), ["one", "two"]);
    assert_eq!(fixture.received_texts(&desk)[before.1..].concat(), ["one", "two"]);
    assert!(misses_nothing(&fixture, &phone) && misses_nothing(&fixture, &desk));
    let later = fixture.acking_device(vec![]).await;
    fixture.signals.inbox.put(OwnerMessage::Refresh);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(fixture.received_texts(&later).concat(), ["one", "two"]);
    fixture.ack("two");
    tokio::time::sleep(Duration::from_millis(10)).await;
    fixture.stop(delivery).await;
    assert!(fixture.queued_texts().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn copy_skips_v1_clients_and_needs_no_ack() {
    let fixture = Fixture::new().await;
    let (v1, phone) = (fixture.device(vec![]).await, fixture.acking_device(vec![]).await);
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_millis(10)).await;
    said(&fixture, &phone, "mine").await;
    fixture.queue(&["one"]).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(fixture.received_texts(&v1).concat(), ["one"]);
    assert_eq!(fixture.received_texts(&phone).concat(), ["one"]);
    fixture.stop(delivery).await;
    assert!(fixture.queued_texts().await.is_empty(), "there was nobody to see it");
}

/// No device takes the copies of the phone's messages, and the phone still gets a message soon.
async fn holds_up_nobody(fixture: &Fixture, phone: &ConnectionId) {
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_millis(10)).await;
    for n in 0..300 {
        said(fixture, phone, &format!("mine {n}")).await;
    }
    fixture.queue(&["one"]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(fixture.received_texts(phone).concat(), ["one"]);
    assert!(!delivery.is_finished());
    fixture.ack("one");
    tokio::time::sleep(Duration::from_millis(10)).await;
    fixture.stop(delivery).await;
    assert!(fixture.queued_texts().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn unacked_copy_does_not_block_sender() {
    let fixture = Fixture::new().await;
    // The edge takes everything for it, but its client receives nothing.
    let (phone, _half_open) = (fixture.acking_device(vec![]).await, fixture.acking_device(vec![]).await);
    holds_up_nobody(&fixture, &phone).await;
}

#[tokio::test(start_paused = true)]
async fn unready_device_does_not_block_sender() {
    let fixture = Fixture::new().await;
    let phone = fixture.acking_device(vec![]).await;
    fixture.joins(&unique_connection(), "4", ProtocolVersion::V2).await;
    holds_up_nobody(&fixture, &phone).await;
}

#[tokio::test(start_paused = true)]
async fn busy_device_skips_copies() {
    let fixture = Fixture::new().await;
    let (phone, _busy) = (fixture.acking_device(vec![]).await, fixture.acking_device(vec![503; 100]).await);
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_millis(10)).await;
    said(&fixture, &phone, "mine").await;
    fixture.queue(&["one"]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(fixture.received_texts(&phone).concat(), ["one"]);
    fixture.stop(delivery).await;
}
