//! Partition ownership, with the broker as the lock service.
//!
//! Each partition has a control queue, and its owner is the process that consumes it *exclusively*. The broker refuses
//! a second consumer, and a dead owner's lock ends with its connection. Owner messages come in over the same queue.
//! Every process also consumes the members queue, whose consumer count is the number of processes.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use kschat_core::{
    Partition,
    backoff::Backoff,
    job, metrics,
    ports::{BoxError, Ownership, OwnershipEvent},
};
use lapin::{
    Channel, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    QueueKind, RabbitMqConsumer,
    connection::BROKER_REPLY_TIMEOUT,
    consumer::{CONNECTION_CLOSE_TIMEOUT, ConsumerConnection},
    owner_message, redact_names,
    topology::{MEMBERS_QUEUE, control_queue, queue_counts},
};

/// How often a process looks for partitions without an owner: the larger part of a fail-over's time.
const BALANCE_INTERVAL: Duration = Duration::from_millis(200);

/// How long one round may acquire partitions; the next one continues from there.
const ACQUIRE_TIME_BUDGET: Duration = Duration::from_secs(1);

/// Owner messages in flight for one partition at most.
const CONTROL_QUEUE_PREFETCH: u16 = 256;

/// Events that wait for the consumer at most; beyond that control messages wait in the broker.
const OWNERSHIP_EVENT_CAPACITY: usize = 1_024;

const RECONNECT_BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(5) };

/// This process's share of the partitions.
#[derive(Debug)]
pub struct PartitionOwnership {
    events: mpsc::Receiver<OwnershipEvent>,
    commands: mpsc::UnboundedSender<OwnershipCommand>,
    task: JoinHandle<()>,
}

enum OwnershipCommand {
    Release(Partition),
    Resign,
}

impl PartitionOwnership {
    pub(super) fn start(broker: RabbitMqConsumer) -> Self {
        let (event_sender, events) = mpsc::channel(OWNERSHIP_EVENT_CAPACITY);
        let (commands, command_receiver) = mpsc::unbounded_channel();
        let task = tokio::spawn(run_supervised(broker, event_sender, command_receiver));
        Self { events, commands, task }
    }
}

