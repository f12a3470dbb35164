//! Who owns which partition: the broker is the lock service.
//!
//! Each partition has a control queue, and its owner is whoever consumes it *exclusively*. The broker refuses
//! a second consumer, and a dead owner's lock falls with its connection. Pokes come in over the same queue.
//! Every process also consumes the queue of members, whose consumer count tells how many share the work.

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
use kschat_protocol::{AckFrame, ConnectionId, MessageId, UserId};
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    Consuming,
    consuming::{FAREWELL, Link, PATIENCE},
    notices::notice_of,
    topology::{ACK, AGAIN, CHECK, CLOSE, MEMBERS, NOTICE, REPLY, WANTED, control_queue, look_at},
    without_names,
};

/// How often a process looks for partitions without an owner: the larger part of a fail-over's time.
const LOOK: Duration = Duration::from_millis(200);

/// How long one look may go on taking partitions; the next one goes on from there.
const SPREE: Duration = Duration::from_secs(1);

/// Pokes under way to us at most, for one partition.
const POKES: u16 = 256;

/// Events that wait for the consumer at most; then pokes wait in the broker.
const EVENTS: usize = 1_024;

const RECONNECT: Backoff = Backoff { base: Duration::from_millis(200), cap: Duration::from_secs(5) };

/// This process's share of the partitions.
#[derive(Debug)]
pub struct PartitionOwnership {
    events: mpsc::Receiver<OwnershipEvent>,
    orders: mpsc::UnboundedSender<Order>,
    keeper: JoinHandle<()>,
}

enum Order {
    Release(Partition),
    Resign,
}

impl PartitionOwnership {
    pub(super) fn start(broker: Consuming) -> Self {
        let (events_in, events) = mpsc::channel(EVENTS);
        let (orders, orders_out) = mpsc::unbounded_channel();
        let keeper = tokio::spawn(keep_on(broker, events_in, orders_out));
        Self { events, orders, keeper }
    }
}

#[async_trait]
impl Ownership for PartitionOwnership {
    async fn next(&mut self) -> OwnershipEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The keeper only ends when it is told to: nothing will change any more.
            None => std::future::pending().await,
        }
    }

    async fn release(&mut self, partition: Partition) {
        // A keeper that is gone holds nothing.
        let _ = self.orders.send(Order::Release(partition));
    }

    async fn resign(&mut self) {
        // From here on nobody listens, and the keeper must not wait for somebody who does.
        self.events.close();
        let _ = self.orders.send(Order::Resign);
        if timeout(FAREWELL, &mut self.keeper).await.is_err() {
            self.keeper.abort();
        }
    }
}

/// Why a term, the time of one connection, is over.
enum TermEnd {
    Resigned,
    Failed(BoxError),
}

/// Holds partitions until it is told to resign. Should it panic, its locks have gone with it: so nothing is done over that
/// connection any more, and it begins anew.
async fn keep_on(broker: Consuming, events: mpsc::Sender<OwnershipEvent>, mut orders: mpsc::UnboundedReceiver<Order>) {
    while job::guard("ownership", keep(&broker, &events, &mut orders)).await.is_err() {
        metrics::PARTITIONS_OWNED.set(0);
        let link = broker.disconnect();
        if let Some(link) = &link {
            link.lease.end();
        }
        for partition in broker.partitions.all() {
            let _ = events.send(OwnershipEvent::Lost(partition)).await;
        }
        if let Some(link) = link {
            let _ = timeout(FAREWELL, link.close()).await;
        }
        if wait_or_resign(RECONNECT.cap, &mut orders).await {
            return;
        }
    }
}

/// Holds partitions for one connection after another.
async fn keep(broker: &Consuming, events: &mpsc::Sender<OwnershipEvent>, orders: &mut mpsc::UnboundedReceiver<Order>) {
    let (mut failures, mut has_connected) = (0, false);
    loop {
        let end = match broker.connect().await {
            Ok(link) => {
                failures = 0;
                if std::mem::replace(&mut has_connected, true) {
                    metrics::BROKER_RECONNECTS.add(1);
                }
                let (lost_in, lost) = mpsc::unbounded_channel();
                let mut term = Term {
                    broker,
                    link: &link,
                    events,
                    locks: HashMap::new(),
                    asked: HashSet::new(),
                    lost_in,
                    verified: false,
                };
                let end = term.run(orders, lost).await;
                term.close().await;
                end
            }
            Err(error) => TermEnd::Failed(error),
        };
        broker.disconnect();
        let TermEnd::Failed(error) = end else { return };
        let error = without_names(error);
        tracing::warn!(error = &*error as &dyn std::error::Error, "no connection to the broker; trying again");
        if wait_or_resign(RECONNECT.wait(failures), orders).await {
            return;
        }
        failures += 1;
    }
}

/// Waits; says whether it was told to resign meanwhile.
async fn wait_or_resign(wait: Duration, orders: &mut mpsc::UnboundedReceiver<Order>) -> bool {
    let resigned = async {
        loop {
            match orders.recv().await {
                Some(Order::Release(_)) => {}
                Some(Order::Resign) | None => return,
            }
        }
    };
    timeout(wait, resigned).await.is_ok()
}

