//! The connections API.

use std::time::Duration;

use aws_sdk_apigatewaymanagement::{
    Client,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig},
    error::ProvideErrorMetadata,
    primitives::Blob,
};
use futures_util::future::join_all;
use kschat_edge::{MAX_MESSAGE_BYTES, Settings};
use kschat_tests::{
    edge::{EdgeUnderTest, raw_handshake, settings, with_faults},
    eventually,
};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

async fn call(method: Method, url: &str, body: impl Into<reqwest::Body>) -> Response {
    reqwest::Client::new().request(method, url).body(body).send().await.expect("an answer")
}

async fn post(url: &str, body: &str) -> Response {
    call(Method::POST, url, body.to_owned()).await
}

/// Status and error type of a response.
fn error_of(answer: &Response) -> (StatusCode, &str) {
    let name = answer.headers().get("x-amzn-errortype").map(|name| name.to_str().expect("text"));
    (answer.status(), name.unwrap_or_default())
}

/// A well-formed id of no connection.
const UNKNOWN: &str = "L0SM9cOFvHcCIhw=";

#[tokio::test(flavor = "multi_thread")]
async fn post_returns_200_and_reaches_client() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let answer = post(&edge.connection(&client.id().await), "hällo").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.expect("a body"), "");
    assert_eq!(client.text().await, "hällo");
}

