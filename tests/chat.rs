//! What makes it more of a chat: all that version-2 clients can ask for and hear beside messages, on the embedded stack
//! and on real RabbitMQ and Redis alike.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::time::Duration;

use kschat_tests::{
    client::{Client, token, token_for},
    stack::{SECRET, connect, somebody},
};
use serde_json::json;

/// One test a scenario, against the stack whose address the expression tells.
macro_rules! scenarios {
    ($address:expr; $($scenario:ident)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $scenario() {
            super::$scenario(&$address.websocket).await;
        })*
    };
    ($address:expr) => {
        scenarios! { $address;
            a_fresh_token_brings_a_connection_back_to_life
            who_is_writing_is_told_to_version_two_only_and_never_queued
            a_connection_can_not_ask_without_end
            a_sender_learns_what_was_delivered_and_read_and_can_ask_later
            who_comes_and_goes_is_told_to_those_who_asked
            what_is_sent_by_one_device_is_shown_on_the_others_once
            what_is_said_in_a_room_comes_to_its_members_also_when_they_are_back
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

async fn a_fresh_token_brings_a_connection_back_to_life(url: &str) {
    let (a, b) = (somebody("alice"), somebody("bob"));
    let short = token_for(SECRET, &a, Duration::from_secs(4));
    let mut alice = Client::connect_v2(url, &short, &a).await.expect("connected");
    let mut bob = connect(url, &b).await;
    let told = alice.next("RESPCTRL").await;
    assert_eq!((&told["ER"], &told["OP"]), (&json!(4), &json!("reconnect")));
    assert_eq!(alice.send(&b, "too late").await["ER"], 4);
    let auth = |token: String| json!({ "action": "auth", "token": token });
    assert_eq!(alice.ask(auth(short), "RESPAUTH").await["ER"], 4);
    assert_eq!(alice.ask(auth(token(SECRET, &b)), "RESPAUTH").await["ER"], 5);
    let renewed = alice.ask(auth(token(SECRET, &a)), "RESPAUTH").await;
    assert_eq!(renewed["ER"], 0);
    assert!(renewed["EXP"].is_u64(), "{renewed}");
    assert_eq!(alice.send(&b, "here again").await["ER"], 0);
    assert_eq!(bob.texts(1).await, ["here again"]);
    bob.send(&a, "hello").await;
    assert_eq!(alice.texts(1).await, ["hello"]);
}

/// How long a frame may take that must not come.
const A_WHILE: Duration = Duration::from_millis(500);

async fn who_is_writing_is_told_to_version_two_only_and_never_queued(url: &str) {
    let (a, b) = (somebody("alice"), somebody("bob"));
    let mut alice = connect(url, &a).await;
    let typing = |on: bool| json!({ "action": "typing", "pId": b, "on": on }).to_string();
    alice.say(typing(true)).await;
    // Nobody hears when bob's owner has looked at that.
    tokio::time::sleep(A_WHILE).await;
    let mut seed = Client::connect(url, &format!("token={}", token(SECRET, &b)), &b).await.expect("connected");
    let mut bob = connect(url, &b).await;
    // Once this is here, the consumer serves them.
    alice.send(&b, "hello").await;
    assert_eq!((bob.texts(1).await, seed.texts(1).await), (vec!["hello".to_owned()], vec!["hello".to_owned()]));
    assert_eq!(bob.try_next("RESPTYPING", A_WHILE).await, None, "it was said before bob came");
    for on in [true, false] {
        alice.say(typing(on)).await;
        let told = bob.next("RESPTYPING").await;
        assert_eq!((&told["UID"], &told["ON"], &told["ER"]), (&json!(a), &json!(on), &json!(0)));
    }
    assert_eq!(seed.try_next("RESPTYPING", A_WHILE).await, None);
    alice.say(json!({ "action": "typing", "on": true }).to_string()).await;
    assert_eq!(alice.next("RESPERROR").await["ER"], 7);
}

async fn a_connection_can_not_ask_without_end(url: &str) {
    let (a, b) = (somebody("alice"), somebody("bob"));
    let mut alice = connect(url, &a).await;
    let asked: Vec<String> = (0..100).map(|n| format!("{a}-{n}")).collect();
    for _ in 0..40 {
        alice.say(json!({ "action": "presence", "uIds": asked }).to_string()).await;
    }
    let refused = alice.next("RESPERROR").await;
    assert_eq!(refused["ER"], 9);
    assert!(refused["RETRY"].as_u64().is_some_and(|retry| (1..2_000).contains(&retry)), "{refused}");
    assert_eq!(alice.send(&b, "messages are not counted").await["ER"], 0);
}

async fn a_sender_learns_what_was_delivered_and_read_and_can_ask_later(url: &str) {
    let (a, b) = (somebody("alice"), somebody("bob"));
    let (mut alice, mut bob) = (connect(url, &a).await, connect(url, &b).await);
    let first = alice.send(&b, "one").await;
    let last = alice.send(&b, "two").await;
    assert_eq!(bob.texts(2).await, ["one", "two"]);
    loop {
        let told = alice.next("RESPSTATUS").await;
        assert_eq!((&told["UID"], &told["PID"], &told["STATUS"]), (&json!(b), &json!(a), &json!(3)));
        if told["MID"] == last["MID"] {
            break;
        }
        assert_eq!(told["MID"], first["MID"], "the first one may be told apart");
    }
    bob.say(json!({ "action": "read", "pId": a, "mId": first["MID"] }).to_string()).await;
    let told = alice.next("RESPSTATUS").await;
    assert_eq!((&told["STATUS"], &told["MID"]), (&json!(4), &first["MID"]));
    alice.close().await;
    let mut alice = connect(url, &a).await;
    let known = alice.ask(json!({ "action": "status", "pIds": [b, "nobody"] }), "RESPSTATUS").await;
    let bobs = json!({ "uId": b, "delivered": last["MID"], "read": first["MID"] });
    assert_eq!(known["LIST"], json!([bobs, { "uId": "nobody" }]));
    assert_eq!(bob.try_next("RESPSTATUS", A_WHILE).await, None, "it is not his");
}

async fn who_comes_and_goes_is_told_to_those_who_asked(url: &str) {
    let (a, b) = (somebody("alice"), somebody("bob"));
    let mut alice = connect(url, &a).await;
    let ask = json!({ "action": "presence", "uIds": [b, "nobody"] });
    let known = alice.ask(ask.clone(), "RESPPRESENCE").await;
    assert_eq!(known["LIST"], json!([{ "uId": b, "on": 0 }, { "uId": "nobody", "on": 0 }]));
    let bob = connect(url, &b).await;
    assert_eq!(alice.next("RESPPRESENCE").await["LIST"], json!([{ "uId": b, "on": 1 }]));
    bob.close().await;
    // Away for a moment only: nobody hears of it.
    let bob = connect(url, &b).await;
    assert_eq!(alice.try_next("RESPPRESENCE", Duration::from_secs(7)).await, None);
    assert_eq!(alice.ask(ask.clone(), "RESPPRESENCE").await["LIST"][0], json!({ "uId": b, "on": 1 }));
    bob.close().await;
    let told = alice.next("RESPPRESENCE").await["LIST"][0].clone();
    assert_eq!((&told["uId"], &told["on"]), (&json!(b), &json!(0)));
    assert!(told["last"].is_u64(), "{told}");
    assert_eq!(alice.ask(ask, "RESPPRESENCE").await["LIST"][0]["last"], told["last"]);
}

async fn what_is_sent_by_one_device_is_shown_on_the_others_once(url: &str) {
    let (a, b) = (somebody("alice"), somebody("bob"));
    let (mut phone, mut desk, mut bob) = (connect(url, &a).await, connect(url, &a).await, connect(url, &b).await);
    let mut seed = Client::connect(url, &format!("token={}", token(SECRET, &a)), &a).await.expect("connected");
    let sent = phone.send_as(&b, "hello", "r").await;
    let copy = desk.items().await.remove(0);
    assert_eq!((&copy["uId"], &copy["pId"], &copy["mId"]), (&json!(a), &json!(b), &sent["MID"]));
    assert_eq!(phone.send_as(&b, "hello", "r").await["DUP"], 1);
    desk.send(&b, "from the desk").await;
    bob.send(&a, "hello to you").await;
    assert_eq!(phone.texts(2).await, ["from the desk", "hello to you"]);
    assert_eq!(desk.texts(1).await, ["hello to you"]);
    assert_eq!(seed.texts(1).await, ["hello to you"]);
    assert_eq!(bob.texts(2).await, ["hello", "from the desk"]);
    assert_eq!(phone.send_as(&a, "a note to myself", "note").await["ER"], 0);
    assert_eq!(
        (phone.texts(1).await, desk.texts(1).await),
        (vec!["a note to myself".to_owned()], vec!["a note to myself".to_owned()])
    );
}

async fn what_is_said_in_a_room_comes_to_its_members_also_when_they_are_back(url: &str) {
    let (a, b, c, room) = (somebody("alice"), somebody("bob"), somebody("carol"), somebody("room"));
    let (mut alice, mut desk) = (connect(url, &a).await, connect(url, &a).await);
    let (mut bob, mut carol) = (connect(url, &b).await, connect(url, &c).await);
    let ask = |action: &str| json!({ "action": action, "gId": room });
    let say = |from: &str, msg: &str| json!({ "action": "send", "uId": from, "gId": room, "msg": msg, "rno": format!("{from} {msg}") });
    assert_eq!(carol.ask(say(&c, "let me in"), "RESPSEND").await["ER"], 14, "she is not in it");
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
    alice.send(&b, "you have").await;
    assert_eq!(bob.texts(1).await, ["you have"]);
    assert_eq!(carol.try_next("RESPRECEIVER", A_WHILE).await, None);
}
