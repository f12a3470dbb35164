//! Keeps one delivery task for each online user of the owned partitions.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use kschat_core::{
    Partition,
    delivery::{self, DeliveryEnd, DeliverySignals, offline_queue},
    job, metrics,
    ports::{OwnerMessage, OwnershipEvent},
};
use kschat_protocol::UserId;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

/// The pause before a user is served again whose queue was lost while the partition stayed ours.
const LOST_QUEUE_RETRY_DELAY: Duration = Duration::from_millis(500);

/// The pause before a partition's online users are read again after a failed read.
const PARTITION_READ_RETRY_DELAY: Duration = Duration::from_millis(500);

/// The pause before a user is served again whose delivery failed.
const FAILED_USER_RETRY_DELAY: Duration = Duration::from_secs(5);

/// How long posts in flight may take during shutdown. Those of one user take longer only while the edge is failing, and
/// then its messages stay in the queue.
const SHUTDOWN_DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// The state of the consumer's main loop.
pub(crate) struct Supervisor {
    deps: delivery::Deps,
    owned: HashSet<Partition>,
    /// Partitions that another process is waiting for.
    releasing: HashSet<Partition>,
    user_tasks: HashMap<UserId, UserTask>,
    /// The number of `user_tasks` of each partition. During a release it is read whenever a task ends, and counting all
    /// users each time would take too long.
    deliveries_per_partition: HashMap<Partition, usize>,
    deliveries: JoinSet<(UserId, DeliveryEnd)>,
    jobs: JoinSet<JobOutcome>,
    /// Partitions whose online users are being read, one read at a time.
    refreshing: HashMap<Partition, Refresh>,
    /// Partitions whose epoch marker was seen in the registry.
    marked_partitions: HashSet<Partition>,
    /// Whether the epoch markers are being checked.
    is_checking_markers: bool,
    /// Whether due backlogs are being looked up.
    is_sweeping_backlogs: bool,
}

/// A user with a delivery task.
struct UserTask {
    signals: DeliverySignals,
    /// Whether a refresh was requested since the task began.
    refresh_requested: bool,
}

/// A read of a partition's online users.
#[derive(PartialEq, Eq)]
enum Refresh {
    Running,
    /// Another one was requested meanwhile: what this one finds may be outdated.
    RunningAndRequested,
}

/// The outcome of a background job.
enum JobOutcome {
    /// A partition's online users; `None` if they can't be read for now.
    PartitionRead(Partition, Option<Vec<UserId>>),
    /// The retry of a partition's read is due.
    PartitionRetryDue(Partition),
    /// The retry of a user is due.
    UserRetryDue(UserId),
    /// The epoch marker of a partition is set.
    MarkerSet(Partition),
    /// A marker can't be set for now; that is retried.
    MarkerNotSet,
    /// The markers of these partitions, and whether each is set.
    MarkersChecked(Vec<(Partition, bool)>),
    /// These users' queues are due for a check.
    BacklogsDue(Vec<UserId>),
}

impl Supervisor {
    /// Owns nothing yet.
    pub(crate) fn new(deps: delivery::Deps) -> Self {
        Self {
            deps,
            owned: HashSet::new(),
            releasing: HashSet::new(),
            user_tasks: HashMap::new(),
            deliveries_per_partition: HashMap::new(),
            deliveries: JoinSet::new(),
            jobs: JoinSet::new(),
            refreshing: HashMap::new(),
            marked_partitions: HashSet::new(),
            is_checking_markers: false,
            is_sweeping_backlogs: false,
        }
    }

    /// Waits for the end of a delivery task or a job, and handles it. Never completes while there is none. Cancel safe.
    pub(crate) async fn handle_task_end(&mut self) {
        tokio::select! {
            Some(ended) = self.deliveries.join_next() => match ended {
                Ok((user, end)) => self.on_delivery_end(user, end),
                Err(error) => tracing::error!(%error, "a delivery task was aborted"),
            },
            Some(done) = self.jobs.join_next() => match done {
                Ok(outcome) => self.on_job_outcome(outcome),
                Err(error) => tracing::error!(%error, "a background job was aborted"),
            },
            else => std::future::pending().await,
        }
    }

