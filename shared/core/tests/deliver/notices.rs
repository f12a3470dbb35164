//! What is pushed beside messages.

use std::time::Duration;

use kschat_protocol::{JsonId, Notice};

use crate::scene::Scene;

fn typing(from: &str, on: bool) -> Notice {
    Notice::Typing { from: JsonId::Text(from.to_owned()), on }
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_notices_is_pushed_together_and_each_thing_once() {
    let scene = Scene::new().await;
    let (seed, device) = (scene.device(vec![]).await, scene.acking(vec![]).await);
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for n in 0..1_000 {
        scene.signals.notices.put(typing("alice", n % 2 == 0));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let heard = scene.frames(&device);
    assert!((5..=12).contains(&heard.len()), "{} notices in a second", heard.len());
    assert_eq!(heard.last(), Some(&typing("alice", false).to_text()), "the newest is told");
    assert!(scene.frames(&seed).is_empty());
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_is_not_taken_is_missed_and_a_gone_connection_forgotten() {
    let scene = Scene::new().await;
    // One is busy, one has gone.
    let (busy, gone) = (scene.acking(vec![503]).await, scene.acking(vec![]).await);
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(5)).await;
    scene.edge.scripts.lock().expect("no test panics here").insert(gone.clone(), vec![410]);
    scene.signals.notices.put(typing("alice", true));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.registered().await, std::slice::from_ref(&busy));
    scene.queue(&["a message"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.heard(&busy), [["a message"]]);
    assert_eq!(scene.frames(&busy).len(), 1, "the notice does not come later");
    scene.stop(courier).await;
}
