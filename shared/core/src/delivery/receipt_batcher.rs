//! Sends delivery receipts to authors.
//!
//! A receipt is a position for each pair of users that covers all messages up to it. The registry stores it; an event,
//! which may be lost, says that it has moved.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use kschat_protocol::{EphemeralEvent, JsonId, Message, MessageId, Status, UserId};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    job,
    ports::{OwnerChannel, OwnerMessage, Receipt, ReceiptStage, ReceiptStore},
};

/// How long deliveries are batched, so that many acks of a conversation become one receipt.
const RECEIPT_BATCH_WINDOW: Duration = Duration::from_millis(200);

/// Pairs of users with pending receipts at most; further ones are reported with their next delivered message.
const MAX_PENDING_RECEIPTS: usize = 10_000;

/// The pause after a panic.
const PANIC_RESTART_DELAY: Duration = Duration::from_secs(1);

/// Receipt events that are sent at the same time.
const MAX_CONCURRENT_RECEIPT_EVENTS: usize = 16;

/// Batches the deliveries of one process, and notifies the authors.
pub struct ReceiptBatcher {
    receipts: Arc<dyn ReceiptStore>,
    owners: Arc<dyn OwnerChannel>,
    /// The last message by author and reader.
    // A std mutex: no guard is held across an await.
    waiting: Mutex<HashMap<(UserId, UserId), MessageId>>,
    arrived: Notify,
}

impl ReceiptBatcher {
    /// A batcher with these dependencies.
    #[must_use]
    pub fn new(receipts: Arc<dyn ReceiptStore>, owners: Arc<dyn OwnerChannel>) -> Self {
        Self { receipts, owners, waiting: Mutex::default(), arrived: Notify::new() }
    }

    /// Records that a client of the reader has these messages, the last one being the newest. Does not wait for the
    /// receipt.
    pub(crate) fn record_delivered<'a>(&self, reader: &UserId, messages: impl DoubleEndedIterator<Item = &'a Message>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // In a room every member would notify every other.
        for message in messages.filter(|message| message.room.is_none()) {
            let Ok(author) = UserId::try_from(&message.from) else { continue };
            let pair = (author, reader.clone());
            if pair.0 != pair.1 && (waiting.len() < MAX_PENDING_RECEIPTS || waiting.contains_key(&pair)) {
                waiting.insert(pair, message.id.clone());
            }
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Runs until it is stopped, and then flushes what is pending. After a panic it continues with the next receipts.
    pub async fn run(&self, stop: CancellationToken) {
        while job::catch_panic("receipts", self.run_until_panic(&stop)).await.is_err() {
            stop.run_until_cancelled(sleep(PANIC_RESTART_DELAY)).await;
        }
    }

    async fn run_until_panic(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(self.arrived.notified()).await.is_some() {
            stop.run_until_cancelled(sleep(RECEIPT_BATCH_WINDOW)).await;
            self.flush().await;
        }
        self.flush().await;
    }

    async fn flush(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let receipt = |((author, reader), message)| Receipt { author, reader, stage: ReceiptStage::Delivered, message };
        let receipts: Vec<Receipt> = waiting.into_iter().map(receipt).collect();
        if receipts.is_empty() {
            return;
        }
        if let Err(error) = self.receipts.record_receipts(&receipts).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "storing receipts failed");
        }
        stream::iter(receipts)
            .for_each_concurrent(MAX_CONCURRENT_RECEIPT_EVENTS, |receipt| self.notify_author(receipt))
            .await;
    }

    async fn notify_author(&self, receipt: Receipt) {
        let (reader, author) = (JsonId::from(&receipt.reader), JsonId::from(&receipt.author));
        let event = EphemeralEvent::Status { reader, author, status: Status::Delivered, message: receipt.message };
        if let Err(error) = self.owners.send(&receipt.author, OwnerMessage::Event(event)).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "notifying a sender of a delivery failed");
        }
    }
}
