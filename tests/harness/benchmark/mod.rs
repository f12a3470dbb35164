//! Compares chat servers: throughput, latency, CPU time per message and memory, with real clients and real services.
//!
//! All contenders do the same job, one after the other, in one run: users in pairs send each other texts of 100 bytes.
//! A message is in flight from when it is sent until the other user has received it. Everything shares one machine, so
//! only ratios within a run mean something.

mod client;
mod contender;
mod flow;
mod mqtt;
pub mod report;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use client::{Client, Heard};
pub use contender::Contender;
use contender::{Protocol, Server};
pub use flow::Counts;
use flow::Flow;

use crate::stack::Services;

/// Bytes of a text.
const TEXT_BYTES: usize = 100;

/// Maximum concurrent handshakes.
const MAX_CONCURRENT_CONNECTS: usize = 50;

/// Before figures are taken.
const WARM_UP: Duration = Duration::from_secs(1);

/// Missing messages are lost once nothing has arrived for this long.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Share of the highest throughput at which latency is measured.
const HALF_OF_PEAK: f64 = 0.5;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Online users, in pairs.
    pub users: usize,
    /// How long each measurement takes.
    pub span: Duration,
    /// Messages in flight per user, in turn.
    pub in_flight: Vec<usize>,
    /// Messages per second at which latency is measured, besides half of the peak.
    pub rate: f64,
}

/// How clients send.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pace {
    /// Nothing is sent.
    Idle,
    /// Each user keeps this many messages in flight.
    InFlight(usize),
    /// Each user sends a message at each interval.
    Every(Duration),
}

/// Figures of one measurement.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Messages received per second.
    pub throughput: f64,
    /// Microseconds of CPU time per message: of the server, of RabbitMQ, and of Redis.
    pub cpu: [f64; 3],
    /// Latency in milliseconds from when a message is due until it is received: median, 99th and 99.9th percentile.
    pub latency: [f64; 3],
}

/// Figures of one contender in one round.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Handshakes per second, until each user can receive.
    pub connects: f64,
    /// Memory of the server with all users online and idle, in MB.
    pub memory: f64,
    /// By messages in flight.
    pub closed_loop: Vec<(usize, Figures)>,
    /// At the plan's rate.
    pub at_rate: Figures,
    /// At half of the highest throughput.
    pub at_half: Figures,
    /// What became of the messages.
    pub counts: Counts,
}

/// Measures one contender.
///
/// # Panics
/// When a server or a client fails.
pub async fn measure(contender: Contender, plan: &Plan, services: &Services) -> Outcome {
    services.reset().await;
    let server = Server::start(contender, services).await;
    let began = Instant::now();
    let crowd = Crowd::connect(contender.protocol(), &server.url, plan.users).await;
    let connects = plan.users as f64 / began.elapsed().as_secs_f64();
    sleep(WARM_UP).await;
    let memory = server.resident_bytes() as f64 / 1e6;
    let stage = Stage { crowd, server, services, span: plan.span };
    let mut closed_loop = Vec::new();
    for in_flight in &plan.in_flight {
        closed_loop.push((*in_flight, stage.figures(Pace::InFlight(*in_flight)).await));
    }
    let peak = closed_loop.iter().map(|(_, figures)| figures.throughput).fold(plan.rate, f64::max);
    let at = |rate: f64| Pace::Every(Duration::from_secs_f64(plan.users as f64 / rate));
    let at_rate = stage.figures(at(plan.rate)).await;
    let at_half = stage.figures(at(peak * HALF_OF_PEAK)).await;
    let counts = stage.crowd.counts();
    stage.crowd.disconnect().await;
    Outcome { connects, memory, closed_loop, at_rate, at_half, counts }
}

/// A server with its clients and services.
struct Stage<'a> {
    crowd: Crowd,
    server: Server,
    services: &'a Services,
    span: Duration,
}

impl Stage<'_> {
    async fn figures(&self, pace: Pace) -> Figures {
        self.crowd.pace.send_replace(pace);
        sleep(WARM_UP).await;
        self.crowd.clear_latencies();
        let (began, cpu, received) = (Instant::now(), self.cpu(), self.crowd.received());
        sleep(self.span).await;
        let (elapsed, cpu_after) = (began.elapsed().as_secs_f64(), self.cpu());
        let messages = (self.crowd.received() - received) as f64;
        let latency = self.crowd.take_latencies();
        self.crowd.pace.send_replace(Pace::Idle);
        self.crowd.settle().await;
        let per_message = |part: usize| (cpu_after[part] - cpu[part]).as_secs_f64() * 1e6 / messages.max(1.0);
        Figures {
            throughput: messages / elapsed,
            cpu: [per_message(0), per_message(1), per_message(2)],
            latency: [0.5, 0.99, 0.999].map(|share| percentile(&latency, share).as_secs_f64() * 1e3),
        }
    }

    fn cpu(&self) -> [Duration; 3] {
        [self.server.cpu_time(), self.services.rabbitmq.cpu_time(), self.services.redis.cpu_time()]
    }
}

/// The value below which that share of the sorted values lies.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

