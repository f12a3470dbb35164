//! One client of one user.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::SinkExt;
use kschat_protocol::SUBPROTOCOL;
use serde_json::{Value, json};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use yawc::{Frame, HttpRequest, OpCode, TcpWebSocket, WebSocket};

use super::{
    Plan, name,
    oracle::{Letter, Oracle, Shown},
};

/// How long a handshake or an answer may take until the client connects anew.
const PATIENCE: Duration = Duration::from_secs(10);

/// The wait before a socket is opened again, and before a send is repeated.
const REST: Duration = Duration::from_millis(200);

/// Codes after which the same send may be repeated.
const TRANSIENT: [u64; 6] = [1, 2, 9, 17, 18, 20];

/// After so many answers in a row that we are not known, or nobody can tell, it connects anew.
const UNKNOWN_AT_MOST: u32 = 10;

/// Times in messages count from here.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(super) struct Device {
    pub(super) plan: Arc<Plan>,
    pub(super) oracle: Arc<Oracle>,
    pub(super) token: String,
    pub(super) run: String,
    pub(super) opening: Arc<Semaphore>,
    pub(super) user: usize,
    /// Between two sends.
    pub(super) interval: Option<Duration>,
    /// How many messages it is to send.
    pub(super) count: u64,
    pub(super) stop: CancellationToken,
}

/// A send that is not answered yet.
struct Pending {
    letter: Letter,
    frame: String,
    rno: String,
    first_try: Instant,
    /// When it goes out, or counts as unanswered.
    due: Instant,
    is_out: bool,
    unknown: u32,
}

/// What a device keeps from one socket to the next.
struct Memory {
    /// Ids of messages that were shown.
    seen: HashSet<String>,
    shown: Shown,
    pending: Option<Pending>,
    sent: u64,
    next_at: Instant,
}

/// The socket has ended, or is of no use any more.
struct Ended;

