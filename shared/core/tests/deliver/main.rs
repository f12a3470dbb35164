//! Delivery and acks: the consumer's use-case against an edge with scripted answers.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

mod acking;
mod closing;
mod coming;
mod copies;
mod dialects;
mod events;
mod expiry;
mod fixture;
mod posting;
mod presence;
mod receipts;
mod rooms;
