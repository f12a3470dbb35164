//! A load generator with an oracle: it knows what it has sent, and says what has become of it.
//!
//! Real WebSocket clients of version 2, which send one message after the other, repeat what was not answered under
//! the same `rno`, acknowledge what they get, and connect again when their socket ends. [`oracle`] holds what must be
//! true at the end: nothing lost, nothing shown twice, everything in order. [`timeline`] tells how long messages took
//! over the time of the run, and [`plot`] draws it.

mod device;
mod got;
mod line;
mod marks;
pub mod oracle;
pub mod plot;
mod report;
pub mod timeline;

use std::{
    ops::RangeInclusive,
    str::FromStr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use kschat_adapters::jwt::sign_seed_token;
use kschat_core::{Clock, SystemClock};
use kschat_protocol::{UserId, limits::MAX_MSG};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use device::Device;
pub use line::Dialect;
use oracle::{Oracle, Outcome, Report};

/// How long a token is good for: longer than any run.
const TOKEN_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Connections that are opened at once.
const OPENING: usize = 50;

/// From one burst to the next, where no rate says otherwise.
const BURST_PERIOD: Duration = Duration::from_secs(5);

/// How often it is told how far the run is.
const TICK: Duration = Duration::from_secs(1);

/// Who writes to whom, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Pattern {
    /// Two by two, in both directions.
    Pairs,
    /// The first user to all others.
    OneToMany,
    /// All others to the first user.
    ManyToOne,
    /// Every second user to one who connects only when everything is sent.
    Offline,
    /// As pairs, but all begin at the same moment, send --burst messages as fast as they are accepted, and rest.
    Burst,
}

/// When there is enough.
#[derive(Clone, Debug)]
pub enum Until {
    /// After so many messages in all.
    Messages(u64),
    /// After that time.
    Elapsed(Duration),
    /// When it is told so.
    Told(CancellationToken),
}

/// How many bytes the texts have, evenly spread over a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size(RangeInclusive<usize>);

impl Default for Size {
    fn default() -> Self {
        Self(100..=100)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (low, high) = text.split_once("..").unwrap_or((text, text));
        let range = low.parse().ok().zip(high.parse().ok()).map(|(low, high)| low..=high);
        // Two bytes are for the quotes.
        let fits = |range: &RangeInclusive<usize>| !range.is_empty() && *range.end() <= MAX_MSG - 2;
        let wrong = || format!("must be bytes such as 100, or a range such as 10..2000, up to {}", MAX_MSG - 2);
        range.filter(fits).map(Self).ok_or_else(wrong)
    }
}

impl Size {
    fn draw(&self) -> usize {
        fastrand::usize(self.0.clone())
    }
}

/// Breaks off connections of a run while it goes on, as a network would: without a word.
#[derive(Clone, Debug)]
pub struct Cutter(watch::Sender<f64>);

impl Default for Cutter {
    fn default() -> Self {
        Self(watch::Sender::new(0.0))
    }
}

impl Cutter {
    /// Breaks off that share of all connections, drawn at random; 1 is all.
    pub fn cut(&self, share: f64) {
        self.0.send_replace(share);
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where clients connect to.
    pub url: String,
    /// What they speak.
    pub dialect: Dialect,
    /// Signs their tokens.
    pub secret: String,
    /// How many users there are.
    pub users: usize,
    /// How many connections each of them has.
    pub devices: usize,
    /// When there is enough.
    pub until: Until,
    /// Messages a second; without it, each user sends as soon as the last message is accepted.
    pub rate: Option<f64>,
    /// Bytes of a message's text.
    pub size: Size,
    /// Who writes to whom.
    pub pattern: Pattern,
    /// Messages that each user sends in one go, with [`Pattern::Burst`].
    pub burst: u64,
    /// How long nothing may arrive until what is missing counts as lost.
    pub settle: Duration,
    /// Breaks off connections meanwhile.
    pub cutter: Cutter,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            url: "ws://127.0.0.1:3000/dev".to_owned(),
            dialect: Dialect::default(),
            secret: String::new(),
            users: 100,
            devices: 1,
            until: Until::Messages(10_000),
            rate: None,
            size: Size::default(),
            pattern: Pattern::Pairs,
            burst: 50,
            settle: Duration::from_secs(30),
            cutter: Cutter::default(),
        }
    }
}

impl Plan {
    fn check(&self) -> Result<(), String> {
        let is_something = match &self.until {
            Until::Messages(messages) => *messages > 0,
            Until::Elapsed(time) => !time.is_zero(),
            Until::Told(_) => true,
        };
        if self.users < 2 || !self.users.is_multiple_of(2) || self.devices == 0 || self.burst == 0 || !is_something {
            return Err("it takes an even number of users, a device for each, and a message".to_owned());
        }
        Ok(())
    }

    fn senders(&self) -> usize {
        (0..self.users).filter(|user| self.pattern.sends(*user)).count()
    }

    /// From one message of a sender to its next, or from one burst to the next.
    fn interval(&self) -> Option<Duration> {
        let is_burst = self.pattern == Pattern::Burst;
        let messages = if is_burst { self.burst } else { 1 };
        let by_rate = self.rate.map(|rate| Duration::from_secs_f64((self.senders() as u64 * messages) as f64 / rate));
        by_rate.or(is_burst.then_some(BURST_PERIOD))
    }
}

impl Pattern {
    fn sends(self, user: usize) -> bool {
        match self {
            Self::Pairs | Self::Burst => true,
            Self::OneToMany => user == 0,
            Self::ManyToOne => user != 0,
            Self::Offline => user.is_multiple_of(2),
        }
    }

