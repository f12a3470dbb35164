//! Survival of Socket.IO clients: idle times, dead consumers, a registry that loses its data, a stack that restarts.

use std::time::Duration;

use kschat::stack::{Options, Stack};
use kschat_edge::Settings;
use kschat_protocol::dialect::Heartbeat;
use kschat_tests::{
    eventually,
    socketio::{Generation, SocketIo, guide},
    stack::{self, Consumer, Services, connect, embedded, options, unique_user, until_markers_are_known},
};
use serde_json::json;

use crate::BOTH;

/// An edge with functions in this process, and a separate consumer.
async fn edge(services: &Services) -> Stack {
    let options = Options { backends: Some(services.backends()), consumer: false, ..options() };
    stack::start(options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_keep_silent_clients_connected() {
    let heartbeat = Heartbeat { interval: Duration::from_secs(1), timeout: Duration::from_secs(3) };
    let edge = Settings { idle: Duration::from_secs(4), ..Settings::default() };
    let stack = stack::start(Options { heartbeat, edge, ..options() }).await;
    for generation in BOTH {
        let (a, b) = (unique_user("alice"), unique_user("bob"));
        let mut bob = SocketIo::connected(generation, &stack.page_url(), &b).await;
        for _ in 0..6 {
            bob.next("ping").await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut alice = connect(&stack.websocket_url(), &a).await;
        alice.send(&b, "still there?").await;
        assert_eq!(bob.texts(1).await, ["still there?"]);
        assert_eq!((bob.has_seen("disconnect"), bob.has_seen("connect")), (0, 0));
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_is_invisible_to_clients() {
    let services = Services::start().await;
    let stack = edge(&services).await;
    let (page, url, callback) = (stack.page_url(), stack.websocket_url(), stack.callback_url());
    let (a, b, c) = (unique_user("alice"), unique_user("bob"), unique_user("carol"));
    // Nothing sends the first packet.
    let mut four = SocketIo::start(Generation::Four, &page, &b, &guide(&b), false);
    let mut two = SocketIo::start(Generation::Two, &page, &c, &guide(&c), false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut first = Consumer::start(&services, &callback).await;
    four.next("connect").await;
    two.next("connect").await;
    let mut alice = connect(&url, &a).await;
    for client in [(&b, &mut four), (&c, &mut two)] {
        alice.send(client.0, "before").await;
        assert_eq!(client.1.texts(1).await, ["before"]);
    }
    first.process.kill();
    let _second = Consumer::start(&services, &callback).await;
    for (user, client) in [(&b, &mut four), (&c, &mut two)] {
        assert_eq!(alice.send(user, "after").await["ER"], 0);
        assert_eq!(client.texts(1).await, ["after"]);
        assert_eq!(client.send(&a, "I have noticed nothing").await["uId"], json!(user));
        client.next("RESPSEND").await;
        assert_eq!((client.has_seen("connect"), client.has_seen("disconnect")), (0, 0));
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_flush_restores_namespaces() {
    let services = Services::start().await;
    let stack = stack::start(Options { backends: Some(services.backends()), ..options() }).await;
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut bob = SocketIo::connected(Generation::Four, &stack.page_url(), &b).await;
    let mut alice = connect(&stack.websocket_url(), &a).await;
    until_markers_are_known(&services).await;
    services.redis.flush().await;
    eventually("alice is known again", async || alice.send(&b, "after all").await["ER"] == 0).await;
    assert_eq!(bob.texts(1).await, ["after all"]);
    eventually("bob is known again", async || {
        bob.send(&a, "me, too").await;
        bob.next("RESPSEND").await["data"]["ER"] == 0
    })
    .await;
    assert_eq!(bob.has_seen("disconnect"), 0);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_reconnect_after_stack_restart() {
    let services = Services::start().await;
    let start = async |listen| {
        let options = Options { listen, backends: Some(services.backends()), ..options() };
        stack::start(options).await
    };
    let stack = start(options().listen).await;
    let (address, page) = (stack.address(), stack.page_url());
    let (a, b, c) = (unique_user("alice"), unique_user("bob"), unique_user("carol"));
    let mut four = SocketIo::connected(Generation::Four, &page, &b).await;
    let mut two = SocketIo::connected(Generation::Two, &page, &c).await;
    stack.stop().await;
    four.next("disconnect").await;
    two.next("disconnect").await;
    let stack = start(address).await;
    let mut alice = connect(&stack.websocket_url(), &a).await;
    for (user, client) in [(&b, &mut four), (&c, &mut two)] {
        alice.send(user, "welcome back").await;
        client.next("connect").await;
        assert_eq!(client.texts(1).await, ["welcome back"]);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicate_open_packet_is_harmless() {
    let stack = embedded().await;
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = connect(&stack.websocket_url(), &a).await;
    let mut known = stack.edge().ids();
    for generation in BOTH {
        let mut bob = SocketIo::connected(generation, &stack.page_url(), &b).await;
        // The newest connection.
        let id = stack.edge().ids().into_iter().find(|id| !known.contains(id)).expect("bob's connection");
        let open = r#"0{"sid":"again","upgrades":[],"pingInterval":480000,"pingTimeout":180000,"maxPayload":32768}"#;
        let url = format!("{}/@connections/{id}", stack.callback_url());
        let pushed = reqwest::Client::new().post(&url).body(open).send().await.expect("an answer");
        assert_eq!(pushed.status(), 200);
        known.push(id);
        alice.send(&b, "hello").await;
        assert_eq!(bob.texts(1).await, ["hello"]);
        assert_eq!(bob.send(&a, "still here").await["uId"], json!(b));
        assert_eq!(alice.texts(1).await, ["still here"]);
        assert_eq!((bob.has_seen("connect"), bob.has_seen("disconnect")), (0, 0));
        bob.tell(json!({ "disconnect": true })).await;
        bob.next("disconnect").await;
    }
    stack.stop().await;
}
