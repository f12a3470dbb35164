//! Sizes, kinds and codes. Times are tested where time can be paused: beside the socket itself.

use std::time::Duration;

use kschat::edge::{MAX_FRAME, MAX_MESSAGE, Settings};
use kschat_tests::{
    PATIENCE,
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
async fn a_frame_has_at_most_32_kb() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    client.say("x".repeat(MAX_FRAME)).await;
    assert_eq!(client.text().await.len(), MAX_FRAME);
    client.say("x".repeat(MAX_FRAME + 1)).await;
    assert_eq!(client.closed().await.0, 1009);
    let context = &edge.events("disconnect", 1).await[0]["requestContext"];
    assert_eq!(context["disconnectStatusCode"], json!(1009));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_has_at_most_128_kb_in_whatever_frames() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    let fragment = "x".repeat(FRAGMENT);
    client.say_in_fragments(&fragment, MAX_MESSAGE / FRAGMENT).await;
    assert_eq!(client.text().await.len(), MAX_MESSAGE);
    client.say_in_fragments(&fragment, MAX_MESSAGE / FRAGMENT + 1).await;
    assert_eq!(client.closed().await.0, 1009);
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_kb_fit_in_five_frames_and_not_in_one() {
    let edge = EdgeUnderTest::start(settings()).await;
    let mut client = edge.connect().await;
    client.say_in_fragments(&"x".repeat(FRAGMENT), 5).await;
    assert_eq!(client.text().await.len(), 5 * FRAGMENT);
    client.say("x".repeat(5 * FRAGMENT)).await;
    assert_eq!(client.closed().await.0, 1009);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_talking_is_heard_out_and_sees_the_close_frame() {
    let edge = EdgeUnderTest::start(settings()).await;
    let (mut socket, _) = raw_handshake(&edge.address.to_string(), "/dev", "").await;
    // A masked text frame of 256 KB, which is refused at its head, in pieces.
    socket.write_all(&[0x81, 0xff, 0, 0, 0, 0, 0, 4, 0, 0, 1, 2, 3, 4]).await.expect("sent");
    for _ in 0..4 {
        socket.write_all(&[b'x'; 64 * 1024]).await.expect("nobody hangs up on a client in the middle of its frame");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut head = [0; 4];
    socket.read_exact(&mut head).await.expect("a close frame");
    assert_eq!((head[0], u16::from_be_bytes([head[2], head[3]])), (0x88, 1009));
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_edge_closes_is_gone_at_once_though_it_has_not_answered_yet() {
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
async fn what_breaks_the_websocket_protocol_is_closed_with_1002_and_what_is_no_text_with_1007() {
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

/// Says that, and then a little more each second, until the edge has had enough; returns what it answers.
async fn dawdle(edge: &EdgeUnderTest, said: &str, more: &str) -> String {
    let mut socket = TcpStream::connect(edge.address).await.expect("a connection");
    socket.write_all(said.as_bytes()).await.expect("sent");
    let (mut answer, mut part) = (Vec::new(), [0; 1024]);
    loop {
        match timeout(Duration::from_secs(1), socket.read(&mut part)).await {
            Ok(Ok(0) | Err(_)) => return String::from_utf8_lossy(&answer).into_owned(),
            Ok(Ok(length)) => answer.extend_from_slice(&part[..length]),
            // It may be closed by now.
            Err(_) => drop(socket.write_all(more.as_bytes()).await),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_that_is_half_sent_is_not_waited_for() {
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
    let (silent, half, slow, body) = timeout(PATIENCE, all).await.expect("each is closed");
    assert_eq!((silent.as_str(), half.as_str(), slow.as_str()), ("", "", ""));
    assert!(body.starts_with("HTTP/1.1 408"), "{body}");
    assert!(began.elapsed() > Duration::from_secs(5), "a slow client is given no time");
    // Whoever is connected is not concerned.
    client.say(r#"{"action":"whoami"}"#).await;
    client.text().await;
}
