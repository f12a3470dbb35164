//! The protocols of kschat as models, and a search through all that can happen to them.
//!
//! [`protocol`] says, as short as a specification, what each part does to deliver: the broker, the consumers that share one
//! partition, the devices of one user, and the senders, as often as [`faults`] allow. Smaller models beside it have one
//! subject each: [`identity`] tells copies from messages that look alike, [`queues`] makes and removes the queue of a user who
//! is away, [`rooms`] keeps binding and membership together, [`sessions`] what the registry knows of connections. [`search`]
//! tries everything that can happen, in every order.

pub mod faults;
pub mod identity;
pub mod ids;
pub mod protocol;
pub mod queues;
pub mod rooms;
pub mod search;
pub mod sessions;
