//! What is deployed to AWS, proved without an account: linters, rules of our own, planted faults, and the real
//! programs behind an emulator that the real template was deployed into.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

mod emulator;
mod image;
mod stacks;
mod tools;
