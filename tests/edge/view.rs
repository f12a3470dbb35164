//! The edge view for developers.

use kschat_tests::edge::{EdgeUnderTest, settings};
use serde_json::{Value, json};

async fn state(edge: &EdgeUnderTest, after: u64) -> Value {
    let url = format!("http://{}/_edge/state?after={after}", edge.address);
    let answer = reqwest::get(url).await.expect("an answer");
    serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn view_lists_connections_frames_and_responses() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client =
        edge.connect_with("?token=hunter2", &[("sec-websocket-protocol", "chat.v1")]).await.expect("connected");
    let id = client.id().await;
    client.say(r#"{"action":"fail"}"#).await;
    client.text().await;
    let url = edge.connection(&id);
    reqwest::Client::new().post(url).body("pushed").send().await.expect("an answer");
    client.text().await;
    let shown = state(&edge, 0).await;
    assert_eq!(
        (&shown["totals"]["connections"], &shown["totals"]["failures"], &shown["totals"]["pushes"]),
        (&json!(1), &json!(1), &json!(1))
    );
    let connection = &shown["connections"][0];
    assert_eq!((&connection["connectionId"], &connection["subprotocol"]), (&json!(id), &json!("chat.v1")));
    assert_eq!((&connection["framesIn"], &connection["framesOut"]), (&json!(2), &json!(3)));
    let rows = shown["entries"].as_array().expect("rows");
    let find = |kind: &str, outcome: &str| {
        rows.iter().find(|row| row["kind"] == kind && row["outcome"] == outcome).expect("a row")
    };
    assert_eq!(find("connect", "ok")["status"], 200);
    assert_eq!(find("message", "ok")["target"], "whoami");
    assert_eq!(find("message", "failed")["note"], "the function failed: on request");
    assert_eq!((&find("push", "ok")["text"], &find("push", "ok")["bytes"]), (&json!("pushed"), &json!(6)));
    let last = rows.last().expect("a row")["seq"].as_u64().expect("a number");
    assert_eq!(state(&edge, last).await["entries"], json!([]));
    assert!(!shown.to_string().contains("hunter2"), "a token is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_is_for_this_machine_only() {
    let edge = EdgeUnderTest::start(settings()).await;
    for path in ["_edge", "_edge/state"] {
        let url = format!("http://{}/{path}", edge.address);
        let own = reqwest::get(&url).await.expect("an answer");
        assert_eq!(own.status(), 200, "{path}");
        let foreign = reqwest::Client::new().get(&url).header("host", "evil.example").send().await.expect("an answer");
        assert_eq!(foreign.status(), 403, "{path}");
    }
    let page = reqwest::get(format!("http://{}/_edge", edge.address)).await.expect("an answer");
    let policy = page.headers()["content-security-policy"].to_str().expect("text").to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn view_explains_missing_delivery() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    for action in ["malformed", "verbose", "leaky"] {
        client.say(json!({ "action": action }).to_string()).await;
        client.text().await;
    }
    let wrong = edge.websocket().replace("/dev", "/prod");
    assert_eq!(edge.connect_to(&wrong, &[]).await.err(), Some(403));
    let shown = state(&edge, 0).await;
    let notes: Vec<&str> =
        shown["entries"].as_array().expect("rows").iter().filter_map(|row| row["note"].as_str()).collect();
    assert!(notes.iter().any(|note| note.contains("its response is not a proxy response")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("No such stage")), "{notes:?}");
    assert!(notes.iter().all(|note| note.len() <= 400), "a note is cut");
    assert!(!shown.to_string().contains("eyJhbGciOi"), "what may be a token is not shown");
    assert_eq!((&shown["totals"]["failures"], &shown["totals"]["refused"]), (&json!(3), &json!(1)));
}
