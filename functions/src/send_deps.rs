//! The dependencies of `send`, which handles every frame.

use std::sync::Arc;

use kschat_core::{
    inbound::{connect, frames},
    ports::OwnerChannel,
};

/// The dependencies of `send`.
#[derive(Clone)]
pub struct Deps {
    /// For every frame.
    pub frames: frames::Deps,
    /// For Socket.IO clients that join a namespace.
    pub join: connect::Deps,
    /// For clients that leave, and for replies that can't be the response because a callback is.
    pub owners: Arc<dyn OwnerChannel>,
}