#[tokio::test(flavor = "multi_thread")]
async fn get_returns_iso_8601_times() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect_with("", &[("user-agent", "a test")]).await.expect("connected");
    let url = edge.connection(&client.id().await);
    let described = async || -> Value {
        let answer = call(Method::GET, &url, "").await;
        assert_eq!(answer.status(), 200);
        serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON")
    };
    let first = described().await;
    let keys: Vec<&String> = first.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["connectedAt", "identity", "lastActiveAt"]);
    assert_eq!(first["identity"], json!({ "sourceIp": "127.0.0.1", "userAgent": "a test" }));
    assert!(first["connectedAt"].as_str().expect("text").ends_with('Z'));
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.id().await;
    let second = described().await;
    assert_eq!(second["connectedAt"], first["connectedAt"]);
    assert!(second["lastActiveAt"].as_str() > first["lastActiveAt"].as_str(), "{first} {second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_returns_204_and_closes_1000() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let url = edge.connection(&client.id().await);
    assert_eq!(call(Method::DELETE, &url, "").await.status(), 204);
    assert_eq!(client.closed().await.0, 1000);
    let context = &edge.events("disconnect", 1).await[0]["requestContext"];
    assert_eq!(context["disconnectStatusCode"], json!(1000));
    assert_eq!(context["disconnectReason"], json!("Connection Closed Normally"));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_after_close_return_410() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let url = edge.connection(&client.id().await);
    drop(client);
    eventually("it is forgotten", async || edge.ids().is_empty()).await;
    for (method, url) in [(Method::POST, &url), (Method::GET, &url), (Method::DELETE, &edge.connection(UNKNOWN))] {
        let answer = call(method, url, "x").await;
        assert_eq!(error_of(&answer), (StatusCode::GONE, "GoneException"));
        assert_eq!(answer.text().await.expect("a body"), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_connect_works_a_post_is_410() {
    let edge = EdgeUnderTest::start(settings()).await;
    let connecting = edge.connect_with("?hold=1", &[]);
    let pushing = async {
        let event = edge.events("connect", 1).await.remove(0);
        let id = event["requestContext"]["connectionId"].as_str().expect("text").to_owned();
        let early = post(&edge.connection(&id), "too early").await.status();
        edge.release();
        (early, id)
    };
    let (connected, (early, id)) = tokio::join!(connecting, pushing);
    assert_eq!(early, 410);
    let mut client = connected.expect("connected");
    assert_eq!(post(&edge.connection(&id), "in time").await.status(), 200);
    assert_eq!(client.text().await, "in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnect_comes_after_the_close() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let url = edge.connection(&client.id().await);
    drop(client);
    edge.events("disconnect", 1).await;
    assert_eq!(post(&url, "x").await.status(), 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_has_at_most_128_kb() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let url = edge.connection(&client.id().await);
    assert_eq!(post(&url, &"x".repeat(MAX_MESSAGE_BYTES)).await.status(), 200);
    assert_eq!(client.text().await.len(), MAX_MESSAGE_BYTES);
    let answer = post(&url, &"x".repeat(MAX_MESSAGE_BYTES + 1)).await;
    assert_eq!(error_of(&answer), (StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLargeException"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_stage_is_403() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let answer = post(&edge.connection(&client.id().await).replace("/dev/", "/prod/"), "x").await;
    assert_eq!(error_of(&answer), (StatusCode::FORBIDDEN, "ForbiddenException"));
    assert_eq!(answer.text().await.expect("a body"), r#"{"message":"Forbidden"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ill_formed_id_is_400() {
    let edge = EdgeUnderTest::start(settings()).await;
    for id in ["nonsense", "L0SM9cOFvHcCIhw", "L0SM9cOFvHcCIhwA"] {
        let answer = post(&edge.connection(id), "x").await;
        assert_eq!(error_of(&answer), (StatusCode::BAD_REQUEST, "BadRequestException"), "{id}");
        let body: Value = serde_json::from_str(&answer.text().await.expect("a body")).expect("JSON");
        assert_eq!(body, json!({ "message": format!("Invalid connectionId: {id}") }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn encoded_at_and_equals_are_accepted() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let id = client.id().await;
    let encoded = id.replace('=', "%3D");
    for (marker, id) in [("@connections", &id), ("@connections", &encoded), ("%40connections", &encoded)] {
        let answer = post(&format!("{}/{marker}/{id}", edge.callback()), marker).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(client.text().await, marker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_calls_a_second_are_429() {
    let edge = EdgeUnderTest::start(Settings { post_rate: Some(2), ..settings() }).await;
    let url = edge.connection(UNKNOWN);
    // One after the other, they could be so slow that the rate allows all.
    let answers = join_all((0..20).map(|_| post(&url, "x"))).await;
    let limited = (StatusCode::TOO_MANY_REQUESTS, "LimitExceededException");
    assert!(answers.iter().any(|answer| error_of(answer) == limited), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_is_disconnected_without_buildup() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let url = edge.connection(&client.id().await);
    let large = "x".repeat(MAX_MESSAGE_BYTES);
    let mut taken = 0;
    loop {
        match post(&url, &large).await.status().as_u16() {
            200 => taken += 1,
            410 | 429 => break,
            other => panic!("{other}"),
        }
        assert!(taken < 1_000, "there is no end to what it takes");
    }
    let context = &edge.events("disconnect", 1).await[0]["requestContext"];
    assert_eq!(context["disconnectStatusCode"], json!(1006));
}

/// The SDK for Rust, as the consumer uses it.
fn sdk(endpoint: &str) -> Client {
    let config = aws_sdk_apigatewaymanagement::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .endpoint_url(endpoint);
    Client::from_conf(config.build())
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_sdk_reports_named_errors() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let (id, api) = (client.id().await, sdk(&edge.callback()));
    api.post_to_connection()
        .connection_id(&id)
        .data(Blob::new("from the SDK"))
        .send()
        .await
        .expect("the post succeeds");
    assert_eq!(client.text().await, "from the SDK");
    let described = api.get_connection().connection_id(&id).send().await.expect("a description");
    assert!(described.connected_at().is_some() && described.last_active_at().is_some());
    assert_eq!(described.identity().and_then(|identity| identity.source_ip()), Some("127.0.0.1"));
    let large = Blob::new(vec![b'x'; MAX_MESSAGE_BYTES + 1]);
    let error = api.post_to_connection().connection_id(&id).data(large).send().await.expect_err("the call is refused");
    assert!(error.into_service_error().is_payload_too_large_exception());
    let error =
        sdk(&edge.callback().replace("dev", "prod")).post_to_connection().connection_id(&id).data(Blob::new("x"));
    assert!(error.send().await.expect_err("the call is refused").into_service_error().is_forbidden_exception());
    let error = api.post_to_connection().connection_id("nonsense").data(Blob::new("x")).send().await;
    assert_eq!(error.expect_err("the call is refused").into_service_error().code(), Some("BadRequestException"));
    api.delete_connection().connection_id(&id).send().await.expect("the delete succeeds");
    assert_eq!(client.closed().await.0, 1000);
    let error = api.post_to_connection().connection_id(&id).data(Blob::new("x")).send().await.expect_err("it is gone");
    assert!(error.into_service_error().is_gone_exception());
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_push_after_delete_returns_410() {
    let edge = EdgeUnderTest::start(with_faults(&["post=delay:5s"])).await;
    // A client that never answers a close frame.
    let (_silent, _) = raw_handshake(&edge.address.to_string(), "/dev", "").await;
    let url = edge.connection(&edge.ids()[0]);
    let deleted = async {
        eventually("the post is delayed", async || edge.fault_hits().await == 1).await;
        call(Method::DELETE, &url, "").await.status()
    };
    let (pushed, deleted) = tokio::join!(post(&url, "too late"), deleted);
    assert_eq!((pushed.status().as_u16(), deleted.as_u16()), (410, 204));
}
