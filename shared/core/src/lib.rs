//! The decisions of kschat, independent of its infrastructure.
//!
//! - [`ports`]: the dependencies of the use-cases, as traits.
//! - [`inbound`]: frames of clients; the use-cases of the functions.
//! - [`delivery`]: delivers a user's queue to the user's connections; the use-cases of the consumer.
//! - [`rooms`]: binds queues to rooms.
//! - [`limits`]: the limits of one user.
//! - [`job`]: background work that survives a panic.
//! - [`metrics`]: counters and timings; [`trace`]: context across processes.
//! - [`memory`]: in-memory ports, for the embedded local stack and fast tests.
//! - `contract` (feature): the clauses that every adapter of a port must pass.
//!
//! Dependencies point one way: ports ← rooms ← {inbound, delivery}. No vendor's type appears here.

pub mod backoff;
#[cfg(feature = "contract")]
pub mod contract;
pub mod delivery;
mod hash;
pub mod inbound;
pub mod job;
pub mod limits;
pub mod memory;
mod message_id;
pub mod metrics;
mod partition;
pub mod ports;
pub mod rooms;
mod session;
mod time;
pub mod trace;

pub use partition::{InvalidPartitions, Partition, Partitions};
pub use session::Session;
pub use time::{Clock, SystemClock, Timestamp};
