//! Features of version-2 clients besides messages, on the embedded stack and on real RabbitMQ and Redis.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::time::Duration;

use kschat_tests::{
    client::{Client, token, token_for},
    eventually,
    stack::{SECRET, connect, unique_user},
};
use serde_json::json;

/// Defines one test per scenario, against the stack at the address of the expression.
macro_rules! scenarios {
    ($address:expr; $($scenario:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $scenario() {
            super::$scenario(&$address.websocket).await;
        })*
    };
    ($address:expr) => {
        scenarios! { $address;
            renewal_reactivates_expired_connection
            typing_reaches_only_online_v2_clients
            a_connection_can_not_ask_without_end
            sender_receives_and_queries_receipts
            presence_changes_reach_watchers
            sent_message_appears_once_on_other_devices
            room_message_reaches_offline_members_later
        }
    };
}

mod embedded {
    use std::sync::LazyLock;

    use kschat_tests::stack::{Address, options, run_for_all};

    static ADDRESS: LazyLock<Address> = LazyLock::new(|| run_for_all(async || options()));

    scenarios!(ADDRESS);
}

mod real {
    use std::sync::LazyLock;

    use kschat::stack::Options;
    use kschat_tests::stack::{Address, Services, options, run_for_all};

    static ADDRESS: LazyLock<Address> = LazyLock::new(|| {
        run_for_all(async || {
            let services = Box::leak(Box::new(Services::start().await));
            Options { backends: Some(services.backends()), ..options() }
        })
    });

    scenarios!(ADDRESS);
}

async fn renewal_reactivates_expired_connection(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let short = token_for(SECRET, &a, Duration::from_secs(8));
    let mut alice = Client::connect_v2(url, &short, &a).await.expect("connected");
    let mut bob = connect(url, &b).await;
    let event = alice.next("RESPCTRL").await;
    assert_eq!((&event["ER"], &event["OP"]), (&json!(4), &json!("reconnect")));
    assert_eq!(alice.send(&b, "too late").await["ER"], 4);
    let auth = |token: String| json!({ "action": "auth", "token": token });
    assert_eq!(alice.ask(auth(short), "RESPAUTH").await["ER"], 4);
    assert_eq!(alice.ask(auth(token(SECRET, &b)), "RESPAUTH").await["ER"], 5);
    let renewed = alice.ask(auth(token(SECRET, &a)), "RESPAUTH").await;
    assert_eq!(renewed["ER"], 0);
    assert!(renewed["EXP"].is_u64(), "{renewed}");
    alice.deliver(&b, "here again").await;
    assert_eq!(bob.texts(1).await, ["here again"]);
    bob.deliver(&a, "hello").await;
    assert_eq!(alice.texts(1).await, ["hello"]);
}

/// How long the absence of a frame is observed.
const SILENCE_WINDOW: Duration = Duration::from_millis(500);

async fn typing_reaches_only_online_v2_clients(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = connect(url, &a).await;
    let typing = |on: bool| json!({ "action": "typing", "pId": b, "on": on }).to_string();
    alice.send_text(typing(true)).await;
    // There is no sign of when bob's owner has processed it.
    tokio::time::sleep(SILENCE_WINDOW).await;
    let mut v1 = Client::connect(url, &format!("token={}", token(SECRET, &b)), &b).await.expect("connected");
    let mut bob = connect(url, &b).await;
    // Once this arrives, the consumer serves them.
    alice.deliver(&b, "hello").await;
    assert_eq!((bob.texts(1).await, v1.texts(1).await), (vec!["hello".to_owned()], vec!["hello".to_owned()]));
    assert_eq!(bob.try_next("RESPTYPING", SILENCE_WINDOW).await, None, "an event before the connect is not pushed");
    for on in [true, false] {
        alice.send_text(typing(on)).await;
        let event = bob.next("RESPTYPING").await;
        assert_eq!((&event["UID"], &event["ON"], &event["ER"]), (&json!(a), &json!(on), &json!(0)));
    }
    assert_eq!(v1.try_next("RESPTYPING", SILENCE_WINDOW).await, None);
    alice.send_text(json!({ "action": "typing", "on": true }).to_string()).await;
    assert_eq!(alice.next("RESPERROR").await["ER"], 7);
}

