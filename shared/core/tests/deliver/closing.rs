//! Connections that are closed or checked, and senders' shares.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kschat_core::{
    contract::message,
    deliver::End,
    ports::{Publisher, SenderShares, Unavailable},
};
use kschat_protocol::{Message, UserId};
use tokio::sync::Mutex;

use crate::scene::{NOW, Scene};

#[tokio::test(start_paused = true)]
async fn blocked_user_is_told_and_disconnected_everywhere() {
    let scene = Scene::new().await;
    let (seed, device) = (scene.device(vec![]).await, scene.acking(vec![]).await);
    let courier = scene.serve();
    scene.quiet().await;
    scene.signals.closing.put(None);
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
    let told = r#"{"event":"RESPCTRL","RC":1,"ER":9,"OP":"reconnect","AFTER":60000,"WHY":"too many requests"}"#;
    for id in [&seed, &device] {
        assert_eq!(scene.frames(id), [told]);
        assert!(scene.edge.closed.lock().expect("no test panics here").contains(id));
    }
    assert!(scene.registered().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_connection_is_closed_without_a_word() {
    let scene = Scene::new().await;
    let (leaves, stays) = (scene.acking(vec![]).await, scene.acking(vec![]).await);
    let courier = scene.serve();
    scene.signals.closing.put(Some(leaves.clone()));
    scene.quiet().await;
    assert_eq!(*scene.edge.closed.lock().expect("no test panics here"), std::slice::from_ref(&leaves));
    assert!(scene.frames(&leaves).is_empty());
    assert_eq!(scene.registered().await, [stays]);
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn check_forgets_what_the_edge_does_not_have() {
    let scene = Scene::new().await;
    let (gone, stays) = (scene.acking(vec![]).await, scene.acking(vec![]).await);
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_millis(10)).await;
    scene.edge.gone.lock().expect("no test panics here").insert(gone.clone());
    // One that is being made may not be known to the edge yet.
    scene.signals.check.notify_one();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scene.registered().await.len(), 2);
    scene.signals.check.notify_one();
    scene.quiet().await;
    assert_eq!(scene.registered().await, [stays]);
    scene.stop(courier).await;
}

/// Notes what it is told.
#[derive(Default)]
struct Told(Mutex<Vec<&'static str>>);

impl Told {
    async fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.0.lock().await)
    }
}

#[async_trait]
impl SenderShares for Told {
    async fn clear_shares(&self, _user: &UserId) -> Result<(), Unavailable> {
        self.0.lock().await.push("clear");
        Ok(())
    }

    async fn give_back(&self, _user: &UserId, _sender: &UserId, _weight: u64) -> Result<(), Unavailable> {
        self.0.lock().await.push("give back");
        Ok(())
    }

    async fn rotate_shares(&self, _user: &UserId) -> Result<(), Unavailable> {
        self.0.lock().await.push("rotate");
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn shares_are_cleared_when_nothing_waits_and_rotated_when_something_always_does() {
    let scene = Scene::new().await;
    let told = Arc::new(Told::default());
    scene.acking(vec![]).await;
    let courier = scene.serve_with(|deps| deps.with_shares(told.clone()));
    let moment = async || tokio::time::sleep(Duration::from_secs(3)).await;
    moment().await;
    assert_eq!(told.take().await, ["clear"], "a send may have failed before");

    scene.queue(&["one", "two"]).await;
    moment().await;
    assert!(told.take().await.is_empty(), "both wait for their ack");
    scene.ack("two");
    moment().await;
    assert_eq!(told.take().await, ["clear"]);

    // A message that was accepted long after we began: what was counted before that has left the queue.
    scene.clock.set(NOW.plus(Duration::from_secs(60)));
    let late = Message { time: NOW.plus(Duration::from_secs(30)).millis(), ..message(&scene.user, "late") };
    scene.broker.publish(&scene.user, &late).await.expect("memory");
    scene.queue(&["next"]).await;
    moment().await;
    scene.ack("late");
    moment().await;
    assert_eq!(told.take().await, ["rotate"], "one waits still");
    scene.stop(courier).await;
}
