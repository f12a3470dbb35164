//! Connections that are closed or checked, and senders' shares.

use kschat_core::ports::OwnerMessage;
use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kschat_core::{
    contract::message,
    delivery::DeliveryEnd,
    ports::{Publisher, SenderShares, Unavailable},
};
use kschat_protocol::{Message, UserId};
use tokio::sync::Mutex;

use crate::fixture::{Fixture, NOW};

#[tokio::test(start_paused = true)]
async fn blocked_user_is_notified_and_disconnected() {
    let fixture = Fixture::new().await;
    let (v1, device) = (fixture.device(vec![]).await, fixture.acking_device(vec![]).await);
    let delivery = fixture.serve();
    fixture.wait_a_minute().await;
    fixture.signals.inbox.put(OwnerMessage::Close { connection: None });
    assert_eq!(delivery.await.expect("the task does not panic"), DeliveryEnd::Offline);
    let expected = r#"{"event":"RESPCTRL","RC":1,"ER":9,"OP":"reconnect","AFTER":60000,"WHY":"too many requests"}"#;
    for id in [&v1, &device] {
        assert_eq!(fixture.frames(id), [expected]);
        assert!(fixture.edge.closed.lock().expect("no test panics here").contains(id));
    }
    assert!(fixture.registered().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn single_close_sends_no_frame() {
    let fixture = Fixture::new().await;
    let (leaves, stays) = (fixture.acking_device(vec![]).await, fixture.acking_device(vec![]).await);
    let delivery = fixture.serve();
    fixture.signals.inbox.put(OwnerMessage::Close { connection: Some(leaves.clone()) });
    fixture.wait_a_minute().await;
    assert_eq!(*fixture.edge.closed.lock().expect("no test panics here"), std::slice::from_ref(&leaves));
    assert!(fixture.frames(&leaves).is_empty());
    assert_eq!(fixture.registered().await, [stays]);
    fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn connection_check_removes_unknown_connections() {
    let fixture = Fixture::new().await;
    let (gone, stays) = (fixture.acking_device(vec![]).await, fixture.acking_device(vec![]).await);
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_millis(10)).await;
    fixture.edge.gone.lock().expect("no test panics here").insert(gone.clone());
    // The edge may not know a new one yet.
    fixture.signals.inbox.put(OwnerMessage::CheckConnections);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(fixture.registered().await.len(), 2);
    fixture.signals.inbox.put(OwnerMessage::CheckConnections);
    fixture.wait_a_minute().await;
    assert_eq!(fixture.registered().await, [stays]);
    fixture.stop(delivery).await;
}

/// Records the calls.
#[derive(Default)]
struct RecordingShares(Mutex<Vec<&'static str>>);

impl RecordingShares {
    async fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.0.lock().await)
    }
}

#[async_trait]
impl SenderShares for RecordingShares {
    async fn clear_shares(&self, _user: &UserId) -> Result<(), Unavailable> {
        self.0.lock().await.push("clear");
        Ok(())
    }

    async fn release_share(&self, _user: &UserId, _sender: &UserId, _weight: u64) -> Result<(), Unavailable> {
        self.0.lock().await.push("release");
        Ok(())
    }

    async fn rotate_shares(&self, _user: &UserId) -> Result<(), Unavailable> {
        self.0.lock().await.push("rotate");
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn sender_shares_are_cleared_or_rotated() {
    let fixture = Fixture::new().await;
    let shares = Arc::new(RecordingShares::default());
    fixture.acking_device(vec![]).await;
    let delivery = fixture.serve_with(|deps| deps.with_shares(shares.clone()));
    let moment = async || tokio::time::sleep(Duration::from_secs(3)).await;
    moment().await;
    assert_eq!(shares.take().await, ["clear"], "a send may have failed before");

    fixture.queue(&["one", "two"]).await;
    moment().await;
    assert!(shares.take().await.is_empty(), "both wait for their ack");
    fixture.ack("two");
    moment().await;
    assert_eq!(shares.take().await, ["clear"]);

    // This message was accepted long after the start: what was counted before that has left the queue.
    fixture.clock.set(NOW.plus(Duration::from_secs(60)));
    let late = Message { time: NOW.plus(Duration::from_secs(30)).millis(), ..message(&fixture.user, "late") };
    fixture.broker.publish(&fixture.user, &late).await.expect("memory");
    fixture.queue(&["next"]).await;
    moment().await;
    fixture.ack("late");
    moment().await;
    assert_eq!(shares.take().await, ["rotate"], "one waits still");
    fixture.stop(delivery).await;
}
