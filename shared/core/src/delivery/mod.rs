//! Delivers one user's queue to that user's connections.
//!
//! [`serve`] runs while the user is online and this process owns the partition. It takes messages from the queue, packs
//! as many as one frame holds into a `RESPRECEIVER`, and posts the frame to every connection. For a v1 client, messages
//! leave the queue once the edge has taken the frame; for a v2 client, once the client has acknowledged them. If
//! delivery ends before that, they stay in the queue, in order.

mod batch;
mod connections;
mod deps;
mod expired_connections;
mod fair_slots;
mod in_flight;
mod inbox;
pub mod offline_queue;
mod pending_auth;
mod post_outcome;
pub mod presence_notifier;
pub mod receipt_batcher;
mod serve;
mod signals;
mod unauthenticated;
mod user_delivery;

pub use self::{
    deps::{DEFAULT_HEARTBEAT, Deps},
    in_flight::MAX_PREFETCH_PER_USER,
    inbox::Inbox,
    pending_auth::PendingAuth,
    serve::serve,
    signals::{DeliveryEnd, DeliverySignals},
};
