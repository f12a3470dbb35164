//! From one user's queue to that user's connections.
//!
//! [`serve`] runs for as long as the user is online and the partition is ours. It takes what waits in the
//! queue, puts as much as one frame holds into a `RESPRECEIVER`, and posts it to every connection. The messages
//! leave the queue once the edge has taken the frame for a client of the seed's kind, or a client of version 2
//! has acknowledged them. Whatever ends it before that leaves them in the queue, in order.

use std::{borrow::Cow, future::ready, sync::Arc, time::Duration};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, join3},
    stream,
};
use kschat_protocol::{ConnectionId, Message, Position, ReceiverFrame, UserId, dialect::Heartbeat};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info_span};

use crate::{
    Clock, Partitions, Timestamp,
    audience::{Audience, Stage},
    backoff::Backoff,
    lobby, metrics,
    ports::{
        Backlogs, ConnectionRegistry, ConnectionsApi, Deliveries, Delivery, Mailbox, Memberships, PostError, Tag,
        Unavailable, Undeliverable,
    },
    posting::{MAX_ATTEMPTS_ONCE_REACHED, Posted, Tally, Verdict},
    presence::Crier,
    receipts::Clerk,
    retire::retire,
    trace,
    unacked::{Pushed, Unacked, Viewer},
};

mod expiry;
mod frames;
mod notices;
mod tending;

use frames::Frames;

pub use crate::{notices::NoticeBox, replies::ReplyBox, unacked::AckBox};

/// How many connections of one user are posted to at once.
const FAN_OUT: usize = 8;

/// How many users are looked up and opened at once.
const OPENING: usize = 64;

/// Waits between posts to a connection that the edge does not know yet.
const YOUNG: Backoff = Backoff { base: Duration::from_millis(20), cap: Duration::from_millis(250) };

/// Waits after the edge was too busy or failed.
const BUSY: Backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) };

/// When a registry is asked again that could not be asked.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Heartbeats of Socket.IO clients, unless others are set. The managed edge closes what is silent for ten minutes, so
/// this is as rare as it may be with room for a fail-over.
pub const HEARTBEAT: Heartbeat =
    Heartbeat { interval: Duration::from_secs(8 * 60), timeout: Duration::from_secs(3 * 60) };

/// What [`serve`] needs.
#[derive(Clone)]
pub struct Deps {
    /// Knows the user's connections.
    pub registry: Arc<dyn ConnectionRegistry>,
    /// Opens the user's queue.
    pub mailbox: Arc<dyn Mailbox>,
    /// Remembers for whom messages wait who is away.
    pub backlogs: Arc<dyn Backlogs>,
    /// Takes the frames.
    pub connections: Arc<dyn ConnectionsApi>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Into how many parts the users are cut.
    pub partitions: Partitions,
    /// Tells senders what was delivered, unless nobody shall be told.
    pub receipts: Option<Arc<Clerk>>,
    /// Tells those who watch a user when it comes and goes, if anybody shall be told.
    pub presence: Option<Arc<Crier>>,
    /// Knows who is in a room, and so needs a queue while away.
    pub rooms: Option<Arc<dyn Memberships>>,
    /// Bounds how many users are looked up and opened at once: after a fail-over all come together.
    opening: Arc<Semaphore>,
    /// Bounds how many are connected and have not said who they are.
    pub(crate) lobby: Arc<Semaphore>,
    /// How often silent Socket.IO clients and we hear from one another.
    pub heartbeat: Heartbeat,
}

impl Deps {
    /// These ports, shared by all users of this process.
    #[must_use]
    pub fn new(
        registry: Arc<dyn ConnectionRegistry>,
        mailbox: Arc<dyn Mailbox>,
        backlogs: Arc<dyn Backlogs>,
        connections: Arc<dyn ConnectionsApi>,
        clock: Arc<dyn Clock>,
        partitions: Partitions,
    ) -> Self {
        let (opening, lobby) = (Arc::new(Semaphore::new(OPENING)), Arc::new(Semaphore::new(lobby::PLACES)));
        Self {
            registry,
            mailbox,
            backlogs,
            connections,
            clock,
            partitions,
            receipts: None,
            presence: None,
            rooms: None,
            opening,
            lobby,
            heartbeat: HEARTBEAT,
        }
    }