    /// Starts, stops or notifies delivery tasks as a change of ownership or an owner message demands.
    pub(crate) fn handle_event(&mut self, event: OwnershipEvent) {
        match event {
            OwnershipEvent::Acquired(partition) => {
                self.releasing.remove(&partition);
                self.owned.insert(partition);
                self.refresh_partition(partition);
                self.set_marker(partition);
            }
            OwnershipEvent::Lost(partition) => {
                self.releasing.remove(&partition);
                self.stop_partition(partition);
            }
            OwnershipEvent::ReleaseRequested(partition) => {
                self.releasing.insert(partition);
                self.stop_partition(partition);
            }
            OwnershipEvent::Message(user, message) => self.on_message(user, message),
        }
    }

    fn on_message(&mut self, user: UserId, message: OwnerMessage) {
        match message {
            OwnerMessage::Refresh => self.refresh_user(user),
            OwnerMessage::QueueRequest { requester } => self.request_queue(user, requester),
            // A user without a delivery task is offline and misses an event. Its ack comes too late: the message will
            // be redelivered and acknowledged again.
            OwnerMessage::Ack(_) | OwnerMessage::Event(_) => {
                if let Some(task) = self.user_tasks.get(&user) {
                    task.signals.inbox.put(message);
                }
            }
            OwnerMessage::Reply { .. } | OwnerMessage::Close { .. } | OwnerMessage::CheckConnections => {
                if let Some(signals) = self.signals_of(&user) {
                    signals.inbox.put(message);
                }
            }
        }
    }

    /// The signals of a user in an owned partition. After a fail-over they may be needed before its connections were
    /// read.
    fn signals_of(&mut self, user: &UserId) -> Option<&DeliverySignals> {
        if !self.user_tasks.contains_key(user) {
            self.refresh_user(user.clone());
        }
        self.user_tasks.get(user).map(|task| &task.signals)
    }

    /// Makes sure that a user in an owned partition is served according to the registry's present state.
    fn refresh_user(&mut self, user: UserId) {
        let partition = self.deps.partitions.of(&user);
        if !self.owned.contains(&partition) {
            return;
        }
        if let Some(task) = self.user_tasks.get_mut(&user) {
            task.refresh_requested = true;
            task.signals.inbox.put(OwnerMessage::Refresh);
        } else {
            self.spawn_delivery(user, partition, DeliverySignals::default());
        }
    }

    /// Requests the queue of a user in an owned partition for a sender, whether or not the user is online.
    fn request_queue(&mut self, user: UserId, requester: Option<UserId>) {
        let partition = self.deps.partitions.of(&user);
        if !self.owned.contains(&partition) {
            return;
        }
        if let Some(task) = self.user_tasks.get(&user) {
            task.signals.inbox.put(OwnerMessage::QueueRequest { requester });
        } else {
            let signals = DeliverySignals::default();
            signals.inbox.put(OwnerMessage::QueueRequest { requester });
            self.spawn_delivery(user, partition, signals);
        }
    }

    fn spawn_delivery(&mut self, user: UserId, partition: Partition, signals: DeliverySignals) {
        let deps = self.deps.clone();
        let name = user.clone();
        let received = signals.clone();
        self.deliveries.spawn(async move {
            let end = job::catch_panic("serve", Box::pin(delivery::serve(&deps, &name, &received))).await;
            (name, end.unwrap_or(DeliveryEnd::Panicked))
        });
        *self.deliveries_per_partition.entry(partition).or_default() += 1;
        self.user_tasks.insert(user, UserTask { signals, refresh_requested: false });
        metrics::ONLINE_USERS.set(self.user_tasks.len());
    }

