//! What was pushed to a user and is not acknowledged yet.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kschat_protocol::{AckFrame, ConnectionId, Message, MessageId, Position, ReceiverFrame, UserId};
use tokio::{sync::Notify, time::Instant};

use crate::{
    metrics::{self, Present},
    ports::Tag,
};

/// Messages that wait for their ack at most; then the next ones wait in the queue.
pub(crate) const WINDOW: usize = 256;

/// Acks that wait for their user's courier at most. The newest count: they stand for all before them.
const WAITING: usize = 64;

/// How long we wait for an ack before everything is pushed again: the frame, or the ack, may have got lost. Clients
/// acknowledge every second; a function that starts cold may take another one. Twice as long after each time, up to
/// the second figure.
const AGAIN: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));

/// How long a client that asks for everything again has to wait after the last time. What it asks for is on its way by
/// then, and the frames before that make it ask once more.
const NO_SOONER: Duration = Duration::from_secs(1);

/// Messages of one user that we know as settled: a copy that comes soon after is known for what it is.
const SETTLED: usize = 64;

/// After so long without any ack the messages go back to the queue. However the acks come, none is on loan for longer than
/// `MAX_UNACKED_AGE`.
const GIVE_UP: Duration = Duration::from_secs(5 * 60);

/// A message on loan that was pushed.
pub(crate) struct Pushed {
    pub(crate) tag: Tag,
    pub(crate) message: Message,
    /// Whether it is a copy of what the user has said to somebody else: only for connections that did not say it, and
    /// know of copies. Nobody waits for its ack: the one that said it could not give it, and would be held up by another.
    pub(crate) is_own: bool,
    /// Where it stands in this run.
    number: u64,
    /// Since when it may be on loan.
    since: Instant,
    /// Since when it waits for its ack, if it does.
    waits: Option<(Instant, Present)>,
}

impl Pushed {
    pub(crate) fn new(tag: Tag, message: Message, position: Position, user: &UserId) -> Self {
        let is_own = message.is_own_of(user);
        Self { tag, message, is_own, number: position.number, since: Instant::now(), waits: None }
    }

    /// The same, and it may be on loan since then.
    pub(crate) fn here_since(self, since: Instant) -> Self {
        Self { since, ..self }
    }

    /// Whether that viewer gets it.
    pub(crate) fn is_for(&self, viewer: Viewer<'_>) -> bool {
        match viewer {
            _ if !self.is_own => true,
            Viewer::Seed => false,
            Viewer::V2(id) => self.message.via.as_ref() != Some(id),
        }
    }

    fn wait(self) -> Self {
        Self { waits: Some((Instant::now(), metrics::UNACKED_MESSAGES.one_more())), ..self }
    }
}

/// Who looks at a user's messages.
#[derive(Clone, Copy)]
pub(crate) enum Viewer<'a> {
    /// A client of the seed's kind, which knows of no copies.
    Seed,
    /// That connection of a client of version 2.
    V2(&'a ConnectionId),
}

/// What was pushed and not acknowledged, in the order in which it was pushed.
pub(crate) struct Unacked {
    /// Tells the positions of this run from those of others.
    run: u32,
    /// The last number that was given.
    last: u64,
    entries: VecDeque<Pushed>,
    /// When the last ack came, or the first message that waits for one was pushed.
    since: Instant,
    /// How often the entries were pushed again since then.
    repeated: u32,
    again_at: Instant,
    /// When everything was pushed again last.
    repeated_at: Option<Instant>,
    /// Hashes of the messages that were settled last, the oldest first.
    settled: VecDeque<u64>,
    /// Draws the hashes anew for each user and run: nobody can aim at one.
    hasher: RandomState,
}

