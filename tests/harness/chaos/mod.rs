//! Load with injected faults.
//!
//! [`run`] starts a [`world`] of real processes, sends through it with the load generator of `kschat load`, and injects
//! [`faults`] drawn from a seed. Afterwards it repairs everything, and the oracle checks for lost, duplicated or
//! reordered messages.

pub mod faults;
mod report;
pub mod world;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use kschat_load::{Plan, Until, oracle::Report};
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::stack::SECRET;
use faults::{Class, Fault, Schedule};
pub use report::{InjectedFault, Verdict};
use world::World;

/// Maximum concurrent faults.
const MAX_CONCURRENT_FAULTS: usize = 3;

/// Time without any arrival, after all repairs, until missing messages count as lost.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Time before the first fault, and after the last one.
const CALM_PERIOD: Duration = Duration::from_secs(3);

/// Interval of checks for the end of fault injection.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Concurrency of faults.
#[derive(Clone, Debug)]
pub enum Mode {
    /// One at a time, each kind once.
    Alone,
    /// Several at a time, for that long; without a time, while messages are sent.
    Mixed(Option<Duration>),
}

/// Parameters of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seed of the faults.
    pub seed: u64,
    /// The kinds of fault.
    pub classes: Vec<Class>,
    /// Concurrency of faults.
    pub mode: Mode,
    /// Pause between two faults.
    pub pause: Range<Duration>,
    /// Number of messages. Without it, as many as are sent until the faults are over.
    pub messages: Option<u64>,
    /// Number of users.
    pub users: usize,
    /// Messages per second.
    pub rate: Option<f64>,
    /// Number of consumer processes.
    pub consumers: usize,
    /// Whether functions run in separate processes.
    pub lambda: bool,
}

/// Executes a run, and reports its progress. A failed verdict names the seed.
pub async fn run(options: Options, say: impl Fn(String)) -> Verdict {
    say(format!("seed {}", options.seed));
    let world = Arc::new(World::start(options.consumers, options.lambda).await);
    let finished = CancellationToken::new();
    let all_sent = Arc::new(AtomicBool::new(false));
    let plan = Plan {
        url: world.stack.websocket_url(),
        secret: SECRET.to_owned(),
        users: options.users,
        rate: options.rate,
        until: options.messages.map_or_else(|| Until::Cancelled(finished.clone()), Until::Messages),
        settle: SETTLE_TIMEOUT,
        cutter: world.cutter.clone(),
        ..Plan::default()
    };
    let trouble = FaultInjector { world: world.clone(), options: options.clone(), all_sent: all_sent.clone() };
    let striking = async {
        let strikes = trouble.make(&say).await;
        finished.cancel();
        strikes
    };
    let tell = |report: &Report| {
        all_sent.store(report.finished_senders == report.senders, Relaxed);
        let Report { accepted, received, lost, reconnects, .. } = report;
        say(format!("{accepted:9} accepted {received:9} received {lost:6} under way {reconnects:6} reconnects"));
    };
    let (outcome, strikes) = tokio::join!(kschat_load::run(plan, tell), striking);
    let outcome = outcome.unwrap_or_else(|error| panic!("the load can't run, with seed {}: {error}", options.seed));
    let deaths = world.deaths();
    let is_clean = outcome.clean && deaths.is_empty();
    let logs = match Arc::try_unwrap(world) {
        Ok(world) => world.end(!is_clean).await,
        Err(_) => None,
    };
    Verdict { options, outcome, strikes, deaths, logs }
}

/// Injects faults during a run.
struct FaultInjector {
    world: Arc<World>,
    options: Options,
    all_sent: Arc<AtomicBool>,
}

impl FaultInjector {
    /// Injects faults until the end; returns when all are repaired.
    async fn make(self, say: impl Fn(String)) -> Vec<InjectedFault> {
        let Options { seed, classes, mode, pause, .. } = &self.options;
        let mut schedule = Schedule::new(*seed, classes.clone(), pause);
        let (at_once, mut left) = match mode {
            Mode::Alone => (1, classes.len()),
            Mode::Mixed(_) => (MAX_CONCURRENT_FAULTS, usize::MAX),
        };
        let (mut under_way, mut strikes) = (FuturesUnordered::new(), Vec::new());
        sleep(CALM_PERIOD).await;
        let began = Instant::now();
        let is_over = || match mode {
            Mode::Mixed(Some(time)) => began.elapsed() >= *time,
            Mode::Mixed(None) => self.all_sent.load(Relaxed),
            Mode::Alone => false,
        };
        let (mut quiet, mut fault) = schedule.draw();
        let mut since = Instant::now();
        while left > 0 && !is_over() {
            tokio::select! {
                Some(strike) = under_way.next(), if !under_way.is_empty() => {
                    strikes.push(strike);
                    // In sequence: pause after this fault, so that effects are separable.
                    since = if at_once == 1 { Instant::now() } else { since };
                }
                () = sleep_until((since + quiet).into()), if under_way.len() < at_once => {
                    under_way.push(strike(&self.world, fault, &say));
                    left -= 1;
                    (quiet, fault) = schedule.draw();
                    since = Instant::now();
                }
                () = sleep(POLL_INTERVAL) => {}
            }
        }
        strikes.extend(under_way.collect::<Vec<_>>().await);
        say("no more faults: everything is put right".to_owned());
        sleep(CALM_PERIOD).await;
        strikes.sort_by_key(|strike: &InjectedFault| strike.from);
        strikes
    }
}

async fn strike(world: &World, fault: Fault, say: &impl Fn(String)) -> InjectedFault {
    world.is_ready_for(&fault).await;
    let from = Instant::now();
    say(format!("  >> {fault}"));
    world.strike(&fault).await;
    say(format!("  << {}", fault.class));
    InjectedFault { fault, from, to: Instant::now() }
}
