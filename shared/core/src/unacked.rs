//! What was pushed to a user and is not acknowledged yet.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kschat_protocol::{Message, MessageId, ReceiverFrame};
use tokio::{sync::Notify, time::Instant};

use crate::ports::Tag;

/// Messages that wait for their ack at most; then the next ones wait in the queue.
pub(crate) const WINDOW: usize = 256;

/// Acks that wait for their user's courier at most. The newest count: they stand for all before them.
const WAITING: usize = 64;

/// How long we wait for an ack before everything is pushed again: the frame, or the ack, may have got lost. Twice
/// as long after each time, up to the second figure.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// After so long without any ack the messages go back to the queue. The broker itself would end a loan of half
/// an hour.
const GIVE_UP: Duration = Duration::from_secs(5 * 60);

/// A message on loan that was pushed.
pub(crate) struct Pushed {
    pub(crate) tag: Tag,
    pub(crate) message: Message,
}

/// What was pushed and not acknowledged, in the order in which it was pushed.
pub(crate) struct Unacked {
    entries: VecDeque<Pushed>,
    /// When the last ack came, or the first message that waits for one was pushed.
    since: Instant,
    /// How often the entries were pushed again since then.
    repeated: u32,
    again_at: Instant,
}

impl Unacked {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { entries: VecDeque::new(), since: now, repeated: 0, again_at: now }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() < WINDOW
    }

    pub(crate) fn push(&mut self, pushed: impl IntoIterator<Item = Pushed>) {
        if self.entries.is_empty() {
            self.progress();
        }
        self.entries.extend(pushed);
    }

    /// Takes out what those acks stand for: all up to the latest of them that is known.
    pub(crate) fn settle(&mut self, acked: &[MessageId]) -> Vec<Tag> {
        let Some(last) = self.entries.iter().rposition(|entry| acked.contains(&entry.message.id)) else {
            return Vec::new();
        };
        self.progress();
        self.entries.drain(..=last).map(|entry| entry.tag).collect()
    }

    /// Takes out everything.
    pub(crate) fn settle_all(&mut self) -> Vec<Tag> {
        self.entries.drain(..).map(|entry| entry.tag).collect()
    }

    /// When everything should be pushed again, if nothing is acknowledged until then.
    pub(crate) fn again_at(&self) -> Instant {
        self.again_at
    }

    /// Notes that everything is pushed again; says whether that is still worth it.
    pub(crate) fn repeat(&mut self) -> bool {
        self.repeated += 1;
        self.again_at = Instant::now() + (AGAIN.0 * 2_u32.saturating_pow(self.repeated)).min(AGAIN.1);
        self.since.elapsed() < GIVE_UP
    }

    /// The last message that was pushed, if it waits for its ack.
    pub(crate) fn last(&self) -> Option<&MessageId> {
        self.entries.back().map(|entry| &entry.message.id)
    }

    /// Everything once more, in as few frames as hold it.
    pub(crate) fn frames(&self) -> Vec<String> {
        let mut frames = Vec::new();
        let mut frame = ReceiverFrame::after(None);
        let mut previous = None;
        for Pushed { message, .. } in &self.entries {
            if !frame.push(message, true) {
                let full = std::mem::replace(&mut frame, ReceiverFrame::after(previous));
                frames.push(full);
                // It fitted when it was pushed first; the marks may be too much for the very largest.
                if !frame.push(message, true) {
                    frame = ReceiverFrame::after(None);
                    let _ = frame.push(message, false);
                }
            }
            previous = Some(&message.id);
        }
        frames.push(frame);
        frames.into_iter().filter(|frame| !frame.is_empty()).map(ReceiverFrame::into_text).collect()
    }

    fn progress(&mut self) {
        self.since = Instant::now();
        self.repeated = 0;
        self.again_at = self.since + AGAIN.0;
    }
}

/// Acks on their way from the owner of a partition to one user's courier.
#[derive(Debug, Default)]
pub struct AckBox {
    // A std mutex: no guard is held across an await.
    waiting: Mutex<VecDeque<MessageId>>,
    arrived: Notify,
}

impl AckBox {
    /// Leaves an ack.
    pub fn put(&self, message: MessageId) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() == WAITING {
            waiting.pop_front();
        }
        waiting.push_back(message);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits for acks. Safe to drop while waiting.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(crate) fn take(&self) -> Vec<MessageId> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}
