//! What goes wrong on purpose.

use std::time::{Duration, Instant};

use kschat::edge::Settings;
use kschat_tests::edge::{EdgeUnderTest, settings, with_faults};
use reqwest::Client;
use serde_json::{Value, json};

const A_MOMENT: Duration = Duration::from_millis(300);

async fn push(edge: &EdgeUnderTest, id: &str, text: &str) -> u16 {
    let answer = Client::new().post(edge.connection(id)).body(text.to_owned()).send().await.expect("an answer");
    answer.status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_posts_are_refused_as_told_and_then_no_more() {
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
    // Fewer than 10 or more than 50 of 60 come once in a hundred million runs.
    assert!((10..=50).contains(&refused), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_can_be_late() {
    let edge = EdgeUnderTest::start(with_faults(&["post=delay:300ms next=1"])).await;
    let mut client = edge.connect().await;
    let id = client.id().await;
    let began = Instant::now();
    assert_eq!(push(&edge, &id, "late").await, 200);
    assert!(began.elapsed() >= A_MOMENT);
    assert_eq!(client.text().await, "late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_socket_takes_a_post_and_shows_nothing() {
    let edge = EdgeUnderTest::start(settings()).await;
    let (mut half_open, mut other) = (edge.connect().await, edge.connect().await);
    let (id, other_id) = (half_open.id().await, other.id().await);
    add(&edge, &format!("post=swallow connection={id}")).await;
    assert_eq!((push(&edge, &id, "lost").await, push(&edge, &other_id, "seen").await), (200, 200));
    assert!(half_open.is_silent(A_MOMENT).await);
    assert_eq!(other.text().await, "seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_can_be_lost() {
    let edge = EdgeUnderTest::start(with_faults(&["disconnect=drop next=1"])).await;
    drop(edge.connect().await);
    tokio::time::sleep(A_MOMENT).await;
    assert!(edge.ids().is_empty() && edge.handed().iter().all(|(name, _)| name != "disconnect"));
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
    assert!(client.is_silent(A_MOMENT).await, "the client hears it once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_can_be_overtaken() {
    let edge = EdgeUnderTest::start(with_faults(&["invoke=reorder route=echo next=1"])).await;
    let mut client = edge.connect().await;
    for n in 1..=2 {
        client.say(json!({ "action": "echo", "n": n }).to_string()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((client.json().await["n"].clone(), client.json().await["n"].clone()), (json!(2), json!(1)));
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
async fn a_frozen_function_gets_its_event_when_it_thaws_though_nobody_waits_any_more() {
    let settings = Settings { integration_timeout: A_MOMENT, ..with_faults(&["invoke=freeze route=echo"]) };
    let edge = EdgeUnderTest::start(settings).await;
    let mut client = edge.connect().await;
    client.say(r#"{"action":"echo"}"#).await;
    assert_eq!(client.json().await["message"], "Internal server error");
    assert!(edge.handed().iter().all(|(name, _)| name != "echo"));
    let cleared = Client::new().delete(admin(&edge)).send().await.expect("an answer");
    assert_eq!(cleared.status(), 204);
    edge.events("echo", 1).await;
    assert!(client.is_silent(A_MOMENT).await, "its answer reaches nobody");
}

fn admin(edge: &EdgeUnderTest) -> String {
    format!("http://{}/_edge/faults", edge.address)
}

/// Puts a rule in force and returns its number.
async fn add(edge: &EdgeUnderTest, rule: &str) -> u64 {
    let request = Client::new().post(admin(edge)).header("content-type", "application/json");
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
        reqwest::get(admin(&edge)).await.expect("an answer").text().await.expect("a body").parse().expect("JSON");
    assert_eq!(listed[0], json!({ "id": one, "rule": "post=500 next=1", "hits": 1, "left": 0 }));
    let gone = Client::new().delete(format!("{}/{two}", admin(&edge))).send().await.expect("an answer");
    assert_eq!(gone.status(), 204);
    assert_eq!(push(&edge, &id, "x").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_not_understood_is_answered_with_how_it_is_written() {
    let edge = EdgeUnderTest::start(settings()).await;
    for body in [r#"{"rule":"post=411"}"#, r#"{"rule":""}"#, r#"{"rules":[]}"#, "post=410", ""] {
        let request = Client::new().post(admin(&edge)).header("content-type", "application/json");
        let answer = request.body(body).send().await.expect("an answer");
        assert_eq!(answer.status(), 400, "{body}");
        assert!(answer.text().await.expect("a body").contains("post=410"), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_this_machine_and_its_own_page_can_break_things() {
    let edge = EdgeUnderTest::start(settings()).await;
    for (name, value) in [
        ("host", "evil.example:3000"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("x-forwarded-for", "192.0.2.7"),
        ("forwarded", "for=192.0.2.7"),
    ] {
        for request in
            [Client::new().post(admin(&edge)), Client::new().get(admin(&edge)), Client::new().delete(admin(&edge))]
        {
            let answer = request.header("content-type", "application/json").header(name, value);
            let answer = answer.body(r#"{"rule":"post=410"}"#).send().await.expect("an answer");
            assert_eq!(answer.status(), 403, "{name}: {value}");
        }
    }
    // A form of a page elsewhere needs no leave to be sent, but can't say that it is JSON.
    let form = Client::new().post(admin(&edge)).header("content-type", "text/plain").body(r#"{"rule":"post=410"}"#);
    assert_eq!(form.send().await.expect("an answer").status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_reorder_each_event_is_overtaken_by_the_next() {
    let edge = EdgeUnderTest::start(with_faults(&["invoke=reorder route=echo"])).await;
    let mut client = edge.connect().await;
    for n in 1..=4 {
        client.say(json!({ "action": "echo", "n": n }).to_string()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(client.json().await["n"].as_u64().expect("a number"));
    }
    assert_eq!(order, [2, 1, 4, 3]);
}
