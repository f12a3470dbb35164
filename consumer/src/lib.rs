//! The consumer service: owns partitions, and serves the users of those who are online.
//!
//! [`run`] turns the changes that [`Ownership`] reports into one task a user, each of which is
//! [`deliver::serve`]. It is level-triggered: a poke only says that a user should be looked at again, so a
//! lost, late or repeated one does no harm.

pub mod health;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use kschat_core::{
    Partition,
    deliver::{self, Asker, End, Signals},
    job, metrics,
    ports::{Ownership, OwnershipEvent},
    retire,
};
use kschat_protocol::UserId;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How often everybody online is looked at again, so that a lost poke costs no more than this.
const RECONCILE: Duration = Duration::from_secs(60);

/// How often the queues of those who are away are looked for that must be looked at.
const SWEEP: Duration = Duration::from_secs(30);

/// How long a user rests whose queue was lost while the partition stayed ours.
const SHORT_REST: Duration = Duration::from_millis(500);

/// How long a user rests whom we could not serve for some while.
const LONG_REST: Duration = Duration::from_secs(5);

/// How long posts under way may take to finish once we are told to stop. Those of one user may take longer
/// only while the edge is failing, and then its messages stay in the queue.
const DRAIN: Duration = Duration::from_secs(20);

/// How often the marks in the registry are looked at: so long may nobody be recognised after it has lost everything.
const WATCH: Duration = Duration::from_secs(2);

/// Serves until `shutdown`; then lets posts under way finish, gives everything else back, and leaves.
pub async fn run(deps: deliver::Deps, mut ownership: impl Ownership, shutdown: CancellationToken) {
    let clerk = deps.receipts.clone().map(|clerk| {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        (stop, tokio::spawn(async move { clerk.work(stopped).await }))
    });
    let mut shift = Shift {
        deps,
        owned: HashSet::new(),
        leaving: HashSet::new(),
        served: HashMap::new(),
        counts: HashMap::new(),
        couriers: JoinSet::new(),
        chores: JoinSet::new(),
        looking: HashMap::new(),
        marked: HashSet::new(),
        watching: false,
        sweeping: false,
    };
    let mut reconcile = interval_at(Instant::now() + RECONCILE, RECONCILE);
    reconcile.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = interval_at(Instant::now() + WATCH, WATCH);
    watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweep = interval_at(Instant::now() + SWEEP, SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            event = ownership.next() => shift.on(event),
            Some(ended) = shift.couriers.join_next() => match ended {
                Ok((user, end)) => shift.on_end(user, end),
                Err(error) => tracing::error!(%error, "what serves a user was cut off"),
            },
            Some(done) = shift.chores.join_next() => match done {
                Ok(chore) => shift.on_chore(chore),
                Err(error) => tracing::error!(%error, "a chore was cut off"),
            },
            _ = reconcile.tick() => shift.look_at_all(),
            _ = watch.tick() => shift.watch(),
            _ = sweep.tick() => shift.sweep(),
        }
        for partition in shift.vacated() {
            ownership.release(partition).await;
        }
    }
    shift.finish().await;
    if let Some((stop, clerk)) = clerk {
        stop.cancel();
        // Whoever can't be told by then is told of the next message.
        let _ = timeout(SHORT_REST, clerk).await;
    }
    ownership.resign().await;
}

/// The state of one process's work.
struct Shift {
    deps: deliver::Deps,
    owned: HashSet<Partition>,
    /// Partitions that another process is waiting for.
    leaving: HashSet<Partition>,
    served: HashMap<UserId, Served>,
    /// How many users of a partition have a courier.
    counts: HashMap<Partition, usize>,
    couriers: JoinSet<(UserId, End)>,
    chores: JoinSet<Chore>,
    /// Partitions whose online users are being read, one reading at a time, and whether to read once more.
    looking: HashMap<Partition, bool>,
    /// Partitions whose mark we have seen in the registry.
    marked: HashSet<Partition>,
    /// Whether the marks are being looked at.
    watching: bool,
    /// Whether queues of those who are away are being looked for.
    sweeping: bool,
}

/// A user with a courier.
struct Served {
    signals: Signals,
    /// Whether the user was to be looked at again since the courier began.
    again: bool,
}

/// Something that had to be waited for.
enum Chore {
    /// A partition's online users; `None` if they can't be read for now.
    Looked(Partition, Option<Vec<UserId>>),
    /// It is time to look at a partition again.
    LookAgain(Partition),
    /// A user has rested.
    Rested(UserId),
    /// A partition has its mark.
    Marked(Partition),
    /// A mark can't be set for now; that is tried again.
    Unmarked,
    /// The marks were looked at: each partition with whether it has one.
    Watched(Vec<(Partition, bool)>),
    /// These users' queues must be looked at.
    Due(Vec<UserId>),
}

