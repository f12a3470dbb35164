//! One client of one user.

use std::{
    sync::{Arc, LazyLock, atomic::Ordering::Relaxed},
    time::Duration,
};

use kschat_core::backoff::Backoff;
use kschat_protocol::JsonId;
use serde_json::{Value, json};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Pattern, Plan, Until,
    got::{Acks, Seen},
    line::{Heard, Line},
    name,
    oracle::{Letter, Oracle, Shown},
};

/// How long a handshake or an answer may take until the client connects anew.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The wait before a socket is opened again, and before a send is repeated; longer each time that is in vain.
const REST: Backoff = Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(2) };

/// Codes after which the same send may be repeated.
const TRANSIENT: [u64; 5] = [1, 2, 17, 18, 20];

/// The user sends too much; `RETRY` says how long to wait.
const RATE_LIMITED: u64 = 9;

/// After so many answers in a row that we are not known, or nobody can tell, it connects anew.
const UNKNOWN_AT_MOST: u32 = 6;

/// A sender that is late by up to so much makes up for it. Of a longer time nothing is made up for: nobody writes all
/// that a long outage has held back.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Times in messages count from here.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(super) struct Device {
    pub(super) plan: Arc<Plan>,
    pub(super) oracle: Arc<Oracle>,
    pub(super) token: String,
    pub(super) run: String,
    pub(super) opening: Arc<Semaphore>,
    pub(super) user: usize,
    /// Between two sends, or two bursts.
    pub(super) interval: Option<Duration>,
    /// How many messages it is to send, if it is one that sends.
    pub(super) count: Option<u64>,
    pub(super) stop: CancellationToken,
}

/// A send that is not answered yet.
struct Pending {
    letter: Letter,
    frame: Value,
    rno: String,
    /// When the message was to be sent. Whatever holds it back counts.
    planned: Instant,
    /// When it goes out, or counts as unanswered.
    due: Instant,
    is_out: bool,
    repeated: u32,
    unknown: u32,
}

/// What a device keeps from one socket to the next.
struct Memory {
    seen: Seen,
    shown: Shown,
    acks: Acks,
    pending: Option<Pending>,
    sent: u64,
    /// When sending began, and when the next message is to be sent.
    pace: Option<(Instant, Instant)>,
    is_finished: bool,
}

/// The socket has ended, or is of no use any more.
pub(super) struct Ended;

