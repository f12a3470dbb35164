//! Every port without a service behind it.
//!
//! For the embedded local stack and for fast tests: all is lost with the process, so no deployed function
//! or consumer may be given one of these.

mod broker;
mod hash;
mod registry;

pub use broker::{MemoryBroker, MemoryOwnership};
pub use hash::MemoryHash;
pub use registry::MemoryRegistry;
