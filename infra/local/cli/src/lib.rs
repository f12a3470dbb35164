//! kschat on one machine: the AWS deployment in one process.
//!
//! - [`page`]: the chat page, and its tokens on a developer's own machine.
//! - [`in_process`]: a function backend that calls the handlers in this process.
//! - [`stack`]: both of these together with the local edge and the consumer.
//! - [`development`]: development secrets of this machine's user.
//! - [`cli`]: the command line.

pub mod cli;
pub mod development;
mod health;
pub mod in_process;
pub mod page;
pub mod stack;
