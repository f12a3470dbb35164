//! The policy for joining rooms.

use async_trait::async_trait;
use kschat_protocol::RoomId;

use super::error::Unavailable;
use crate::Session;

/// Decides who may join which room.
#[async_trait]
pub trait RoomPolicy: Send + Sync {
    /// Whether the session's user may join the room.
    ///
    /// # Errors
    /// [`Unavailable`] when that can't be decided for now.
    async fn may_join(&self, session: &Session, room: &RoomId) -> Result<bool, Unavailable>;
}
