//! Frames on their way from the functions to single connections of a user.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use kschat_protocol::ConnectionId;
use tokio::sync::Notify;

/// Frames that wait for one user's courier at most; the oldest are dropped, as each may get lost.
const WAITING: usize = 256;

/// What the owner of a partition leaves for one user's courier.
#[derive(Debug, Default)]
pub struct ReplyBox {
    // A std mutex: no guard is held across an await.
    waiting: Mutex<VecDeque<(ConnectionId, String)>>,
    arrived: Notify,
}

impl ReplyBox {
    /// Leaves a frame for a connection.
    pub fn put(&self, connection: ConnectionId, frame: String) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() == WAITING {
            waiting.pop_front();
        }
        waiting.push_back((connection, frame));
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits for frames. Safe to drop while waiting.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(crate) fn take(&self) -> VecDeque<(ConnectionId, String)> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