async fn a_connection_can_not_ask_without_end(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = connect(url, &a).await;
    let asked: Vec<String> = (0..100).map(|n| format!("{a}-{n}")).collect();
    let ask = json!({ "action": "presence", "uIds": asked }).to_string();
    // So often at once that no machine is too slow to exceed the limit.
    let mut refused = None;
    eventually("a request is refused", async || {
        for _ in 0..40 {
            alice.send_text(ask.as_str()).await;
        }
        refused = alice.try_next("RESPERROR", Duration::from_secs(2)).await;
        refused.is_some()
    })
    .await;
    let refused = refused.expect("a refusal");
    assert_eq!(refused["ER"], 9);
    assert!(refused["RETRY"].as_u64().is_some_and(|retry| (1..2_000).contains(&retry)), "{refused}");
    alice.deliver(&b, "messages are not counted").await;
}

async fn sender_receives_and_queries_receipts(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(url, &a).await, connect(url, &b).await);
    let first = alice.send(&b, "one").await;
    let last = alice.send(&b, "two").await;
    assert_eq!(bob.texts(2).await, ["one", "two"]);
    loop {
        let event = alice.next("RESPSTATUS").await;
        assert_eq!((&event["UID"], &event["PID"], &event["STATUS"]), (&json!(b), &json!(a), &json!(3)));
        if event["MID"] == last["MID"] {
            break;
        }
        assert_eq!(event["MID"], first["MID"], "the receipt is for the first or the last message");
    }
    bob.send_text(json!({ "action": "read", "pId": a, "mId": first["MID"] }).to_string()).await;
    // A repeated ack repeats its receipt.
    let event = loop {
        let event = alice.next("RESPSTATUS").await;
        if event["STATUS"] != 3 {
            break event;
        }
    };
    assert_eq!((&event["STATUS"], &event["MID"]), (&json!(4), &first["MID"]));
    alice.close().await;
    let mut alice = connect(url, &a).await;
    let known = alice.ask(json!({ "action": "status", "pIds": [b, "nobody"] }), "RESPSTATUS").await;
    let bobs = json!({ "uId": b, "delivered": last["MID"], "read": first["MID"] });
    assert_eq!(known["LIST"], json!([bobs, { "uId": "nobody" }]));
    assert_eq!(bob.try_next("RESPSTATUS", SILENCE_WINDOW).await, None, "a status goes to its author only");
}

async fn presence_changes_reach_watchers(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = connect(url, &a).await;
    let ask = json!({ "action": "presence", "uIds": [b, "nobody"] });
    let known = alice.ask(ask.clone(), "RESPPRESENCE").await;
    assert_eq!(known["LIST"], json!([{ "uId": b, "on": 0 }, { "uId": "nobody", "on": 0 }]));
    let bob = connect(url, &b).await;
    assert_eq!(alice.next("RESPPRESENCE").await["LIST"], json!([{ "uId": b, "on": 1 }]));
    bob.close().await;
    // A brief absence: nobody is notified.
    let bob = connect(url, &b).await;
    assert_eq!(alice.try_next("RESPPRESENCE", Duration::from_secs(7)).await, None);
    assert_eq!(alice.ask(ask.clone(), "RESPPRESENCE").await["LIST"][0], json!({ "uId": b, "on": 1 }));
    bob.close().await;
    let event = alice.next("RESPPRESENCE").await["LIST"][0].clone();
    assert_eq!((&event["uId"], &event["on"]), (&json!(b), &json!(0)));
    assert!(event["last"].is_u64(), "{event}");
    assert_eq!(alice.ask(ask, "RESPPRESENCE").await["LIST"][0]["last"], event["last"]);
}

