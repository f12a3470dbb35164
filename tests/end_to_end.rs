//! Messaging from the users' view, on the embedded stack and on real RabbitMQ and Redis.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::collections::HashSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use kschat::stack::Options;
use kschat_core::limits::Limits;
use kschat_protocol::limits::{MAX_FRAME_BYTES, MAX_TEXT_BYTES};
use kschat_tests::{
    client::{Client, Refused, token},
    stack::{SECRET, connect, options, unique_user},
};
use serde_json::{Value, json};

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
            two_users_chat
            offline_user_receives_backlog_once_in_order
            every_device_of_a_user_gets_the_message
            send_as_other_user_is_refused
            malformed_frame_keeps_connection_open
            handshake_requires_valid_token
            v1_repeated_rno_is_not_deduplicated
            v2_rno_is_idempotency_key
            ids_keep_their_json_type
            largest_message_arrives_larger_is_refused
            oversized_frame_closes_socket
            close_code_is_echoed
            a_ping_is_answered_without_a_function
            unacked_messages_are_redelivered_on_reconnect
            ack_of_unknown_message_is_ignored
            backlog_is_batched_into_full_frames
            anything_can_be_said
            sequential_sends_arrive_once_in_order
            pipelined_sends_get_every_reply
        }
    };
}

/// One scenario exceeds the rate limit.
fn without_send_limit() -> Options {
    Options { limits: Limits { sends: None, ..Limits::default() }, ..options() }
}

mod embedded {
    use std::sync::LazyLock;

    use kschat_tests::stack::{Address, run_for_all};

    static ADDRESS: LazyLock<Address> = LazyLock::new(|| run_for_all(async || super::without_send_limit()));

    scenarios!(ADDRESS);
}

mod real {
    use std::sync::LazyLock;

    use kschat::stack::Options;
    use kschat_tests::stack::{Address, Services, run_for_all};

    static ADDRESS: LazyLock<Address> = LazyLock::new(|| {
        run_for_all(async || {
            let services = Box::leak(Box::new(Services::start().await));
            Options { backends: Some(services.backends()), ..super::without_send_limit() }
        })
    });

    scenarios!(ADDRESS);
}

fn er(frame: &Value) -> u64 {
    frame["ER"].as_u64().expect("every frame has an ER")
}

async fn two_users_chat(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(url, &a).await, connect(url, &b).await);
    let reply = alice.send(&b, "hello").await;
    let items = bob.items().await;
    assert_eq!(er(&reply), 0);
    assert_eq!((&reply["RC"], &reply["STATUS"]), (&json!(1), &json!(1)));
    assert_eq!((&reply["SID"], &reply["RID"], &reply["MSG"]), (&json!(a), &json!(b), &json!("hello")));
    assert_eq!(items.len(), 1);
    assert_eq!((&items[0]["uId"], &items[0]["pId"], &items[0]["msg"]), (&json!(a), &json!(b), &json!("hello")));
    assert_eq!((&items[0]["mId"], &items[0]["msgTime"]), (&reply["MID"], &reply["MSGTIME"]));
    bob.deliver(&a, "hello to you").await;
    assert_eq!(alice.texts(1).await, ["hello to you"]);
}

async fn offline_user_receives_backlog_once_in_order(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, bob) = (connect(url, &a).await, connect(url, &b).await);
    bob.close().await;
    let texts: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    for text in &texts {
        alice.deliver(&b, text).await;
    }
    let mut bob = connect(url, &b).await;
    assert_eq!(bob.texts(texts.len()).await, texts);
    bob.close().await;
    // Nothing is redelivered at the next connect.
    let mut bob = connect(url, &b).await;
    alice.deliver(&b, "last").await;
    assert_eq!(bob.texts(1).await, ["last"]);
}

async fn every_device_of_a_user_gets_the_message(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = connect(url, &a).await;
    let (mut phone, mut desk) = (connect(url, &b).await, connect(url, &b).await);
    alice.deliver(&b, "to both").await;
    assert_eq!(phone.texts(1).await, ["to both"]);
    assert_eq!(desk.texts(1).await, ["to both"]);
    phone.close().await;
    alice.deliver(&b, "to one").await;
    assert_eq!(desk.texts(1).await, ["to one"]);
}

