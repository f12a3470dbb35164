//! The local edge, behaviour by behaviour. `infra/local/README.md` names each test beside the behaviour and its source.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

mod connections;
mod events;
mod faults;
mod foreign;
mod handshake;
mod limits;
mod load;
mod routing;
mod view;