/// All clients.
struct Crowd {
    pace: watch::Sender<Pace>,
    flows: Vec<Arc<Flow>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Crowd {
    async fn connect(protocol: Protocol, url: &str, users: usize) -> Self {
        let clients: Vec<Client> = stream::iter(0..users)
            .map(|user| async move { Client::open(protocol, url, &name(user)).await })
            .buffered(MAX_CONCURRENT_CONNECTS)
            .try_collect()
            .await
            .expect("every client can connect");
        let (pace, paces) = watch::channel(Pace::Idle);
        // Flow number n leads from user n to its partner.
        let flows: Vec<Arc<Flow>> = (0..users).map(|_| Arc::default()).collect();
        let run = format!("{:08x}", fastrand::u32(..));
        let tasks = clients.into_iter().enumerate().map(|(user, client)| {
            let partner = user ^ 1;
            let user = User {
                client,
                partner: name(partner),
                rno_prefix: format!("{run}-{user}-"),
                outgoing: Arc::clone(&flows[user]),
                incoming: Arc::clone(&flows[partner]),
                paces: paces.clone(),
                next_due: Instant::now(),
            };
            tokio::spawn(user.run())
        });
        Self { pace, tasks: tasks.collect(), flows }
    }

    fn received(&self) -> u64 {
        self.flows.iter().map(|flow| flow.received()).sum()
    }

    fn counts(&self) -> Counts {
        self.flows.iter().map(|flow| flow.counts()).sum()
    }

    fn clear_latencies(&self) {
        self.flows.iter().for_each(|flow| flow.clear_latencies());
    }

    fn take_latencies(&self) -> Vec<Duration> {
        let mut all: Vec<Duration> = self.flows.iter().flat_map(|flow| flow.take_latencies()).collect();
        all.sort_unstable();
        all
    }

    /// Waits until nothing is in flight, or nothing arrives any more.
    async fn settle(&self) {
        let (mut received, mut last) = (self.received(), Instant::now());
        while self.flows.iter().any(|flow| flow.in_flight() > 0) && last.elapsed() < SETTLE_TIMEOUT {
            sleep(Duration::from_millis(20)).await;
            if self.received() > received {
                (received, last) = (self.received(), Instant::now());
            }
            assert!(self.tasks.iter().all(|task| !task.is_finished()), "a client has failed");
        }
    }

    async fn disconnect(self) {
        drop(self.pace);
        join_all(self.tasks).await;
    }
}

fn name(user: usize) -> String {
    format!("user-{user}")
}

/// One user's client, with what it sends and receives.
struct User {
    client: Client,
    partner: String,
    rno_prefix: String,
    outgoing: Arc<Flow>,
    incoming: Arc<Flow>,
    paces: watch::Receiver<Pace>,
    next_due: Instant,
}

impl User {
    async fn run(mut self) {
        let mut pace = Pace::Idle;
        loop {
            self.send_due(pace).await;
            let ack_due_at = self.client.ack_due_at();
            tokio::select! {
                changed = self.paces.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    pace = *self.paces.borrow_and_update();
                    if let Pace::Every(interval) = pace {
                        // Staggered.
                        self.next_due = Instant::now() + interval.mul_f64(fastrand::f64());
                    }
                }
                next = self.client.next() => {
                    let next = next.expect("the connection stays open");
                    let heard = self.client.handle(next).await.expect("the connection stays open");
                    self.note(heard);
                }
                () = self.outgoing.settled.notified(), if matches!(pace, Pace::InFlight(_)) => {}
                () = sleep_until(self.next_due), if matches!(pace, Pace::Every(_)) => {}
                () = sleep_until(ack_due_at.unwrap_or_else(Instant::now)), if ack_due_at.is_some() => {
                    self.client.acknowledge().await.expect("the connection stays open");
                }
            }
        }
    }

    async fn send_due(&mut self, pace: Pace) {
        match pace {
            Pace::Idle => {}
            Pace::InFlight(most) => {
                while self.outgoing.in_flight() < most {
                    self.send(Instant::now()).await;
                }
            }
            Pace::Every(interval) => {
                while self.next_due <= Instant::now() {
                    self.send(self.next_due).await;
                    self.next_due += interval;
                }
            }
        }
    }

    async fn send(&mut self, due: Instant) {
        let number = self.outgoing.begin(due);
        let text = format!("{number:<TEXT_BYTES$}");
        let rno = format!("{}{number}", self.rno_prefix);
        self.client.send(&self.partner, text, rno).await.expect("the connection stays open");
    }

    /// The number of the message that was sent with that `rno`.
    fn number_of(&self, rno: &str) -> usize {
        let number = rno.strip_prefix(&self.rno_prefix).and_then(|number| number.parse().ok());
        number.expect("every rno ends with a number")
    }

    fn note(&self, heard: Heard) {
        match heard {
            Heard::Messages(texts) => {
                for text in texts {
                    self.incoming.receive(text.trim_end().parse().expect("the number of a message"));
                }
            }
            Heard::Accepted(rno) => self.outgoing.accept(self.number_of(&rno)),
            Heard::Refused(rno) => self.outgoing.refuse(self.number_of(&rno)),
            Heard::Other => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_sorted_values() {
        let values: Vec<Duration> = (1..=1000).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 0.5), Duration::from_millis(501));
        assert_eq!(percentile(&values, 0.99), Duration::from_millis(990));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}
