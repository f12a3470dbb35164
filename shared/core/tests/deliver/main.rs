//! Who gets what, and when is it acked: the consumer's use-case against an edge that answers as told.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

mod acking;
mod closing;
mod coming;
mod copies;
mod dialects;
mod expiry;
mod notices;
mod posting;
mod presence;
mod receipts;
mod rooms;
mod scene;
