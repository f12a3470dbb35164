//! Owner messages on their way to one user's delivery task.

use std::{
    collections::{BTreeSet, VecDeque},
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kschat_protocol::{AckFrame, ConnectionId, EphemeralEvent, ServerFrame, UserId};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::in_flight::AckTarget;
use crate::ports::OwnerMessage;

/// Maximum pending acks per user. The newest are kept: an ack covers all messages before it.
const MAX_PENDING_ACKS_PER_USER: usize = 64;

/// Maximum pending events per user. Beyond that the oldest are dropped, as each is expendable.
const MAX_PENDING_EVENTS_PER_USER: usize = 64;

/// Maximum pending replies to single connections per user. Beyond that the oldest are dropped, as each is
/// expendable.
const MAX_PENDING_REPLIES_PER_USER: usize = 256;

/// Who requests a queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Requester {
    /// This sender.
    User(UserId),
    /// A sender that its function does not name: one of an earlier release.
    Unnamed,
}

impl From<Option<UserId>> for Requester {
    fn from(user: Option<UserId>) -> Self {
        user.map_or(Self::Unnamed, Self::User)
    }
}

/// The bounded inbox of one user's delivery task. Of each kind it keeps only what still matters.
#[derive(Debug, Default)]
pub struct Inbox {
    // A std mutex: no guard is held across an await.
    pending: Mutex<Pending>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    refresh: bool,
    check: bool,
    close: CloseRequest,
    acks: PendingAcks,
    /// Of each subject only the newest.
    events: VecDeque<EphemeralEvent>,
    replies: VecDeque<(ConnectionId, ServerFrame)>,
    /// The first requester of the queue, until the queue exists.
    requester: Option<Requester>,
    /// Whether there was a queue request since the task last took one.
    queue_requested: bool,
}

/// Connections to close.
#[derive(Debug, Default)]
pub(super) struct CloseRequest {
    /// Close all connections, because their user is blocked.
    pub(super) all: bool,
    /// Close these connections.
    pub(super) some: BTreeSet<ConnectionId>,
}

/// Acks since the delivery task last took them.
#[derive(Debug, Default)]
pub(super) struct PendingAcks {
    pub(super) acked: VecDeque<AckTarget>,
    /// Whether a client has missed something.
    pub(super) redelivery_requested: bool,
}

/// An item that a delivery task takes from its inbox.
#[derive(Debug)]
pub(super) enum Item {
    Refresh,
    Close(CloseRequest),
    CheckConnections,
    QueueRequest,
    Acks(PendingAcks),
    Events(VecDeque<EphemeralEvent>),
    Replies(VecDeque<(ConnectionId, ServerFrame)>),
}

/// The kinds of items that a delivery task waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    pub(super) refresh: bool,
    pub(super) close: bool,
    pub(super) check: bool,
    pub(super) queue_request: bool,
    pub(super) acks: bool,
    /// From when on events are wanted, if they are.
    pub(super) events_at: Option<Instant>,
    pub(super) replies: bool,
}

impl Inbox {
    /// Adds a message.
    pub fn put(&self, message: OwnerMessage) {
        self.pending().put(message);
        // A task that waits for another kind wakes up in vain, and waits again.
        self.changed.notify_waiters();
    }

