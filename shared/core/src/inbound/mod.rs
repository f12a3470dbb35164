//! Frames of clients: one module for each use-case of the functions.
//!
//! [`caller`] identifies the user and checks the rate limits; [`frames`] hands a decoded frame to [`send`], `ack` or
//! [`request`], which has a module for each kind of request. [`connect`], [`join_namespace`] (Socket.IO) and [`disconnect`]
//! begin and end a session.

mod ack;
pub mod caller;
pub mod connect;
mod context;
pub mod cost;
pub mod disconnect;
pub mod frames;
pub mod join_namespace;
mod presence;
mod receipts;
mod registration;
mod renew;
pub mod request;
mod rooms;
pub mod send;
mod typing;