async fn sent_message_appears_once_on_other_devices(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut phone, mut desk, mut bob) = (connect(url, &a).await, connect(url, &a).await, connect(url, &b).await);
    let mut v1 = Client::connect(url, &format!("token={}", token(SECRET, &a)), &a).await.expect("connected");
    // From now on the owner has made alice's queue, and the copies are not late.
    phone.deliver(&a, "to all of mine").await;
    for client in [&mut phone, &mut desk, &mut v1] {
        assert_eq!(client.texts(1).await, ["to all of mine"]);
    }
    let sent = phone.send_as(&b, "hello", "r").await;
    let copy = desk.items().await.remove(0);
    assert_eq!((&copy["uId"], &copy["pId"], &copy["mId"]), (&json!(a), &json!(b), &sent["MID"]));
    assert_eq!(phone.send_as(&b, "hello", "r").await["DUP"], 1);
    desk.deliver(&b, "from the desk").await;
    bob.deliver(&a, "hello to you").await;
    assert_eq!(phone.texts(2).await, ["from the desk", "hello to you"]);
    assert_eq!(desk.texts(1).await, ["hello to you"]);
    assert_eq!(v1.texts(1).await, ["hello to you"]);
    assert_eq!(bob.texts(2).await, ["hello", "from the desk"]);
    assert_eq!(phone.send_as(&a, "a note to myself", "note").await["ER"], 0);
    assert_eq!(
        (phone.texts(1).await, desk.texts(1).await),
        (vec!["a note to myself".to_owned()], vec!["a note to myself".to_owned()])
    );
}

async fn room_message_reaches_offline_members_later(url: &str) {
    let (a, b, c, room) = (unique_user("alice"), unique_user("bob"), unique_user("carol"), unique_user("room"));
    let (mut alice, mut desk) = (connect(url, &a).await, connect(url, &a).await);
    let (mut bob, mut carol) = (connect(url, &b).await, connect(url, &c).await);
    let ask = |action: &str| json!({ "action": action, "gId": room });
    let say = |from: &str, msg: &str| json!({ "action": "send", "uId": from, "gId": room, "msg": msg, "rno": format!("{from} {msg}") });
    assert_eq!(carol.ask(say(&c, "let me in"), "RESPSEND").await["ER"], 14, "the sender is not in the room");
    for client in [&mut alice, &mut bob] {
        let joined = client.ask(ask("join"), "RESPROOM").await;
        assert_eq!((&joined["ER"], &joined["OP"], &joined["GID"]), (&json!(0), &json!("join"), &json!(room)));
    }
    assert_eq!(bob.ask(json!({ "action": "rooms" }), "RESPROOM").await["LIST"], json!([room]));
    let sent = alice.ask(say(&a, "hello, all"), "RESPSEND").await;
    assert_eq!((&sent["ER"], &sent["GID"], sent.get("RID")), (&json!(0), &json!(room), None));
    for client in [&mut bob, &mut desk] {
        let item = client.items().await.remove(0);
        assert_eq!((&item["uId"], &item["pId"], &item["gId"]), (&json!(a), &json!(room), &json!(room)));
        assert_eq!((&item["msg"], &item["mId"]), (&json!("hello, all"), &sent["MID"]));
    }
    bob.ask(say(&b, "hello, alice"), "RESPSEND").await;
    assert_eq!(alice.texts(1).await, ["hello, alice"], "and not her own");
    // Longer than an empty queue is kept.
    bob.close().await;
    tokio::time::sleep(Duration::from_secs(13)).await;
    assert_eq!(alice.ask(say(&a, "where is bob?"), "RESPSEND").await["ER"], 0);
    let mut bob = connect(url, &b).await;
    assert_eq!(bob.texts(1).await, ["where is bob?"]);
    assert_eq!(bob.ask(ask("leave"), "RESPROOM").await["ER"], 0);
    alice.ask(say(&a, "he has left"), "RESPSEND").await;
    assert_eq!(bob.ask(say(&b, "have I?"), "RESPSEND").await["ER"], 14);
    alice.deliver(&b, "you have").await;
    assert_eq!(bob.texts(1).await, ["you have"]);
    assert_eq!(carol.try_next("RESPRECEIVER", SILENCE_WINDOW).await, None);
}
