//! Properties of everything that kschat reads from outside, which hold for any input.
//!
//! Each module has a function `check`, which panics if an input violates a property. The fuzzer generates inputs
//! (`tests/fuzz`); the tests of this crate check the inputs that other tests know.

#![expect(clippy::expect_used, reason = "an unmet expectation is a violation")]

pub mod client_frame;
pub mod edge;
pub mod event;
pub mod handshake;
pub mod owner_message;
pub mod packet;
pub mod receiver_frame;
pub mod rules_and_routes;
