//! A load generator with an oracle, which tracks every message that was sent.
//!
//! Real WebSocket clients of version 2 send messages in turn, retry unanswered ones under the same `rno`, acknowledge
//! what they receive, and reconnect. [`oracle`] checks the guarantees at the end: nothing lost, nothing duplicated,
//! everything in order. [`timeline`] records latency over the time of the run, and [`plot`] draws it.

mod acks;
mod connect;
mod device;
mod number_set;
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

use kschat_adapters::jwt::sign_v1_token;
use kschat_core::{Clock, SystemClock};
use kschat_protocol::{UserId, limits::MAX_TEXT_BYTES};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, interval, sleep},
};
use tokio_util::sync::CancellationToken;

pub use connect::Dialect;
use connect::{Connector, explain};
use device::Device;
use oracle::{Oracle, Outcome, Report};

/// Lifetime of a token: longer than any run.
const LOAD_TOKEN_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Maximum concurrent connection attempts.
const MAX_CONCURRENT_CONNECTS: usize = 50;

/// Period of bursts, unless a rate is given.
const BURST_PERIOD: Duration = Duration::from_secs(5);

/// Interval of progress reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Traffic pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Pattern {
    /// Users in pairs, in both directions.
    Pairs,
    /// The first user to all others.
    OneToMany,
    /// All others to the first user.
    ManyToOne,
    /// Every second user to one who connects only after everything is sent.
    Offline,
    /// Pairs that start simultaneously, send --burst messages as fast as they are accepted, and pause.
    Burst,
}

/// When a run ends.
#[derive(Clone, Debug)]
pub enum Until {
    /// After this many messages in total.
    Messages(u64),
    /// After this time.
    Elapsed(Duration),
    /// When it is cancelled.
    Cancelled(CancellationToken),
}

/// Sizes of texts in bytes, evenly distributed over a range.
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
        let fits = |range: &RangeInclusive<usize>| !range.is_empty() && *range.end() <= MAX_TEXT_BYTES - 2;
        let wrong = || format!("must be bytes such as 100, or a range such as 10..2000, up to {}", MAX_TEXT_BYTES - 2);
        range.filter(fits).map(Self).ok_or_else(wrong)
    }
}

impl Size {
    fn draw(&self) -> usize {
        fastrand::usize(self.0.clone())
    }
}

/// Cuts connections of a running load abruptly, as a network failure would.
#[derive(Clone, Debug)]
pub struct ConnectionCutter(watch::Sender<f64>);

impl Default for ConnectionCutter {
    fn default() -> Self {
        Self(watch::Sender::new(0.0))
    }
}

impl ConnectionCutter {
    /// Cuts that share of all connections, at random; 1 is all.
    pub fn cut(&self, share: f64) {
        self.0.send_replace(share);
    }
}

/// Parameters of a run.
///
/// ```no_run
/// # async fn example() -> Result<(), String> {
/// use std::time::Duration;
///
/// use kschat_load::{Pattern, Plan, Until};
///
/// let plan = Plan {
///     secret: "the JWT_SECRET of the functions".to_owned(),
///     users: 20,
///     until: Until::Elapsed(Duration::from_secs(60)),
///     rate: Some(100.0),
///     size: "10..2000".parse()?,
///     pattern: Pattern::ManyToOne,
///     ..Plan::default()
/// };
/// let outcome = kschat_load::run(plan, |report| println!("{report}")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Plan {
    /// URL that clients connect to.
    pub url: String,
    /// Dialect of the clients.
    pub dialect: Dialect,
    /// Secret that signs their tokens.
    pub secret: String,
    /// Number of users.
    pub users: usize,
    /// Connections per user.
    pub devices: usize,
    /// When the run ends.
    pub until: Until,
    /// Messages per second; without it, each user sends as soon as its last message is accepted.
    pub rate: Option<f64>,
    /// Bytes of a message's text.
    pub size: Size,
    /// Traffic pattern.
    pub pattern: Pattern,
    /// Messages per user in a burst, with [`Pattern::Burst`].
    pub burst: u64,
    /// Time without any arrival after which missing messages count as lost.
    pub settle: Duration,
    /// Cuts connections during the run.
    pub cutter: ConnectionCutter,
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
            cutter: ConnectionCutter::default(),
        }
    }
}

impl Plan {
    fn check(&self) -> Result<(), String> {
        let is_something = match &self.until {
            Until::Messages(messages) => *messages > 0,
            Until::Elapsed(time) => !time.is_zero(),
            Until::Cancelled(_) => true,
        };
        if self.users < 2 || !self.users.is_multiple_of(2) || self.devices == 0 || self.burst == 0 || !is_something {
            return Err(
                "needs an even number of users, at least one device per user and at least one message".to_owned()
            );
        }
        Ok(())
    }

    /// Connects once, as a separate user, to fail early where no client can connect.
    async fn try_out(&self, connector: &Connector) -> Result<(), String> {
        let run = format!("{:08x}", fastrand::u32(..));
        match connector.open(&token(&self.secret, &run, self.users)?).await {
            Ok(mut connection) => {
                connection.close().await;
                Ok(())
            }
            Err(error) if error.is_permanent() => {
                Err(format!("no client can connect to {}: {}", self.url, explain(&error)))
            }
            // The clients will see the error again, and retry.
            Err(_) => Ok(()),
        }
    }

