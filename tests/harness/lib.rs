//! The harness of the end-to-end tests: private servers, real processes, real clients.
//!
//! Every server runs on a free port of loopback and ends with the test process, even on a crash. A server that can't be
//! started fails the test that needs it: nothing is skipped.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

pub mod benchmark;
pub mod browser;
pub mod chaos;
pub mod client;
pub mod collector;
pub mod edge;
pub mod generation;
pub mod lambda;
pub mod process;
pub mod proxy;
pub mod rabbitmq;
pub mod redis;
pub mod script;
pub mod socketio;
pub mod stack;
pub mod tls;

use std::{net::TcpListener, time::Duration};

/// Timeout of operations that take a moment; so long that only what never happens fails, however busy the machine is.
pub const EVENTUALLY_TIMEOUT: Duration = Duration::from_secs(120);

/// More than the functions' own deadlines of some seconds on a busy machine, and far less than TCP takes to give up a
/// dead connection.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// A port that was free a moment ago.
#[must_use]
pub fn free_port() -> u16 {
    // Below the ephemeral range, so that no outgoing socket takes it meanwhile.
    let start = 10_000 + u16::try_from(std::process::id() % 20_000).expect("a remainder");
    let mut candidates = (start..30_000).chain(10_000..start);
    static TAKEN: std::sync::Mutex<Vec<u16>> = std::sync::Mutex::new(Vec::new());
    let mut taken = TAKEN.lock().expect("the lock is not poisoned");
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = candidates.find(|port| !taken.contains(port) && is_free(port)).expect("no port is free");
    taken.push(port);
    port
}

/// Waits until `done` returns true.
///
/// # Panics
/// When it does not within [`EVENTUALLY_TIMEOUT`].
pub async fn eventually(what: &str, done: impl AsyncFnMut() -> bool) {
    eventually_within(EVENTUALLY_TIMEOUT, what, done).await;
}

/// Waits until `done` returns true, for slow operations.
///
/// # Panics
/// On timeout.
pub async fn eventually_within(patience: Duration, what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + patience;
    while !done().await {
        assert!(tokio::time::Instant::now() < deadline, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
