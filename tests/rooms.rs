//! Concurrent joins and leaves while connections open and close.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::time::Duration;

use kschat::stack::Options;
use kschat_tests::{
    eventually,
    stack::{self, Services, connect, options, unique_user},
};
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use serde_json::json;

const RECONNECT_ROUNDS: usize = 50;

/// Whether any queue is bound to a room.
async fn is_bound(channel: &Channel, room: &str) -> bool {
    let (key, options) = (format!("room.{room}"), BasicPublishOptions { mandatory: true, ..Default::default() });
    let sent = channel.basic_publish("kschat.rooms".into(), key.into(), options, b"{}", BasicProperties::default());
    match sent.await.expect("the broker works").await.expect("the broker confirms") {
        Confirmation::Ack(returned) => returned.is_none(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leave_after_reconnect_is_final() {
    let services = Services::start().await;
    let options = Options { backends: Some(services.backends()), ..options() };
    let stack = stack::start(options).await;
    let url = stack.websocket_url();
    let broker = lapin::Connection::connect(&services.rabbitmq.url(), lapin::ConnectionProperties::default()).await;
    let broker = broker.expect("the broker answers");
    let channel = broker.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("the broker confirms");
    let mut open = Vec::new();
    for _ in 0..RECONNECT_ROUNDS {
        let (user, room) = (unique_user("alice"), unique_user("room"));
        let ask = |action: &str| json!({ "action": action, "gId": room });
        let mut first = connect(&url, &user).await;
        assert_eq!(first.ask(ask("join"), "RESPROOM").await["ER"], 0);
        assert!(is_bound(&channel, &room).await);
        first.close().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut again = connect(&url, &user).await;
        // At a different moment each time, while the owner opens the queue.
        tokio::time::sleep(Duration::from_micros(u64::try_from(open.len()).expect("few") * 400)).await;
        assert_eq!(again.ask(ask("leave"), "RESPROOM").await["ER"], 0);
        assert_eq!(again.ask(json!({ "action": "rooms" }), "RESPROOM").await["LIST"], json!([]));
        open.push((again, room));
    }
    let count_bound = async || {
        let mut bound = 0;
        for (_, room) in &open {
            bound += usize::from(is_bound(&channel, room).await);
        }
        bound
    };
    eventually("no room is bound", async || count_bound().await == 0).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(count_bound().await, 0, "of {RECONNECT_ROUNDS} rooms are bound again");
    stack.stop().await;
}