    fn on_delivery_end(&mut self, user: UserId, end: DeliveryEnd) {
        let Some(task) = self.user_tasks.remove(&user) else { return };
        metrics::ONLINE_USERS.set(self.user_tasks.len());
        let partition = self.deps.partitions.of(&user);
        if let Some(count) = self.deliveries_per_partition.get_mut(&partition) {
            *count -= 1;
        }
        match end {
            DeliveryEnd::Lost => self.schedule_retry(user, LOST_QUEUE_RETRY_DELAY, "lost"),
            DeliveryEnd::Failed => self.schedule_retry(user, FAILED_USER_RETRY_DELAY, "stuck"),
            DeliveryEnd::Panicked => self.schedule_retry(user, FAILED_USER_RETRY_DELAY, "panicked"),
            // A refresh came while the task was ending.
            DeliveryEnd::Offline | DeliveryEnd::Stopped if task.refresh_requested => self.refresh_user(user),
            DeliveryEnd::Offline | DeliveryEnd::Stopped => {}
        }
    }

    fn schedule_retry(&mut self, user: UserId, span: Duration, cause: &'static str) {
        let resting_count = metrics::RESTING_USERS.increment_guard_for(cause);
        self.spawn_job(JobOutcome::UserRetryDue(user.clone()), async move {
            sleep(span).await;
            drop(resting_count);
            JobOutcome::UserRetryDue(user)
        });
    }

    /// Spawns a background job, with the outcome to report if it panics.
    fn spawn_job(&mut self, if_it_panics: JobOutcome, work: impl Future<Output = JobOutcome> + Send + 'static) {
        self.jobs.spawn(async move { job::catch_panic("job", work).await.unwrap_or(if_it_panics) });
    }

    fn on_job_outcome(&mut self, outcome: JobOutcome) {
        match outcome {
            JobOutcome::PartitionRead(partition, Some(users)) => {
                users.into_iter().for_each(|user| self.refresh_user(user));
                if self.refreshing.remove(&partition) == Some(Refresh::RunningAndRequested) {
                    self.refresh_partition(partition);
                }
            }
            JobOutcome::PartitionRead(partition, None) => {
                self.spawn_job(JobOutcome::PartitionRetryDue(partition), async move {
                    sleep(PARTITION_READ_RETRY_DELAY).await;
                    JobOutcome::PartitionRetryDue(partition)
                });
            }
            JobOutcome::PartitionRetryDue(partition) => {
                self.refreshing.remove(&partition);
                self.refresh_partition(partition);
            }
            JobOutcome::UserRetryDue(user) => self.refresh_user(user),
            JobOutcome::MarkerSet(partition) => self.on_marker_state(partition, true),
            JobOutcome::MarkerNotSet => {}
            JobOutcome::MarkersChecked(marks) => {
                self.is_checking_markers = false;
                marks.into_iter().for_each(|(partition, is_there)| self.on_marker_state(partition, is_there));
            }
            // For a user who is still offline, the task checks the queue.
            JobOutcome::BacklogsDue(users) => {
                self.is_sweeping_backlogs = false;
                users.into_iter().for_each(|user| self.refresh_user(user));
            }
        }
    }

    /// Sets the epoch marker of a partition at once: without it no connection counts as departed.
    fn set_marker(&mut self, partition: Partition) {
        let registry = self.deps.registry.clone();
        self.spawn_job(JobOutcome::MarkerNotSet, async move {
            match registry.set_epoch_marker(partition).await {
                Ok(_) => JobOutcome::MarkerSet(partition),
                Err(_) => JobOutcome::MarkerNotSet,
            }
        });
    }

    /// Checks the markers that were seen, and sets the missing ones.
    pub(crate) fn check_markers(&mut self) {
        if std::mem::replace(&mut self.is_checking_markers, true) {
            return;
        }
        let (registry, owned, marked) =
            (self.deps.registry.clone(), self.owned.clone(), self.marked_partitions.clone());
        self.spawn_job(JobOutcome::MarkersChecked(Vec::new()), async move {
            let mut marks = Vec::new();
            for partition in owned {
                let is_there = if marked.contains(&partition) {
                    registry.has_epoch_marker(partition).await
                } else {
                    registry.set_epoch_marker(partition).await.map(|_| true)
                };
                match is_there {
                    Ok(is_there) => marks.push((partition, is_there)),
                    // The registry is unavailable, which is reported where it matters.
                    Err(_) => break,
                }
            }
            JobOutcome::MarkersChecked(marks)
        });
    }

