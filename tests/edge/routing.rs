//! Routing of frames to functions, and the client's replies.

use std::time::{Duration, Instant};

use kschat_edge::{
    Settings,
    routes::{Route, Routes, Selection},
};
use kschat_tests::edge::{EdgeUnderTest, Socket, routes, settings};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

const ROUTING_SILENCE_WINDOW: Duration = Duration::from_millis(300);

/// Checks the managed edge's error frame byte by byte.
async fn is_told(client: &mut Socket, message: &str, id: &str) {
    let frame = client.text().await;
    let request = frame.rsplit('"').nth(1).expect("a request id").to_owned();
    let expected = format!(r#"{{"message": "{message}", "connectionId":"{id}", "requestId":"{request}"}}"#);
    assert_eq!(frame, expected);
    assert_eq!(request.len(), 16, "{frame}");
}

async fn still_echoes(client: &mut Socket) {
    client.say(r#"{"action":"echo"}"#).await;
    assert_eq!(client.text().await, r#"{"action":"echo"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_selection_expression_can_be_another() {
    let selection = Selection::parse("$request.body.meta.type").expect("an expression");
    let edge = EdgeUnderTest::start(Settings { routes: Routes { selection, ..routes() }, ..settings() }).await;
    let mut client = edge.connect().await;
    client.say(r#"{"meta":{"type":"ping"},"action":"echo"}"#).await;
    assert_eq!(client.text().await, r#"{"pong":1}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn non_object_frame_goes_to_default() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    for text in ["hello", "7", "\"echo\"", "null", "[]", "{", r#"{"action":"fly"}"#, r#"{"action":null}"#] {
        client.say(text).await;
        assert_eq!(client.text().await, text);
    }
    for event in edge.events("echo", 8).await {
        assert_eq!(event["requestContext"]["routeKey"], json!("$default"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unrouted_frame_is_forbidden() {
    let mut table = routes().table;
    table.remove("$default");
    let edge = EdgeUnderTest::start(Settings { routes: Routes { table, ..routes() }, ..settings() }).await;
    let mut client = edge.connect().await;
    let id = client.id().await;
    for text in ["hello", r#"{"action":"fly"}"#] {
        client.say(text).await;
        is_told(&mut client, "Forbidden", &id).await;
    }
    still_echoes(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frame_with_half_a_surrogate_pair_reaches_its_route() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let frame = r#"{"action":"echo","msg":"cut \ud83d","size":1e400}"#;
    client.say(frame).await;
    assert_eq!(client.text().await, frame);
    let event = edge.events("echo", 1).await.remove(0);
    assert_eq!((&event["requestContext"]["routeKey"], &event["body"]), (&json!("echo"), &json!(frame)));
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_with_unknown_field_returns_internal_server_error() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let id = client.id().await;
    client.say(r#"{"action":"extra"}"#).await;
    is_told(&mut client, "Internal server error", &id).await;
    still_echoes(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn float_status_is_accepted_by_choice() {
    for (float_status, expected) in [(true, "float"), (false, "Internal server error")] {
        let edge = EdgeUnderTest::start(Settings { float_status, ..settings() }).await;
        let mut client = edge.connect().await;
        client.say(r#"{"action":"float"}"#).await;
        let answer = client.text().await;
        assert!(answer.contains(expected), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_function_returns_internal_server_error() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let id = client.id().await;
    for action in ["fail", "malformed"] {
        client.say(json!({ "action": action }).to_string()).await;
        is_told(&mut client, "Internal server error", &id).await;
    }
    still_echoes(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn function_timeout_returns_internal_server_error() {
    // Within this time the other functions have to answer.
    let integration_timeout = Duration::from_secs(3);
    let edge = EdgeUnderTest::start(Settings { integration_timeout, ..settings() }).await;
    let mut client = edge.connect().await;
    let id = client.id().await;
    client.say(r#"{"action":"hang"}"#).await;
    is_told(&mut client, "Internal server error", &id).await;
    still_echoes(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_may_take_29_seconds() {
    assert_eq!(Settings::default().integration_timeout, Duration::from_secs(29));
}

#[tokio::test(flavor = "multi_thread")]
async fn body_reaches_client_only_with_route_response() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    client.say(r#"{"action":"quiet"}"#).await;
    edge.events("echo", 1).await;
    assert!(client.is_silent(ROUTING_SILENCE_WINDOW).await);
    still_echoes(&mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mock_route_answers_without_a_function() {
    let mut table = routes().table;
    table.insert("hush".to_owned(), Route { response: false, ..Route::mock("never seen") });
    let edge = EdgeUnderTest::start(Settings { routes: Routes { table, ..routes() }, ..settings() }).await;
    let mut client = edge.connect().await;
    client.say(r#"{"action":"hush"}"#).await;
    client.say(r#"{"action":"ping"}"#).await;
    assert_eq!(client.text().await, r#"{"pong":1}"#);
    let names: Vec<String> = edge.handed().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["connect"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_one_connection_run_concurrently() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    for (n, hold) in [(1, true), (2, false)] {
        client.say(json!({ "action": "echo", "n": n, "hold": hold }).to_string()).await;
    }
    assert_eq!(client.json().await["n"], 2);
    edge.release();
    assert_eq!(client.json().await["n"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_order_they_do() {
    let edge = EdgeUnderTest::start(Settings { in_order: true, ..settings() }).await;
    let mut client = edge.connect().await;
    for (n, wait) in [(1, 500), (2, 0)] {
        client.say(json!({ "action": "echo", "n": n, "wait": wait }).to_string()).await;
    }
    assert_eq!((client.json().await["n"].clone(), client.json().await["n"].clone()), (json!(1), json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_concurrency_invocations_wait() {
    let edge = EdgeUnderTest::start(Settings { concurrency: 1, ..settings() }).await;
    let (mut one, mut two) = (edge.connect().await, edge.connect().await);
    let began = Instant::now();
    for client in [&mut one, &mut two] {
        client.say(r#"{"action":"echo","wait":300}"#).await;
    }
    tokio::join!(one.text(), two.text());
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_socket_still_handles_control_frames() {
    let edge = EdgeUnderTest::start(Settings { in_order: true, ..settings() }).await;
    let mut client = edge.connect().await;
    for _ in 0..3 {
        client.say(r#"{"action":"hang"}"#).await;
    }
    client.send(Message::Ping("still there?".into())).await;
    assert_eq!(client.next().await, Message::Pong("still there?".into()));
    client.send(Message::Close(None)).await;
    edge.events("disconnect", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_response_returns_internal_server_error() {
    let edge = EdgeUnderTest::start(Settings { max_message: 1_000, ..settings() }).await;
    let mut client = edge.connect().await;
    client.say(r#"{"action":"large"}"#).await;
    assert_eq!(client.json().await["message"], "Internal server error");
}
