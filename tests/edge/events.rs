//! Events that functions receive.

use std::{collections::BTreeSet, path::Path};

use aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest;
use kschat_edge::Settings;
use kschat_tests::edge::{EdgeUnderTest, guarded_routes, settings};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// The events of one connection that connects, sends a frame and disconnects.
async fn of_one_visit(edge: &EdgeUnderTest, query: &str, headers: &[(&'static str, &str)]) -> [Value; 3] {
    let mut client = edge.connect_with(query, headers).await.expect("connected");
    client.say(r#"{"action":"echo"}"#).await;
    client.text().await;
    client.send(Message::Close(None)).await;
    let events = [edge.events("connect", 1).await, edge.events("echo", 1).await, edge.events("disconnect", 1).await];
    events.map(|events| events[0].clone())
}

/// A captured event.
fn captured(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../functions/tests/events").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).expect("a readable file")).expect("valid JSON")
}

/// Every path to a key. Header names depend on the client, so `headers` only counts as present.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (key, inner) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{key}");
        if !path.contains("eaders/") {
            keys(inner, &path, found);
            found.insert(path);
        }
    }
}

fn key_bytes(event: &Value) -> String {
    let mut found = BTreeSet::new();
    keys(event, "", &mut found);
    found.into_iter().collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn events_have_exactly_the_captured_keys() {
    let edge = EdgeUnderTest::start(settings()).await;
    let events = of_one_visit(&edge, "", &[]).await;
    for (event, sample) in events.iter().zip(["connect.json", "message.json", "disconnect.json"]) {
        assert_eq!(key_bytes(event), key_bytes(&captured(sample)), "{sample}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_event_contains_headers_and_query() {
    let edge = EdgeUnderTest::start(settings()).await;
    let headers = [("x-tenant", "t1"), ("user-agent", "a test"), ("sec-websocket-extensions", "permessage-deflate")];
    let [event, ..] = of_one_visit(&edge, "?token=a%2Bb&n=7&n=8", &headers).await;
    assert_eq!(event["queryStringParameters"], json!({ "token": "a+b", "n": "8" }));
    assert_eq!(event["multiValueQueryStringParameters"], json!({ "token": ["a+b"], "n": ["7", "8"] }));
    for (name, value) in
        [("X-Tenant", "t1"), ("Sec-WebSocket-Extensions", "permessage-deflate"), ("Sec-WebSocket-Version", "13")]
    {
        assert_eq!((&event["headers"][name], &event["multiValueHeaders"][name][0]), (&json!(value), &json!(value)));
    }
    for name in
        ["Host", "Sec-WebSocket-Key", "X-Amzn-Trace-Id", "X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Proto"]
    {
        assert!(event["headers"][name].is_string(), "{name} is missing");
    }
    assert!(event["headers"]["X-Amzn-Trace-Id"].as_str().expect("text").starts_with("Root=1-"));
    assert_eq!(event["requestContext"]["identity"], json!({ "sourceIp": "127.0.0.1", "userAgent": "a test" }));
    assert_eq!(
        (&event["requestContext"]["routeKey"], &event["requestContext"]["eventType"]),
        (&json!("$connect"), &json!("CONNECT"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_event_without_query_omits_keys() {
    let edge = EdgeUnderTest::start(settings()).await;
    let [event, ..] = of_one_visit(&edge, "", &[]).await;
    assert!(event.get("queryStringParameters").is_none() && event.get("multiValueQueryStringParameters").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn message_event_omits_headers_and_query() {
    let edge = EdgeUnderTest::start(settings()).await;
    let [_, event, _] = of_one_visit(&edge, "?token=T", &[]).await;
    let keys: Vec<&String> = event.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["body", "isBase64Encoded", "requestContext"]);
    assert_eq!((&event["body"], &event["isBase64Encoded"]), (&json!(r#"{"action":"echo"}"#), &json!(false)));
    let context = &event["requestContext"];
    assert_eq!((&context["routeKey"], &context["eventType"]), (&json!("echo"), &json!("MESSAGE")));
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnect_event_has_headers_code_and_reason() {
    let edge = EdgeUnderTest::start(settings()).await;
    let [_, _, event] = of_one_visit(&edge, "", &[]).await;
    let host = edge.address.to_string();
    assert_eq!(event["headers"], json!({ "Host": host, "x-api-key": "", "X-Forwarded-For": "", "x-restapi": "" }));
    let many = json!({ "Host": [host], "x-api-key": [""], "X-Forwarded-For": [""], "x-restapi": [""] });
    assert_eq!((&event["multiValueHeaders"], event.get("body")), (&many, None));
    let context = &event["requestContext"];
    assert_eq!((&context["routeKey"], &context["eventType"]), (&json!("$disconnect"), &json!("DISCONNECT")));
    assert_eq!(context["disconnectStatusCode"], json!(1005));
    assert_eq!(context["disconnectReason"], json!("Client-side close frame status not set"));
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnect_event_contains_client_close_code() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 4001.into(), reason: "bye".into() };
    client.send(Message::Close(Some(frame))).await;
    assert_eq!(client.closed().await, (4001, "bye".to_owned()));
    let context = &edge.events("disconnect", 1).await[0]["requestContext"];
    assert_eq!((&context["disconnectStatusCode"], &context["disconnectReason"]), (&json!(4001), &json!("bye")));
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_socket_is_reported_as_1006() {
    let edge = EdgeUnderTest::start(settings()).await;
    drop(edge.connect().await);
    let context = &edge.events("disconnect", 1).await[0]["requestContext"];
    assert_eq!(context["disconnectStatusCode"], json!(1006));
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(entries) => entries.values().any(has_null),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_event_fields_are_omitted() {
    let edge = EdgeUnderTest::start(settings()).await;
    assert!(!of_one_visit(&edge, "", &[]).await.iter().any(has_null));
}

#[tokio::test(flavor = "multi_thread")]
async fn request_id_equals_extended_request_id() {
    let edge = EdgeUnderTest::start(settings()).await;
    for event in of_one_visit(&edge, "", &[]).await {
        assert_eq!(event["requestContext"]["requestId"], event["requestContext"]["extendedRequestId"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connected_at_is_constant_for_a_connection() {
    let edge = EdgeUnderTest::start(settings()).await;
    let [connect, message, disconnect] =
        of_one_visit(&edge, "", &[]).await.map(|event| event["requestContext"].clone());
    assert!(connect["connectedAt"].is_i64());
    assert_eq!(
        (&message["connectedAt"], &disconnect["connectedAt"]),
        (&connect["connectedAt"], &connect["connectedAt"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn request_time_has_access_log_format() {
    let edge = EdgeUnderTest::start(settings()).await;
    for event in of_one_visit(&edge, "", &[]).await {
        // 11/Nov/2024:11:35:24 +0000
        let time = event["requestContext"]["requestTime"].as_str().expect("text").to_owned();
        let form: String = time
            .chars()
            .map(|c| {
                if c.is_ascii_digit() {
                    '9'
                } else if c.is_alphabetic() {
                    'a'
                } else {
                    c
                }
            })
            .collect();
        assert_eq!(form, "99/aaa/9999:99:99:99 +9999", "{time}");
        assert!(time.ends_with("+0000"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn message_id_shares_connection_id_suffix() {
    let edge = EdgeUnderTest::start(settings()).await;
    let [connect, message, _] = of_one_visit(&edge, "", &[]).await.map(|event| event["requestContext"].clone());
    let (connection, id) =
        (connect["connectionId"].as_str().expect("text"), message["messageId"].as_str().expect("text"));
    for id in [connection, id, connect["requestId"].as_str().expect("text")] {
        let body = id.strip_suffix('=').expect("an id that ends in =");
        assert!(body.len() == 15 && body.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{id}");
    }
    assert!(connection[8..] == id[8..] && connection != id, "{connection} {id}");
}

#[tokio::test(flavor = "multi_thread")]
async fn authorizer_context_is_flat_in_every_event() {
    let edge = EdgeUnderTest::start(Settings { routes: guarded_routes(), ..settings() }).await;
    let context = json!({ "principalId": "me", "tenant": "t1", "level": "7" });
    let [mut connect, message, disconnect] = of_one_visit(&edge, "?token=good", &[]).await;
    for event in [&message, &disconnect] {
        assert_eq!(event["requestContext"]["authorizer"], context);
    }
    // Only `$connect` receives the latency.
    let authorizer = connect["requestContext"]["authorizer"].as_object_mut().expect("an object");
    assert!(authorizer.remove("integrationLatency").expect("a figure").is_u64());
    assert_eq!(connect["requestContext"]["authorizer"], context);
    let asked = &edge.events("authorizer", 1).await[0];
    assert_eq!((&asked["type"], &asked["queryStringParameters"]["token"]), (&json!("REQUEST"), &json!("good")));
    assert!(asked["methodArn"].as_str().expect("text").ends_with("/dev/$connect"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lambda_events_crate_keeps_every_field() {
    let edge = EdgeUnderTest::start(settings()).await;
    for event in of_one_visit(&edge, "?token=T", &[]).await {
        let read: ApiGatewayWebsocketProxyRequest = serde_json::from_value(event.clone()).expect("a readable event");
        let written = serde_json::to_value(&read).expect("a serializable event");
        let (context, again) = (&event["requestContext"], &written["requestContext"]);
        for (key, value) in context.as_object().expect("an object") {
            // The library's types lack these two fields.
            if !["disconnectStatusCode", "disconnectReason"].contains(&key.as_str()) {
                assert!(again[key] == *value || key == "identity", "{key}: {value} became {}", again[key]);
            }
        }
        assert_eq!(written["body"], event["body"]);
    }
}
