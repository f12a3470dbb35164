//! The edge in front of a project that is not ours: its functions under `cargo lambda watch`, its routes and its
//! authorizer from its own SAM template.

use futures_util::{SinkExt, StreamExt};
use kschat_tests::{PATIENCE, edge::EdgeProcess, lambda::Lambda};
use tokio::time::timeout;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error, Message},
};

const TEMPLATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/foreign/template.yaml");

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_is_not_ours_works_from_its_own_template() {
    let lambda = Lambda::start_in("foreign", &["room", "guard"], &[]).await;
    let edge = EdgeProcess::start(&lambda.url(), TEMPLATE, &[]).await;
    let url = |query: &str| format!("ws://{}/dev{query}", edge.address);
    for (query, status) in [("", 401), ("?key=wrong", 403)] {
        match connect_async(url(query)).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), status, "{query}"),
            other => panic!("{query}: {other:?}"),
        }
    }
    let (mut socket, _) = connect_async(url("?key=sesame")).await.expect("the handshake succeeds");
    for (said, heard) in [
        (r#"{"type":"say","text":"hello"}"#, "HELLO, in the blue one"),
        (r#"{"type":"count","text":"hello"}"#, "5"),
        (r#"{"type":"boom"}"#, r#"{"message": "Internal server error""#),
        (r#"{"type":"dance"}"#, r#"{"message": "Forbidden""#),
    ] {
        socket.send(Message::text(said)).await.expect("the socket is open");
        let next = timeout(PATIENCE, socket.next()).await.expect("an answer").expect("a frame").expect("a frame");
        assert!(next.to_text().expect("text").starts_with(heard), "{said}: {next}");
    }
    let printed = edge.process.printed();
    assert!(printed.contains("the room is on fire"), "the log tells why: {printed}");
}