    fn senders(&self) -> usize {
        (0..self.users).filter(|user| self.pattern.sends(*user)).count()
    }

    /// Time between two messages of a sender, or between two bursts.
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

    /// Receiver of that user's message number `n`.
    fn receiver(self, user: usize, n: u64, users: usize) -> usize {
        match self {
            Self::Pairs | Self::Offline | Self::Burst => user ^ 1,
            Self::OneToMany => 1 + usize::try_from(n).unwrap_or_default() % (users - 1),
            Self::ManyToOne => 0,
        }
    }
}

/// Executes a plan; calls `tell` every second with the progress.
///
/// # Errors
/// An invalid plan, or the reason for which clients can't connect.
pub async fn run(plan: Plan, tell: impl Fn(&Report)) -> Result<Outcome, String> {
    plan.check()?;
    let connector = Connector::new(&plan.url, plan.dialect)?;
    plan.try_out(&connector).await?;
    let plan = Arc::new(plan);
    let oracle = Arc::new(Oracle::new(plan.senders() as u64));
    let stop = CancellationToken::new();
    let (mut tasks, mut late) = (JoinSet::new(), Vec::new());
    for device in devices(&plan, &connector, &oracle, &stop)? {
        let is_late = plan.pattern == Pattern::Offline && !plan.pattern.sends(device.user);
        if is_late { late.push(device) } else { drop(tasks.spawn(device.run())) }
    }
    let all_connected = oracle.wait_for_devices(tasks.len());
    if tokio::time::timeout(plan.settle, all_connected).await.is_err() {
        return Err(format!("failed to open all {} connections: {}", tasks.len(), oracle.last_error_text()));
    }
    oracle.begin();
    report_until_settled(&plan, &oracle, &mut tasks, late, tell).await;
    // A late duplicate would arrive now.
    sleep(REPORT_INTERVAL).await;
    let outcome = oracle.outcome();
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(outcome)
}

/// Reports every second until all that was accepted has arrived, or nothing has changed for as long as the plan says.
/// Starts the late devices once all senders have finished.
async fn report_until_settled(
    plan: &Plan,
    oracle: &Oracle,
    tasks: &mut JoinSet<()>,
    mut late: Vec<Device>,
    tell: impl Fn(&Report),
) {
    let mut tick = interval(REPORT_INTERVAL);
    tick.tick().await;
    let mut last_change = (0, Instant::now());
    loop {
        tick.tick().await;
        let report = oracle.report();
        tell(&report);
        if report.finished_senders == report.senders {
            for device in late.drain(..) {
                tasks.spawn(device.run());
            }
            if report.received >= report.accepted && report.lost == 0 {
                return;
            }
        }
        let progress = report.accepted + report.received;
        if progress != last_change.0 {
            last_change = (progress, Instant::now());
        } else if last_change.1.elapsed() > plan.settle {
            return;
        }
    }
}

fn devices(
    plan: &Arc<Plan>,
    connector: &Connector,
    oracle: &Arc<Oracle>,
    stop: &CancellationToken,
) -> Result<Vec<Device>, String> {
    let run = format!("{:08x}", fastrand::u32(..));
    let opening = Arc::new(Semaphore::new(MAX_CONCURRENT_CONNECTS));
    let mut quota = Quota::new(&plan.until, plan.senders());
    let mut devices = Vec::new();
    for user in 0..plan.users {
        let count = if plan.pattern.sends(user) { quota.next() } else { None };
        for number in 0..plan.devices {
            devices.push(Device {
                plan: plan.clone(),
                connector: connector.clone(),
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

/// Distributes messages among senders.
struct Quota {
    each: u64,
    more: u64,
}

impl Quota {
    fn new(until: &Until, senders: usize) -> Self {
        let senders = senders as u64;
        match until {
            Until::Messages(messages) => Self { each: messages / senders, more: messages % senders },
            Until::Elapsed(_) | Until::Cancelled(_) => Self { each: u64::MAX, more: 0 },
        }
    }

    fn next(&mut self) -> Option<u64> {
        let more = u64::from(self.more > 0);
        self.more -= more;
        Some(self.each + more)
    }
}

/// Name of a user of a run.
fn name(run: &str, user: usize) -> String {
    format!("load-{run}-{user}")
}

fn token(secret: &str, run: &str, user: usize) -> Result<String, String> {
    let user = UserId::try_from(name(run, user)).map_err(|error| error.to_string())?;
    let now = SystemClock.now();
    sign_v1_token(secret, &user, now, now.plus(LOAD_TOKEN_TTL))
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
    fn message_size_parses_number_or_range() {
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
    fn pattern_keeps_average_rate() {
        let plan = |pattern| Plan { pattern, users: 10, rate: Some(20.0), burst: 8, ..Plan::default() };
        assert_eq!(plan(Pattern::Pairs).interval(), Some(Duration::from_millis(500)));
        assert_eq!(plan(Pattern::OneToMany).interval(), Some(Duration::from_millis(50)));
        assert_eq!(plan(Pattern::Burst).interval(), Some(Duration::from_secs(4)));
    }
}