#[async_trait]
impl Ownership for PartitionOwnership {
    async fn next(&mut self) -> OwnershipEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The task only ends on command: nothing will change any more.
            None => std::future::pending().await,
        }
    }

    async fn release(&mut self, partition: Partition) {
        // A task that has ended holds nothing.
        let _ = self.commands.send(OwnershipCommand::Release(partition));
    }

    async fn resign(&mut self) {
        // From here on nobody reads the events, and the task must not wait for a reader.
        self.events.close();
        let _ = self.commands.send(OwnershipCommand::Resign);
        if timeout(CONNECTION_CLOSE_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// Why a session, the time of one connection, is over.
enum OwnershipSessionEnd {
    Resigned,
    Failed(BoxError),
}

/// Holds partitions until it is told to resign. If it panics, its locks end with its connection, over which nothing
/// more is done, and it starts again.
async fn run_supervised(
    broker: RabbitMqConsumer,
    events: mpsc::Sender<OwnershipEvent>,
    mut commands: mpsc::UnboundedReceiver<OwnershipCommand>,
) {
    while job::catch_panic("ownership", run(&broker, &events, &mut commands)).await.is_err() {
        metrics::PARTITIONS_OWNED.set(0);
        let connection = broker.disconnect();
        if let Some(connection) = &connection {
            connection.pause_guard.abandon();
        }
        for partition in broker.partitions.all() {
            let _ = events.send(OwnershipEvent::Lost(partition)).await;
        }
        if let Some(connection) = connection {
            let _ = timeout(CONNECTION_CLOSE_TIMEOUT, connection.close()).await;
        }
        if wait_or_resign(RECONNECT_BACKOFF.cap, &mut commands).await {
            return;
        }
    }
}

/// Holds partitions for one connection after another.
async fn run(
    broker: &RabbitMqConsumer,
    events: &mpsc::Sender<OwnershipEvent>,
    commands: &mut mpsc::UnboundedReceiver<OwnershipCommand>,
) {
    let (mut failures, mut has_connected) = (0, false);
    loop {
        let end = match broker.connect().await {
            Ok(connection) => {
                failures = 0;
                if std::mem::replace(&mut has_connected, true) {
                    metrics::BROKER_RECONNECTS.add(1);
                }
                let (lost_sender, lost) = mpsc::unbounded_channel();
                let mut session = OwnershipSession {
                    broker,
                    connection: &connection,
                    events,
                    locks: HashMap::new(),
                    release_requested: HashSet::new(),
                    lost_sender,
                    verified: false,
                };
                let end = session.run(commands, lost).await;
                session.close().await;
                end
            }
            Err(error) => OwnershipSessionEnd::Failed(error),
        };
        broker.disconnect();
        let OwnershipSessionEnd::Failed(error) = end else { return };
        let error = redact_names(error);
        tracing::warn!(error = &*error as &dyn std::error::Error, "connecting to the broker failed; retrying");
        if wait_or_resign(RECONNECT_BACKOFF.wait(failures), commands).await {
            return;
        }
        failures += 1;
    }
}

/// Waits; returns whether it was told to resign meanwhile.
async fn wait_or_resign(wait: Duration, commands: &mut mpsc::UnboundedReceiver<OwnershipCommand>) -> bool {
    let resigned = async {
        loop {
            match commands.recv().await {
                Some(OwnershipCommand::Release(_)) => {}
                Some(OwnershipCommand::Resign) | None => return,
            }
        }
    };
    timeout(wait, resigned).await.is_ok()
}

/// The state of one connection.
struct OwnershipSession<'a> {
    broker: &'a RabbitMqConsumer,
    connection: &'a ConsumerConnection,
    events: &'a mpsc::Sender<OwnershipEvent>,
    locks: HashMap<Partition, PartitionLock>,
    /// Partitions that the consumer was asked to stop serving, and has not released yet.
    release_requested: HashSet<Partition>,
    lost_sender: mpsc::UnboundedSender<Partition>,
    /// Whether this broker was seen to refuse a second owner.
    verified: bool,
}

/// A partition that this process owns while this exists.
struct PartitionLock {
    channel: Channel,
    /// Holds the lock: lapin cancels a consumer when its last handle is dropped.
    _consumer: Consumer,
    forwarder: AbortHandle,
}

impl OwnershipSession<'_> {
    async fn run(
        &mut self,
        commands: &mut mpsc::UnboundedReceiver<OwnershipCommand>,
        mut lost: mpsc::UnboundedReceiver<Partition>,
    ) -> OwnershipSessionEnd {
        // The consumer is kept, as it holds the membership of this process.
        let (passive_channel, _membership) = match self.join_members().await {
            Ok(joined) => joined,
            Err(error) => return OwnershipSessionEnd::Failed(error),
        };
        let mut tick = interval(BALANCE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(OwnershipCommand::Release(partition)) => self.release(partition).await,
                    Some(OwnershipCommand::Resign) | None => return OwnershipSessionEnd::Resigned,
                },
                Some(partition) = lost.recv() => self.on_partition_lost(partition).await,
                _ = tick.tick() => {
                    if let Err(error) = self.on_tick(&passive_channel).await {
                        return OwnershipSessionEnd::Failed(error);
                    }
                }
            }
        }
    }

    /// Makes this process count as a member. Returns the channel for checks of queues, and the consumer.
    async fn join_members(&self) -> Result<(Channel, Consumer), BoxError> {
        let channel = timeout(BROKER_REPLY_TIMEOUT, self.connection.amqp.create_channel()).await??;
        let options = BasicConsumeOptions::default();
        let membership = channel.basic_consume(MEMBERS_QUEUE.into(), "".into(), options, FieldTable::default()).await?;
        Ok((channel, membership))
    }

    async fn on_tick(&mut self, passive_channel: &Channel) -> Result<(), BoxError> {
        if !self.connection.pause_guard.is_intact() {
            return Err("the connection was abandoned, or this process was paused".into());
        }
        timeout(BROKER_REPLY_TIMEOUT, self.balance(passive_channel)).await?
    }

    /// Acquires free partitions up to the fair share; requests the release of those beyond it.
    async fn balance(&mut self, passive_channel: &Channel) -> Result<(), BoxError> {
        let members = queue_counts(passive_channel, MEMBERS_QUEUE.into(), QueueKind::Classic).await?.consumers.max(1);
        let share = fair_share(self.broker.partitions.count(), members);
        self.acquire_up_to(share, passive_channel).await?;
        self.request_release_beyond(share).await;
        metrics::MEMBERS.set(members as usize);
        metrics::PARTITIONS_OWNED.set(self.locks.len());
        Ok(())
    }

    /// The number of partitions that this process owns and keeps.
    fn kept_count(&self) -> usize {
        self.locks.len() - self.release_requested.len()
    }

    async fn acquire_up_to(&mut self, share: usize, passive_channel: &Channel) -> Result<(), BoxError> {
        let mut free: Vec<Partition> =
            self.broker.partitions.all().filter(|partition| !self.locks.contains_key(partition)).collect();
        // Two processes that look at the same moment should not compete for the same partition.
        fastrand::shuffle(&mut free);
        let deadline = Instant::now() + ACQUIRE_TIME_BUDGET;
        let mut acquired = Vec::new();
        for partition in free {
            if self.kept_count() >= share || Instant::now() >= deadline {
                break;
            }
            let has_owner =
                queue_counts(passive_channel, control_queue(partition), QueueKind::Classic).await?.consumers > 0;
            if !has_owner && self.acquire(partition).await? {
                acquired.push(partition.to_string());
            }
        }
        if !acquired.is_empty() {
            tracing::info!(partitions = acquired.join(" "), owned = self.locks.len(), "partitions acquired");
        }
        Ok(())
    }

    async fn request_release_beyond(&mut self, share: usize) {
        let surplus = self.kept_count().saturating_sub(share);
        let kept = self.locks.keys().filter(|partition| !self.release_requested.contains(partition));
        let spare: Vec<Partition> = kept.take(surplus).copied().collect();
        for partition in spare {
            self.release_requested.insert(partition);
            self.emit(OwnershipEvent::ReleaseRequested(partition)).await;
        }
    }

    /// Tries to become the owner; returns whether it did. A refusal means that another process was faster.
    async fn acquire(&mut self, partition: Partition) -> Result<bool, BoxError> {
        // A refusal closes the channel, so each attempt has its own.
        let channel = self.connection.amqp.create_channel().await?;
        channel.basic_qos(CONTROL_QUEUE_PREFETCH, BasicQosOptions { global: false }).await?;
        let Ok(control_messages) = consume_exclusively(&channel, partition).await else { return Ok(false) };
        if !self.verified {
            self.verify(partition).await?;
        }
        self.emit(OwnershipEvent::Acquired(partition)).await;
        let consumer = control_messages.clone();
        let forward = tokio::spawn(forward_supervised(
            partition,
            control_messages,
            self.events.clone(),
            self.lost_sender.clone(),
        ));
        self.locks.insert(partition, PartitionLock { channel, _consumer: consumer, forwarder: forward.abort_handle() });
        Ok(true)
    }

    /// Checks that the broker refuses a second owner: otherwise both would push, in any order.
    async fn verify(&mut self, partition: Partition) -> Result<(), BoxError> {
        let channel = self.connection.amqp.create_channel().await?;
        if consume_exclusively(&channel, partition).await.is_ok() {
            return Err("the broker ignores exclusive consumers: the control queues must be classic queues".into());
        }
        self.verified = true;
        Ok(())
    }

    async fn release(&mut self, partition: Partition) {
        // Messages that could not be requeued are requeued before the locks end, when the connection is closed.
        if !self.connection.pause_guard.is_intact() {
            return;
        }
        // A command from before a reconnect does not concern the present lock.
        if !self.release_requested.remove(&partition) {
            return;
        }
        if let Some(lock) = self.locks.remove(&partition) {
            lock.close().await;
            tracing::info!(%partition, owned = self.locks.len(), "partition released");
        }
    }

    /// Handles a lock that the broker took away although the connection stands, for example because its queue was
    /// deleted.
    async fn on_partition_lost(&mut self, partition: Partition) {
        self.release_requested.remove(&partition);
        if self.locks.remove(&partition).is_some() {
            tracing::warn!(%partition, "partition lost");
            self.emit(OwnershipEvent::Lost(partition)).await;
        }
    }

    async fn emit(&self, event: OwnershipEvent) {
        // It fails only once nobody reads the events, when this process is about to resign.
        let _ = self.events.send(event).await;
    }

    /// Whatever ended the session, nothing is owned after it.
    async fn close(&mut self) {
        self.connection.pause_guard.abandon();
        metrics::PARTITIONS_OWNED.set(0);
        for (partition, lock) in &self.locks {
            lock.forwarder.abort();
            let _ = self.events.send(OwnershipEvent::Lost(*partition)).await;
        }
        // If it can't be closed in good order, the broker will find it dead.
        let _ = timeout(CONNECTION_CLOSE_TIMEOUT, self.connection.close()).await;
        // Not sooner, as dropping a lock frees the partition.
        self.locks.clear();
    }
}