/// One connection's time.
struct Term<'a> {
    broker: &'a Consuming,
    link: &'a Link,
    events: &'a mpsc::Sender<OwnershipEvent>,
    locks: HashMap<Partition, Lock>,
    /// Partitions that we were told to stop serving, and have not released yet.
    asked: HashSet<Partition>,
    lost_in: mpsc::UnboundedSender<Partition>,
    /// Whether this broker was seen to refuse a second owner.
    verified: bool,
}

/// A partition that is ours while this exists.
struct Lock {
    channel: Channel,
    /// What holds the lock: lapin cancels a consumer that nobody has any more.
    _consumer: Consumer,
    pokes: AbortHandle,
}

impl Term<'_> {
    async fn run(
        &mut self,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        mut lost: mpsc::UnboundedReceiver<Partition>,
    ) -> TermEnd {
        let looks = match timeout(PATIENCE, self.link.connection.create_channel()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return TermEnd::Failed(error.into()),
            Err(late) => return TermEnd::Failed(late.into()),
        };
        let options = BasicConsumeOptions::default();
        let membership = looks.basic_consume(MEMBERS.into(), "".into(), options, FieldTable::default()).await;
        // Held, as we are a member for as long as it lives.
        let _membership = match membership {
            Ok(membership) => membership,
            Err(error) => return TermEnd::Failed(error.into()),
        };
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Release(partition)) => self.release(partition).await,
                    Some(Order::Resign) | None => return TermEnd::Resigned,
                },
                Some(partition) = lost.recv() => self.lose(partition).await,
                _ = tick.tick() => {
                    if !self.link.lease.is_valid() {
                        return TermEnd::Failed("the connection was given up, or this process had been stopped".into());
                    }
                    match timeout(PATIENCE, self.balance(&looks)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return TermEnd::Failed(error),
                        Err(late) => return TermEnd::Failed(late.into()),
                    }
                }
            }
        }
    }

    /// Takes what is free up to our share; asks for what is beyond it.
    async fn balance(&mut self, looks: &Channel) -> Result<(), BoxError> {
        let members = look_at(looks, MEMBERS.into()).await?.1.max(1);
        let share = share(self.broker.partitions.count(), members);
        let mut held = self.locks.len() - self.asked.len();
        let mut free: Vec<Partition> =
            self.broker.partitions.all().filter(|partition| !self.locks.contains_key(partition)).collect();
        // Two that look at the same moment should not run for the same partition.
        fastrand::shuffle(&mut free);
        let enough = Instant::now() + SPREE;
        for partition in free {
            if held >= share || Instant::now() >= enough {
                break;
            }
            if look_at(looks, control_queue(partition)).await?.1 == 0 && self.acquire(partition).await? {
                held += 1;
            }
        }
        let surplus = held.saturating_sub(share);
        let spare: Vec<Partition> =
            self.locks.keys().filter(|partition| !self.asked.contains(partition)).take(surplus).copied().collect();
        for partition in spare {
            self.asked.insert(partition);
            self.tell(OwnershipEvent::Asked(partition)).await;
        }
        metrics::MEMBERS.set(members as usize);
        metrics::PARTITIONS_OWNED.set(self.locks.len());
        Ok(())
    }

    /// Tries to become the owner; says whether it did. Refused means that somebody else was faster.
    async fn acquire(&mut self, partition: Partition) -> Result<bool, BoxError> {
        // A refusal closes the channel, so each try has its own.
        let channel = self.link.connection.create_channel().await?;
        channel.basic_qos(POKES, BasicQosOptions { global: false }).await?;
        let Ok(pokes) = consume_exclusively(&channel, partition).await else { return Ok(false) };
        if !self.verified {
            self.verify(partition).await?;
        }
        self.tell(OwnershipEvent::Acquired(partition)).await;
        let consumer = pokes.clone();
        let forward = tokio::spawn(forward(partition, pokes, self.events.clone(), self.lost_in.clone()));
        self.locks.insert(partition, Lock { channel, _consumer: consumer, pokes: forward.abort_handle() });
        tracing::info!(%partition, owned = self.locks.len(), "partition acquired");
        Ok(true)
    }

    /// A broker that lets two own a partition must not be used: both would push, in any order.
    async fn verify(&mut self, partition: Partition) -> Result<(), BoxError> {
        let channel = self.link.connection.create_channel().await?;
        if consume_exclusively(&channel, partition).await.is_ok() {
            return Err("the broker does not honour exclusive consumers: the control queues must be classic".into());
        }
        self.verified = true;
        Ok(())
    }

    async fn release(&mut self, partition: Partition) {
        // What could not be given back goes back before the locks do, when the connection is closed.
        if !self.link.lease.is_valid() {
            return;
        }
        // An order from before a reconnect is not about the lock that we hold now.
        if !self.asked.remove(&partition) {
            return;
        }
        if let Some(lock) = self.locks.remove(&partition) {
            lock.drop_in_order().await;
            tracing::info!(%partition, owned = self.locks.len(), "partition released");
        }
    }

    /// The broker took the lock away, though the connection stands: its queue was deleted, say.
    async fn lose(&mut self, partition: Partition) {
        self.asked.remove(&partition);
        if self.locks.remove(&partition).is_some() {
            tracing::warn!(%partition, "partition lost");
            self.tell(OwnershipEvent::Lost(partition)).await;
        }
    }

    async fn tell(&self, event: OwnershipEvent) {
        // It fails only once nobody listens, which is when we are told to resign.
        let _ = self.events.send(event).await;
    }

    /// Whatever ended the term, nothing is ours after it.
    async fn close(&mut self) {
        self.link.lease.end();
        metrics::PARTITIONS_OWNED.set(0);
        for (partition, lock) in &self.locks {
            lock.pokes.abort();
            let _ = self.events.send(OwnershipEvent::Lost(*partition)).await;
        }
        // If it can't be closed in good order, the broker will find it dead.
        let _ = timeout(FAREWELL, self.link.close()).await;
        // Not sooner, as a lock that is dropped is free.
        self.locks.clear();
    }
}

