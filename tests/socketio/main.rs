//! The unmodified Socket.IO clients of npm, with the same functions and consumer as raw clients.

#![expect(clippy::expect_used, clippy::panic, reason = "an unmet expectation fails the test")]

mod chat;
mod endurance;
mod entrance;
mod page;

use kschat_tests::socketio::Generation;

const BOTH: [Generation; 2] = [Generation::Four, Generation::Two];