impl Device {
    pub(super) async fn run(self) {
        let mut memory =
            Memory { seen: HashSet::new(), shown: Shown::default(), pending: None, sent: 0, next_at: Instant::now() };
        let mut is_known = false;
        while !self.stop.is_cancelled() {
            match self.connect().await {
                Ok(mut socket) => {
                    if !std::mem::replace(&mut is_known, true) {
                        self.oracle.connected.fetch_add(1, Relaxed);
                        self.pace(&mut memory);
                    }
                    let Ended = self.serve(&mut socket, &mut memory).await;
                    if self.stop.is_cancelled() {
                        // The edge may be gone by now.
                        let _ = timeout(PATIENCE, socket.close()).await;
                        return;
                    }
                }
                Err(error) => self.oracle.trouble(error),
            }
            self.oracle.reconnects.fetch_add(u64::from(is_known), Relaxed);
            sleep(REST.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    /// Senders begin one after the other.
    fn pace(&self, memory: &mut Memory) {
        let spread = self.interval.unwrap_or(Duration::from_millis(10));
        memory.next_at = Instant::now() + spread.mul_f64(fastrand::f64());
    }

    async fn connect(&self) -> Result<TcpWebSocket, String> {
        // It is never closed, so there always is a permit in the end.
        let _permit = self.opening.acquire().await;
        let url = self.plan.url.parse().map_err(|error| format!("{error}"))?;
        let offer = format!("{SUBPROTOCOL}, bearer.{}", self.token);
        let request = HttpRequest::builder().header("sec-websocket-protocol", offer);
        let connecting = WebSocket::connect(url).with_request(request);
        let connected = timeout(PATIENCE, connecting).await.map_err(|_| "no answer to the handshake".to_owned())?;
        connected.map_err(|error| error.to_string())
    }

    async fn serve(&self, socket: &mut TcpWebSocket, memory: &mut Memory) -> Ended {
        // Whatever was under way on an earlier socket goes out again on this one.
        if let Some(pending) = &mut memory.pending {
            (pending.is_out, pending.due) = (false, Instant::now());
        }
        loop {
            self.draw_next(memory);
            let due = memory.pending.as_ref().map(|pending| pending.due);
            let done = tokio::select! {
                () = self.stop.cancelled() => Err(Ended),
                frame = socket.next_frame() => match frame {
                    Ok(frame) if frame.opcode() == OpCode::Text => self.on_frame(socket, memory, &frame).await,
                    Ok(_) => Ok(()),
                    Err(_) => Err(Ended),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.on_due(socket, memory).await
                }
            };
            if done.is_err() {
                return Ended;
            }
        }
    }

    /// Thinks of the next message, if one is left and none is under way.
    fn draw_next(&self, memory: &mut Memory) {
        if memory.pending.is_some() || memory.sent >= self.count {
            return;
        }
        let to = self.plan.pattern.receiver(self.user, memory.sent, self.plan.users);
        let others = match self.plan.pattern {
            super::Pattern::OneToMany => self.plan.users as u64 - 1,
            _ => 1,
        };
        let letter = Letter { from: self.user, to, number: memory.sent / others };
        let due = memory.next_at.max(Instant::now());
        let head = format!("{} {} {} ", letter.from, letter.number, due.duration_since(*EPOCH).as_micros());
        let text = format!("{head}{}", "x".repeat(self.plan.size.saturating_sub(head.len())));
        let rno = format!("{}-{}", self.user, memory.sent);
        let (me, to) = (name(&self.run, self.user), name(&self.run, to));
        let frame = json!({ "action": "send", "uId": me, "pId": to, "msg": text, "rno": rno, "time": 0 }).to_string();
        memory.pending = Some(Pending { letter, frame, rno, first_try: due, due, is_out: false, unknown: 0 });
    }

    /// It is time to send, or to stop waiting for the answer.
    async fn on_due(&self, socket: &mut TcpWebSocket, memory: &mut Memory) -> Result<(), Ended> {
        let Some(pending) = &mut memory.pending else { return Ok(()) };
        if pending.is_out {
            self.oracle.retries.fetch_add(1, Relaxed);
            return Err(Ended);
        }
        (pending.is_out, pending.due) = (true, Instant::now() + PATIENCE);
        say(socket, pending.frame.clone()).await
    }

    async fn on_frame(&self, socket: &mut TcpWebSocket, memory: &mut Memory, frame: &Frame) -> Result<(), Ended> {
        let Ok(frame) = serde_json::from_slice::<Value>(frame.payload()) else { return Ok(()) };
        match frame["event"].as_str() {
            Some("RESPSEND") => self.on_answer(memory, &frame),
            Some("RESPRECEIVER") => self.on_messages(socket, memory, &frame).await,
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
        if TRANSIENT.contains(&code) {
            pending.unknown = if code == 17 { pending.unknown + 1 } else { 0 };
            let is_unknown = pending.unknown > UNKNOWN_AT_MOST;
            self.repeat(memory);
            return if is_unknown { Err(Ended) } else { Ok(()) };
        }
        if code == 0 {
            self.oracle.accepted(pending.letter, pending.first_try.elapsed());
        } else {
            self.oracle.refused(code);
        }
        memory.next_at = self.interval.map_or_else(Instant::now, |interval| pending.first_try + interval);
        memory.pending = None;
        memory.sent += 1;
        if memory.sent == self.count {
            self.oracle.finished();
        }
        Ok(())
    }

    /// Sends the same again in a moment.
    fn repeat(&self, memory: &mut Memory) {
        if let Some(pending) = &mut memory.pending {
            self.oracle.retries.fetch_add(1, Relaxed);
            (pending.is_out, pending.due) = (false, Instant::now() + REST);
        }
    }

    async fn on_messages(&self, socket: &mut TcpWebSocket, memory: &mut Memory, frame: &Value) -> Result<(), Ended> {
        if frame["PREV"].as_str().is_some_and(|previous| !memory.seen.contains(previous)) {
            self.oracle.gaps.fetch_add(1, Relaxed);
            return Ok(());
        }
        let items = frame["MSG"].as_array().map(Vec::as_slice).unwrap_or_default();
        for item in items {
            let id = item["mId"].as_str().unwrap_or_default();
            if !memory.seen.insert(id.to_owned()) {
                self.oracle.repeated.fetch_add(1, Relaxed);
            } else if let Some((letter, sent)) = self.read(item["msg"].as_str().unwrap_or_default()) {
                self.oracle.received(&mut memory.shown, letter, EPOCH.elapsed().saturating_sub(sent));
            }
        }
        match items.last() {
            Some(last) => say(socket, json!({ "action": "ack", "mId": last["mId"] }).to_string()).await,
            None => Ok(()),
        }
    }

    /// From whom a text is, the how manieth, and when it was sent.
    fn read(&self, text: &str) -> Option<(Letter, Duration)> {
        let mut words = text.split(' ');
        let (from, number) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((Letter { from, to: self.user, number }, Duration::from_micros(words.next()?.parse().ok()?)))
    }
}

async fn say(socket: &mut TcpWebSocket, text: String) -> Result<(), Ended> {
    match timeout(PATIENCE, socket.send(Frame::text(text))).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Ended),
    }
}
