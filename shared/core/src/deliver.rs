//! From one user's queue to that user's connections.
//!
//! [`serve`] runs for as long as the user is online and the partition is ours. It takes what waits in the
//! queue, puts as much as one frame holds into a `RESPRECEIVER`, and posts it to every connection. The messages
//! leave the queue once the edge has taken the frame for a client of the seed's kind, or a client of version 2
//! has acknowledged them. Whatever ends it before that leaves them in the queue, in order.

use std::{future::ready, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join3};
use kschat_protocol::{UserId, dialect::Heartbeat};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    Clock, Partitions,
    audience::Audience,
    connect::MAX_DEVICES,
    job, lobby, metrics,
    ports::{
        Backlogs, ConnectionRegistry, ConnectionsApi, Created, Deliveries, Mailbox, Memberships, SenderShares, Tag,
    },
    posting::Posted,
    presence::Crier,
    queue_requests::Turns,
    receipts::Clerk,
    retire::retire,
    rooms,
    unacked::{self, Unacked},
};

mod closing;
mod expiry;
mod frames;
mod gathering;
mod loans;
mod notices;
mod pushing;
mod repeating;
mod shares;
mod tending;

use gathering::{Read, tags};
use loans::{Arrivals, NextDelivery};
use shares::ShareWindow;

pub use self::closing::ClosingBox;
pub use crate::{
    lobby::Lobby,
    notices::NoticeBox,
    queue_requests::{Asker, WantedBox},
    replies::ReplyBox,
    unacked::AckBox,
};

/// How many users are looked up and opened at once.
const OPENING: usize = 64;

/// Messages of one user that may be with us and not acknowledged: more would wait unread for room in the window.
pub const MAX_PREFETCH: u16 = 256;

const _: () = assert!(MAX_PREFETCH as usize == unacked::WINDOW, "what is taken has room");

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
    /// Knows how much of each sender waits for a user, if anybody counts that.
    pub shares: Option<Arc<dyn SenderShares>>,
    /// Bounds how many users are looked up and opened at once: after a fail-over all come together.
    opening: Arc<Semaphore>,
    /// Lets those who ask for queues take turns.
    pub(crate) requests: Arc<Turns>,
    /// Connections whose tokens have ended, while they are told so and closed.
    seen_off: expiry::SeenOff,
    /// Bounds how many are connected and have not said who they are.
    pub(crate) lobby: Arc<Lobby>,
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
        let (opening, lobby) = (Arc::new(Semaphore::new(OPENING)), Arc::default());
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
            shares: None,
            opening,
            requests: Turns::new(),
            seen_off: expiry::SeenOff::default(),
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

    /// The same, and what has left a queue does not count as its senders' any more.
    #[must_use]
    pub fn with_shares(self, shares: Arc<dyn SenderShares>) -> Self {
        Self { shares: Some(shares), ..self }
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
    /// Which connections are to be closed.
    pub closing: Arc<ClosingBox>,
    /// The connections are to be checked against the edge.
    pub check: Arc<Notify>,
    /// The registry has lost everything: tell it what is known here.
    pub restore: Arc<Notify>,
    /// A sender has found no queue for the user.
    pub wanted: Arc<WantedBox>,
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
    /// There is a mistake in it: try again later, as others may be served.
    Panicked,
}