impl PartitionLock {
    async fn close(self) {
        self.forwarder.abort();
        // If it can't be closed in good order, nothing else works either: the connection will be dropped.
        let _ = timeout(BROKER_REPLY_TIMEOUT, self.channel.close(200, "released".into())).await;
    }
}

async fn consume_exclusively(channel: &Channel, partition: Partition) -> Result<Consumer, lapin::Error> {
    let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(control_queue(partition), "".into(), options, FieldTable::default()).await
}

/// The maximum number of partitions of each member.
fn fair_share(partitions: u16, members: u32) -> usize {
    usize::from(partitions).div_ceil(usize::try_from(members).unwrap_or(usize::MAX))
}

/// Forwards the control messages of one partition for as long as it is owned.
async fn forward_supervised(
    partition: Partition,
    control_messages: Consumer,
    events: mpsc::Sender<OwnershipEvent>,
    lost: mpsc::UnboundedSender<Partition>,
) {
    // However it ends: the ownership task may have ended already.
    let _ = job::catch_panic("forward", forward_control_messages(control_messages, events)).await;
    let _ = lost.send(partition);
}

async fn forward_control_messages(mut control_messages: Consumer, events: mpsc::Sender<OwnershipEvent>) {
    while let Some(Ok(message)) = control_messages.next().await {
        match owner_message::decode(&message.properties, &message.data) {
            Some((user, message)) => {
                if events.send(OwnershipEvent::Message(user, message)).await.is_err() {
                    return;
                }
            }
            None => tracing::warn!("dropping an unreadable control message"),
        }
        if message.acker.ack(BasicAckOptions::default()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_shared_evenly() {
        assert_eq!([fair_share(16, 1), fair_share(16, 2), fair_share(16, 3), fair_share(16, 17)], [16, 8, 6, 1]);
    }
}
