//! Connections that are to be closed, or checked against the edge.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use kschat_protocol::{ConnectionId, Control};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{Courier, End, pushing::FAN_OUT};
use crate::limits::BLOCKED;

/// From one check of a user's connections to the next: whoever asks for one in between has just had it.
const CHECK_PAUSE: Duration = Duration::from_secs(1);

/// How long the edge may take for the last frame to a connection that is about to be closed.
const LAST_FRAME: Duration = Duration::from_secs(1);

/// Which connections of a user are to be closed.
#[derive(Debug, Default)]
pub struct ClosingBox {
    // A std mutex: no guard is held across an await.
    waiting: Mutex<Closing>,
    arrived: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// All of them, as their user is blocked.
    pub(crate) all: bool,
    /// These.
    pub(crate) some: BTreeSet<ConnectionId>,
}

impl ClosingBox {
    /// Leaves a connection that is to be closed; all of them if none is named.
    pub fn put(&self, connection: Option<ConnectionId>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match connection {
            Some(connection) => {
                waiting.some.insert(connection);
            }
            None => waiting.all = true,
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits for such. Safe to drop while waiting.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(crate) fn take(&self) -> Closing {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Courier<'_> {
    /// Closes connections, and forgets those that are closed: one that may still be open goes on to count.
    pub(super) async fn close_connections(&mut self) -> Result<(), End> {
        let closing = self.signals.closing.take();
        let known: Vec<ConnectionId> = self.audience.ids().cloned().collect();
        let targets: Vec<ConnectionId> =
            known.into_iter().filter(|id| closing.all || closing.some.contains(id)).collect();
        if closing.all {
            tracing::warn!(connections = targets.len(), "a user who asks too often is disconnected");
            self.tell_blocked(&targets).await;
        }
        let closed = stream::iter(targets)
            .map(|id| async {
                let closed = self.deps.connections.close(&id).await;
                (id, closed)
            })
            .buffer_unordered(FAN_OUT)
            .collect::<Vec<_>>()
            .await;
        for (id, closed) in closed {
            match closed {
                Ok(()) => self.forget_closed(&id).await,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a connection can't be closed for now");
                }
            }
        }
        if self.audience.is_empty() { self.look_again().await } else { Ok(()) }
    }

    async fn tell_blocked(&self, targets: &[ConnectionId]) {
        let frame = Control::blocked(u64::try_from(BLOCKED.as_millis()).unwrap_or(u64::MAX)).to_text();
        let now = self.deps.clock.now();
        let hearing = targets.iter().filter(|id| self.audience.is_heard_by(id, now));
        let texts = hearing.map(|id| (id.clone(), self.audience.encode(id, &frame).into_owned().into())).collect();
        // Whoever does not take it is closed without a word.
        let _ = timeout(LAST_FRAME, self.post_texts(texts)).await;
    }

    /// Asks the edge for each connection, and forgets those that are gone: a disconnect may have got lost.
    pub(super) async fn check_connections(&mut self) -> Result<(), End> {
        if self.checked_at.is_some_and(|last| last.elapsed() < CHECK_PAUSE) {
            return Ok(());
        }
        self.checked_at = Some(Instant::now());
        self.look_again().await?;
        let ids: Vec<ConnectionId> = self.audience.ids().filter(|id| !self.audience.is_young(id)).cloned().collect();
        let gone = stream::iter(ids)
            .map(|id| async {
                let is_open = self.deps.connections.is_open(&id).await;
                (id, is_open)
            })
            .buffer_unordered(FAN_OUT)
            // As long as the edge does not answer, nobody is given up.
            .filter_map(|(id, is_open)| std::future::ready(matches!(is_open, Ok(false)).then_some(id)))
            .collect::<Vec<_>>()
            .await;
        for id in &gone {
            // Should the edge be wrong, its client must connect anew.
            self.forget(id).await;
        }
        if self.audience.is_empty() { self.look_again().await } else { Ok(()) }
    }

    async fn forget_closed(&mut self, id: &ConnectionId) {
        self.audience.remove(id);
        if let Err(error) = self.deps.registry.remove(self.user, id).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "a closed connection stays registered for now");
        }
    }
}
