//! Models of kschat's protocols, and an exhaustive search of their states.
//!
//! [`protocol`] specifies what each part does to deliver messages: the broker, the consumers that share one partition,
//! the devices of one user, and the senders, with as many faults as [`faults`] allows. Smaller models have one subject
//! each: [`identity`] distinguishes copies from messages that look alike, [`queues`] creates and deletes an offline
//! user's queue, [`rooms`] keeps bindings and memberships consistent, [`sessions`] covers the registry's connections.
//! [`search`] tries all steps in every order.

pub mod faults;
pub mod identity;
pub mod ids;
pub mod protocol;
pub mod queues;
pub mod rooms;
pub mod search;
pub mod sessions;