    /// The same, and senders are told what was delivered.
    #[must_use]
    pub fn with_receipts(self, clerk: Arc<Clerk>) -> Self {
        Self { receipts: Some(clerk), ..self }
    }

    /// The same, and whoever is in a room keeps its queue.
    #[must_use]
    pub fn with_rooms(self, memberships: Arc<dyn Memberships>) -> Self {
        Self { rooms: Some(memberships), ..self }
    }

    /// The same, and those who watch a user are told when it comes and goes.
    #[must_use]
    pub fn with_presence(self, crier: Arc<Crier>) -> Self {
        Self { presence: Some(crier), ..self }
    }
}

/// How the owner of a partition steers one [`serve`].
#[derive(Clone, Debug, Default)]
pub struct Signals {
    /// The user's connections have changed: look again.
    pub refresh: Arc<Notify>,
    /// What the user's clients have acknowledged.
    pub acks: Arc<AckBox>,
    /// What the user may like to know.
    pub notices: Arc<NoticeBox>,
    /// What single connections are to get beside.
    pub replies: Arc<ReplyBox>,
    /// The registry has lost everything: tell it what is known here.
    pub restore: Arc<Notify>,
    /// A sender has found no queue for the user.
    pub wanted: Arc<Notify>,
    /// Finish what is being posted, give the rest back, and end.
    pub stop: CancellationToken,
}

/// Why [`serve`] ended. In every case the queue holds what was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The user has no connection.
    Offline,
    /// It was asked to.
    Stopped,
    /// The loans are not ours any more.
    Lost,
    /// Something it needs has failed for too long: try again later.
    Stuck,
}

/// Serves a user until it is offline, stopped, lost or stuck. A user who is offline leaves no empty queue behind, unless a
/// sender asks for it.
pub async fn serve(deps: &Deps, user: &UserId, signals: &Signals) -> End {
    if user.is_nameless() {
        return lobby::receive(deps, user, signals).await;
    }
    let end = match open(deps, user, signals).await {
        Ok((audience, deliveries)) => {
            let _open = metrics::QUEUES.one_more_for("online");
            let unacked = Unacked::new();
            let (notices_at, look_at, held) = (Instant::now(), None, None);
            let mut courier = Courier { deps, user, signals, audience, look_at, notices_at, deliveries, unacked, held };
            let end = courier.run().await;
            courier.deliveries.close().await;
            if let Some(crier) = deps.presence.as_ref().filter(|_| end == End::Offline) {
                crier.left(user).await;
            }
            end
        }
        Err(end) => end,
    };
    if end == End::Offline {
        retire(deps, user, signals).await;
    }
    end
}

async fn open(deps: &Deps, user: &UserId, signals: &Signals) -> Result<(Audience, Box<dyn Deliveries>), End> {
    // It is never closed, so there always is a permit in the end.
    let _permit = deps.opening.acquire().await;
    if signals.stop.is_cancelled() {
        return Err(End::Stopped);
    }
    let reachable = deps.registry.connections(user, deps.clock.now()).await.map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "a user's connections can't be read");
        End::Stuck
    })?;
    let mut audience = Audience::new(deps.heartbeat);
    audience.replace(reachable);
    if audience.is_empty() {
        return Err(End::Offline);
    }
    // The partition may be another's by now, and its owner must be the only one to take from the queue.
    if signals.stop.is_cancelled() {
        return Err(End::Stopped);
    }
    let deliveries = deps.mailbox.open(user).await.map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "a user's queue can't be opened");
        End::Stuck
    })?;
    let came = async {
        if let Some(crier) = &deps.presence {
            crier.came(user).await;
        }
    };
    // All at once, as they go to the same place.
    let (cleared, (), ()) = join3(deps.backlogs.clear(user), came, bind_rooms(deps, user)).await;
    if let Err(error) = cleared {
        tracing::warn!(error = &error as &dyn std::error::Error, "a user who is back still counts as away");
    }
    Ok((audience, deliveries))
}