impl Device {
    pub(super) async fn run(self) {
        let mut memory = Memory::new();
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
                        // The plan, which holds the other end, lives as long as we do.
                        while cuts.changed().await.is_ok() {
                            if fastrand::f64() < *cuts.borrow() {
                                return;
                            }
                        }
                    };
                    tokio::select! {
                        Ended = self.serve(&mut socket, &mut memory) => {}
                        () = cut => {}
                    }
                    if self.stop.is_cancelled() {
                        socket.close().await;
                        return;
                    }
                }
                Err(error) => self.oracle.trouble(error),
            }
            self.oracle.reconnects.fetch_add(u64::from(is_known), Relaxed);
            in_vain += 1;
            sleep(REST.wait(in_vain)).await;
        }
    }

    async fn connect(&self) -> Result<Line, String> {
        // It is never closed, so there always is a permit in the end.
        let _permit = self.opening.acquire().await;
        Line::open(self.plan.dialect, &self.plan.url, &self.token).await
    }

    async fn serve(&self, socket: &mut Line, memory: &mut Memory) -> Ended {
        // Whatever was under way on an earlier socket goes out again on this one.
        if let Some(pending) = &mut memory.pending {
            (pending.is_out, pending.due) = (false, Instant::now());
        }
        loop {
            self.draw_next(memory);
            let due = memory.pending.as_ref().map(|pending| pending.due);
            let ack_at = memory.acks.due();
            let done = tokio::select! {
                () = self.stop.cancelled() => Err(Ended),
                began = self.oracle.begun(), if self.count.is_some() && memory.pace.is_none() => {
                    memory.pace = Some((began, self.first_at(began)));
                    Ok(())
                }
                heard = socket.next() => match heard {
                    Ok(Heard::Frame(frame)) => self.on_frame(socket, memory, &frame).await,
                    Ok(Heard::Ping) => socket.answer_ping().await,
                    Ok(Heard::Nothing) => Ok(()),
                    Err(Ended) => Err(Ended),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.on_due(socket, memory).await
                }
                () = sleep_until(ack_at.unwrap_or_else(Instant::now)), if ack_at.is_some() => {
                    memory.acks.say(socket).await
                }
            };
            if done.is_err() {
                return Ended;
            }
        }
    }

    /// Senders begin one after the other, but for bursts.
    fn first_at(&self, began: Instant) -> Instant {
        if self.plan.pattern == Pattern::Burst {
            return began;
        }
        let spread = self.interval.unwrap_or(Duration::from_millis(10));
        began + spread.mul_f64(fastrand::f64())
    }

    /// Thinks of the next message, if one is left and none is under way.
    fn draw_next(&self, memory: &mut Memory) {
        let (Some(count), Some((began, next_at))) = (self.count, memory.pace) else { return };
        if memory.pending.is_some() || memory.is_finished {
            return;
        }
        let is_over = match &self.plan.until {
            Until::Messages(_) => false,
            Until::Elapsed(time) => next_at >= began + *time,
            Until::Told(told) => told.is_cancelled(),
        };
        if memory.sent >= count || is_over {
            memory.is_finished = true;
            self.oracle.finished();
            return;
        }
        let to = self.plan.pattern.receiver(self.user, memory.sent, self.plan.users);
        let others = match self.plan.pattern {
            Pattern::OneToMany => self.plan.users as u64 - 1,
            _ => 1,
        };
        let letter = Letter { from: self.user, to, number: memory.sent / others };
        let head = format!("{} {} {} ", letter.from, letter.number, next_at.duration_since(*EPOCH).as_micros());
        let text = format!("{head}{}", "x".repeat(self.plan.size.draw().saturating_sub(head.len())));
        let rno = format!("{}-{}", self.user, memory.sent);
        let (me, to) = (name(&self.run, self.user), name(&self.run, to));
        let frame = json!({ "action": "send", "uId": me, "pId": to, "msg": text, "rno": rno, "time": 0 });
        let (planned, due) = (next_at, next_at.max(Instant::now()));
        memory.pending = Some(Pending { letter, frame, rno, planned, due, is_out: false, repeated: 0, unknown: 0 });
    }

    /// When the message after that one is to be sent. One that was a little late does not put off the rest.
    fn next_at(&self, began: Instant, planned: Instant, sent: u64) -> Instant {
        match self.interval {
            Some(interval) if self.plan.pattern != Pattern::Burst => {
                let now = Instant::now();
                (planned + interval).max(now.checked_sub(CATCH_UP).unwrap_or(now))
            }
            Some(interval) if sent.is_multiple_of(self.plan.burst) => {
                began + interval.mul_f64((sent / self.plan.burst) as f64)
            }
            // Within a burst, or without a rate: as soon as the last one is accepted.
            _ => Instant::now(),
        }
    }

    /// It is time to send, or to stop waiting for the answer.
    async fn on_due(&self, socket: &mut Line, memory: &mut Memory) -> Result<(), Ended> {
        let Some(pending) = &mut memory.pending else { return Ok(()) };
        if pending.is_out {
            self.oracle.retries.fetch_add(1, Relaxed);
            return Err(Ended);
        }
        (pending.is_out, pending.due) = (true, Instant::now() + PATIENCE);
        socket.say(&pending.frame).await
    }

    async fn on_frame(&self, socket: &mut Line, memory: &mut Memory, frame: &Value) -> Result<(), Ended> {
        match frame["event"].as_str() {
            Some("RESPSEND") => self.on_answer(memory, frame),
            Some("RESPRECEIVER") => self.on_messages(socket, memory, frame).await,
            // The managed edge's own error frame: the function broke, and the send may or may not be accepted.
            None if frame["message"].is_string() => {
                self.repeat(memory);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn on_answer(&self, memory: &mut Memory, frame: &Value) -> Result<(), Ended> {
        let Some(pending) = memory.pending.as_mut().filter(|pending| frame["RANDOMNO"] == pending.rno) else {
            return Ok(());
        };
        let code = frame["ER"].as_u64().unwrap_or(1);
        if code == RATE_LIMITED {
            // Whoever goes on without waiting is disconnected.
            self.oracle.limited.fetch_add(1, Relaxed);
            let retry = Duration::from_millis(frame["RETRY"].as_u64().unwrap_or_default());
            (pending.is_out, pending.due) = (false, Instant::now() + retry.max(REST.base / 10));
            return Ok(());
        }
        if TRANSIENT.contains(&code) {
            pending.unknown = if code == 17 { pending.unknown + 1 } else { 0 };
            let is_unknown = pending.unknown > UNKNOWN_AT_MOST;
            self.repeat(memory);
            return if is_unknown { Err(Ended) } else { Ok(()) };
        }
        let planned = pending.planned;
        if code == 0 {
            self.oracle.accepted(pending.letter, planned.elapsed());
        } else {
            self.oracle.refused(code);
        }
        memory.pending = None;
        memory.sent += 1;
        if let Some((began, next_at)) = &mut memory.pace {
            *next_at = self.next_at(*began, planned, memory.sent);
        }
        Ok(())
    }

    /// Sends the same again in a moment.
    fn repeat(&self, memory: &mut Memory) {
        if let Some(pending) = &mut memory.pending {
            self.oracle.retries.fetch_add(1, Relaxed);
            pending.repeated += 1;
            (pending.is_out, pending.due) = (false, Instant::now() + REST.wait(pending.repeated));
        }
    }

    async fn on_messages(&self, socket: &mut Line, memory: &mut Memory, frame: &Value) -> Result<(), Ended> {
        let place = |field: &str| frame[field].as_str().and_then(|text| text.parse().ok());
        if place("PREV").is_some_and(|previous| !memory.acks.has_come_to(previous)) {
            self.oracle.gaps.fetch_add(1, Relaxed);
            return memory.acks.ask_again(socket).await;
        }
        let items = frame["MSG"].as_array().map(Vec::as_slice).unwrap_or_default();
        for item in items {
            let id = item["mId"].as_str().unwrap_or_default();
            let sender = serde_json::from_value(item["uId"].clone()).unwrap_or(JsonId::Text(String::new()));
            if !memory.seen.insert(&sender, id) {
                self.oracle.repeated.fetch_add(1, Relaxed);
            } else if let Some((letter, sent)) = self.read(item["msg"].as_str().unwrap_or_default())
                // What the user's other devices send is shown here, too, and was delivered to somebody else.
                && letter.from != self.user
            {
                self.oracle.received(&mut memory.shown, letter, EPOCH.elapsed().saturating_sub(sent));
            }
        }
        let Some((last, here)) = items.last().zip(place("POS")) else { return Ok(()) };
        memory.acks.got(last["mId"].as_str().unwrap_or_default(), here, items.len());
        if memory.acks.is_urgent() { memory.acks.say(socket).await } else { Ok(()) }
    }

    /// From whom a text is, the how manieth, and when it was due.
    fn read(&self, text: &str) -> Option<(Letter, Duration)> {
        let mut words = text.split(' ');
        let (from, number) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((Letter { from, to: self.user, number }, Duration::from_micros(words.next()?.parse().ok()?)))
    }
}

impl Memory {
    fn new() -> Self {
        Self {
            seen: Seen::default(),
            shown: Shown::default(),
            acks: Acks::new(),
            pending: None,
            sent: 0,
            pace: None,
            is_finished: false,
        }
    }
}
