//! kschat on one machine: what AWS does for a deployment, done by one process.
//!
//! - [`edge`]: the managed socket edge, imitated: handshakes, routes, the connections API.
//! - [`functions`]: where events go: the handlers in this process, or functions under `cargo lambda watch`.
//! - [`load`]: many clients that know what they have sent, and what has become of it.
//! - [`loopback`]: who may see what is for this machine only.
//! - [`page`]: the chat page, and the tokens that it gets on a developer's own machine.
//! - [`server`]: listening, and the end of it.
//! - [`stack`]: all of it together with the consumer.
//! - [`development`]: secrets of a developer of this machine.
//! - [`cli`]: the command line.
//! - [`chain`]: an error with all its causes.

pub mod chain;
pub mod cli;
pub mod development;
pub mod edge;
pub mod functions;
pub mod load;
pub mod loopback;
pub mod page;
pub mod server;
pub mod stack;
