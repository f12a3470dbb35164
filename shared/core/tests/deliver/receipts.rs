//! Who is told what was delivered.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use kschat_core::{
    contract::message,
    ports::{Marks, Notices, Receipt, Receipts, Unavailable},
    receipts::Clerk,
};
use kschat_protocol::{JsonId, Notice, UserId};
use tokio_util::sync::CancellationToken;

use crate::scene::Scene;

/// A registry that takes its time, and remembers what it was told.
#[derive(Default)]
struct Slow {
    noted: Mutex<Vec<Receipt>>,
    told: Mutex<Vec<(UserId, Notice)>>,
}

#[async_trait]
impl Receipts for Slow {
    async fn note_receipts(&self, receipts: &[Receipt]) -> Result<(), Unavailable> {
        tokio::time::sleep(Duration::from_secs(30)).await;
        self.noted.lock().expect("no test panics here").extend_from_slice(receipts);
        Ok(())
    }

    async fn marks(&self, _author: &UserId, readers: &[UserId]) -> Result<Vec<Marks>, Unavailable> {
        Ok(vec![Marks::default(); readers.len()])
    }
}

#[async_trait]
impl Notices for Slow {
    async fn notify(&self, user: &UserId, notice: &Notice) -> Result<(), Unavailable> {
        self.told.lock().expect("no test panics here").push((user.clone(), notice.clone()));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_conversation_makes_one_receipt_of_many_acks_and_nobody_waits_for_it() {
    let scene = Scene::new().await;
    let slow = Arc::new(Slow::default());
    let clerk = Arc::new(Clerk::new(slow.clone(), slow.clone()));
    let (stop, at_work) = (CancellationToken::new(), Arc::clone(&clerk));
    let stopped = stop.clone();
    let work = tokio::spawn(async move { at_work.work(stopped).await });
    let device = scene.acking(vec![]).await;
    let courier = scene.serve_with(|deps| deps.with_receipts(clerk));
    let texts: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    for text in &texts {
        scene.queue(&[text]).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        scene.ack(text);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // One more, which the user wrote to itself.
    let own = message(&scene.user, "own");
    let own = kschat_protocol::Message { from: JsonId::from(&scene.user), ..own };
    kschat_core::ports::Publisher::publish(&scene.broker, &scene.user, &own).await.expect("memory");
    tokio::time::sleep(Duration::from_millis(5)).await;
    scene.ack("own");
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(scene.heard(&device).concat().len(), 21, "no message waits for a receipt");
    tokio::time::sleep(Duration::from_secs(100)).await;
    let noted = slow.noted.lock().expect("no test panics here").clone();
    assert!(noted.len() <= 3 && noted.iter().all(|receipt| receipt.reader == scene.user), "{noted:?}");
    let told = slow.told.lock().expect("no test panics here").clone();
    assert!(told.iter().all(|(to, _)| to.as_str() == "sender"));
    let Some((_, Notice::Status { message: told, .. })) = told.last().cloned() else { panic!("nobody was told") };
    assert_eq!(Some(&told), noted.last().map(|receipt| &receipt.message));
    stop.cancel();
    work.await.expect("it does not panic");
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}
