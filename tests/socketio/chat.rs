//! What people do: they chat, on any device, in any namespace.

use std::time::Duration;

use kschat::stack::{Options, Stack};
use kschat_tests::{
    client::token,
    socketio::{Generation, SocketIo, guide},
    stack::{SECRET, Services, connect, embedded, options, somebody},
};
use serde_json::json;

use crate::BOTH;

async fn chat(page: &str) {
    for generation in BOTH {
        let (a, b) = (somebody("alice"), somebody("bob"));
        let mut alice = SocketIo::connected(generation, page, &a).await;
        let mut bob = SocketIo::connected(generation, page, &b).await;
        assert_eq!(alice.send(&b, "hello").await, json!({ "RESPONSE": "Send Emit is success.", "uId": a }));
        let reply = alice.next("RESPSEND").await["data"].clone();
        assert_eq!((&reply["RC"], &reply["ER"], &reply["STATUS"]), (&json!(1), &json!(0), &json!(1)));
        assert_eq!((&reply["SID"], &reply["RID"], &reply["RANDOMNO"]), (&json!(a), &json!(b), &json!(42)));
        let heard = bob.next("RESPRECEIVER").await;
        // The seed's server gives a callback, too.
        assert_eq!(heard["callback"], "function");
        assert_eq!((&heard["data"]["RC"], &heard["data"]["ER"]), (&json!(1), &json!(0)));
        let item = &heard["data"]["MSG"][0];
        assert_eq!((&item["uId"], &item["pId"], &item["msg"]), (&json!(a), &json!(b), &json!("hello")));
        assert_eq!((&item["rStatus"], &item["msgTime"]), (&json!(1), &reply["MSGTIME"]));
        // Without a callback the reply is the answer.
        let message = bob.message(&a, "hello to you");
        bob.tell(json!({ "emit": ["Send", message] })).await;
        assert_eq!(bob.next("RESPSEND").await["data"]["ER"], 0);
        assert_eq!(alice.texts(1).await, ["hello to you"]);
        // What can't be accepted calls no callback: only the event tells.
        bob.tell(json!({ "emit": ["Send", { "uId": a, "pId": a, "msg": "it is me" }], "ack": true })).await;
        assert_eq!(bob.next("RESPSEND").await["data"]["ER"], 5);
        assert_eq!(bob.has_seen("ack"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_the_guide_chat_with_everything_in_memory() {
    let stack = embedded().await;
    chat(&stack.page_url()).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_the_guide_chat_on_rabbitmq_and_redis() {
    let services = Services::start().await;
    let stack = Stack::start(Options { backends: Some(services.backends()), ..options() }).await.expect("it starts");
    chat(&stack.page_url()).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_every_dialect_hear_the_same() {
    let stack = embedded().await;
    let (page, url) = (stack.page_url(), stack.websocket_url());
    let (a, b) = (somebody("alice"), somebody("bob"));
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
    // The reply goes to the one that has sent.
    four.next("RESPSEND").await;
    assert_eq!(two.has_seen("RESPSEND"), 0);
    // What raw clients can ask for is an event of the same name.
    two.tell(json!({ "emit": ["Auth", { "token": token(SECRET, &b) }] })).await;
    assert_eq!(two.next("RESPAUTH").await["data"]["ER"], 0);
    four.tell(json!({ "emit": ["auth", { "token": "no" }], "ack": true })).await;
    assert_eq!(four.next("ack").await["data"][0]["ER"], 3);
    stack.stop().await;
}

/// A client of version 2, which acknowledges by the callback.
async fn version_2(generation: Generation, page: &str, user: &str) -> SocketIo {
    let mut options = guide(user);
    options["query"] = json!(format!("{}&v=2", options["query"].as_str().expect("text")));
    let mut client = SocketIo::start(generation, page, user, &options, true);
    client.next("connect").await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_frame_can_do_an_event_can_do_too() {
    let stack = embedded().await;
    let page = stack.page_url();
    for generation in BOTH {
        let (a, b, room) = (somebody("alice"), somebody("bob"), somebody("room"));
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
    let (a, b, c) = (somebody("alice"), somebody("bob"), somebody("carol"));
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
async fn the_callback_acknowledges_for_version_2_and_nobody_else_has_to_call_it() {
    let stack = embedded().await;
    let (page, url) = (stack.page_url(), stack.websocket_url());
    let mut alice = connect(&url, &somebody("alice")).await;
    for generation in BOTH {
        for (version, calls_back, comes_again) in
            [("", false, false), ("", true, false), ("&v=2", true, false), ("&v=2", false, true)]
        {
            let user = somebody("bob");
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
