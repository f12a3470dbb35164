//! Load, while parts of a deployment die, freeze, forget and misbehave.
//!
//! [`run`] starts a [`world`] of real processes, has the load generator of `kschat load` send through it, and strikes
//! it with what [`faults`] draws from a seed. Afterwards everything is put right, and the oracle says whether a message
//! was lost, shown twice or out of order.

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
use kschat::load::{self, Plan, Until};
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::stack::SECRET;
use faults::{Class, Fault, Schedule};
pub use report::{Strike, Verdict};
use world::World;

/// Faults at once at most.
const AT_ONCE: usize = 3;

/// How long nothing may arrive after all is put right, until what is missing counts as lost.
const SETTLE: Duration = Duration::from_secs(90);

/// How long it goes on before the first fault, and after the last one.
const CALM: Duration = Duration::from_secs(3);

/// How often it is looked whether there are faults enough.
const LOOK: Duration = Duration::from_millis(200);

/// How faults follow one another.
#[derive(Clone, Debug)]
pub enum Mode {
    /// One at a time, each kind once, then it ends.
    Alone,
    /// Several at a time, for that long; without it, as long as messages are sent.
    Mixed(Option<Duration>),
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides which faults there are, and when.
    pub seed: u64,
    /// The kinds of fault.
    pub classes: Vec<Class>,
    /// How faults follow one another.
    pub mode: Mode,
    /// How long it is quiet between two faults.
    pub pause: Range<Duration>,
    /// How many messages are sent. Without it, as many as it takes until the faults are over.
    pub messages: Option<u64>,
    /// Users.
    pub users: usize,
    /// Messages a second.
    pub rate: Option<f64>,
    /// Consumer processes.
    pub consumers: usize,
    /// Whether functions are processes of their own.
    pub lambda: bool,
}

/// Does it, and says what happens. What ends badly names the seed.
pub async fn run(options: Options, say: impl Fn(String)) -> Verdict {
    say(format!("seed {}", options.seed));
    let world = Arc::new(World::start(options.consumers, options.lambda).await);
    let told = CancellationToken::new();
    let all_sent = Arc::new(AtomicBool::new(false));
    let plan = Plan {
        url: world.stack.websocket_url(),
        secret: SECRET.to_owned(),
        users: options.users,
        rate: options.rate,
        until: options.messages.map_or_else(|| Until::Told(told.clone()), Until::Messages),
        settle: SETTLE,
        cutter: world.cutter.clone(),
        ..Plan::default()
    };
    let trouble = Trouble { world: world.clone(), options: options.clone(), all_sent: all_sent.clone() };
    let striking = async {
        let strikes = trouble.make(&say).await;
        told.cancel();
        strikes
    };
    let tell = |report: &load::oracle::Report| {
        all_sent.store(report.finished_senders == report.senders, Relaxed);
        let load::oracle::Report { accepted, received, lost, reconnects, .. } = report;
        say(format!("{accepted:9} accepted {received:9} received {lost:6} under way {reconnects:6} reconnects"));
    };
    let (outcome, strikes) = tokio::join!(load::run(plan, tell), striking);
    let outcome = outcome.unwrap_or_else(|error| panic!("the load can't run, with seed {}: {error}", options.seed));
    let deaths = world.deaths();
    let is_clean = outcome.clean && deaths.is_empty();
    let logs = match Arc::try_unwrap(world) {
        Ok(world) => world.end(!is_clean).await,
        Err(_) => None,
    };
    Verdict { options, outcome, strikes, deaths, logs }
}

/// Faults on their way.
struct Trouble {
    world: Arc<World>,
    options: Options,
    all_sent: Arc<AtomicBool>,
}

impl Trouble {
    /// Makes faults until there are enough; returns when all is put right.
    async fn make(self, say: impl Fn(String)) -> Vec<Strike> {
        let Options { seed, classes, mode, pause, .. } = &self.options;
        let mut schedule = Schedule::new(*seed, classes.clone(), pause);
        let (at_once, mut left) = match mode {
            Mode::Alone => (1, classes.len()),
            Mode::Mixed(_) => (AT_ONCE, usize::MAX),
        };
        let (mut under_way, mut strikes) = (FuturesUnordered::new(), Vec::new());
        sleep(CALM).await;
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
                    // One at a time: what it did to the messages is its own.
                    since = if at_once == 1 { Instant::now() } else { since };
                }
                () = sleep_until((since + quiet).into()), if under_way.len() < at_once => {
                    under_way.push(strike(&self.world, fault, &say));
                    left -= 1;
                    (quiet, fault) = schedule.draw();
                    since = Instant::now();
                }
                () = sleep(LOOK) => {}
            }
        }
        strikes.extend(under_way.collect::<Vec<_>>().await);
        say("no more faults: everything is put right".to_owned());
        sleep(CALM).await;
        strikes.sort_by_key(|strike: &Strike| strike.from);
        strikes
    }
}

async fn strike(world: &World, fault: Fault, say: &impl Fn(String)) -> Strike {
    world.is_ready_for(&fault).await;
    let from = Instant::now();
    say(format!("  >> {fault}"));
    world.strike(&fault).await;
    say(format!("  << {}", fault.class));
    Strike { fault, from, to: Instant::now() }
}
