//! Chats of Socket.IO clients, on any device, in any namespace.

use std::time::Duration;

use kschat::stack::Options;
use kschat_tests::{
    client::token,
    socketio::{Generation, SocketIo, guide},
    stack::{self, SECRET, Services, connect, embedded, options, unique_user},
};
use serde_json::json;

use crate::BOTH;

async fn chat(page: &str) {
    for generation in BOTH {
        let (a, b) = (unique_user("alice"), unique_user("bob"));
        let mut alice = SocketIo::connected(generation, page, &a).await;
        let mut bob = SocketIo::connected(generation, page, &b).await;
        assert_eq!(alice.send(&b, "hello").await, json!({ "RESPONSE": "Send Emit is success.", "uId": a }));
        let reply = alice.next("RESPSEND").await["data"].clone();
        assert_eq!((&reply["RC"], &reply["ER"], &reply["STATUS"]), (&json!(1), &json!(0), &json!(1)));
        assert_eq!((&reply["SID"], &reply["RID"], &reply["RANDOMNO"]), (&json!(a), &json!(b), &json!(42)));
        let heard = bob.next("RESPRECEIVER").await;
        // The original guide's server passes a callback, too.
        assert_eq!(heard["callback"], "function");
        assert_eq!((&heard["data"]["RC"], &heard["data"]["ER"]), (&json!(1), &json!(0)));
        let item = &heard["data"]["MSG"][0];
        assert_eq!((&item["uId"], &item["pId"], &item["msg"]), (&json!(a), &json!(b), &json!("hello")));
        assert_eq!((&item["rStatus"], &item["msgTime"]), (&json!(1), &reply["MSGTIME"]));
        // Without a callback the event is the only reply.
        let message = bob.message(&a, "hello to you");
        bob.tell(json!({ "emit": ["Send", message] })).await;
        assert_eq!(bob.next("RESPSEND").await["data"]["ER"], 0);
        assert_eq!(alice.texts(1).await, ["hello to you"]);
        // A rejected send calls no callback: only the event reports it.
        bob.tell(json!({ "emit": ["Send", { "uId": a, "pId": a, "msg": "it is me" }], "ack": true })).await;
        assert_eq!(bob.next("RESPSEND").await["data"]["ER"], 5);
        for argument in [json!("hello"), json!(["hello"]), json!(null), json!(7)] {
            bob.tell(json!({ "emit": ["Send", argument], "ack": true })).await;
            assert_eq!(bob.next("RESPSEND").await["data"]["ER"], 6);
        }
        assert_eq!(bob.has_seen("ack"), 0);
        let with_own_field = json!({ "action": "greet", "uId": b, "pId": a, "msg": "with a field of its own" });
        bob.tell(json!({ "emit": ["Send", with_own_field], "ack": true })).await;
        assert_eq!(bob.next("RESPSEND").await["data"]["ER"], 0);
        assert_eq!(alice.texts(1).await, ["with a field of its own"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guide_clients_chat_in_memory() {
    let stack = embedded().await;
    chat(&stack.page_url()).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guide_clients_chat_on_real_services() {
    let services = Services::start().await;
    let stack = stack::start(Options { backends: Some(services.backends()), ..options() }).await;
    chat(&stack.page_url()).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_every_dialect_hear_the_same() {
    let stack = embedded().await;
    let (page, url) = (stack.page_url(), stack.websocket_url());
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = connect(&url, &a).await;
    let mut raw = connect(&url, &b).await;
    let mut four = SocketIo::connected(Generation::Four, &page, &b).await;
    let mut two = SocketIo::connected(Generation::Two, &page, &b).await;
    for text in ["one", "two"] {
        assert_eq!(alice.send(&b, text).await["ER"], 0);
    }
    assert_eq!(raw.texts(2).await, ["one", "two"]);
    assert_eq!(four.texts(2).await, ["one", "two"]);
    assert_eq!(two.texts(2).await, ["one", "two"]);
    four.send(&a, "back").await;
    assert_eq!(alice.texts(1).await, ["back"]);
    // Only the sending connection receives the reply.
    four.next("RESPSEND").await;
    assert_eq!(two.has_seen("RESPSEND"), 0);
    // A raw client's request is an event of the same name.
    two.tell(json!({ "emit": ["Auth", { "token": token(SECRET, &b) }] })).await;
    assert_eq!(two.next("RESPAUTH").await["data"]["ER"], 0);
    four.tell(json!({ "emit": ["auth", { "token": "no" }], "ack": true })).await;
    assert_eq!(four.next("ack").await["data"][0]["ER"], 3);
    stack.stop().await;
}

/// A client of version 2, which acknowledges by callback.
async fn version_2(generation: Generation, page: &str, user: &str) -> SocketIo {
    let mut options = guide(user);
    options["query"] = json!(format!("{}&v=2", options["query"].as_str().expect("text")));
    let mut client = SocketIo::start(generation, page, user, &options, true);
    client.next("connect").await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn events_support_every_frame_action() {
    let stack = embedded().await;
    let page = stack.page_url();
    for generation in BOTH {
        let (a, b, room) = (unique_user("alice"), unique_user("bob"), unique_user("room"));
        let mut alice = version_2(generation, &page, &a).await;
        let mut bob = version_2(generation, &page, &b).await;
        bob.tell(json!({ "emit": ["Join", { "gId": room }] })).await;
        let joined = bob.next("RESPROOM").await["data"].clone();
        assert_eq!((&joined["ER"], &joined["OP"], &joined["GID"]), (&json!(0), &json!("join"), &json!(room)));
        alice.tell(json!({ "emit": ["Join", { "gId": room }], "ack": true })).await;
        assert_eq!(alice.next("ack").await["data"][0]["GID"], json!(room));
        alice.tell(json!({ "emit": ["Send", { "uId": a, "gId": room, "msg": "to all", "rno": "r1" }] })).await;
        assert_eq!(alice.next("RESPSEND").await["data"]["GID"], json!(room));
        let item = bob.next("RESPRECEIVER").await["data"]["MSG"][0].clone();
        assert_eq!((&item["gId"], &item["msg"]), (&json!(room), &json!("to all")));

        alice.tell(json!({ "emit": ["Typing", { "pId": b, "on": true }] })).await;
        assert_eq!(bob.next("RESPTYPING").await["data"]["UID"], json!(a));
        alice.tell(json!({ "emit": ["Presence", { "uIds": [b] }], "ack": true })).await;
        assert_eq!(alice.next("ack").await["data"][0]["LIST"], json!([{ "uId": b, "on": 1 }]));
        alice.tell(json!({ "emit": ["Send", { "uId": a, "pId": b, "msg": "read this", "rno": "r2" }] })).await;
        let id = alice.next("RESPSEND").await["data"]["MID"].clone();
        assert_eq!(bob.texts(1).await, ["read this"]);
        let delivered = alice.next("RESPSTATUS").await["data"].clone();
        assert_eq!((&delivered["STATUS"], &delivered["MID"]), (&json!(3), &id));
        bob.tell(json!({ "emit": ["Read", { "pId": a, "mId": id }] })).await;
        assert_eq!(alice.next("RESPSTATUS").await["data"]["STATUS"], 4);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_the_main_namespace_are_served_too() {
    let stack = embedded().await;
    let (page, url) = (stack.page_url(), stack.websocket_url());
    let (a, b, c) = (unique_user("alice"), unique_user("bob"), unique_user("carol"));
    let mut alice = connect(&url, &a).await;
    for (generation, user) in [(Generation::Four, &b), (Generation::Two, &c)] {
        let mut client = SocketIo::start_at(generation, &page, user, &guide(user), false);
        client.next("connect").await;
        alice.send(user, "hello").await;
        assert_eq!(client.texts(1).await, ["hello"]);
        assert_eq!(client.send(&a, "back").await["uId"], json!(user));
        assert_eq!(alice.texts(1).await, ["back"]);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_v2_callbacks_acknowledge() {
    let stack = embedded().await;
    let (page, url) = (stack.page_url(), stack.websocket_url());
    let mut alice = connect(&url, &unique_user("alice")).await;
    for generation in BOTH {
        for (version, calls_back, comes_again) in
            [("", false, false), ("", true, false), ("&v=2", true, false), ("&v=2", false, true)]
        {
            let user = unique_user("bob");
            let mut options = guide(&user);
            options["query"] = json!(format!("{}{version}", options["query"].as_str().expect("text")));
            let mut bob = SocketIo::start(generation, &page, &user, &options, calls_back);
            bob.next("connect").await;
            for text in ["one", "two", "three"] {
                assert_eq!(alice.send(&user, text).await["ER"], 0);
            }
            assert_eq!(bob.texts(3).await, ["one", "two", "three"]);
            tokio::time::sleep(Duration::from_millis(3_500)).await;
            alice.send(&user, "four").await;
            let case = format!("{generation:?} {version} {calls_back}");
            if comes_again {
                let again = bob.next("RESPRECEIVER").await;
                assert_eq!(again["data"]["MSG"][0]["redelivered"], true, "{case}");
            } else {
                assert_eq!(bob.texts(1).await, ["four"], "{case}");
            }
        }
    }
    stack.stop().await;
}