    /// To whom that user's message number `n` goes.
    fn receiver(self, user: usize, n: u64, users: usize) -> usize {
        match self {
            Self::Pairs | Self::Offline | Self::Burst => user ^ 1,
            Self::OneToMany => 1 + usize::try_from(n).unwrap_or_default() % (users - 1),
            Self::ManyToOne => 0,
        }
    }
}

/// Does what is planned; `tell` is called every second with how far it is.
///
/// # Errors
/// What is wrong with the plan, or why clients can't connect.
pub async fn run(plan: Plan, tell: impl Fn(&Report)) -> Result<Outcome, String> {
    plan.check()?;
    let plan = Arc::new(plan);
    let oracle = Arc::new(Oracle::new(plan.senders() as u64));
    let stop = CancellationToken::new();
    let (mut tasks, mut late) = (JoinSet::new(), Vec::new());
    for device in devices(&plan, &oracle, &stop)? {
        let is_late = plan.pattern == Pattern::Offline && !plan.pattern.sends(device.user);
        if is_late { late.push(device) } else { drop(tasks.spawn(device.run())) }
    }
    let all_connected = oracle.wait_for_devices(tasks.len());
    if tokio::time::timeout(plan.settle, all_connected).await.is_err() {
        return Err(format!("not all of {} connections could be opened: {}", tasks.len(), oracle.last_trouble()));
    }
    oracle.begin();
    let mut tick = interval(TICK);
    tick.tick().await;
    let mut last = (0, Instant::now());
    loop {
        tick.tick().await;
        let report = oracle.report();
        tell(&report);
        if report.finished_senders == report.senders {
            for device in late.drain(..) {
                tasks.spawn(device.run());
            }
            if report.received >= report.accepted && report.lost == 0 {
                break;
            }
        }
        let progress = report.accepted + report.received;
        if progress != last.0 {
            last = (progress, Instant::now());
        } else if last.1.elapsed() > plan.settle {
            break;
        }
    }
    // A repetition that is still on its way would be seen now.
    sleep(TICK).await;
    let outcome = oracle.outcome();
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(outcome)
}

fn devices(plan: &Arc<Plan>, oracle: &Arc<Oracle>, stop: &CancellationToken) -> Result<Vec<Device>, String> {
    let run = format!("{:08x}", fastrand::u32(..));
    let opening = Arc::new(Semaphore::new(OPENING));
    let mut quota = Quota::new(&plan.until, plan.senders());
    let mut devices = Vec::new();
    for user in 0..plan.users {
        let count = if plan.pattern.sends(user) { quota.next() } else { None };
        for number in 0..plan.devices {
            devices.push(Device {
                plan: plan.clone(),
                oracle: oracle.clone(),
                token: token(&plan.secret, &run, user)?,
                run: run.clone(),
                opening: opening.clone(),
                user,
                interval: plan.interval(),
                count: count.filter(|_| number == 0),
                stop: stop.clone(),
            });
        }
    }
    Ok(devices)
}

/// Shares messages among senders.
struct Quota {
    each: u64,
    more: u64,
}

impl Quota {
    fn new(until: &Until, senders: usize) -> Self {
        let senders = senders as u64;
        match until {
            Until::Messages(messages) => Self { each: messages / senders, more: messages % senders },
            Until::Elapsed(_) | Until::Told(_) => Self { each: u64::MAX, more: 0 },
        }
    }

    fn next(&mut self) -> Option<u64> {
        let more = u64::from(self.more > 0);
        self.more -= more;
        Some(self.each + more)
    }
}

/// How a user of a run is called.
fn name(run: &str, user: usize) -> String {
    format!("load-{run}-{user}")
}

fn token(secret: &str, run: &str, user: usize) -> Result<String, String> {
    let user = UserId::try_from(name(run, user)).map_err(|error| error.to_string())?;
    let now = SystemClock.now();
    sign_seed_token(secret, &user, now, now.plus(TOKEN_LIFE))
}

impl Oracle {
    async fn wait_for_devices(&self, count: usize) {
        while self.connected.load(Relaxed) < count as u64 {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_or_a_range() {
        assert_eq!("100".parse(), Ok(Size(100..=100)));
        assert_eq!("10..2000".parse(), Ok(Size(10..=2000)));
        for wrong in ["", "x", "10..", "..10", "20..10", "1..99999", "-1"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
        let drawn: Vec<usize> = (0..1000).map(|_| Size(10..=12).draw()).collect();
        assert!((10..=12).all(|size| drawn.contains(&size)) && drawn.iter().all(|size| (10..=12).contains(size)));
    }

    #[test]
    fn every_message_has_a_sender() {
        let mut quota = Quota::new(&Until::Messages(10), 4);
        let counts: Vec<_> = (0..4).filter_map(|_| quota.next()).collect();
        assert_eq!(counts, [3, 3, 2, 2]);
    }

    #[test]
    fn a_rate_is_kept_on_the_average_whatever_the_pattern() {
        let plan = |pattern| Plan { pattern, users: 10, rate: Some(20.0), burst: 8, ..Plan::default() };
        assert_eq!(plan(Pattern::Pairs).interval(), Some(Duration::from_millis(500)));
        assert_eq!(plan(Pattern::OneToMany).interval(), Some(Duration::from_millis(50)));
        assert_eq!(plan(Pattern::Burst).interval(), Some(Duration::from_secs(4)));
    }
}
