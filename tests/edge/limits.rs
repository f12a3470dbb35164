//! Sizes, opcodes and close codes. Timeouts are tested with paused time beside the socket itself.

use std::time::Duration;

use kschat_edge::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES, Settings};
use kschat_tests::{
    EVENTUALLY_TIMEOUT,
    edge::{EdgeUnderTest, raw_handshake, settings},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame, FrameHeader,
        coding::{Control, Data, OpCode},
    },
};

const FRAGMENT: usize = 8 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn frame_over_32_kb_is_refused() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    client.say("x".repeat(MAX_FRAME_BYTES)).await;
    assert_eq!(client.text().await.len(), MAX_FRAME_BYTES);
    client.say("x".repeat(MAX_FRAME_BYTES + 1)).await;
    assert_eq!(client.closed().await.0, 1009);
    let context = &edge.events("disconnect", 1).await[0]["requestContext"];
    assert_eq!(context["disconnectStatusCode"], json!(1009));
}

#[tokio::test(flavor = "multi_thread")]
async fn message_over_128_kb_is_refused() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let fragment = "x".repeat(FRAGMENT);
    client.say_in_fragments(&fragment, MAX_MESSAGE_BYTES / FRAGMENT).await;
    assert_eq!(client.text().await.len(), MAX_MESSAGE_BYTES);
    client.say_in_fragments(&fragment, MAX_MESSAGE_BYTES / FRAGMENT + 1).await;
    assert_eq!(client.closed().await.0, 1009);
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_kb_require_fragmentation() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    client.say_in_fragments(&"x".repeat(FRAGMENT), 5).await;
    assert_eq!(client.text().await.len(), 5 * FRAGMENT);
    client.say("x".repeat(5 * FRAGMENT)).await;
    assert_eq!(client.closed().await.0, 1009);
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_client_still_receives_close_frame() {
    let edge = EdgeUnderTest::start(settings()).await;
    let (mut socket, _) = raw_handshake(&edge.address.to_string(), "/dev", "").await;
    // A masked text frame of 256 KB, rejected by its header, sent in pieces.
    socket.write_all(&[0x81, 0xff, 0, 0, 0, 0, 0, 4, 0, 0, 1, 2, 3, 4]).await.expect("sent");
    for _ in 0..4 {
        socket.write_all(&[b'x'; 64 * 1024]).await.expect("the edge reads a frame to its end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut head = [0; 4];
    socket.read_exact(&mut head).await.expect("a close frame");
    assert_eq!((head[0], u16::from_be_bytes([head[2], head[3]])), (0x88, 1009));
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_connection_is_gone_before_close_reply() {
    let edge = EdgeUnderTest::start(settings()).await;
    let (mut socket, _) = raw_handshake(&edge.address.to_string(), "/dev", "").await;
    let url = edge.connection(&edge.ids()[0]);
    // A masked binary frame.
    socket.write_all(&[0x82, 0x81, 0, 0, 0, 0, 7]).await.expect("sent");
    let mut head = [0; 4];
    socket.read_exact(&mut head).await.expect("a close frame");
    assert_eq!((head[0], u16::from_be_bytes([head[2], head[3]])), (0x88, 1003));
    let answer = reqwest::Client::new().post(url).body("x").send().await.expect("an answer");
    assert_eq!(answer.status(), 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_can_be_set() {
    let edge = EdgeUnderTest::start(Settings { max_frame: 10, max_message: 20, ..settings() }).await;
    let mut client = edge.connect().await;
    client.say_in_fragments("0123456789", 2).await;
    assert_eq!(client.text().await, "01234567890123456789");
    client.say("0123456789a").await;
    assert_eq!(client.closed().await.0, 1009);
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_is_closed_with_1003() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    client.send(Message::binary(vec![1, 2, 3])).await;
    assert_eq!(client.closed().await.0, 1003);
    let context = &edge.events("disconnect", 1).await[0]["requestContext"];
    assert_eq!(context["disconnectStatusCode"], json!(1003));
}

#[tokio::test(flavor = "multi_thread")]
async fn protocol_violation_closes_1002_invalid_utf8_1007() {
    let edge = EdgeUnderTest::start(settings()).await;
    let not_text = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    let continues_nothing = Frame::message("x", OpCode::Data(Data::Continue), true);
    let header = FrameHeader { is_final: false, opcode: OpCode::Control(Control::Ping), ..FrameHeader::default() };
    let split_ping = Frame::from_payload(header, "x".into());
    for (frame, code) in [(not_text, 1007), (continues_nothing, 1002), (split_ping, 1002)] {
        let mut client = edge.connect().await;
        client.send(Message::Frame(frame)).await;
        assert_eq!(client.closed().await.0, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_gets_its_pong() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    client.send(Message::Ping("are you there".into())).await;
    assert_eq!(client.next().await, Message::Pong("are you there".into()));
}

/// Sends a text, then a little more each second, until the edge responds; returns the response.
async fn dawdle(edge: &EdgeUnderTest, said: &str, more: &str) -> String {
    let mut socket = TcpStream::connect(edge.address).await.expect("a connection");
    socket.write_all(said.as_bytes()).await.expect("sent");
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    loop {
        match timeout(Duration::from_secs(1), socket.read(&mut part)).await {
            Ok(Ok(0) | Err(_)) => return String::from_utf8_lossy(&answer).into_owned(),
            Ok(Ok(length)) => answer.extend_from_slice(&part[..length]),
            // It may be closed already.
            Err(_) => drop(socket.write_all(more.as_bytes()).await),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_request_times_out() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let post =
        format!("POST /dev/@connections/{} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", client.id().await);
    let began = tokio::time::Instant::now();
    let all = async {
        tokio::join!(
            dawdle(&edge, "", ""),
            dawdle(&edge, "GET /dev HTTP/1.1\r\nHost: x\r\n", ""),
            dawdle(&edge, "GET /dev HTTP/1.1\r\nHost: x\r\n", "X-Y: z\r\n"),
            dawdle(&edge, &post, "x"),
        )
    };
    let (silent, half, slow, body) = timeout(EVENTUALLY_TIMEOUT, all).await.expect("each is closed");
    assert_eq!((silent.as_str(), half.as_str(), slow.as_str()), ("", "", ""));
    assert!(body.starts_with("HTTP/1.1 408"), "{body}");
    assert!(began.elapsed() > Duration::from_secs(5), "a slow client is given no time");
    // Open connections are not affected.
    client.say(r#"{"action":"whoami"}"#).await;
    client.text().await;
}
