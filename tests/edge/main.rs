//! The local edge, fact by fact. `infra/local/README.md` names each test beside the fact and its source.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

mod connections;
mod events;
mod faults;
mod foreign;
mod handshake;
mod limits;
mod load;
mod routing;
mod view;
