//! Which function gets a frame, and what the client hears.

use std::time::{Duration, Instant};

use kschat::edge::{
    Settings,
    routes::{Route, Routes, Selection},
};
use kschat_tests::edge::{EdgeUnderTest, Socket, routes, settings};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

const A_MOMENT: Duration = Duration::from_millis(300);

/// What the managed edge says when something came to nothing, to the byte.
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
async fn what_is_no_json_object_goes_to_default() {
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
async fn without_a_route_and_without_default_a_frame_is_forbidden_and_the_connection_stays() {
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
async fn a_function_that_fails_is_an_internal_server_error_and_the_connection_stays() {
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
async fn a_function_that_takes_too_long_is_an_internal_server_error() {
    let edge = EdgeUnderTest::start(Settings { integration_timeout: A_MOMENT, ..settings() }).await;
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
async fn a_body_goes_to_the_client_only_with_a_route_response() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    client.say(r#"{"action":"quiet"}"#).await;
    edge.events("echo", 1).await;
    assert!(client.is_silent(A_MOMENT).await);
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

/// Sends a slow frame and a quick one; returns the order of the answers.
async fn order_of_answers(settings: Settings) -> [u64; 2] {
    let edge = EdgeUnderTest::start(settings).await;
    let mut client = edge.connect().await;
    for (n, wait) in [(1, 500), (2, 0)] {
        client.say(json!({ "action": "echo", "n": n, "wait": wait }).to_string()).await;
    }
    let answers = [client.json().await, client.json().await];
    answers.map(|answer| answer["n"].as_u64().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_one_connection_do_not_wait_for_one_another() {
    assert_eq!(order_of_answers(settings()).await, [2, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_order_they_do() {
    assert_eq!(order_of_answers(Settings { in_order: true, ..settings() }).await, [1, 2]);
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
async fn a_socket_whose_functions_are_busy_still_hears_pings_and_closes() {
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
async fn an_answer_that_no_message_could_hold_is_an_internal_server_error() {
    let edge = EdgeUnderTest::start(Settings { max_message: 1_000, ..settings() }).await;
    let mut client = edge.connect().await;
    client.say(r#"{"action":"large"}"#).await;
    assert_eq!(client.json().await["message"], "Internal server error");
}
