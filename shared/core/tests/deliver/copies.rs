//! What a user has said by one device, shown on the others.

use std::time::Duration;

use kschat_core::{
    contract::{connection, message},
    ports::Publisher,
};
use kschat_protocol::{ConnectionId, JsonId, Message, Position, Version};
use serde_json::Value;

use crate::scene::Scene;

/// Queues for the user what it has said to somebody else by that connection.
async fn said(scene: &Scene, via: &ConnectionId, text: &str) {
    let copy = Message {
        from: JsonId::from(&scene.user),
        to: JsonId::Text("bob".to_owned()),
        via: Some(via.clone()),
        ..message(&scene.user, text)
    };
    scene.broker.publish(&scene.user, &copy).await.expect("memory");
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// Whether a client that follows the rules takes every frame that a device got, in this order.
fn misses_nothing(scene: &Scene, device: &ConnectionId) -> bool {
    let mut last: Option<Position> = None;
    scene.frames(device).iter().all(|frame| {
        let frame: Value = serde_json::from_str(frame).expect("JSON");
        let place = |field: &str| frame[field].as_str().map(|text| text.parse::<Position>().expect("a place"));
        let takes = place("PREV").is_none_or(|before| last.is_some_and(|last| last.is_beyond(before)));
        last = place("POS");
        takes
    })
}

#[tokio::test(start_paused = true)]
async fn the_other_devices_see_what_was_said_and_the_one_that_said_it_misses_nothing() {
    let scene = Scene::new().await;
    let (phone, desk) = (scene.acking(vec![]).await, scene.acking(vec![]).await);
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_millis(10)).await;
    scene.queue(&["one"]).await;
    said(&scene, &phone, "mine").await;
    scene.queue(&["two"]).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    said(&scene, &desk, "mine, too").await;
    assert_eq!(scene.heard(&phone).concat(), ["one", "two", "mine, too"]);
    assert_eq!(scene.heard(&desk).concat(), ["one", "mine", "two"]);
    assert!(misses_nothing(&scene, &phone) && misses_nothing(&scene, &desk));
    // What others have said comes again; copies do not, as nobody waits for their acks.
    let before = (scene.heard(&phone).len(), scene.heard(&desk).len());
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(scene.heard(&phone)[before.0..].concat(), ["one", "two"]);
    assert_eq!(scene.heard(&desk)[before.1..].concat(), ["one", "two"]);
    assert!(misses_nothing(&scene, &phone) && misses_nothing(&scene, &desk));
    let later = scene.acking(vec![]).await;
    scene.signals.refresh.notify_one();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(scene.heard(&later).concat(), ["one", "two"]);
    scene.ack("two");
    tokio::time::sleep(Duration::from_millis(10)).await;
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_not_for_the_seeds_clients_and_waits_for_nobody() {
    let scene = Scene::new().await;
    let (seed, phone) = (scene.device(vec![]).await, scene.acking(vec![]).await);
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_millis(10)).await;
    said(&scene, &phone, "mine").await;
    scene.queue(&["one"]).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(scene.heard(&seed).concat(), ["one"]);
    assert_eq!(scene.heard(&phone).concat(), ["one"]);
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty(), "there was nobody to see it");
}

/// Nobody takes the copies of what the phone says, and the phone hears a message soon all the same.
async fn holds_up_nobody(scene: &Scene, phone: &ConnectionId) {
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_millis(10)).await;
    for n in 0..300 {
        said(scene, phone, &format!("mine {n}")).await;
    }
    scene.queue(&["one"]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.heard(phone).concat(), ["one"]);
    assert!(!courier.is_finished());
    scene.ack("one");
    tokio::time::sleep(Duration::from_millis(10)).await;
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_device_that_acknowledges_no_copy_does_not_hold_up_the_one_that_speaks() {
    let scene = Scene::new().await;
    // The edge takes everything for it, and nobody hears.
    let (phone, _half_open) = (scene.acking(vec![]).await, scene.acking(vec![]).await);
    holds_up_nobody(&scene, &phone).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_does_not_hear_yet_does_not_hold_up_the_one_that_speaks() {
    let scene = Scene::new().await;
    let phone = scene.acking(vec![]).await;
    scene.joins(&connection(), "4", Version::V2).await;
    holds_up_nobody(&scene, &phone).await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_busy_goes_without_copies_soon() {
    let scene = Scene::new().await;
    let (phone, _busy) = (scene.acking(vec![]).await, scene.acking(vec![503; 100]).await);
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_millis(10)).await;
    said(&scene, &phone, "mine").await;
    scene.queue(&["one"]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(scene.heard(&phone).concat(), ["one"]);
    scene.stop(courier).await;
}
