//! Benchmark of the edge: `cargo run --release -p kschat-tests --example edge_load`.
//!
//! Edge, functions and clients share one process, so every number includes the client's own work. Each phase lasts a
//! few seconds; all traffic stays on loopback.

#![expect(clippy::expect_used, reason = "an unmet expectation ends the measurement")]
#![expect(clippy::print_stdout, reason = "the figures are for a person at a terminal")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use kschat_tests::edge::{EdgeUnderTest, settings};
use tokio::task::JoinHandle;

const PHASE_DURATION: Duration = Duration::from_secs(5);

/// Frames in flight per client.
const FRAMES_IN_FLIGHT: usize = 64;

struct Flood {
    stop: Arc<AtomicBool>,
    frames: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Flood {
    /// Starts clients that send this frame as fast as it is answered.
    async fn start(edge: &EdgeUnderTest, clients: usize, frame: &'static str) -> Self {
        let (stop, frames) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for _ in 0..clients {
            let mut client = edge.connect().await;
            let (stop, frames) = (Arc::clone(&stop), Arc::clone(&frames));
            tasks.push(tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    for _ in 0..FRAMES_IN_FLIGHT {
                        client.say(frame).await;
                    }
                    for _ in 0..FRAMES_IN_FLIGHT {
                        client.text().await;
                    }
                    frames.fetch_add(FRAMES_IN_FLIGHT as u64, Relaxed);
                }
            }));
        }
        Self { stop, frames, tasks }
    }

    /// Stops the clients and returns how many frames were answered.
    async fn end(self) -> u64 {
        self.stop.store(true, Relaxed);
        for task in self.tasks {
            task.await.expect("every frame was answered");
        }
        self.frames.load(Relaxed)
    }
}

/// Frames per second of this many clients.
async fn frames_a_second(edge: &EdgeUnderTest, clients: usize, frame: &'static str) -> f64 {
    let flood = Flood::start(edge, clients, frame).await;
    let began = Instant::now();
    tokio::time::sleep(PHASE_DURATION).await;
    let took = began.elapsed();
    flood.end().await as f64 / took.as_secs_f64()
}

/// Posts sequentially for a phase; returns the median and the 99th percentile.
async fn posts(edge: &EdgeUnderTest) -> (Duration, Duration, usize) {
    let mut client = edge.connect().await;
    let url = edge.connection(&client.id().await);
    let http = reqwest::Client::new();
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < PHASE_DURATION {
        let sent = Instant::now();
        let answer = http.post(&url).body("a push").send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        client.text().await;
        times.push(sent.elapsed());
    }
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100], times.len())
}

#[tokio::main]
async fn main() {
    let edge = EdgeUnderTest::start(settings()).await;
    for (what, frame) in
        [("mock route", r#"{"action":"ping"}"#), ("function in this process", r#"{"action":"whoami"}"#)]
    {
        println!("{what}: {:.0} frames a second, answered", frames_a_second(&edge, 16, frame).await);
    }
    let (median, worst, count) = posts(&edge).await;
    println!("posts one by one, alone: {count}, median {median:?}, 99% {worst:?}");
    let flood = Flood::start(&edge, 16, r#"{"action":"ping"}"#).await;
    let (median, worst, count) = posts(&edge).await;
    let frames = flood.end().await as f64 / PHASE_DURATION.as_secs_f64();
    println!("the same under a flood of {frames:.0} frames a second: {count}, median {median:?}, 99% {worst:?}");
}
