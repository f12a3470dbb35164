//! The AWS deployment, tested without an account: linters, our own rules, planted faults, and the real programs in an
//! emulator with the real template.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

mod emulator;
mod image;
mod stacks;
mod tools;
