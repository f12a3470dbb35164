//! A load client: one device of one user.

use std::{
    sync::{Arc, LazyLock, atomic::Ordering::Relaxed},
    time::Duration,
};

use kschat_client::{
    ANSWER_TIMEOUT, ClientFrame, Connection, ConnectionEnded, Messages, OpenError, Received, SendReply, SendRequest,
    ServerFrame,
};
use kschat_core::backoff::Backoff;
use kschat_protocol::JsonId;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Pattern, Plan, Until,
    acks::{AckBatcher, SeenIds},
    connect::{Connector, explain},
    name,
    oracle::{Oracle, SentMessage, ShownMessages},
};

/// Backoff of reconnects and of retried sends.
const RECONNECT_BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(2) };

/// Codes after which a send may be retried.
const TRANSIENT_ERROR_CODES: [u64; 5] = [1, 2, 17, 18, 20];

/// The rate limit is exceeded; `RETRY` says how long to wait.
const RATE_LIMITED_CODE: u64 = 9;

/// The client reconnects after this many consecutive replies without a known session.
const MAX_UNKNOWN_RETRIES: u32 = 6;

/// A sender catches up a lag of up to this long. It does not make up for a longer outage: real users would not, either.
const MAX_PACE_LAG: Duration = Duration::from_secs(1);

/// Origin of the times in messages.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(super) struct Device {
    pub(super) plan: Arc<Plan>,
    pub(super) connector: Connector,
    pub(super) oracle: Arc<Oracle>,
    pub(super) token: String,
    pub(super) run: String,
    pub(super) opening: Arc<Semaphore>,
    pub(super) user: usize,
    /// Time between two sends, or two bursts.
    pub(super) interval: Option<Duration>,
    /// Number of messages, if the device sends.
    pub(super) count: Option<u64>,
    pub(super) stop: CancellationToken,
}

/// An unanswered send.
struct Pending {
    message: SentMessage,
    frame: ClientFrame,
    rno: JsonId,
    /// When the message was due. Latency counts from here.
    planned: Instant,
    /// When it is sent, or counts as unanswered.
    due: Instant,
    is_out: bool,
    repeated: u32,
    unknown: u32,
}

/// State that a device keeps across connections.
struct DeviceState {
    seen: SeenIds,
    shown: ShownMessages,
    acks: AckBatcher,
    pending: Option<Pending>,
    sent: u64,
    /// When sending began, and when the next message is due.
    pace: Option<(Instant, Instant)>,
    is_finished: bool,
}

impl Device {
    pub(super) async fn run(self) {
        let mut state = DeviceState::new();
        let mut cuts = self.plan.cutter.0.subscribe();
        let (mut is_known, mut in_vain) = (false, 0);
        while !self.stop.is_cancelled() {
            match self.connect().await {
                Ok(mut socket) => {
                    in_vain = 0;
                    if !std::mem::replace(&mut is_known, true) {
                        self.oracle.connected.fetch_add(1, Relaxed);
                    }
                    cuts.mark_unchanged();
                    let cut = async {
                        // The plan holds the sender and lives as long as the device.
                        while cuts.changed().await.is_ok() {
                            if fastrand::f64() < *cuts.borrow() {
                                return;
                            }
                        }
                    };
                    tokio::select! {
                        ConnectionEnded = self.serve(&mut socket, &mut state) => {}
                        () = cut => {}
                    }
                    if self.stop.is_cancelled() {
                        socket.close().await;
                        return;
                    }
                }
                Err(error) => self.oracle.trouble(explain(&error)),
            }
            self.oracle.reconnects.fetch_add(u64::from(is_known), Relaxed);
            in_vain += 1;
            sleep(RECONNECT_BACKOFF.wait(in_vain)).await;
        }
    }

    async fn connect(&self) -> Result<Connection, OpenError> {
        // The semaphore is never closed, so a permit always becomes available.
        let _permit = self.opening.acquire().await;
        self.connector.open(&self.token).await
    }

