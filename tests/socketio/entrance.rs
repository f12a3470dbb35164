//! Authentication of Socket.IO clients.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use kschat_protocol::dialect::{Packet, RECONNECT_PACKET};
use kschat_tests::{
    client::{Client, Refused, token},
    socketio::{Generation, SocketIo},
    stack::{SECRET, connect, embedded, unique_user},
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::BOTH;

#[tokio::test(flavor = "multi_thread")]
async fn connect_packet_token_is_verified() {
    let stack = embedded().await;
    let (page, url) = (stack.page_url(), stack.websocket_url());
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let with = |auth: Value| {
        // Without the trailing slash that clients append by default.
        json!({ "path": "/dev", "addTrailingSlash": false, "transports": ["websocket"], "auth": auth })
    };
    let mut alice = SocketIo::start(Generation::Four, &page, &a, &with(json!({ "token": token(SECRET, &a) })), false);
    alice.next("connect").await;
    let mut bob = connect(&url, &b).await;
    bob.send(&a, "hello").await;
    assert_eq!(alice.texts(1).await, ["hello"]);
    alice.send(&b, "hello to you").await;
    assert_eq!(bob.texts(1).await, ["hello to you"]);
    for auth in
        [json!({}), json!({ "token": "no" }), json!({ "token": token("another secret", &a) }), json!({ "token": 7 })]
    {
        let mut mallory = SocketIo::start(Generation::Four, &page, &a, &with(auth), false);
        let refused = mallory.next("connect_error").await;
        assert_eq!((&refused["message"], &refused["data"]), (&json!("Authentication error"), &json!({ "ER": 3 })));
        // With a valid one it may still join.
        mallory.tell(json!({ "auth": { "token": token(SECRET, &a) } })).await;
        mallory.tell(json!({ "connect": true })).await;
        mallory.next("connect").await;
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_or_unsupported_handshake_is_refused() {
    let stack = embedded().await;
    let (page, url, user) = (stack.page_url(), stack.websocket_url(), unique_user("alice"));
    let good = token(SECRET, &user);
    for (query, status) in [
        ("EIO=4&transport=websocket&token=no".to_owned(), 401),
        ("EIO=3&transport=websocket".to_owned(), 401),
        (format!("EIO=4&transport=websocket&token={good}&ksId=bob"), 403),
        (format!("EIO=4&transport=polling&token={good}"), 400),
        (format!("EIO=9&transport=websocket&token={good}"), 400),
    ] {
        assert_eq!(Client::connect(&url, &query, &user).await.err(), Some(Refused(status)), "{query}");
    }
    for generation in BOTH {
        let options =
            json!({ "path": "/dev", "transports": ["websocket"], "query": "token=no", "reconnection": false });
        let mut client = SocketIo::start(generation, &page, &user, &options, false);
        client.next("connect_error").await;
        // Polling never reaches a function.
        let options = json!({ "path": "/dev", "transports": ["polling"], "query": format!("token={good}") });
        let mut client = SocketIo::start(generation, &page, &user, &options, false);
        client.next("connect_error").await;
    }
    stack.stop().await;
}

/// The message that arrives within a moment, if any.
async fn heard<S>(socket: &mut S) -> Option<Message>
where
    S: StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    timeout(Duration::from_millis(150), socket.next()).await.ok().flatten().and_then(Result::ok)
}

#[tokio::test(flavor = "multi_thread")]
async fn client_receives_only_its_dialect() {
    let stack = embedded().await;
    let user = unique_user("alice");
    for joins in [true, false] {
        for (digit, connect) in [('4', "40/kschat,"), ('3', "40/kschat?token=x,")] {
            let query = format!("EIO={digit}&transport=websocket&token={}", token(SECRET, &user));
            let url = format!("{}?{query}", stack.websocket_url());
            let (mut socket, _) = connect_async(url).await.expect("connected");
            if joins {
                socket.send(Message::text(connect)).await.expect("open");
            }
            let long = format!("42/kschat,[\"Send\",{{\"msg\":\"{}\"}}]", "x".repeat(32_700));
            let bad = [
                "",
                "0",
                "1",
                "2",
                "2x",
                "3",
                "4",
                "5",
                "6",
                "7",
                "x",
                "{",
                "[]",
                "null",
                "42",
                "42[]",
                "42[1]",
                "42/kschat",
                "42/kschat,[\"Send\"]",
                "42/kschat,[\"Send\",7]",
                "42/kschat,[\"Send\",{}]",
                "42/kschat,1[\"Send\",{}]",
                "42/kschat,[\"fly\",{}]",
                "42/kschat,2[\"fly\"]",
                "42/kschat,[\"Send\",{\"action\":1}]",
                "43[]",
                "43/kschat,9007199254740991[]",
                "43/kschat,1[]",
                "43/kschat,0[]",
                "44{}",
                "44\"x\"",
                "45",
                "47",
                "48",
                "451-[\"Send\",{\"_placeholder\":true,\"num\":0}]",
                "40/",
                "40/other,",
                "40{\"token\":1}",
                "40[",
                "\u{1}",
                "42/kschat,99999999999999999999[\"Send\",{}]",
                "42[[[[[[[[",
                "é",
                long.as_str(),
            ];
            for text in bad {
                socket.send(Message::text(text)).await.expect("open");
            }
            while let Some(message) = heard(&mut socket).await {
                let Message::Text(text) = message else { panic!("{message:?}") };
                let is_understood = text.as_str() == RECONNECT_PACKET || Packet::parse(&text).is_ok();
                assert!(is_understood && !text.contains("Internal server error"), "{text}");
            }
            let message = json!({ "uId": user, "pId": "nobody", "msg": "still here" });
            socket.send(Message::text(format!("42/kschat,[\"Send\",{message}]"))).await.expect("open");
            let Some(Message::Text(text)) =
                timeout(Duration::from_secs(5), socket.next()).await.expect("an answer").transpose().expect("open")
            else {
                panic!("no text")
            };
            assert!(text.starts_with("42/kschat,0[\"RESPSEND\",{\"RC\":1,\"ER\":0,"), "{text}");
        }
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unauthenticated_client_is_disconnected() {
    let stack = embedded().await;
    let url = format!("{}?EIO=4&transport=websocket", stack.websocket_url());
    let (mut socket, _) = connect_async(url).await.expect("connected");
    let Some(Ok(Message::Text(open))) = socket.next().await else { panic!("no first word") };
    assert!(open.starts_with("0{"), "{open}");
    for text in [
        "42[\"Send\",{\"uId\":\"alice\",\"pId\":\"bob\",\"msg\":\"hello\"}]",
        "42[\"typing\",{\"pId\":\"bob\",\"on\":true}]",
    ] {
        socket.send(Message::text(text)).await.expect("open");
        let Some(Ok(Message::Text(refused))) = socket.next().await else { panic!("no answer") };
        assert!(refused.contains("\"ER\":4"), "{refused}");
    }
    let ended = timeout(Duration::from_secs(25), socket.next()).await.expect("the connection is closed");
    assert!(matches!(ended, Some(Ok(Message::Close(_)))), "{ended:?}");
    stack.stop().await;
}