/// Puts a queue that was made anew back into the rooms of its user.
async fn bind_rooms(deps: &Deps, user: &UserId) {
    let Some(memberships) = &deps.rooms else { return };
    let bound = async {
        let rooms = memberships.rooms(user).await?;
        if rooms.is_empty() { Ok(()) } else { deps.mailbox.bind_rooms(user, &rooms).await }
    };
    if let Err(error) = bound.await {
        tracing::warn!(error = &error as &dyn std::error::Error, "a user may not hear what is said in its rooms");
    }
}

/// Messages that share one frame.
struct Batch {
    messages: Vec<Pushed>,
    frames: Frames,
}

fn tags(messages: &[Pushed]) -> Vec<Tag> {
    messages.iter().map(|pushed| pushed.tag).collect()
}

impl Batch {
    /// Where the log and the traces of its messages meet.
    fn span(&self) -> Span {
        let first = self.messages.first().map(|pushed| pushed.message.id.as_str());
        let span = info_span!("push", mId = first, messages = self.messages.len());
        trace::continue_from_all(&span, self.messages.iter().filter_map(|pushed| pushed.message.trace.as_ref()));
        span
    }
}

/// A delivery that was read, and found to be a message.
type Read = (Delivery, Message);

struct Courier<'a> {
    deps: &'a Deps,
    user: &'a UserId,
    signals: &'a Signals,
    audience: Audience,
    /// When to ask the registry again that could not be asked.
    look_at: Option<Instant>,
    /// When notices may be pushed again.
    notices_at: Instant,
    deliveries: Box<dyn Deliveries>,
    unacked: Unacked,
    /// Did not fit into the last frame; opens the next one.
    held: Option<Read>,
}