/// Serves a user until it is offline, stopped, lost or stuck. A user who is offline leaves no empty queue behind, unless a
/// sender asks for it.
pub async fn serve(deps: &Deps, user: &UserId, signals: &Signals) -> End {
    if user.is_nameless() {
        return lobby::receive(deps, user, signals).await;
    }
    let end = match open(deps, user, signals).await {
        Ok((audience, deliveries, bind_at)) => {
            let _open = metrics::QUEUES.one_more_for("online");
            let unacked = Unacked::new();
            let (notices_at, look_at, held, arrivals) = (Instant::now(), None, None, Arrivals::new());
            let (checked_at, shares) = (None, ShareWindow::new(deps.clock.now()));
            let mut courier = Courier {
                deps,
                user,
                signals,
                audience,
                look_at,
                checked_at,
                bind_at,
                notices_at,
                deliveries,
                arrivals,
                unacked,
                held,
                shares,
                has_passed_on: false,
            };
            // What is on loan is given back, whatever went wrong.
            let end = job::guard("deliver", courier.run()).await.unwrap_or(End::Panicked);
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

/// Who is there, what comes, and when to bind the queue to the user's rooms again that could not be bound.
type Opened = (Audience, Box<dyn Deliveries>, Option<Instant>);

async fn open(deps: &Deps, user: &UserId, signals: &Signals) -> Result<Opened, End> {
    // Whose queue a sender asks for is most likely away: then only the registry is asked, and the sender takes its turn.
    let is_wanted = signals.wanted.asker().is_some();
    // It is never closed, so there always is a permit in the end.
    let mut _permit = if is_wanted { None } else { deps.opening.acquire().await.ok() };
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
    if is_wanted {
        _permit = deps.opening.acquire().await.ok();
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
    let (cleared, (), bind_at) = join3(deps.backlogs.clear(user), came, bind_rooms(deps, user)).await;
    if let Err(error) = cleared {
        tracing::warn!(error = &error as &dyn std::error::Error, "a user who is back still counts as away");
    }
    Ok((audience, deliveries, bind_at))
}

/// Puts a queue, which may have been made anew, into the rooms of its user and into no others. Says when to do it again,
/// if it can't be done for now.
async fn bind_rooms(deps: &Deps, user: &UserId) -> Option<Instant> {
    let settled = rooms::settle_all(deps.rooms.as_deref()?, &*deps.mailbox, user).await;
    let error = settled.err()?;
    tracing::warn!(error = &error as &dyn std::error::Error, "a user may not hear what is said in its rooms");
    Some(Instant::now() + LOOK_AGAIN)
}

struct Courier<'a> {
    deps: &'a Deps,
    user: &'a UserId,
    signals: &'a Signals,
    audience: Audience,
    /// When to ask the registry again that could not be asked.
    look_at: Option<Instant>,
    /// When to bind the queue to the user's rooms again that could not be bound.
    bind_at: Option<Instant>,
    /// When the connections were checked against the edge last.
    checked_at: Option<Instant>,
    /// When notices may be pushed again.
    notices_at: Instant,
    deliveries: Box<dyn Deliveries>,
    arrivals: Arrivals,
    unacked: Unacked,
    /// Did not fit into the last frame; opens the next one.
    held: Option<Read>,
    /// What of the senders' shares has left the queue.
    shares: ShareWindow,
    /// Whether replies were passed on since messages had their turn.
    has_passed_on: bool,
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
        let last = batch.messages.last().map(|pushed| pushed.message.time);
        span.in_scope(|| tracing::debug!("a frame was pushed"));
        let settled = match posted {
            Posted::Settled => {
                self.note_left(last);
                self.unacked.note_settled(batch.messages.iter().map(|pushed| &pushed.message));
                self.deliveries.ack(&tags(&batch.messages)).await
            }
            Posted::Refused => self.discard(&batch.messages).await,
            Posted::Reached => {
                let (copies, waiting): (Vec<_>, Vec<_>) = batch.messages.into_iter().partition(|pushed| pushed.is_own);
                self.unacked.push(waiting);
                self.unacked.note_settled(copies.iter().map(|pushed| &pushed.message));
                return self.ack(&tags(&copies)).await;
            }
        };
        settled.map_err(|_| End::Lost)
    }

    /// Waits for a message while it listens to its owner.
    async fn next(&mut self) -> Result<Read, End> {
        loop {
            let now = self.deps.clock.now();
            let (takes, tend_at) = (self.unacked.has_room() && self.audience.hears(now), self.audience.tend_at(now));
            let give_back_at = self.loans_end_at(takes && self.held.is_none());
            tokio::select! {
                biased;
                () = self.signals.stop.cancelled() => return Err(End::Stopped),
                () = self.signals.restore.notified() => self.restore().await,
                () = sleep_until(give_back_at.unwrap_or_else(Instant::now)), if give_back_at.is_some() => {
                    self.check_loans()?;
                }
                () = self.signals.refresh.notified() => {
                    self.look_again().await?;
                    self.bring_up_to_date().await?;
                }
                () = self.signals.closing.arrived() => self.close_connections().await?,
                () = self.signals.check.notified() => self.check_connections().await?,
                // The queue is there.
                () = self.signals.wanted.arrived() => self.signals.wanted.forget(),
                () = sleep_until(self.look_at.unwrap_or_else(Instant::now)), if self.look_at.is_some() => {
                    self.look_again().await?;
                    self.bring_up_to_date().await?;
                }
                () = sleep_until(self.next_expiry()) => {
                    self.look_again().await?;
                    self.bring_up_to_date().await?;
                }
                () = sleep_until(self.bind_at.unwrap_or_else(Instant::now)), if self.bind_at.is_some() => {
                    self.bind_at = bind_rooms(self.deps, self.user).await;
                }
                () = self.signals.acks.arrived() => self.settle().await?,
                () = self.signals.notices.due(self.notices_at) => self.push_notices().await?,
                () = self.signals.replies.arrived(), if !self.has_passed_on => {
                    self.has_passed_on = true;
                    self.pass_on().await?;
                }
                () = sleep_until(tend_at.unwrap_or_else(Instant::now)), if tend_at.is_some() => self.tend().await?,
                () = sleep_until(self.unacked.again_at()), if !self.unacked.is_empty() => self.push_again().await?,
                () = sleep_until(self.shares.due_at()), if self.deps.shares.is_some() => self.update_shares().await?,
                () = ready(()), if self.held.is_some() && takes => {
                    if let Some(held) = self.held.take() {
                        return Ok(held);
                    }
                }
                delivery = NextDelivery::of(&mut *self.deliveries, &mut self.arrivals),
                    if self.held.is_none() && takes =>
                {
                    self.has_passed_on = false;
                    if let Some(read) = self.read(delivery.ok_or(End::Lost)?).await? {
                        return Ok(read);
                    }
                }
                // Nothing else was due: whoever has replies without end does not keep the messages waiting.
                () = ready(()), if self.has_passed_on => self.has_passed_on = false,
            }
        }
    }

    /// Asks the registry who is there. Whom it has lost is still served, and told to it again.
    async fn look_again(&mut self) -> Result<(), End> {
        let now = self.deps.clock.now();
        self.drop_expired();
        match self.deps.registry.connections(self.user, now).await {
            Ok(reachable) if self.audience.is_within(&reachable) || self.has_left_for_sure().await => {
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
    async fn has_left_for_sure(&self) -> bool {
        // As long as nobody can tell, nobody is given up.
        let is_marked = self.deps.registry.is_marked(self.deps.partitions.of(self.user)).await.unwrap_or(false);
        // A mark that was gone is set again once everybody has been told to restore what is known: whoever was told and has
        // not done it yet must not take the new mark for the old one.
        let was_told = self.signals.restore.notified().now_or_never().is_some();
        is_marked && !was_told
    }

    /// Tells the registry all that we know: it has lost everything. Whoever has connected since then goes first: who does
    /// not fit beside them is cut off. What has ended meanwhile is found by a check against the edge.
    async fn restore(&mut self) {
        let mut over = Vec::new();
        for (connection, session) in self.audience.sessions() {
            match self.deps.registry.restore(connection, session, MAX_DEVICES).await {
                Ok(Created::Done) => {}
                Ok(_) => over.push(connection.clone()),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a session can't be restored for now");
                    self.look_at = Some(Instant::now() + LOOK_AGAIN);
                    break;
                }
            }
        }
        for connection in over {
            self.forget(&connection).await;
        }
        self.signals.check.notify_one();
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
        self.note_left(settled.last().map(|pushed| pushed.message.time));
        self.ack(&tags(&settled)).await
    }

    async fn ack(&mut self, tags: &[Tag]) -> Result<(), End> {
        if tags.is_empty() { Ok(()) } else { self.deliveries.ack(tags).await.map_err(|_| End::Lost) }
    }
}
