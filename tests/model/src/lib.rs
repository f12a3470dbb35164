//! The delivery protocol of kschat as a model, and a search through all that can happen to it.
//!
//! [`protocol`] says, as short as a specification, what each part does: the broker, the consumers that share one
//! partition, the devices of one user, and the senders. [`search`] tries everything that can happen, in every order,
//! as often as [`faults`] allow.

pub mod faults;
pub mod ids;
pub mod protocol;
pub mod search;
