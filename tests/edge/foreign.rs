//! The edge in front of foreign functions.

use futures_util::{SinkExt, StreamExt};
use kschat_tests::{EVENTUALLY_TIMEOUT, edge::EdgeProcess, lambda::Lambda};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error, Message},
};

const TEMPLATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/foreign/template.yaml");

#[tokio::test(flavor = "multi_thread")]
async fn foreign_project_runs_from_template() {
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
        let next =
            timeout(EVENTUALLY_TIMEOUT, socket.next()).await.expect("an answer").expect("a frame").expect("a frame");
        assert!(next.to_text().expect("text").starts_with(heard), "{said}: {next}");
    }
    let printed = edge.process.output();
    assert!(printed.contains("the room is on fire"), "the log tells why: {printed}");
}

/// Answers every request on its port with this text; an empty one means no answer.
async fn invoke_api(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                // An event is small, so one read suffices.
                let mut request = [0; 8192];
                while socket.read(&mut request).await.is_ok_and(|count| count > 0) {
                    if !answer.is_empty() && socket.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn invoke_errors_of_both_runtimes_are_parsed() {
    // Lambda itself; `cargo lambda watch`; a function that died while it worked: nobody answers for it.
    let of_lambda =
        "HTTP/1.1 200 OK\r\nX-Amz-Function-Error: Unhandled\r\nContent-Length: 20\r\n\r\n{\"errorMessage\":\"x\"}";
    let of_cargo_lambda = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 20\r\n\r\n{\"errorMessage\":\"x\"}";
    for answer in [of_lambda, of_cargo_lambda, ""] {
        let functions = invoke_api(answer).await;
        let routes = concat!(env!("CARGO_MANIFEST_DIR"), "/edge/open.yaml");
        let edge = EdgeProcess::start(&functions, routes, &["--integration-timeout", "1s"]).await;
        let (mut socket, _) =
            connect_async(format!("ws://{}/dev", edge.address)).await.expect("the handshake succeeds");
        socket.send(Message::text("hello")).await.expect("the socket is open");
        let next =
            timeout(EVENTUALLY_TIMEOUT, socket.next()).await.expect("an answer").expect("a frame").expect("a frame");
        assert!(next.to_text().expect("text").starts_with(r#"{"message": "Internal server error""#), "{answer}");
    }
}
