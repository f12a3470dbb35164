//! The Socket.IO clients of npm, unchanged, against the very functions and consumer that raw clients have.

#![expect(clippy::expect_used, clippy::panic, reason = "what is not as expected fails the test")]

mod chat;
mod endurance;
mod entrance;
mod page;

use kschat_tests::socketio::Generation;

const BOTH: [Generation; 2] = [Generation::Four, Generation::Two];