    /// Waits for the first item of a wanted kind. Cancellation-safe.
    pub(super) async fn next(&self, wanted: Wanted) -> Item {
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let events_at = {
                let mut pending = self.pending();
                if let Some(item) = pending.take(wanted) {
                    return item;
                }
                wanted.events_at.filter(|_| !pending.events.is_empty())
            };
            match events_at {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// The first requester of the queue, if any.
    pub(super) fn requester(&self) -> Option<Requester> {
        self.pending().requester.clone()
    }

    /// Clears the request: the queue exists.
    pub(super) fn clear_queue_request(&self) {
        self.pending().requester = None;
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn put(&mut self, message: OwnerMessage) {
        match message {
            OwnerMessage::Refresh => self.refresh = true,
            OwnerMessage::CheckConnections => self.check = true,
            OwnerMessage::Close { connection: None } => self.close.all = true,
            OwnerMessage::Close { connection: Some(connection) } => {
                self.close.some.insert(connection);
            }
            OwnerMessage::Ack(ack) => self.acks.put(ack),
            OwnerMessage::Event(event) => {
                self.events.retain(|older| !older.is_superseded_by(&event));
                push_bounded(&mut self.events, event, MAX_PENDING_EVENTS_PER_USER);
            }
            OwnerMessage::Reply { connection, frame } => {
                push_bounded(&mut self.replies, (connection, frame), MAX_PENDING_REPLIES_PER_USER);
            }
            OwnerMessage::QueueRequest { requester } => {
                // A later requester must not take the first one's turn.
                self.requester.get_or_insert_with(|| requester.into());
                self.queue_requested = true;
            }
        }
    }

    fn take(&mut self, wanted: Wanted) -> Option<Item> {
        use std::mem::take;

        // First, as whoever makes the queue goes on to wait for a refresh.
        if wanted.queue_request && take(&mut self.queue_requested) {
            return Some(Item::QueueRequest);
        }
        if wanted.refresh && take(&mut self.refresh) {
            return Some(Item::Refresh);
        }
        if wanted.close && !self.close.is_empty() {
            return Some(Item::Close(take(&mut self.close)));
        }
        if wanted.check && take(&mut self.check) {
            return Some(Item::CheckConnections);
        }
        if wanted.acks && !self.acks.is_empty() {
            return Some(Item::Acks(take(&mut self.acks)));
        }
        if wanted.events_at.is_some_and(|at| at <= Instant::now()) && !self.events.is_empty() {
            return Some(Item::Events(take(&mut self.events)));
        }
        if wanted.replies && !self.replies.is_empty() {
            return Some(Item::Replies(take(&mut self.replies)));
        }
        None
    }
}

impl CloseRequest {
    fn is_empty(&self) -> bool {
        !self.all && self.some.is_empty()
    }
}

impl PendingAcks {
    fn put(&mut self, ack: AckFrame) {
        self.redelivery_requested |= ack.redelivery_requested;
        let target = ack.position.map(AckTarget::Position).or(ack.message.map(AckTarget::Message));
        if let Some(target) = target {
            push_bounded(&mut self.acked, target, MAX_PENDING_ACKS_PER_USER);
        }
    }

    fn is_empty(&self) -> bool {
        !self.redelivery_requested && self.acked.is_empty()
    }
}

/// Drops the oldest item if the list is full.
fn push_bounded<T>(list: &mut VecDeque<T>, item: T, max: usize) {
    if list.len() == max {
        list.pop_front();
    }
    list.push_back(item);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use kschat_protocol::JsonId;

    use super::*;

    const ALL: Wanted = Wanted {
        refresh: true,
        close: true,
        check: true,
        queue_request: true,
        acks: true,
        events_at: None,
        replies: true,
    };

    fn typing(n: usize, on: bool) -> OwnerMessage {
        OwnerMessage::Event(EphemeralEvent::Typing { from: JsonId::Text(n.to_string()), on })
    }

    #[tokio::test(start_paused = true)]
    async fn inbox_keeps_newest_events_until_they_are_due() {
        let inbox = Inbox::default();
        for n in 0..100 {
            inbox.put(typing(n, true));
            inbox.put(typing(n, false));
        }
        let wanted = Wanted { events_at: Some(Instant::now() + Duration::from_secs(1)), ..Wanted::default() };
        assert!(inbox.next(wanted).now_or_never().is_none());
        let Item::Events(events) = inbox.next(wanted).await else { panic!("there are only events") };
        let newest = (100 - MAX_PENDING_EVENTS_PER_USER..100).map(|n| typing(n, false));
        assert!(events.into_iter().map(OwnerMessage::Event).eq(newest));
    }

    #[tokio::test]
    async fn inbox_hands_out_each_kind_once_and_only_if_wanted() {
        let inbox = Inbox::default();
        inbox.put(OwnerMessage::QueueRequest { requester: None });
        inbox.put(OwnerMessage::Refresh);
        inbox.put(OwnerMessage::Refresh);
        let refresh_only = Wanted { refresh: true, ..Wanted::default() };
        assert!(matches!(inbox.next(refresh_only).now_or_never(), Some(Item::Refresh)));
        assert!(inbox.next(refresh_only).now_or_never().is_none(), "two refreshes are one");
        assert!(matches!(inbox.next(ALL).now_or_never(), Some(Item::QueueRequest)));
        assert!(inbox.requester().is_some(), "the queue is not there yet");
        inbox.clear_queue_request();
        assert!(inbox.requester().is_none() && inbox.next(ALL).now_or_never().is_none());
    }

    #[tokio::test]
    async fn inbox_wakes_whoever_waits_for_that_kind() {
        let inbox = Inbox::default();
        let for_acks = Wanted { acks: true, ..Wanted::default() };
        let for_refresh = Wanted { refresh: true, ..Wanted::default() };
        let (mut one, mut other) = (Box::pin(inbox.next(for_acks)), Box::pin(inbox.next(for_refresh)));
        assert!((&mut one).now_or_never().is_none() && (&mut other).now_or_never().is_none());
        inbox.put(OwnerMessage::Refresh);
        assert!((&mut one).now_or_never().is_none());
        assert!(matches!((&mut other).now_or_never(), Some(Item::Refresh)));
    }
}