impl Shift {
    fn on(&mut self, event: OwnershipEvent) {
        match event {
            OwnershipEvent::Acquired(partition) => {
                self.leaving.remove(&partition);
                self.owned.insert(partition);
                self.look_at(partition);
                self.mark(partition);
            }
            OwnershipEvent::Lost(partition) => {
                self.leaving.remove(&partition);
                self.stop(partition);
            }
            OwnershipEvent::Asked(partition) => {
                self.leaving.insert(partition);
                self.stop(partition);
            }
            OwnershipEvent::Poked(user) => self.touch(user),
            OwnershipEvent::Wanted(user, asker) => self.want(user, asker),
            // Who is away misses it.
            OwnershipEvent::Noticed(user, notice) => {
                if let Some(served) = self.served.get(&user) {
                    served.signals.notices.put(notice);
                }
            }
            OwnershipEvent::Replied(user, connection, frame) => {
                if let Some(signals) = self.serving(&user) {
                    signals.replies.put(connection, frame);
                }
            }
            OwnershipEvent::Closing(user, connection) => {
                if let Some(signals) = self.serving(&user) {
                    signals.closing.put(connection);
                }
            }
            OwnershipEvent::Checking(user) => {
                if let Some(signals) = self.serving(&user) {
                    signals.check.notify_one();
                }
            }
            // For a user whom nobody serves it comes too late: the message will be pushed and acknowledged again.
            OwnershipEvent::Acked(user, message) => {
                if let Some(served) = self.served.get(&user) {
                    served.signals.acks.put(message);
                }
            }
        }
    }

    /// The signals of a user of ours. After a fail-over they may be wanted before we have looked who is there.
    fn serving(&mut self, user: &UserId) -> Option<&Signals> {
        if !self.served.contains_key(user) {
            self.touch(user.clone());
        }
        self.served.get(user).map(|served| &served.signals)
    }

    /// Makes sure that a user of ours is served according to what the registry says by now.
    fn touch(&mut self, user: UserId) {
        let partition = self.deps.partitions.of(&user);
        if !self.owned.contains(&partition) {
            return;
        }
        if let Some(served) = self.served.get_mut(&user) {
            served.again = true;
            served.signals.refresh.notify_one();
        } else {
            self.start(user, partition, Signals::default());
        }
    }

    /// Has the queue of a user of ours made for a sender, whether or not the user is there.
    fn want(&mut self, user: UserId, asker: Asker) {
        let partition = self.deps.partitions.of(&user);
        if !self.owned.contains(&partition) {
            return;
        }
        if let Some(served) = self.served.get(&user) {
            served.signals.wanted.put(asker);
        } else {
            let signals = Signals::default();
            signals.wanted.put(asker);
            self.start(user, partition, signals);
        }
    }

    fn start(&mut self, user: UserId, partition: Partition, signals: Signals) {
        let (delivery, name, listens) = (self.deps.clone(), user.clone(), signals.clone());
        self.couriers.spawn(async move {
            let served = job::guard("serve", deliver::serve(&delivery, &name, &listens)).await;
            (name, served.unwrap_or(End::Panicked))
        });
        *self.counts.entry(partition).or_default() += 1;
        self.served.insert(user, Served { signals, again: false });
        metrics::ONLINE_USERS.set(self.served.len());
    }

    fn on_end(&mut self, user: UserId, end: End) {
        let Some(served) = self.served.remove(&user) else { return };
        metrics::ONLINE_USERS.set(self.served.len());
        let partition = self.deps.partitions.of(&user);
        if let Some(count) = self.counts.get_mut(&partition) {
            *count -= 1;
        }
        match end {
            End::Lost => self.rest(user, SHORT_REST, "lost"),
            End::Stuck => self.rest(user, LONG_REST, "stuck"),
            End::Panicked => self.rest(user, LONG_REST, "panicked"),
            // Somebody looked away while it was ending.
            End::Offline | End::Stopped if served.again => self.touch(user),
            End::Offline | End::Stopped => {}
        }
    }

    fn rest(&mut self, user: UserId, span: Duration, cause: &'static str) {
        let resting = metrics::RESTING_USERS.one_more_for(cause);
        let rested = Chore::Rested(user.clone());
        self.begin(rested, async move {
            sleep(span).await;
            drop(resting);
            Chore::Rested(user)
        });
    }

    /// Does something that has to be waited for; should it panic, that is what is said to have come of it.
    fn begin(&mut self, if_it_panics: Chore, work: impl Future<Output = Chore> + Send + 'static) {
        self.chores.spawn(async move { job::guard("chore", work).await.unwrap_or(if_it_panics) });
    }

    fn on_chore(&mut self, chore: Chore) {
        match chore {
            Chore::Looked(partition, Some(users)) => {
                users.into_iter().for_each(|user| self.touch(user));
                if self.looking.remove(&partition) == Some(true) {
                    self.look_at(partition);
                }
            }
            Chore::Looked(partition, None) => {
                self.begin(Chore::LookAgain(partition), async move {
                    sleep(SHORT_REST).await;
                    Chore::LookAgain(partition)
                });
            }
            Chore::LookAgain(partition) => {
                self.looking.remove(&partition);
                self.look_at(partition);
            }
            Chore::Rested(user) => self.touch(user),
            Chore::Marked(partition) => self.on_mark(partition, true),
            Chore::Unmarked => {}
            Chore::Watched(marks) => {
                self.watching = false;
                marks.into_iter().for_each(|(partition, is_there)| self.on_mark(partition, is_there));
            }
            // Whoever is still away is found to be so, and then the queue is looked at.
            Chore::Due(users) => {
                self.sweeping = false;
                users.into_iter().for_each(|user| self.touch(user));
            }
        }
    }