impl Lock {
    async fn drop_in_order(self) {
        self.pokes.abort();
        // If it can't be closed in good order, neither can anything else: the connection will be given up.
        let _ = timeout(PATIENCE, self.channel.close(200, "released".into())).await;
    }
}

async fn consume_exclusively(channel: &Channel, partition: Partition) -> Result<Consumer, lapin::Error> {
    let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(control_queue(partition), "".into(), options, FieldTable::default()).await
}

/// How many partitions each of the members holds at most.
fn share(partitions: u16, members: u32) -> usize {
    usize::from(partitions).div_ceil(usize::try_from(members).unwrap_or(usize::MAX))
}

/// Hands on the pokes of one partition for as long as it is ours.
async fn forward(
    partition: Partition,
    pokes: Consumer,
    events: mpsc::Sender<OwnershipEvent>,
    lost: mpsc::UnboundedSender<Partition>,
) {
    // However it ends: the keeper may be gone already.
    let _ = job::guard("forward", hand_on(pokes, events)).await;
    let _ = lost.send(partition);
}

async fn hand_on(mut pokes: Consumer, events: mpsc::Sender<OwnershipEvent>) {
    while let Some(Ok(poke)) = pokes.next().await {
        match read(&poke) {
            Some(event) => {
                if events.send(event).await.is_err() {
                    return;
                }
            }
            None => tracing::warn!("a control message can't be understood and is dropped"),
        }
        if poke.acker.ack(BasicAckOptions::default()).await.is_err() {
            return;
        }
    }
}

/// What a control message says.
fn read(note: &Delivery) -> Option<OwnershipEvent> {
    let kind = note.properties.kind();
    if kind.as_ref().is_some_and(|kind| kind.as_str() == REPLY) {
        return read_reply(note);
    }
    let user = UserId::read_back(std::str::from_utf8(&note.data).ok()?.to_owned()).ok()?;
    let Some(kind) = kind else { return Some(OwnershipEvent::Poked(user)) };
    let message = note.properties.message_id().as_ref().map(|id| MessageId::from(id.as_str().to_owned()));
    let position = note.properties.correlation_id().as_ref().and_then(|place| place.as_str().parse().ok());
    match kind.as_str() {
        ACK if message.is_some() || position.is_some() => {
            Some(OwnershipEvent::Acked(user, AckFrame { message, position, again: false }))
        }
        AGAIN => Some(OwnershipEvent::Acked(user, AckFrame { message, position, again: true })),
        WANTED => {
            let asker = note.properties.message_id().as_ref().and_then(|id| UserId::try_from(id.as_str()).ok());
            Some(OwnershipEvent::Wanted(user, asker))
        }
        CLOSE => Some(OwnershipEvent::Closing(user, named_connection(note)?)),
        CHECK => Some(OwnershipEvent::Checking(user)),
        NOTICE => Some(OwnershipEvent::Noticed(user, notice_of(&note.properties)?)),
        _ => None,
    }
}

/// The connection that a control message names, if it names one; nothing if that can't be one.
fn named_connection(note: &Delivery) -> Option<Option<ConnectionId>> {
    let name = note.properties.correlation_id().as_ref();
    name.map(|name| ConnectionId::try_from(name.as_str())).transpose().ok()
}

fn read_reply(note: &Delivery) -> Option<OwnershipEvent> {
    let user = UserId::try_from(note.properties.message_id().as_ref()?.as_str()).ok()?;
    let connection = ConnectionId::try_from(note.properties.correlation_id().as_ref()?.as_str()).ok()?;
    Some(OwnershipEvent::Replied(user, connection, String::from_utf8(note.data.clone()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_share_evenly_and_nothing_is_left_over() {
        assert_eq!([share(16, 1), share(16, 2), share(16, 3), share(16, 17)], [16, 8, 6, 1]);
    }
}
