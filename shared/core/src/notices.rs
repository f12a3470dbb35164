//! Notices on their way from the owner of a partition to one user's courier.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kschat_protocol::Notice;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// Notices that wait for one courier at most; then the oldest are dropped, as each can be missed.
const WAITING: usize = 64;

/// What a user may like to know, and has not been told: of each thing only the newest.
#[derive(Debug, Default)]
pub struct NoticeBox {
    // A std mutex: no guard is held across an await.
    waiting: Mutex<VecDeque<Notice>>,
    arrived: Notify,
}

impl NoticeBox {
    /// Leaves a notice.
    pub fn put(&self, notice: Notice) {
        let mut waiting = self.waiting();
        waiting.retain(|older| !older.is_replaced_by(&notice));
        if waiting.len() == WAITING {
            waiting.pop_front();
        }
        waiting.push_back(notice);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits until there is something, and not less long than that. Safe to drop while waiting.
    pub(crate) async fn due(&self, no_sooner: Instant) {
        loop {
            let arrived = self.arrived.notified();
            if !self.waiting().is_empty() {
                return sleep_until(no_sooner).await;
            }
            arrived.await;
        }
    }

    pub(crate) fn take(&self) -> VecDeque<Notice> {
        std::mem::take(&mut *self.waiting())
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Notice>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use kschat_protocol::JsonId;

    use super::*;

    #[test]
    fn of_each_thing_only_the_newest_waits_and_not_too_many() {
        let typing = |n: usize, on| Notice::Typing { from: JsonId::Text(n.to_string()), on };
        let waiting = NoticeBox::default();
        for n in 0..100 {
            waiting.put(typing(n, true));
            waiting.put(typing(n, false));
        }
        let waiting: Vec<Notice> = waiting.take().into();
        assert_eq!(waiting, (100 - WAITING..100).map(|n| typing(n, false)).collect::<Vec<_>>());
    }
}