async fn send_as_other_user_is_refused(url: &str) {
    let (a, b, thief) = (unique_user("alice"), unique_user("bob"), unique_user("mallory"));
    let (mut mallory, mut bob) = (connect(url, &thief).await, connect(url, &b).await);
    let stolen = json!({ "action": "send", "uId": a, "pId": b, "msg": "it is me, alice", "rno": "r" });
    mallory.send_text(stolen.to_string()).await;
    let reply = mallory.next("RESPSEND").await;
    assert_eq!((er(&reply), &reply["RANDOMNO"]), (5, &json!("r")));
    mallory.send(&b, "it is me, mallory").await;
    assert_eq!(bob.items().await[0]["uId"], json!(thief));
}

async fn malformed_frame_keeps_connection_open(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = connect(url, &a).await;
    for (garbage, code) in [("", 6), ("{", 6), ("[]", 6), ("\u{0}", 6), ("{}", 15), (r#"{"action":"fly"}"#, 15)] {
        alice.send_text(garbage).await;
        assert_eq!(er(&alice.next("RESPERROR").await), code, "{garbage:?}");
    }
    alice.send_text(r#"{"action":"send","rno":7}"#).await;
    let reply = alice.next("RESPSEND").await;
    let fields: Vec<&Value> = reply["ERRS"].as_array().expect("ERRS").iter().map(|error| &error["F"]).collect();
    assert_eq!((er(&reply), &reply["RANDOMNO"]), (7, &json!(7)));
    assert_eq!(fields, ["uId", "pId", "msg"]);
    alice.deliver(&b, "still here").await;
}

async fn handshake_requires_valid_token(url: &str) {
    let user = unique_user("alice");
    let good = token(SECRET, &user);
    let [_, body, _] = good.split('.').collect::<Vec<_>>().try_into().expect("three parts");
    let none = format!("{}.{body}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#));
    let expired = kschat_adapters::jwt::sign_v1_token(
        SECRET,
        &user.parse().expect("a user"),
        kschat_core::Timestamp::from_millis(0),
        kschat_core::Timestamp::from_millis(1_000),
    );
    let bad = [
        String::new(),
        "token=".to_owned(),
        format!("token={}", token("another secret", &user)),
        format!("token={}", expired.expect("the secret signs")),
        format!("token={none}"),
        format!("token={good}x"),
    ];
    for query in bad {
        assert_eq!(Client::connect(url, &query, &user).await.err(), Some(Refused(401)), "{query}");
    }
    let foreign = format!("token={good}&ksId=somebody-else");
    assert_eq!(Client::connect(url, &foreign, &user).await.err(), Some(Refused(403)));
    assert!(Client::connect(url, &format!("token={good}&ksId={user}"), &user).await.is_ok());
}

async fn v1_repeated_rno_is_not_deduplicated(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = Client::connect(url, &format!("token={}", token(SECRET, &a)), &a).await.expect("connected");
    let mut bob = connect(url, &b).await;
    // A v1 client's bare frame, without an action.
    for text in ["one", "one", "two"] {
        alice.send_text(json!({ "uId": a, "pId": b, "msg": text, "rno": 42, "time": 1 }).to_string()).await;
        let reply = alice.next("RESPSEND").await;
        assert_eq!((er(&reply), reply.get("DUP")), (0, None));
    }
    assert_eq!(bob.texts(3).await, ["one", "one", "two"]);
}

async fn v2_rno_is_idempotency_key(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut again, mut bob) = (connect(url, &a).await, connect(url, &a).await, connect(url, &b).await);
    let first = alice.send_as(&b, "hello", "r").await;
    let repeated = again.send_as(&b, "hello", "r").await;
    assert_eq!((er(&repeated), &repeated["DUP"]), (0, &json!(1)));
    assert_eq!((&repeated["MID"], &repeated["MSGTIME"]), (&first["MID"], &first["MSGTIME"]));
    assert_eq!(er(&alice.send_as(&b, "something else", "r").await), 13);
    alice.deliver(&b, "next").await;
    assert_eq!(bob.texts(2).await, ["hello", "next"]);
}

async fn ids_keep_their_json_type(url: &str) {
    // What JavaScript can hold exactly; a larger number is sent on as text.
    const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;
    let large: u64 = unique_user("n").replace("n-", "").parse().expect("digits");
    let digits = large % MAX_SAFE_INTEGER;
    for (digits, shown) in [(digits, json!(digits)), (large, json!(large.to_string()))] {
        let (number, to) = (digits.to_string(), unique_user("bob"));
        let (mut alice, mut bob) = (connect(url, &number).await, connect(url, &to).await);
        alice.send_text(json!({ "action": "send", "uId": digits, "pId": to, "msg": "x", "rno": 7 }).to_string()).await;
        let reply = alice.next("RESPSEND").await;
        assert_eq!((&reply["SID"], &reply["RANDOMNO"]), (&shown, &json!(7)));
        assert_eq!(bob.items().await[0]["uId"], shown);
        alice.deliver(&to, "y").await;
        assert_eq!(bob.items().await[0]["uId"], json!(number));
    }
}

async fn largest_message_arrives_larger_is_refused(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(url, &a).await, connect(url, &b).await);
    let largest = "x".repeat(MAX_TEXT_BYTES - 2);
    alice.deliver(&b, &largest).await;
    assert_eq!(bob.texts(1).await, std::slice::from_ref(&largest));
    let refused = alice.send(&b, &(largest + "x")).await;
    assert_eq!((er(&refused), &refused["ERRS"][0]["F"]), (8, &json!("msg")));
}

async fn oversized_frame_closes_socket(url: &str) {
    let user = unique_user("alice");
    let mut alice = connect(url, &user).await;
    alice.send_text("x".repeat(MAX_FRAME_BYTES + 1)).await;
    assert_eq!(alice.closed().await, 1009);
    let mut alice = connect(url, &user).await;
    alice.say_binary(vec![1, 2, 3]).await;
    assert_eq!(alice.closed().await, 1003);
}

async fn close_code_is_echoed(url: &str) {
    let mut alice = connect(url, &unique_user("alice")).await;
    alice.close_with(1000).await;
    assert_eq!(alice.closed().await, 1000);
}

async fn a_ping_is_answered_without_a_function(url: &str) {
    let mut alice = connect(url, &unique_user("alice")).await;
    alice.send_text(r#"{"action":"ping"}"#).await;
    assert_eq!(er(&alice.next("RESPPONG").await), 0);
}

async fn unacked_messages_are_redelivered_on_reconnect(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(url, &a).await, connect(url, &b).await);
    alice.deliver(&b, "one").await;
    assert_eq!(bob.texts(1).await, ["one"]);
    bob.stop_acking();
    for text in ["two", "three"] {
        alice.deliver(&b, text).await;
        assert_eq!(bob.texts(1).await, [text]);
    }
    bob.close().await;
    let mut bob = connect(url, &b).await;
    assert_eq!(bob.texts(2).await, ["two", "three"]);
    alice.deliver(&b, "four").await;
    assert_eq!(bob.texts(1).await, ["four"]);
}

async fn ack_of_unknown_message_is_ignored(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(url, &a).await, connect(url, &b).await);
    bob.send_text(r#"{"action":"ack","mId":"nobody knows it"}"#).await;
    bob.send_text(r#"{"action":"ack"}"#).await;
    assert_eq!(er(&bob.next("RESPERROR").await), 7);
    alice.deliver(&b, "hello").await;
    assert_eq!(bob.texts(1).await, ["hello"]);
}

async fn backlog_is_batched_into_full_frames(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = connect(url, &a).await;
    let text = "y".repeat(1_000);
    for _ in 0..60 {
        alice.deliver(&b, &text).await;
    }
    let mut bob = connect(url, &b).await;
    let (mut count, mut frames) = (0, 0);
    while count < 60 {
        let frame = bob.next("RESPRECEIVER").await;
        assert!(frame.to_string().len() <= MAX_FRAME_BYTES);
        count += frame["MSG"].as_array().expect("MSG").len();
        frames += 1;
    }
    assert_eq!(count, 60);
    // A slow broker feeds them one by one at first.
    assert!(frames < 45, "{frames} frames for 60 messages");
}

async fn anything_can_be_said(url: &str) {
    let (a, b) = (unique_user("alice \"{quoted}\" ü"), unique_user("bob <b>"));
    let (mut alice, mut bob) = (connect(url, &a).await, connect(url, &b).await);
    for text in ["<script>alert(1)</script>", "\u{202e}rtl\u{2028}", "👩‍👩‍👧‍👦 ́", "a\0b\tc\r\n", "\\u0000 \"'`{{uid}}"]
    {
        alice.deliver(&b, text).await;
        assert_eq!(bob.texts(1).await, [text]);
    }
}

async fn sequential_sends_arrive_once_in_order(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut bob = connect(url, &b).await;
    let frame = |n: usize| json!({ "action": "send", "uId": a, "pId": b, "msg": n.to_string(), "rno": n }).to_string();
    let replies = connect(url, &a).await.flood((0..100).map(frame).collect()).await;
    assert!(replies.iter().all(|reply| er(reply) == 0));
    // The edge invokes functions concurrently, so the order is not guaranteed.
    let mut numbers: Vec<usize> = bob.texts(100).await.iter().map(|text| text.parse().expect("a number")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    let mut alice = connect(url, &a).await;
    let texts: Vec<String> = (0..100).map(|n| format!("after {n}")).collect();
    for text in &texts {
        alice.deliver(&b, text).await;
    }
    assert_eq!(bob.texts(100).await, texts);
}

async fn pipelined_sends_get_every_reply(url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let text = "z".repeat(8_000);
    let frame = |n: usize| json!({ "action": "send", "uId": a, "pId": b, "msg": text, "rno": n }).to_string();
    let replies = connect(url, &a).await.flood((0..1_000).map(frame).collect()).await;
    let accepted: HashSet<u64> = replies.iter().map(|reply| reply["RANDOMNO"].as_u64().expect("a number")).collect();
    assert!(replies.iter().all(|reply| er(reply) == 0));
    assert_eq!(accepted.len(), 1_000);
}

mod settings {
    use kschat::stack::Options;
    use kschat_core::inbound::send::UnknownRecipientPolicy;
    use kschat_edge::Settings;
    use kschat_tests::stack::{self, connect, embedded, options, unique_user};

    #[tokio::test(flavor = "multi_thread")]
    async fn unknown_recipient_policy_reject_refuses_send() {
        let stack = stack::start(Options { unknown_recipients: UnknownRecipientPolicy::Reject, ..options() }).await;
        let (a, b) = (unique_user("alice"), unique_user("bob"));
        let mut alice = connect(&stack.websocket_url(), &a).await;
        assert_eq!(super::er(&alice.send(&b, "anybody there?").await), 10);
        let mut bob = connect(&stack.websocket_url(), &b).await;
        alice.deliver(&b, "hello").await;
        assert_eq!(bob.texts(1).await, ["hello"]);
        stack.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn half_open_socket_loses_no_message() {
        let edge = Settings { faults: vec!["post=swallow share=30%".parse().expect("a rule")], ..Settings::default() };
        let stack = stack::start(Options { edge, ..options() }).await;
        let (a, b) = (unique_user("alice"), unique_user("bob"));
        let (mut alice, mut bob) =
            (connect(&stack.websocket_url(), &a).await, connect(&stack.websocket_url(), &b).await);
        let texts: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        for text in &texts {
            alice.deliver(&b, text).await;
        }
        assert_eq!(bob.texts(texts.len()).await, texts);
        stack.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn stack_shutdown_closes_clients() {
        let stack = embedded().await;
        let mut alice = connect(&stack.websocket_url(), &unique_user("alice")).await;
        stack.stop().await;
        assert_eq!(alice.closed().await, 1001);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_page_signs_tokens_for_loopback_only() {
        let stack = embedded().await;
        let page = format!("{}?uid=alice&rid=bob", stack.page_url());
        let answer = reqwest::get(&page).await.expect("an answer");
        assert!(answer.headers()["content-security-policy"].to_str().expect("text").contains("default-src 'none'"));
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert!(answer.text().await.expect("text").contains("data-token-id=\"ey"));
        let foreign = reqwest::Client::new().get(&page).header("Host", "evil.example:3000").send().await;
        let foreign = foreign.expect("an answer");
        assert_eq!(foreign.status(), 403);
        assert!(!foreign.text().await.expect("text").contains("ey"));
        stack.stop().await;
    }
}