    /// Sets the mark of a partition at once: without it nobody is believed to have left.
    fn mark(&mut self, partition: Partition) {
        let registry = self.deps.registry.clone();
        self.begin(Chore::Unmarked, async move {
            match registry.mark(partition).await {
                Ok(_) => Chore::Marked(partition),
                Err(_) => Chore::Unmarked,
            }
        });
    }

    /// Looks at the marks that we have seen, and sets those that we have not.
    fn watch(&mut self) {
        if std::mem::replace(&mut self.watching, true) {
            return;
        }
        let (registry, owned, marked) = (self.deps.registry.clone(), self.owned.clone(), self.marked.clone());
        self.begin(Chore::Watched(Vec::new()), async move {
            let mut marks = Vec::new();
            for partition in owned {
                let is_there = if marked.contains(&partition) {
                    registry.is_marked(partition).await
                } else {
                    registry.mark(partition).await.map(|_| true)
                };
                match is_there {
                    Ok(is_there) => marks.push((partition, is_there)),
                    // It is out of reach: that is seen where it hurts.
                    Err(_) => break,
                }
            }
            Chore::Watched(marks)
        });
    }

    /// Looks for queues of those who are away that must be looked at, and counts those in which messages wait.
    fn sweep(&mut self) {
        if std::mem::replace(&mut self.sweeping, true) {
            return;
        }
        let (deps, owned) = (self.deps.clone(), self.owned.clone());
        self.begin(Chore::Due(Vec::new()), async move {
            let mut users = Vec::new();
            for partition in &owned {
                match retire::due(&deps, *partition).await {
                    Ok(due) => users.extend(due),
                    // It is out of reach: the next sweep will do.
                    Err(_) => break,
                }
            }
            if let Ok(count) = retire::count(&deps, owned).await {
                metrics::QUEUES.set_for("backlog", usize::try_from(count).unwrap_or(usize::MAX));
            }
            Chore::Due(users)
        });
    }

    /// A mark that we had seen and that is gone means that the registry has lost everything. It is set again only at
    /// the next look: until then nobody may take a user for gone who has not been told to the registry again.
    fn on_mark(&mut self, partition: Partition, is_there: bool) {
        if !self.owned.contains(&partition) {
            return;
        }
        if is_there {
            self.marked.insert(partition);
            return;
        }
        self.marked.remove(&partition);
        metrics::REGISTRY_RESTORES.add(1);
        let partitions = self.deps.partitions;
        let couriers = self.served.iter().filter(|(user, _)| partitions.of(user) == partition);
        let restored = couriers.map(|(_, served)| served.signals.restore.notify_one()).count();
        tracing::warn!(%partition, users = restored, "the registry has lost everything; telling it again who is here");
    }

    fn look_at_all(&mut self) {
        let owned: Vec<Partition> = self.owned.iter().copied().collect();
        owned.into_iter().for_each(|partition| self.look_at(partition));
    }

    fn look_at(&mut self, partition: Partition) {
        if !self.owned.contains(&partition) {
            return;
        }
        if let Some(again) = self.looking.get_mut(&partition) {
            *again = true;
            return;
        }
        self.looking.insert(partition, false);
        let deliver::Deps { registry, clock, .. } = self.deps.clone();
        self.begin(Chore::Looked(partition, None), async move {
            let online = registry.online(partition, clock.now()).await;
            let online = online.map_err(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "who is online can't be read; trying again");
            });
            Chore::Looked(partition, online.ok())
        });
    }

    fn stop(&mut self, partition: Partition) {
        self.owned.remove(&partition);
        self.marked.remove(&partition);
        let partitions = self.deps.partitions;
        let couriers = self.served.iter_mut().filter(|(user, _)| partitions.of(user) == partition);
        for (_, served) in couriers {
            served.again = false;
            served.signals.stop.cancel();
        }
    }

    /// Partitions that somebody waits for and nobody serves any more.
    fn vacated(&mut self) -> Vec<Partition> {
        let counts = &self.counts;
        self.leaving.extract_if(|partition| counts.get(partition).copied().unwrap_or_default() == 0).collect()
    }

    async fn finish(&mut self) {
        self.chores.abort_all();
        self.served.values().for_each(|served| served.signals.stop.cancel());
        let all = async { while self.couriers.join_next().await.is_some() {} };
        if timeout(DRAIN, all).await.is_err() {
            tracing::warn!(users = self.couriers.len(), "posts are still under way; their messages stay queued");
        }
    }
}
