//! The harness of the end-to-end tests: private servers, real processes, real clients.
//!
//! Every server is started on a free port of loopback and ends with the test process, however that ends. A
//! server that can't be started fails the test that needs it: nothing is skipped.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

pub mod browser;
pub mod chaos;
pub mod client;
pub mod collector;
pub mod edge;
pub mod lambda;
pub mod process;
pub mod proxy;
pub mod rabbitmq;
pub mod redis;
pub mod script;
pub mod socketio;
pub mod stack;

use std::{net::TcpListener, time::Duration};

/// How long anything may take that should be quick, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A port that was free a moment ago.
#[must_use]
pub fn free_port() -> u16 {
    // Below the range from which outgoing sockets get theirs, so that none of those takes it meanwhile.
    let start = 10_000 + u16::try_from(std::process::id() % 20_000).expect("a remainder");
    let mut candidates = (start..30_000).chain(10_000..start);
    static TAKEN: std::sync::Mutex<Vec<u16>> = std::sync::Mutex::new(Vec::new());
    let mut taken = TAKEN.lock().expect("no test panics here");
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = candidates.find(|port| !taken.contains(port) && is_free(port)).expect("no port is free");
    taken.push(port);
    port
}

/// Waits until `done` says yes.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub async fn eventually(what: &str, done: impl AsyncFnMut() -> bool) {
    eventually_within(PATIENCE, what, done).await;
}

/// Waits until `done` says yes, for what takes long.
///
/// # Panics
/// When it does not within that time.
pub async fn eventually_within(patience: Duration, what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + patience;
    while !done().await {
        assert!(tokio::time::Instant::now() < deadline, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