    /// Looks up offline users' queues that are due for a check, and counts the backlogs.
    pub(crate) fn sweep_backlogs(&mut self) {
        if std::mem::replace(&mut self.is_sweeping_backlogs, true) {
            return;
        }
        let (deps, owned) = (self.deps.clone(), self.owned.clone());
        self.spawn_job(JobOutcome::BacklogsDue(Vec::new()), async move {
            let mut users = Vec::new();
            for partition in &owned {
                match offline_queue::due_backlogs(&deps, *partition).await {
                    Ok(due) => users.extend(due),
                    // The registry is unavailable: the next sweep will do.
                    Err(_) => break,
                }
            }
            if let Ok(count) = offline_queue::count_backlogs(&deps, owned).await {
                metrics::QUEUES.set_for("backlog", usize::try_from(count).unwrap_or(usize::MAX));
            }
            JobOutcome::BacklogsDue(users)
        });
    }

    /// Handles a check of a marker. A marker that was seen and is gone means that the registry has lost its data. It is
    /// set again only at the next check: until then no user may count as departed whose connections were not restored.
    fn on_marker_state(&mut self, partition: Partition, is_there: bool) {
        if !self.owned.contains(&partition) {
            return;
        }
        if is_there {
            self.marked_partitions.insert(partition);
            return;
        }
        self.marked_partitions.remove(&partition);
        metrics::REGISTRY_RESTORES.add(1);
        let partitions = self.deps.partitions;
        let tasks = self.user_tasks.iter().filter(|(user, _)| partitions.of(user) == partition);
        let restored = tasks.map(|(_, task)| task.signals.restore.notify_one()).count();
        tracing::warn!(%partition, users = restored, "the registry lost its data; restoring the sessions of connected users");
    }

    /// Reads all online users again.
    pub(crate) fn refresh_all_partitions(&mut self) {
        let owned: Vec<Partition> = self.owned.iter().copied().collect();
        owned.into_iter().for_each(|partition| self.refresh_partition(partition));
    }

    fn refresh_partition(&mut self, partition: Partition) {
        if !self.owned.contains(&partition) {
            return;
        }
        if let Some(refresh) = self.refreshing.get_mut(&partition) {
            *refresh = Refresh::RunningAndRequested;
            return;
        }
        self.refreshing.insert(partition, Refresh::Running);
        let delivery::Deps { registry, clock, .. } = self.deps.clone();
        self.spawn_job(JobOutcome::PartitionRead(partition, None), async move {
            let online = registry.online_users(partition, clock.now()).await;
            let online = online.map_err(|error| {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "reading the online users of a partition failed; retrying"
                );
            });
            JobOutcome::PartitionRead(partition, online.ok())
        });
    }

    fn stop_partition(&mut self, partition: Partition) {
        self.owned.remove(&partition);
        self.marked_partitions.remove(&partition);
        let partitions = self.deps.partitions;
        let tasks = self.user_tasks.iter_mut().filter(|(user, _)| partitions.of(user) == partition);
        for (_, task) in tasks {
            task.refresh_requested = false;
            task.signals.stop.cancel();
        }
    }

    /// Partitions that another process waits for and that have no delivery task any more.
    pub(crate) fn take_drained_partitions(&mut self) -> Vec<Partition> {
        let counts = &self.deliveries_per_partition;
        self.releasing.extract_if(|partition| counts.get(partition).copied().unwrap_or_default() == 0).collect()
    }

    /// Stops all delivery tasks, and waits for their posts in flight.
    pub(crate) async fn drain(&mut self) {
        self.jobs.abort_all();
        self.user_tasks.values().for_each(|task| task.signals.stop.cancel());
        let all = async { while self.deliveries.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_DRAIN_TIMEOUT, all).await.is_err() {
            tracing::warn!(
                users = self.deliveries.len(),
                "posts are still in flight after the drain timeout; their messages stay queued"
            );
        }
    }
}
