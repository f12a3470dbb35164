//! The WebSocket handshake.

use std::time::Duration;

use futures_util::future::join_all;
use kschat_edge::{MAX_URL_LENGTH, Settings, loopback::Origin, routes::Routes};
use kschat_tests::{
    edge::{EdgeUnderTest, guarded_routes, raw_handshake, routes, settings},
    eventually,
};
use serde_json::json;
use tokio::io::AsyncReadExt;

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_the_handshakes_status() {
    let edge = EdgeUnderTest::start(settings()).await;
    for status in [400, 401, 403, 429, 500, 503] {
        assert_eq!(edge.connect_with(&format!("?refuse={status}"), &[]).await.err(), Some(status));
    }
    assert!(edge.ids().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_connect_is_502() {
    let edge = EdgeUnderTest::start(settings()).await;
    assert_eq!(edge.connect_with("?crash=1", &[]).await.err(), Some(502));
    assert_eq!(edge.connect_with("?panic=1", &[]).await.err(), Some(502));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_of_connect_is_502() {
    let edge = EdgeUnderTest::start(Settings { integration_timeout: Duration::from_millis(200), ..settings() }).await;
    assert_eq!(edge.connect_with("?wait=5000", &[]).await.err(), Some(502));
}

#[tokio::test(flavor = "multi_thread")]
async fn subprotocol_is_echoed_from_connect_response() {
    let edge = EdgeUnderTest::start(settings()).await;
    let offered = |names: &'static str| [("sec-websocket-protocol", names)];
    let chosen = edge.connect_with("", &offered("other, chat.v1")).await.expect("connected").subprotocol;
    assert_eq!(chosen.as_deref(), Some("chat.v1"));
    assert_eq!(edge.connect().await.subprotocol, None);
    // The library's client fails if its offer is not answered: a raw one sees the response.
    let answer = raw_handshake(&edge.address.to_string(), "/dev", "Sec-WebSocket-Protocol: other\r\n").await.1;
    assert!(
        answer.starts_with("HTTP/1.1 101") && !answer.to_lowercase().contains("sec-websocket-protocol"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn handshake_follows_rfc_6455() {
    let edge = EdgeUnderTest::start(settings()).await;
    let answer = raw_handshake(&edge.address.to_string(), "/dev", "").await.1;
    // Key and accept value are the example of RFC 6455, section 1.3.
    assert!(answer.to_lowercase().contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    let plain = reqwest::get(edge.callback()).await.expect("an answer");
    assert_eq!(plain.status(), 426);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailing_slash_requires_lenient_paths() {
    let edge = EdgeUnderTest::start(settings()).await;
    assert!(edge.connect_with("/?token=T", &[]).await.is_ok());
    let strict = EdgeUnderTest::start(Settings { strict_path: true, ..settings() }).await;
    assert_eq!(strict.connect_with("/?token=T", &[]).await.err(), Some(403));
    assert!(strict.connect_with("?token=T", &[]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_stage_is_forbidden() {
    let edge = EdgeUnderTest::start(settings()).await;
    let other = edge.websocket().replace("/dev", "/prod");
    assert_eq!(edge.connect_to(&other, &[]).await.err(), Some(403));
}

#[tokio::test(flavor = "multi_thread")]
async fn permessage_deflate_is_agreed_to() {
    let edge = EdgeUnderTest::start(settings()).await;
    let offer = [("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")];
    let agreed = edge.connect_with("", &offer).await.expect("connected").extensions.expect("an answer");
    assert!(agreed.starts_with("permessage-deflate"), "{agreed}");
    assert_eq!(edge.connect().await.extensions, None);
    let without = EdgeUnderTest::start(Settings { compression: false, ..settings() }).await;
    assert_eq!(without.connect_with("", &offer).await.expect("connected").extensions, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_has_at_most_4096_characters() {
    let edge = EdgeUnderTest::start(settings()).await;
    // The managed edge is addressed by wss.
    let base = edge.websocket().len() + 1 + "?t=".len();
    let query = |length: usize| format!("?t={}", "x".repeat(length - base));
    assert!(edge.connect_with(&query(MAX_URL_LENGTH), &[]).await.is_ok());
    assert_eq!(edge.connect_with(&query(MAX_URL_LENGTH + 1), &[]).await.err(), Some(414));
}

#[tokio::test(flavor = "multi_thread")]
async fn authorizer_refusal_returns_401_or_403() {
    let edge = EdgeUnderTest::start(Settings { routes: guarded_routes(), ..settings() }).await;
    assert!(edge.connect_with("?token=good", &[]).await.is_ok());
    assert_eq!(edge.connect_with("?token=bad", &[]).await.err(), Some(403));
    assert_eq!(edge.connect_with("?token=unknown", &[]).await.err(), Some(401));
    let asked = edge.events("authorizer", 3).await.len();
    // Without its identity source the authorizer is not invoked.
    assert_eq!(edge.connect_with("", &[]).await.err(), Some(401));
    assert_eq!(edge.events("authorizer", asked).await.len(), 3);
    edge.events("connect", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_connect_route_accepts_handshake() {
    let mut table = routes().table;
    table.remove("$connect");
    let edge = EdgeUnderTest::start(Settings { routes: Routes { table, ..routes() }, ..settings() }).await;
    let mut client = edge.connect().await;
    client.say("hello").await;
    assert_eq!(client.text().await, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_leaving_during_connect_triggers_disconnect() {
    let edge = EdgeUnderTest::start(settings()).await;
    let leaving = tokio::spawn(tokio_tungstenite::connect_async(format!("{}?hold=1", edge.websocket())));
    edge.events("connect", 1).await;
    leaving.abort();
    assert!(leaving.await.is_err(), "it is not connected yet");
    // Usually enough for the edge to notice.
    tokio::time::sleep(Duration::from_millis(200)).await;
    edge.release();
    let event = &edge.events("disconnect", 1).await[0];
    assert_eq!(event["requestContext"]["disconnectStatusCode"], json!(1006));
    eventually("the connection is forgotten", async || edge.ids().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_rate_limit_returns_429() {
    let edge = EdgeUnderTest::start(Settings { connect_rate: Some(2), ..settings() }).await;
    // One after the other, they could be so slow that the rate allows all.
    let connecting = (0..20).map(async |_| edge.connect_with("", &[]).await.err());
    let statuses = join_all(connecting).await;
    let accepted = statuses.iter().filter(|status| status.is_none()).count();
    assert!(accepted >= 2 && statuses.contains(&Some(429)), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_refusal_status_returns_502() {
    let edge = EdgeUnderTest::start(settings()).await;
    for status in [100, 101, 199, 600, 999] {
        assert_eq!(edge.connect_with(&format!("?refuse={status}"), &[]).await.err(), Some(502), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_shutdown_sends_disconnects_and_refuses_handshakes() {
    let edge = EdgeUnderTest::start(settings()).await;
    // A client that never answers a close frame, and one that is still connecting.
    let (_silent, _) = raw_handshake(&edge.address.to_string(), "/dev", "").await;
    let connecting = edge.connect_with("?wait=500", &[]);
    let closing = async {
        edge.events("connect", 2).await;
        edge.close_all().await;
    };
    let (_, ()) = tokio::join!(connecting, closing);
    edge.events("disconnect", 2).await;
    assert_eq!(edge.connect_with("", &[]).await.err(), Some(503));
}

const EVIL: &str = "https://evil.example";

#[tokio::test(flavor = "multi_thread")]
async fn foreign_origin_handshake_returns_403() {
    let edge = EdgeUnderTest::start(settings()).await;
    let from = |origin| [("origin", origin)];
    for origin in ["http://localhost:5173", "https://127.0.0.1", "http://[::1]:3000"] {
        assert!(edge.connect_with("", &from(origin)).await.is_ok(), "{origin}");
    }
    for origin in [EVIL, "null", "http://localhost.evil.example", "http://10.0.0.7:3000"] {
        assert_eq!(edge.connect_with("", &from(origin)).await.err(), Some(403), "{origin}");
    }
    let (mut socket, head) =
        raw_handshake(&edge.address.to_string(), "/dev", &format!("Origin: {EVIL}\r\nConnection: close\r\n")).await;
    let mut why = vec![0; 512];
    let length = socket.read(&mut why).await.expect("a reason");
    let why = String::from_utf8_lossy(&why[..length]).into_owned();
    assert!(head.starts_with("HTTP/1.1 403") && why.contains("--allow-origin 'https://evil.example'"), "{head}{why}");

    let origins = ["https://app.example", "null"].map(|origin| origin.parse::<Origin>().expect("an origin"));
    let named = EdgeUnderTest::start(Settings { origins: origins.into_iter().collect(), ..settings() }).await;
    assert!(named.connect_with("", &from("https://app.example")).await.is_ok());
    assert!(named.connect_with("", &from("null")).await.is_ok());
    assert_eq!(named.connect_with("", &from(EVIL)).await.err(), Some(403));
}

#[tokio::test(flavor = "multi_thread")]
async fn push_from_foreign_page_is_403() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let id = client.id().await;
    let push = |origin: Option<&str>| {
        let request = reqwest::Client::new().post(edge.connection(&id)).body("pushed");
        origin.into_iter().fold(request, |request, origin| request.header("origin", origin)).send()
    };
    assert_eq!(push(Some(EVIL)).await.expect("an answer").status(), 403);
    assert_eq!(push(None).await.expect("an answer").status(), 200);
    assert_eq!(client.text().await, "pushed");
}