impl Unacked {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let (entries, settled) = (VecDeque::new(), VecDeque::new());
        let run = fastrand::u32(..Position::RUNS);
        let hasher = RandomState::new();
        Self { run, last: 0, entries, since: now, repeated: 0, again_at: now, repeated_at: None, settled, hasher }
    }

    /// The place of the next message.
    pub(crate) fn next_position(&mut self) -> Position {
        self.last += 1;
        Position { run: self.run, number: self.last }
    }

    /// Whether that message was pushed before: a send that was tried twice may be in the queue twice.
    pub(crate) fn has(&self, message: &Message) -> bool {
        self.settled.contains(&self.short(message))
            || self.entries.iter().any(|entry| entry.message.is_same_as(message))
    }

    /// Notes that those messages are dealt with.
    pub(crate) fn note_settled<'a>(&mut self, messages: impl IntoIterator<Item = &'a Message>) {
        for message in messages {
            if self.settled.len() == SETTLED {
                self.settled.pop_front();
            }
            self.settled.push_back(self.short(message));
        }
    }

    /// Half a hash: enough to tell a few messages of one user apart.
    fn short(&self, message: &Message) -> u64 {
        self.hasher.hash_one(message.identity())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Since when one of them may be on loan.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.since)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() < WINDOW
    }

    pub(crate) fn push(&mut self, pushed: impl IntoIterator<Item = Pushed>) {
        if self.entries.is_empty() {
            self.progress();
        }
        self.entries.extend(pushed.into_iter().map(Pushed::wait));
    }

    /// Takes out what those acks stand for: all up to the furthest of them that is known.
    pub(crate) fn settle<'a>(&mut self, acked: impl IntoIterator<Item = &'a Acked>) -> Vec<Pushed> {
        let count = acked.into_iter().map(|ack| self.reach(ack)).max().unwrap_or_default();
        if count == 0 {
            return Vec::new();
        }
        self.progress();
        for (since, _) in self.entries.iter().take(count).filter_map(|entry| entry.waits.as_ref()) {
            metrics::ACK.took(since.elapsed());
        }
        self.take(count)
    }

    /// For how many messages an ack stands. One that names a position of another run stands for none; one that names only
    /// a message, for all up to its first copy.
    fn reach(&self, ack: &Acked) -> usize {
        match ack {
            Acked::At(position) if position.run == self.run => {
                self.entries.partition_point(|entry| entry.number <= position.number)
            }
            Acked::At(_) => 0,
            Acked::Message(id) => self.entries.iter().position(|entry| entry.message.id == *id).map_or(0, |at| at + 1),
        }
    }

    /// Takes out everything.
    pub(crate) fn settle_all(&mut self) -> Vec<Pushed> {
        self.take(self.entries.len())
    }

    fn take(&mut self, count: usize) -> Vec<Pushed> {
        let taken: Vec<Pushed> = self.entries.drain(..count).collect();
        self.note_settled(taken.iter().map(|entry| &entry.message));
        taken
    }

    /// When everything should be pushed again, if nothing is acknowledged until then.
    pub(crate) fn again_at(&self) -> Instant {
        self.again_at
    }

    /// Notes that everything is pushed again; says whether that is still worth it.
    pub(crate) fn repeat(&mut self) -> bool {
        self.repeated += 1;
        let now = Instant::now();
        self.repeated_at = Some(now);
        self.again_at = now + (AGAIN.0 * 2_u32.saturating_pow(self.repeated)).min(AGAIN.1);
        self.since.elapsed() < GIVE_UP
    }

    /// A client has missed something: everything is to be pushed again as soon as that makes sense.
    pub(crate) fn hurry(&mut self) {
        let now = Instant::now();
        let soonest = self.repeated_at.map_or(now, |last| now.max(last + NO_SOONER));
        self.again_at = self.again_at.min(soonest);
    }

    /// The place of the last message that was pushed, if it waits for its ack.
    pub(crate) fn last(&self) -> Option<Position> {
        self.entries.back().map(|entry| self.position(entry))
    }

    /// The place of a message of this run.
    pub(crate) fn position(&self, entry: &Pushed) -> Position {
        Position { run: self.run, number: entry.number }
    }

    /// Everything once more, in as few frames as hold it.
    pub(crate) fn frames(&self) -> Vec<String> {
        let mut frames = Vec::new();
        let mut frame = ReceiverFrame::after(None);
        let mut previous = None;
        for entry in &self.entries {
            let message = &entry.message;
            if !frame.push(message, true) {
                let full = std::mem::replace(&mut frame, ReceiverFrame::after(previous));
                frames.extend(previous.map(|position| full.into_text(position)));
                // It fitted when it was pushed first; the marks may be too much for the very largest.
                if !frame.push(message, true) {
                    frame = ReceiverFrame::after(None);
                    let _ = frame.push(message, false);
                }
            }
            previous = Some(self.position(entry));
        }
        frames.extend(previous.map(|position| frame.into_text(position)));
        frames
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
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

/// What an ack names.
#[derive(Debug)]
pub(crate) enum Acked {
    /// A place, which is of one copy.
    At(Position),
    /// A message, by a client that does not say where it stood.
    Message(MessageId),
}

/// What the clients have said since the courier looked last.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) acked: VecDeque<Acked>,
    /// Whether one of them has missed something.
    pub(crate) again: bool,
}

impl AckBox {
    /// Leaves an ack.
    pub fn put(&self, ack: AckFrame) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.again |= ack.again;
        let acked = ack.position.map(Acked::At).or(ack.message.map(Acked::Message));
        if let Some(acked) = acked {
            if waiting.acked.len() == WAITING {
                waiting.acked.pop_front();
            }
            waiting.acked.push_back(acked);
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits for acks. Safe to drop while waiting.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(crate) fn take(&self) -> Waiting {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