    async fn serve(&self, socket: &mut Connection, state: &mut DeviceState) -> ConnectionEnded {
        // A send that was in flight on an earlier socket is resent on this one.
        if let Some(pending) = &mut state.pending {
            (pending.is_out, pending.due) = (false, Instant::now());
        }
        loop {
            self.draw_next(state);
            let due = state.pending.as_ref().map(|pending| pending.due);
            let ack_at = state.acks.due();
            let done = tokio::select! {
                () = self.stop.cancelled() => Err(ConnectionEnded),
                began = self.oracle.begun(), if self.count.is_some() && state.pace.is_none() => {
                    state.pace = Some((began, self.first_at(began)));
                    Ok(())
                }
                heard = socket.next() => match heard {
                    Ok(Received::Frame(frame)) => self.on_frame(socket, state, frame).await,
                    Ok(Received::Ping) => socket.answer_ping().await,
                    Ok(Received::Ignored) => Ok(()),
                    Err(ConnectionEnded) => Err(ConnectionEnded),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.on_due(socket, state).await
                }
                () = sleep_until(ack_at.unwrap_or_else(Instant::now)), if ack_at.is_some() => {
                    state.acks.say(socket).await
                }
            };
            if done.is_err() {
                return ConnectionEnded;
            }
        }
    }

    /// Senders start staggered, except in bursts.
    fn first_at(&self, began: Instant) -> Instant {
        if self.plan.pattern == Pattern::Burst {
            return began;
        }
        let spread = self.interval.unwrap_or(Duration::from_millis(10));
        began + spread.mul_f64(fastrand::f64())
    }

    /// Creates the next message, if one is left and none is in flight.
    fn draw_next(&self, state: &mut DeviceState) {
        let (Some(count), Some((began, next_at))) = (self.count, state.pace) else { return };
        if state.pending.is_some() || state.is_finished {
            return;
        }
        let is_over = match &self.plan.until {
            Until::Messages(_) => false,
            Until::Elapsed(time) => next_at >= began + *time,
            Until::Cancelled(token) => token.is_cancelled(),
        };
        if state.sent >= count || is_over {
            state.is_finished = true;
            self.oracle.finished();
            return;
        }
        let to = self.plan.pattern.receiver(self.user, state.sent, self.plan.users);
        let others = match self.plan.pattern {
            Pattern::OneToMany => self.plan.users as u64 - 1,
            _ => 1,
        };
        let message = SentMessage { from: self.user, to, number: state.sent / others };
        let head = format!("{} {} {} ", message.from, message.number, next_at.duration_since(*EPOCH).as_micros());
        let text = format!("{head}{}", "x".repeat(self.plan.size.draw().saturating_sub(head.len())));
        let rno = format!("{}-{}", self.user, state.sent);
        let (me, to) = (name(&self.run, self.user), name(&self.run, to));
        let send = SendRequest { sender: me, recipient: to, msg: text, rno: rno.clone(), time: 0 };
        let (frame, rno) = (ClientFrame::Send(send), JsonId::Text(rno));
        let (planned, due) = (next_at, next_at.max(Instant::now()));
        state.pending = Some(Pending { message, frame, rno, planned, due, is_out: false, repeated: 0, unknown: 0 });
    }

    /// When the message after that one is due. A small delay does not postpone the rest.
    fn next_at(&self, began: Instant, planned: Instant, sent: u64) -> Instant {
        match self.interval {
            Some(interval) if self.plan.pattern != Pattern::Burst => {
                let now = Instant::now();
                (planned + interval).max(now.checked_sub(MAX_PACE_LAG).unwrap_or(now))
            }
            Some(interval) if sent.is_multiple_of(self.plan.burst) => {
                began + interval.mul_f64((sent / self.plan.burst) as f64)
            }
            // Within a burst, or without a rate: as soon as the last message is accepted.
            _ => Instant::now(),
        }
    }

