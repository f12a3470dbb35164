//! A load generator with an oracle: it knows what it has sent, and says what has become of it.
//!
//! Real WebSocket clients of version 2, which send one message after the other, repeat what was not answered under
//! the same `rno`, acknowledge what they get, and connect again when their socket ends. [`oracle`] holds what must be
//! true at the end: nothing lost, nothing shown twice, everything in order.

mod device;
pub mod oracle;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use kschat_adapters::jwt::sign_seed_token;
use kschat_core::{Clock, SystemClock};
use kschat_protocol::UserId;
use tokio::{
    task::JoinSet,
    time::{Instant, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use device::Device;
use oracle::{Oracle, Report};

/// How long a token is good for: longer than any run.
const TOKEN_LIFE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Connections that are opened at once.
const OPENING: usize = 50;

/// Who writes to whom.
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
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where clients connect to.
    pub url: String,
    /// Signs their tokens.
    pub secret: String,
    /// How many users there are.
    pub users: usize,
    /// How many connections each of them has.
    pub devices: usize,
    /// Messages in all.
    pub messages: u64,
    /// Messages a second; without it, each user sends as soon as the last message is accepted.
    pub rate: Option<f64>,
    /// Bytes of a message's text.
    pub size: usize,
    /// Who writes to whom.
    pub pattern: Pattern,
    /// How long nothing may arrive until what is missing counts as lost.
    pub settle: Duration,
}

impl Pattern {
    fn sends(self, user: usize) -> bool {
        match self {
            Self::Pairs => true,
            Self::OneToMany => user == 0,
            Self::ManyToOne => user != 0,
            Self::Offline => user.is_multiple_of(2),
        }
    }

    /// To whom that user's message number `n` goes.
    fn receiver(self, user: usize, n: u64, users: usize) -> usize {
        match self {
            Self::Pairs | Self::Offline => user ^ 1,
            Self::OneToMany => 1 + usize::try_from(n).unwrap_or_default() % (users - 1),
            Self::ManyToOne => 0,
        }
    }
}

/// Does what is planned; `tell` is called every second with how far it is.
///
/// # Errors
/// What is wrong with the plan.
pub async fn run(plan: Plan, tell: impl Fn(&Report)) -> Result<Report, String> {
    if plan.users < 2 || !plan.users.is_multiple_of(2) || plan.devices == 0 || plan.messages == 0 {
        return Err("it takes an even number of users, a device for each, and a message".to_owned());
    }
    let oracle = Arc::new(Oracle::new(plan.devices));
    let plan = Arc::new(plan);
    let (stop, run_id) = (CancellationToken::new(), format!("{:08x}", fastrand::u32(..)));
    let mut tasks = JoinSet::new();
    let senders = (0..plan.users).filter(|user| plan.pattern.sends(*user)).count();
    let is_late = |user: usize| plan.pattern == Pattern::Offline && !plan.pattern.sends(user);
    let mut quota = Quota::new(plan.messages, senders);
    let mut late = Vec::new();
    let opening = Arc::new(tokio::sync::Semaphore::new(OPENING));
    for user in 0..plan.users {
        let count = if plan.pattern.sends(user) { quota.next() } else { 0 };
        for number in 0..plan.devices {
            let device = Device {
                plan: plan.clone(),
                oracle: oracle.clone(),
                token: token(&plan.secret, &run_id, user)?,
                run: run_id.clone(),
                opening: opening.clone(),
                user,
                interval: plan.rate.map(|rate| Duration::from_secs_f64(senders as f64 / rate)),
                count: if number == 0 { count } else { 0 },
                stop: stop.clone(),
            };
            if is_late(user) { late.push(device) } else { drop(tasks.spawn(device.run())) }
        }
    }
    let all_connected = oracle.wait_for_devices(tasks.len());
    if tokio::time::timeout(plan.settle, all_connected).await.is_err() {
        return Err(format!("not all of {} connections could be opened: {}", tasks.len(), oracle.last_trouble()));
    }
    oracle.begin();
    let mut tick = interval(Duration::from_secs(1));
    tick.tick().await;
    let mut last = (0, Instant::now());
    loop {
        tick.tick().await;
        let report = oracle.report();
        tell(&report);
        if report.finished_senders == senders as u64 {
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
    sleep(Duration::from_secs(1)).await;
    let report = oracle.report();
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(report)
}

/// Shares messages among senders.
struct Quota {
    each: u64,
    more: u64,
}

impl Quota {
    fn new(messages: u64, senders: usize) -> Self {
        let senders = senders as u64;
        Self { each: messages / senders, more: messages % senders }
    }

    fn next(&mut self) -> u64 {
        let more = u64::from(self.more > 0);
        self.more -= more;
        self.each + more
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
