//! What kschat decides, apart from what it runs on.
//!
//! - [`ports`]: the few things a use-case needs from outside, as traits.
//! - [`inbound`]: who says something, and whether that is too much by [`limits`].
//! - [`connect`], [`join`], [`disconnect`], [`send`], [`ack`]: one use-case of the functions each; [`request`]: the
//!   smaller ones.
//! - [`deliver`]: the consumer's use-case, from a user's queue to the user's connections; [`retire`]: what becomes of
//!   the queue when the user is away.
//! - [`receipts`]: who has got and read what; [`presence`]: who is there; [`rooms`]: who hears what
//!   is said to many.
//! - [`job`]: work that goes on by itself, and survives a panic.
//! - [`metrics`]: what is counted and timed on the way; [`trace`]: what ties it together beyond one process.
//! - [`memory`]: every port without a service behind it, for the embedded local stack and fast tests.
//! - `contract` (feature): the clauses that every adapter of a port must pass.
//!
//! No vendor's type appears here.

pub mod ack;
mod audience;
pub mod backoff;
pub mod connect;
#[cfg(feature = "contract")]
pub mod contract;
pub mod deliver;
pub mod disconnect;
mod hash;
pub mod inbound;
pub mod job;
pub mod join;
pub mod limits;
mod lobby;
pub mod memory;
pub mod metrics;
mod mint;
mod notices;
mod partition;
pub mod ports;
mod posting;
pub mod presence;
mod queue_requests;
pub mod receipts;
mod renew;
mod replies;
pub mod request;
pub mod retire;
pub mod rooms;
pub mod send;
mod session;
mod time;
pub mod trace;
mod typing;
mod unacked;

pub use partition::{InvalidPartitions, Partition, Partitions};
pub use session::Session;
pub use time::{Clock, SystemClock, Timestamp};