    /// Sends a message that is due, or gives up waiting for its reply.
    async fn on_due(&self, socket: &mut Connection, state: &mut DeviceState) -> Result<(), ConnectionEnded> {
        let Some(pending) = &mut state.pending else { return Ok(()) };
        if pending.is_out {
            self.oracle.retries.fetch_add(1, Relaxed);
            return Err(ConnectionEnded);
        }
        (pending.is_out, pending.due) = (true, Instant::now() + ANSWER_TIMEOUT);
        socket.send(&pending.frame).await
    }

    async fn on_frame(
        &self,
        socket: &mut Connection,
        state: &mut DeviceState,
        frame: ServerFrame,
    ) -> Result<(), ConnectionEnded> {
        match frame {
            ServerFrame::SendReply(reply) => self.on_answer(state, &reply),
            ServerFrame::Messages(messages) => self.on_messages(socket, state, &messages).await,
            ServerFrame::EdgeError => {
                self.repeat(state);
                Ok(())
            }
            ServerFrame::Other => Ok(()),
        }
    }

    fn on_answer(&self, state: &mut DeviceState, reply: &SendReply) -> Result<(), ConnectionEnded> {
        let is_answered = |pending: &&mut Pending| reply.rno.as_ref() == Some(&pending.rno);
        let Some(pending) = state.pending.as_mut().filter(is_answered) else { return Ok(()) };
        let code = reply.code;
        if code == RATE_LIMITED_CODE {
            // A client that does not wait is disconnected.
            self.oracle.limited.fetch_add(1, Relaxed);
            (pending.is_out, pending.due) = (false, Instant::now() + reply.retry.max(RECONNECT_BACKOFF.base / 10));
            return Ok(());
        }
        if TRANSIENT_ERROR_CODES.contains(&code) {
            pending.unknown = if code == 17 { pending.unknown + 1 } else { 0 };
            let is_unknown = pending.unknown > MAX_UNKNOWN_RETRIES;
            self.repeat(state);
            return if is_unknown { Err(ConnectionEnded) } else { Ok(()) };
        }
        let planned = pending.planned;
        if code == 0 {
            self.oracle.accepted(pending.message, planned.elapsed());
        } else {
            self.oracle.refused(code);
        }
        state.pending = None;
        state.sent += 1;
        if let Some((began, next_at)) = &mut state.pace {
            *next_at = self.next_at(*began, planned, state.sent);
        }
        Ok(())
    }

    /// Retries the same send after a backoff.
    fn repeat(&self, state: &mut DeviceState) {
        if let Some(pending) = &mut state.pending {
            self.oracle.retries.fetch_add(1, Relaxed);
            pending.repeated += 1;
            (pending.is_out, pending.due) = (false, Instant::now() + RECONNECT_BACKOFF.wait(pending.repeated));
        }
    }

    async fn on_messages(
        &self,
        socket: &mut Connection,
        state: &mut DeviceState,
        messages: &Messages,
    ) -> Result<(), ConnectionEnded> {
        if !state.acks.follows(messages) {
            self.oracle.gaps.fetch_add(1, Relaxed);
            return state.acks.request_redelivery(socket).await;
        }
        for item in &messages.items {
            if !state.seen.insert(&item.sender, &item.id) {
                self.oracle.repeated.fetch_add(1, Relaxed);
            } else if let Some((message, sent)) = self.read(&item.msg)
                // What the user's other devices send is shown here, too, and was delivered to somebody else.
                && message.from != self.user
            {
                self.oracle.received(&mut state.shown, message, EPOCH.elapsed().saturating_sub(sent));
            }
        }
        state.acks.note_received(messages);
        if state.acks.is_urgent() { state.acks.say(socket).await } else { Ok(()) }
    }

    /// Parses a text: the sent message, and when it was due.
    fn read(&self, text: &str) -> Option<(SentMessage, Duration)> {
        let mut words = text.split(' ');
        let (from, number) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((SentMessage { from, to: self.user, number }, Duration::from_micros(words.next()?.parse().ok()?)))
    }
}

impl DeviceState {
    fn new() -> Self {
        Self {
            seen: SeenIds::default(),
            shown: ShownMessages::default(),
            acks: AckBatcher::new(),
            pending: None,
            sent: 0,
            pace: None,
            is_finished: false,
        }
    }
}
