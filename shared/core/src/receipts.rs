//! Who has got and read what.
//!
//! A receipt is a mark for each pair of users, which stands for all messages up to it. The registry remembers the marks;
//! that one has moved is told by a notice, which may get lost.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, future::try_join, stream};
use kschat_protocol::{JsonId, Message, MessageId, Notice, PeerStatus, Status, StatusReply, UserId};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    Session, job,
    ports::{Notices, Receipt, Receipts, Stage},
    request::{Deps, RequestError},
};

/// How long deliveries are gathered, so that a conversation makes one receipt of many acks.
const GATHER: Duration = Duration::from_millis(200);

/// Pairs of users whose receipts wait at most; more are told when the next message is delivered.
const PAIRS: usize = 10_000;

/// How long it rests after a panic.
const REST: Duration = Duration::from_secs(1);

/// Notices on their way at once.
const FAN_OUT: usize = 16;

/// The user has read all that a peer sent, up to a message.
pub(crate) async fn read(
    deps: &Deps,
    session: &Session,
    peer: &UserId,
    pid: &JsonId,
    message: &MessageId,
) -> Result<(), RequestError> {
    let (author, reader) = (peer.clone(), session.user.clone());
    let receipt = [Receipt { author, reader, stage: Stage::Read, message: message.clone() }];
    let (reader, author) = (JsonId::from(&session.user), pid.clone());
    let notice = Notice::Status { reader, author, status: Status::Read, message: message.clone() };
    let noted = async { deps.receipts.note_receipts(&receipt).await.map_err(RequestError::Registry) };
    let told = async { deps.notices.notify(peer, &notice).await.map_err(RequestError::Broker) };
    try_join(noted, told).await.map(drop)
}

/// How much of what the user sent to these they have got and read, as a frame.
pub(crate) async fn status(deps: &Deps, session: &Session, peers: &[(JsonId, UserId)]) -> Result<String, RequestError> {
    let users: Vec<UserId> = peers.iter().map(|(_, user)| user.clone()).collect();
    let marks = deps.receipts.marks(&session.user, &users).await.map_err(RequestError::Registry)?;
    let known = peers.iter().zip(marks);
    let list =
        known.map(|((id, _), marks)| PeerStatus { user: id.clone(), delivered: marks.delivered, read: marks.read });
    Ok(StatusReply::of(list.collect()))
}

/// Gathers what the users of one process have got, and tells those who sent it.
pub struct Clerk {
    receipts: Arc<dyn Receipts>,
    notices: Arc<dyn Notices>,
    /// The last message by author and reader.
    // A std mutex: no guard is held across an await.
    waiting: Mutex<HashMap<(UserId, UserId), MessageId>>,
    arrived: Notify,
}

impl Clerk {
    /// One that notes and tells by these.
    #[must_use]
    pub fn new(receipts: Arc<dyn Receipts>, notices: Arc<dyn Notices>) -> Self {
        Self { receipts, notices, waiting: Mutex::default(), arrived: Notify::new() }
    }

    /// A client of that user has these messages, the last one being the newest. Nobody waits for what becomes of it.
    pub(crate) fn delivered<'a>(&self, reader: &UserId, messages: impl DoubleEndedIterator<Item = &'a Message>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // In a room everybody would tell everybody.
        for message in messages.filter(|message| message.room.is_none()) {
            let Ok(author) = UserId::try_from(&message.from) else { continue };
            let pair = (author, reader.clone());
            if pair.0 != pair.1 && (waiting.len() < PAIRS || waiting.contains_key(&pair)) {
                waiting.insert(pair, message.id.clone());
            }
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Works until it is told to stop, and finishes what waits then. Should it panic, it goes on with what comes next.
    pub async fn work(&self, stop: CancellationToken) {
        while job::guard("receipts", self.work_on(&stop)).await.is_err() {
            stop.run_until_cancelled(sleep(REST)).await;
        }
    }

    async fn work_on(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(self.arrived.notified()).await.is_some() {
            stop.run_until_cancelled(sleep(GATHER)).await;
            self.finish().await;
        }
        self.finish().await;
    }

    async fn finish(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let receipt = |((author, reader), message)| Receipt { author, reader, stage: Stage::Delivered, message };
        let receipts: Vec<Receipt> = waiting.into_iter().map(receipt).collect();
        if receipts.is_empty() {
            return;
        }
        if let Err(error) = self.receipts.note_receipts(&receipts).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "receipts are not noted");
        }
        stream::iter(receipts).for_each_concurrent(FAN_OUT, |receipt| self.tell(receipt)).await;
    }

    async fn tell(&self, receipt: Receipt) {
        let (reader, author) = (JsonId::from(&receipt.reader), JsonId::from(&receipt.author));
        let notice = Notice::Status { reader, author, status: Status::Delivered, message: receipt.message };
        if let Err(error) = self.notices.notify(&receipt.author, &notice).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a sender is not told of a delivery");
        }
    }
}
