//! Injected faults.

use std::time::{Duration, Instant};

use kschat_edge::Settings;
use kschat_tests::{
    edge::{EdgeUnderTest, settings, with_faults},
    eventually,
};
use reqwest::Client;
use serde_json::{Value, json};

const SILENCE_WINDOW: Duration = Duration::from_millis(300);

async fn push(edge: &EdgeUnderTest, id: &str, text: &str) -> u16 {
    let answer = Client::new().post(edge.connection(id)).body(text.to_owned()).send().await.expect("an answer");
    answer.status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_rule_refuses_next_posts_only() {
    let edge = EdgeUnderTest::start(with_faults(&["post=410 next=1", "post=429 next=1", "post=500 next=1"])).await;
    let mut client = edge.connect().await;
    let id = client.id().await;
    for expected in [410, 429, 500, 200] {
        assert_eq!(push(&edge, &id, "x").await, expected);
    }
    assert_eq!(client.text().await, "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_the_posts_is_refused() {
    let edge = EdgeUnderTest::start(with_faults(&["post=410 share=50%"])).await;
    let mut client = edge.connect().await;
    let id = client.id().await;
    let mut refused = 0;
    for _ in 0..60 {
        refused += u32::from(push(&edge, &id, "x").await == 410);
    }
    // Fewer than 10 or more than 50 of 60 happen once in a hundred million runs.
    assert!((10..=50).contains(&refused), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_can_be_late() {
    let edge = EdgeUnderTest::start(with_faults(&["post=delay:300ms next=1"])).await;
    let mut client = edge.connect().await;
    let id = client.id().await;
    let began = Instant::now();
    assert_eq!(push(&edge, &id, "late").await, 200);
    assert!(began.elapsed() >= SILENCE_WINDOW);
    assert_eq!(client.text().await, "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_socket_accepts_post_silently() {
    let edge = EdgeUnderTest::start(settings()).await;
    let (mut half_open, mut other) = (edge.connect().await, edge.connect().await);
    let (id, other_id) = (half_open.id().await, other.id().await);
    add(&edge, &format!("post=swallow connection={id}")).await;
    assert_eq!((push(&edge, &id, "lost").await, push(&edge, &other_id, "seen").await), (200, 200));
    assert!(half_open.is_silent(SILENCE_WINDOW).await);
    assert_eq!(other.text().await, "seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_can_be_lost() {
    let edge = EdgeUnderTest::start(with_faults(&["disconnect=drop next=1"])).await;
    drop(edge.connect().await);
    eventually("it is forgotten", async || edge.ids().is_empty()).await;
    tokio::time::sleep(SILENCE_WINDOW).await;
    assert!(edge.handed().iter().all(|(name, _)| name != "disconnect"));
    drop(edge.connect().await);
    edge.events("disconnect", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_can_come_twice() {
    let edge = EdgeUnderTest::start(with_faults(&["invoke=duplicate route=echo"])).await;
    let mut client = edge.connect().await;
    client.say(r#"{"action":"echo"}"#).await;
    client.text().await;
    let events = edge.events("echo", 2).await;
    assert_eq!(events[0], events[1]);
    assert!(client.is_silent(SILENCE_WINDOW).await, "the client receives it once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_can_be_overtaken() {
    assert_eq!(order_of_pairs("invoke=reorder route=echo next=1", 1).await, [2, 1]);
}

/// Sends pairs of frames, of which the second one is to overtake the first; returns the order of the replies.
async fn order_of_pairs(rule: &str, pairs: u64) -> Vec<u64> {
    let mut order = Vec::new();
    // The first one is held back for a second only: on a busy machine, that may be over before the second one comes.
    for _ in 0..5 {
        order = try_pairs(rule, pairs).await;
        if !order.chunks(2).any(<[u64]>::is_sorted) {
            break;
        }
    }
    order
}

async fn try_pairs(rule: &str, pairs: u64) -> Vec<u64> {
    let edge = EdgeUnderTest::start(with_faults(&[rule])).await;
    let mut client = edge.connect().await;
    let mut order = Vec::new();
    for pair in 0..pairs {
        let hits = edge.fault_hits().await;
        for n in [2 * pair + 1, 2 * pair + 2] {
            client.say(json!({ "action": "echo", "n": n }).to_string()).await;
            eventually("the first one is held back", async || edge.fault_hits().await > hits).await;
        }
        for _ in 0..2 {
            order.push(client.json().await["n"].as_u64().expect("a number"));
        }
    }
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_can_fail_unseen() {
    let edge = EdgeUnderTest::start(with_faults(&["invoke=fail route=echo next=1"])).await;
    let mut client = edge.connect().await;
    client.say(r#"{"action":"echo"}"#).await;
    assert_eq!(client.json().await["message"], "Internal server error");
    assert!(edge.handed().iter().all(|(name, _)| name != "echo"));
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_function_receives_event_after_thaw() {
    // Within this time the other functions have to answer.
    let integration_timeout = Duration::from_secs(3);
    let settings = Settings { integration_timeout, ..with_faults(&["invoke=freeze route=echo"]) };
    let edge = EdgeUnderTest::start(settings).await;
    let mut client = edge.connect().await;
    client.say(r#"{"action":"echo"}"#).await;
    assert_eq!(client.json().await["message"], "Internal server error");
    assert!(edge.handed().iter().all(|(name, _)| name != "echo"));
    let cleared = Client::new().delete(edge.faults()).send().await.expect("an answer");
    assert_eq!(cleared.status(), 204);
    edge.events("echo", 1).await;
    assert!(client.is_silent(SILENCE_WINDOW).await, "its response is dropped");
}

/// Activates a rule and returns its number.
async fn add(edge: &EdgeUnderTest, rule: &str) -> u64 {
    let request = Client::new().post(edge.faults()).header("content-type", "application/json");
    let answer = request.body(json!({ "rule": rule }).to_string()).send().await.expect("an answer");
    assert_eq!(answer.status(), 201);
    let added: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
    added["id"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_come_and_go_at_run_time() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let id = client.id().await;
    let (one, two) = (add(&edge, "post=500 next=1").await, add(&edge, "post=429").await);
    assert_eq!((push(&edge, &id, "x").await, push(&edge, &id, "x").await), (500, 429));
    let listed: Value =
        reqwest::get(edge.faults()).await.expect("an answer").text().await.expect("a body").parse().expect("JSON");
    assert_eq!(listed[0], json!({ "id": one, "rule": "post=500 next=1", "hits": 1, "left": 0 }));
    let gone = Client::new().delete(format!("{}/{two}", edge.faults())).send().await.expect("an answer");
    assert_eq!(gone.status(), 204);
    assert_eq!(push(&edge, &id, "x").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_rule_response_shows_syntax() {
    let edge = EdgeUnderTest::start(settings()).await;
    for body in [r#"{"rule":"post=411"}"#, r#"{"rule":""}"#, r#"{"rules":[]}"#, "post=410", ""] {
        let request = Client::new().post(edge.faults()).header("content-type", "application/json");
        let answer = request.body(body).send().await.expect("an answer");
        assert_eq!(answer.status(), 400, "{body}");
        assert!(answer.text().await.expect("a body").contains("post=410"), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fault_admin_requires_local_origin() {
    let edge = EdgeUnderTest::start(settings()).await;
    for (name, value) in [
        ("host", "evil.example:3000"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("x-forwarded-for", "192.0.2.7"),
        ("forwarded", "for=192.0.2.7"),
    ] {
        for request in
            [Client::new().post(edge.faults()), Client::new().get(edge.faults()), Client::new().delete(edge.faults())]
        {
            let answer = request.header("content-type", "application/json").header(name, value);
            let answer = answer.body(r#"{"rule":"post=410"}"#).send().await.expect("an answer");
            assert_eq!(answer.status(), 403, "{name}: {value}");
        }
    }
    // A page of another origin may send a form without preflight, but can't set the content type JSON.
    let form = Client::new().post(edge.faults()).header("content-type", "text/plain").body(r#"{"rule":"post=410"}"#);
    assert_eq!(form.send().await.expect("an answer").status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn reorder_fault_swaps_events() {
    assert_eq!(order_of_pairs("invoke=reorder route=echo", 2).await, [2, 1, 4, 3]);
}
