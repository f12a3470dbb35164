//! Many sockets and many frames.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use futures_util::{StreamExt, stream};
use kschat_tests::edge::{EdgeProcess, EdgeUnderTest, raw_handshake, settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CONNECTIONS: usize = 10_000;

const MAX_MEMORY: u64 = 300 * 1024 * 1024;

/// Routes without `$connect`, so no function is invoked.
const ROUTES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/edge/idle.yaml");

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the number is for runs with --nocapture")]
async fn idle_connections_use_bounded_memory() {
    let files = rlimit::increase_nofile_limit(u64::MAX).expect("the limit of open files can be raised");
    assert!(
        files > CONNECTIONS as u64 + 200,
        "this needs more than {CONNECTIONS} open files, and only {files} are allowed"
    );
    let edge = EdgeProcess::start("http://127.0.0.1:1", ROUTES, &[]).await;
    let before = edge.process.resident_bytes();
    // The offer of browsers.
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let connect = |_| raw_handshake(&edge.address, "/dev", offer);
    let mut sockets: Vec<_> = stream::iter(0..CONNECTIONS).map(connect).buffer_unordered(64).collect().await;
    assert!(
        sockets.iter().all(|(_, answer)| answer.starts_with("HTTP/1.1 101") && answer.contains("permessage-deflate"))
    );
    let taken = edge.process.resident_bytes();
    println!("{CONNECTIONS} idle connections: {} MiB, before them {} MiB", taken >> 20, before >> 20);
    assert!(taken < MAX_MEMORY, "{taken} bytes");
    // A masked text frame "x", with a mask of zeros.
    let (socket, _) = sockets.last_mut().expect("a socket");
    socket.write_all(&[0x81, 0x81, 0, 0, 0, 0, b'x']).await.expect("sent");
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer[2..], b"still here");
}

#[tokio::test(flavor = "multi_thread")]
async fn frame_flood_does_not_starve_posts() {
    let edge = EdgeUnderTest::start(settings()).await;
    let (stop, flooded) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut floods = Vec::new();
    for _ in 0..4 {
        let mut client = edge.connect().await;
        let (stop, flooded) = (Arc::clone(&stop), Arc::clone(&flooded));
        floods.push(tokio::spawn(async move {
            while !stop.load(Relaxed) {
                for _ in 0..50 {
                    client.say(r#"{"action":"ping"}"#).await;
                }
                for _ in 0..50 {
                    client.text().await;
                    flooded.fetch_add(1, Relaxed);
                }
            }
        }));
    }
    let mut client = edge.connect().await;
    let url = edge.connection(&client.id().await);
    let http = reqwest::Client::new();
    let before = flooded.load(Relaxed);
    for n in 0..100 {
        let answer = http.post(&url).body(n.to_string()).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert_eq!(client.text().await, n.to_string());
    }
    assert!(flooded.load(Relaxed) > before, "the flood went on meanwhile");
    stop.store(true, Relaxed);
    for flood in floods {
        flood.await.expect("every frame was answered");
    }
}
