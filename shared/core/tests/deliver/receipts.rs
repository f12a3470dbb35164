//! Delivery receipts.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use kschat_core::{
    contract::message,
    delivery::receipt_batcher::ReceiptBatcher,
    ports::{OwnerChannel, OwnerMessage, Receipt, ReceiptPositions, ReceiptStore, Unavailable},
};
use kschat_protocol::{EphemeralEvent, JsonId, UserId};
use tokio_util::sync::CancellationToken;

use crate::fixture::Fixture;

/// A slow store that records its calls.
#[derive(Default)]
struct SlowReceiptStore {
    noted: Mutex<Vec<Receipt>>,
    events: Mutex<Vec<(UserId, EphemeralEvent)>>,
}

#[async_trait]
impl ReceiptStore for SlowReceiptStore {
    async fn record_receipts(&self, receipts: &[Receipt]) -> Result<(), Unavailable> {
        tokio::time::sleep(Duration::from_secs(30)).await;
        self.noted.lock().expect("no test panics here").extend_from_slice(receipts);
        Ok(())
    }

    async fn receipt_positions(
        &self,
        _author: &UserId,
        readers: &[UserId],
    ) -> Result<Vec<ReceiptPositions>, Unavailable> {
        Ok(vec![ReceiptPositions::default(); readers.len()])
    }
}

#[async_trait]
impl OwnerChannel for SlowReceiptStore {
    async fn send(&self, user: &UserId, message: OwnerMessage) -> Result<(), Unavailable> {
        let OwnerMessage::Event(event) = message else { panic!("{message:?}") };
        self.events.lock().expect("no test panics here").push((user.clone(), event));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn many_acks_make_one_receipt() {
    let fixture = Fixture::new().await;
    let slow = Arc::new(SlowReceiptStore::default());
    let batcher = Arc::new(ReceiptBatcher::new(slow.clone(), slow.clone()));
    let (stop, at_work) = (CancellationToken::new(), Arc::clone(&batcher));
    let stopped = stop.clone();
    let work = tokio::spawn(async move { at_work.run(stopped).await });
    let device = fixture.acking_device(vec![]).await;
    let delivery = fixture.serve_with(|deps| deps.with_receipts(batcher));
    let texts: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    for text in &texts {
        fixture.queue(&[text]).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        fixture.ack(text);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // One more, which the user wrote to itself.
    let own = message(&fixture.user, "own");
    let own = kschat_protocol::Message { from: JsonId::from(&fixture.user), ..own };
    kschat_core::ports::Publisher::publish(&fixture.broker, &fixture.user, &own).await.expect("memory");
    tokio::time::sleep(Duration::from_millis(5)).await;
    fixture.ack("own");
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(fixture.received_texts(&device).concat().len(), 21, "no message waits for a receipt");
    tokio::time::sleep(Duration::from_secs(100)).await;
    let noted = slow.noted.lock().expect("no test panics here").clone();
    assert!(noted.len() <= 3 && noted.iter().all(|receipt| receipt.reader == fixture.user), "{noted:?}");
    let events = slow.events.lock().expect("no test panics here").clone();
    assert!(events.iter().all(|(to, _)| to.as_str() == "sender"));
    let Some((_, EphemeralEvent::Status { message: newest, .. })) = events.last().cloned() else {
        panic!("no event was sent")
    };
    assert_eq!(Some(&newest), noted.last().map(|receipt| &receipt.message));
    stop.cancel();
    work.await.expect("the task does not panic");
    fixture.stop(delivery).await;
    assert!(fixture.queued_texts().await.is_empty());
}