impl Courier<'_> {
    async fn run(&mut self) -> End {
        // Who waits for the first word must not wait for the first message.
        if let Err(end) = self.bring_up_to_date().await {
            return end;
        }
        loop {
            if let Err(end) = self.deliver_next().await {
                return end;
            }
        }
    }

    async fn deliver_next(&mut self) -> Result<(), End> {
        let first = self.next().await?;
        let Some(batch) = self.gather(first).await? else { return Ok(()) };
        let span = batch.span();
        let posted = self.post(&batch).instrument(span.clone()).await?;
        span.in_scope(|| tracing::debug!("a frame was pushed"));
        let settled = match posted {
            Posted::Settled => {
                self.unacked.note_settled(batch.messages.iter().map(|pushed| &pushed.message.id));
                self.deliveries.ack(&tags(&batch.messages)).await
            }
            Posted::Refused => self.discard(&batch.messages).await,
            Posted::Reached => {
                self.unacked.push(batch.messages);
                Ok(())
            }
        };
        settled.map_err(|_| End::Lost)
    }

    /// Waits for a message while it listens to its owner.
    async fn next(&mut self) -> Result<Read, End> {
        loop {
            let now = self.deps.clock.now();
            let (takes, tend_at) = (self.unacked.has_room() && self.audience.hears(now), self.audience.tend_at(now));
            tokio::select! {
                biased;
                () = self.signals.stop.cancelled() => return Err(End::Stopped),
                () = self.signals.refresh.notified() => {
                    self.look_again().await?;
                    self.bring_up_to_date().await?;
                }
                () = self.signals.restore.notified() => self.restore().await,
                // The queue is there.
                () = self.signals.wanted.notified() => {}
                () = sleep_until(self.look_at.unwrap_or_else(Instant::now)), if self.look_at.is_some() => {
                    self.look_again().await?;
                    self.bring_up_to_date().await?;
                }
                () = sleep_until(self.next_expiry()) => {
                    self.look_again().await?;
                    self.bring_up_to_date().await?;
                }
                () = self.signals.acks.arrived() => self.settle().await?,
                () = self.signals.notices.due(self.notices_at) => self.push_notices().await?,
                () = self.signals.replies.arrived() => self.pass_on().await?,
                () = sleep_until(tend_at.unwrap_or_else(Instant::now)), if tend_at.is_some() => self.tend().await?,
                () = sleep_until(self.unacked.again_at()), if !self.unacked.is_empty() => self.push_again().await?,
                () = ready(()), if self.held.is_some() && takes => {
                    if let Some(held) = self.held.take() {
                        return Ok(held);
                    }
                }
                delivery = self.deliveries.next(), if self.held.is_none() && takes => {
                    if let Some(read) = self.read(delivery.ok_or(End::Lost)?).await? {
                        return Ok(read);
                    }
                }
            }
        }
    }

    /// Asks the registry who is there. Whom it has lost is still served, and told to it again.
    async fn look_again(&mut self) -> Result<(), End> {
        let now = self.deps.clock.now();
        self.drop_expired();
        match self.deps.registry.connections(self.user, now).await {
            Ok(reachable) if self.audience.is_within(&reachable) || self.registry_is_intact().await => {
                self.look_at = None;
                self.audience.replace(reachable);
            }
            Ok(reachable) => {
                self.look_at = None;
                self.audience.add(reachable);
                self.restore().await;
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a user's connections can't be read");
                self.look_at = Some(Instant::now() + LOOK_AGAIN);
            }
        }
        match (self.audience.is_empty(), self.look_at) {
            (false, _) => Ok(()),
            (true, None) => Err(End::Offline),
            (true, Some(_)) => Err(End::Stuck),
        }
    }

    /// Whether somebody who is not in the registry has left, and was not lost by it.
    async fn registry_is_intact(&self) -> bool {
        // As long as nobody can tell, nobody is given up.
        self.deps.registry.is_marked(self.deps.partitions.of(self.user)).await.unwrap_or(false)
    }

    /// Tells the registry all that we know: it has lost everything.
    async fn restore(&mut self) {
        for (connection, session) in self.audience.sessions() {
            if let Err(error) = self.deps.registry.register(connection, session).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "a session can't be restored for now");
                self.look_at = Some(Instant::now() + LOOK_AGAIN);
            }
        }
    }

    /// Removes from the queue what a client has acknowledged; hurries for one that has missed something.
    async fn settle(&mut self) -> Result<(), End> {
        let waiting = self.signals.acks.take();
        let settled = self.unacked.settle(&waiting.acked);
        if waiting.again {
            self.unacked.hurry();
        }
        if let Some(clerk) = self.deps.receipts.as_ref().filter(|_| !settled.is_empty()) {
            clerk.delivered(self.user, settled.iter().map(|pushed| &pushed.message));
        }
        self.ack(&tags(&settled)).await
    }

    async fn ack(&mut self, tags: &[Tag]) -> Result<(), End> {
        if tags.is_empty() { Ok(()) } else { self.deliveries.ack(tags).await.map_err(|_| End::Lost) }
    }

    /// Pushes once more what nobody has acknowledged: the frame may be lost in a half-open socket, or the ack on
    /// its way. The client knows what it has shown.
    async fn push_again(&mut self) -> Result<(), End> {
        if !self.unacked.repeat() {
            tracing::warn!("a user's clients have acknowledged nothing for long; the messages go back to the queue");
            return Err(End::Stuck);
        }
        self.drop_expired();
        let targets = self.audience.who(|listener| listener.acks() && listener.is_up_to_date);
        // Nearly always all get the same.
        let alike = if self.unacked.has_own() { 1 } else { targets.len().max(1) };
        for targets in targets.chunks(alike) {
            self.push_again_to(targets).await?;
        }
        if self.audience.is_empty() {
            self.look_again().await?;
            self.bring_up_to_date().await?;
        }
        Ok(())
    }

    /// Pushes once more to connections that get the same.
    async fn push_again_to(&mut self, targets: &[ConnectionId]) -> Result<(), End> {
        let Some(first) = targets.first() else { return Ok(()) };
        let mut targets = targets.to_vec();
        for frame in self.unacked.frames(Viewer::V2(first)) {
            if !self.deliveries.is_ours() {
                return Err(End::Lost);
            }
            metrics::REPETITIONS.add(targets.len());
            for (id, verdict) in self.post_once(&targets, &frame).await {
                if verdict == Verdict::Forget {
                    targets.retain(|target| *target != id);
                    self.forget(&id).await;
                }
            }
        }
        Ok(())
    }

    /// Gives those who have just come what waits for an ack, before they get anything newer. One that does not
    /// take it soon goes without: it gets it when it is pushed again.
    async fn bring_up_to_date(&mut self) -> Result<(), End> {
        let (mut attempts, mut early) = (0, 0);
        loop {
            self.drop_expired();
            let (mut wait, has_chances) = (None, attempts < MAX_ATTEMPTS_ONCE_REACHED);
            for (id, stage) in self.audience.in_need(self.deps.clock.now()) {
                let verdict = match stage {
                    Stage::Hears => self.repeat_to(&id).await?,
                    Stage::New => self.greet(&id).await,
                    Stage::Greeted | Stage::Overdue => continue,
                };
                match verdict {
                    Verdict::Early => {
                        early += 1;
                        wait = Some(YOUNG.wait(early));
                    }
                    Verdict::Busy if has_chances => {
                        attempts += 1;
                        wait = Some(BUSY.wait(attempts));
                    }
                    Verdict::Forget => self.forget(&id).await,
                    Verdict::Reached if stage == Stage::New => {}
                    // Its client waits for the first word: it is cut off, and connects anew.
                    _ if stage == Stage::New => self.forget(&id).await,
                    Verdict::Reached | Verdict::Refused | Verdict::Busy => self.audience.set_up_to_date(&id),
                }
            }
            match wait {
                Some(wait) => self.pause(wait).await?,
                None if self.audience.is_empty() => return self.look_again().await,
                None => return Ok(()),
            }
        }
    }

    /// Posts all that waits for an ack to one connection; stops at the first frame that it does not take.
    async fn repeat_to(&mut self, id: &ConnectionId) -> Result<Verdict, End> {
        for frame in self.unacked.frames(self.audience.viewer(id)) {
            if !self.deliveries.is_ours() {
                return Err(End::Lost);
            }
            metrics::REPETITIONS.add(1);
            let verdict = self.post_once(std::slice::from_ref(id), &frame).await.pop().map(|(_, verdict)| verdict);
            if let Some(verdict) = verdict.filter(|verdict| *verdict != Verdict::Reached) {
                return Ok(verdict);
            }
        }
        if !self.audience.acks(id) {
            // The edge's word counts for it.
            let settled = self.unacked.settle_all();
            self.ack(&tags(&settled)).await?;
        }
        Ok(Verdict::Reached)
    }

    /// Somebody else may have written into the queue: what is no message is set aside, not pushed. The second copy of
    /// what was pushed before leaves the queue; the first one stays until it is acknowledged.
    async fn read(&mut self, mut delivery: Delivery) -> Result<Option<Read>, End> {
        let (trace, via) = (delivery.trace.take(), delivery.via.take());
        match Message::from_slice(&delivery.body).map(|message| Message { trace, via, ..message }) {
            Ok(message) if self.unacked.has(&message.id) => {
                self.ack(&[delivery.tag]).await?;
                Ok(None)
            }
            Ok(message) => {
                if delivery.redelivered {
                    metrics::REDELIVERIES.add(1);
                } else {
                    metrics::QUEUE_WAIT.took_between(Timestamp::from_millis(message.time), self.deps.clock.now());
                }
                Ok(Some((delivery, message)))
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a queued body is set aside");
                let Delivery { tag, body, .. } = delivery;
                self.set_aside(tag, &body, Undeliverable::NotAMessage).await?;
                Ok(None)
            }
        }
    }

    async fn set_aside(&mut self, tag: Tag, body: &[u8], why: Undeliverable) -> Result<(), End> {
        self.deliveries.discard(tag, body, why).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "a message can't be set aside for now");
            End::Lost
        })?;
        metrics::DEAD_LETTERS.add(1);
        Ok(())
    }

    /// Puts what already waits into one frame, as much as it holds.
    async fn gather(&mut self, first: Read) -> Result<Option<Batch>, End> {
        let mut frame = ReceiverFrame::after(self.unacked.last(None));
        let (mut messages, mut redelivered) = (Vec::new(), Vec::new());
        let mut end: Option<Position> = None;
        let mut next = Some(first);
        while let Some((delivery, message)) = next.take() {
            if !frame.push(&message, delivery.redelivered) {
                if messages.is_empty() {
                    tracing::error!("a queued message is larger than any frame and is set aside");
                    self.set_aside(delivery.tag, &delivery.body, Undeliverable::TooLarge).await?;
                    return Ok(None);
                }
                self.held = Some((delivery, message));
                break;
            }
            let position = self.unacked.next_position();
            end = Some(position);
            messages.push(Pushed::new(delivery.tag, message, position, self.user));
            redelivered.push(delivery.redelivered);
            next = self.next_here(&messages).await?;
        }
        metrics::FRAME_MESSAGES.counted(messages.len());
        Ok(end.map(|position| {
            let frames = self.frames(&messages, &redelivered, frame.into_text(position));
            Batch { messages, frames }
        }))
    }

    /// The next message that is here already and not in the batch, which may hold its first copy.
    async fn next_here(&mut self, batch: &[Pushed]) -> Result<Option<Read>, End> {
        while let Some(delivery) = self.deliveries.try_next() {
            let Some((delivery, message)) = self.read(delivery).await? else { continue };
            if batch.iter().all(|pushed| pushed.message.id != message.id) {
                return Ok(Some((delivery, message)));
            }
            self.ack(&[delivery.tag]).await?;
        }
        Ok(None)
    }

    /// Posts a frame to every connection until each has it, is gone, or has had its chances.
    async fn post(&mut self, batch: &Batch) -> Result<Posted, End> {
        let mut tally = Tally::new();
        while tally.attempts < tally.chances() {
            if let Err(end) = self.bring_up_to_date().await {
                return tally.posted().ok_or(end);
            }
            self.drop_expired();
            let targets = self.targets(&tally, &batch.frames);
            if targets.is_empty() {
                if let Some(posted) = tally.posted() {
                    return Ok(posted);
                }
                if self.is_for_nobody(batch) {
                    return Ok(Posted::Settled);
                }
                if self.wait_for_listeners().await? {
                    continue;
                }
                // All are gone; one that has just come would have been missed.
                self.look_again().await?;
                tally.attempts += 1;
            } else if self.deliveries.is_ours() {
                if let Some(wait) = self.round(&targets, &batch.frames, &mut tally).await
                    && let Err(end) = self.pause(wait).await
                {
                    return tally.posted().ok_or(end);
                }
            } else {
                return Err(End::Lost);
            }
        }
        tally.posted().ok_or(End::Stuck)
    }

    /// Posts once to each target; says how long to wait before those that are left.
    async fn round(&mut self, targets: &[ConnectionId], frames: &Frames, tally: &mut Tally) -> Option<Duration> {
        let (mut early, mut busy, first) = (false, false, tally.reached.is_empty());
        let text = |id| self.audience.encode(id, frames.of(self.audience.viewer(id)).unwrap_or_default());
        let texts = targets.iter().map(|id| (id.clone(), text(id))).collect();
        for (id, verdict) in self.post_texts(texts).await {
            match verdict {
                Verdict::Reached => {
                    tally.is_settled |= !self.audience.acks(&id);
                    tally.reached.push(id);
                }
                Verdict::Refused => tally.refused.push(id),
                Verdict::Forget => self.forget(&id).await,
                Verdict::Early => early = true,
                Verdict::Busy => busy = true,
            }
        }
        if first && !tally.reached.is_empty() {
            metrics::PUSH.took(tally.began.elapsed());
            // From here on the fewer chances count.
            tally.attempts = 0;
        }
        // A connection is young for a short time only, so waiting for that alone uses up no chance.
        if early && !busy {
            tally.early += 1;
            return Some(YOUNG.wait(tally.early));
        }
        tally.attempts += 1;
        busy.then(|| BUSY.wait(tally.attempts))
    }

    fn targets(&self, tally: &Tally, frames: &Frames) -> Vec<ConnectionId> {
        let mut targets = self.audience.who(|listener| listener.is_up_to_date);
        targets.retain(|id| !tally.reached.contains(id) && !tally.refused.contains(id));
        targets.retain(|id| frames.of(self.audience.viewer(id)).is_some());
        targets
    }

    async fn post_once(&self, targets: &[ConnectionId], frame: &str) -> Vec<(ConnectionId, Verdict)> {
        self.post_texts(targets.iter().map(|id| (id.clone(), self.audience.encode(id, frame))).collect()).await
    }

    /// Posts to each its text, which is in its dialect already.
    async fn post_texts(&self, texts: Vec<(ConnectionId, Cow<'_, str>)>) -> Vec<(ConnectionId, Verdict)> {
        let posts: Vec<BoxFuture<'_, _>> =
            texts.into_iter().map(|(id, text)| self.post_text(id, text).boxed()).collect();
        stream::iter(posts).buffer_unordered(FAN_OUT).collect().await
    }

    async fn post_text(&self, id: ConnectionId, text: Cow<'_, str>) -> (ConnectionId, Verdict) {
        let outcome = self.deps.connections.post(&id, &text).await;
        if let Err(PostError::Retryable(error) | PostError::Refused(error)) = &outcome {
            tracing::warn!(error = error as &dyn std::error::Error, "a frame was not taken");
        }
        let verdict = Verdict::on(&outcome, self.audience.is_young(&id));
        metrics::PUSHES.add_to(verdict.name());
        (id, verdict)
    }

    /// The edge says that a connection is gone. Should it be wrong, its client must learn that nothing comes any more:
    /// it is cut off, and connects anew.
    async fn forget(&mut self, id: &ConnectionId) {
        self.audience.remove(id);
        if let Err(error) = self.deps.registry.remove(self.user, id).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "a gone connection stays registered for now");
        }
        if let Err(error) = self.deps.connections.close(id).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "a gone connection can't be closed");
        }
    }

    /// Waits, unless its owner wants something: new connections are posted to at the next attempt.
    async fn pause(&mut self, wait: Duration) -> Result<(), End> {
        tokio::select! {
            () = self.signals.stop.cancelled() => Err(End::Stopped),
            () = self.signals.refresh.notified() => self.look_again().await,
            () = self.signals.restore.notified() => {
                self.restore().await;
                Ok(())
            }
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    async fn discard(&mut self, messages: &[Pushed]) -> Result<(), Unavailable> {
        for Pushed { tag, message, .. } in messages {
            self.deliveries.discard(*tag, &message.to_vec(), Undeliverable::Refused).await?;
            metrics::DEAD_LETTERS.add(1);
        }
        Ok(())
    }
}
