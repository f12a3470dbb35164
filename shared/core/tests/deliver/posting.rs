//! What the edge takes, and what becomes of the rest.

use std::time::Duration;

use kschat_core::deliver::End;

use crate::scene::Scene;

#[tokio::test(start_paused = true)]
async fn what_waits_shares_a_frame_and_leaves_the_queue() {
    let scene = Scene::new().await;
    let device = scene.device(vec![]).await;
    scene.queue(&["one", "two", "three"]).await;
    let courier = scene.serve();
    scene.quiet().await;
    assert_eq!(scene.heard(&device), [["one", "two", "three"]]);
    assert_eq!(scene.stop(courier).await, End::Stopped);
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_edge_does_not_know_yet_is_waited_for() {
    let scene = Scene::new().await;
    let device = scene.device(vec![410; 5]).await;
    scene.queue(&["one"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.heard(&device), [["one"]]);
    assert_eq!(scene.registered().await, [device]);
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn a_gone_connection_is_forgotten_and_the_rest_still_hear() {
    let scene = Scene::new().await;
    let (gone, here) = (scene.device(vec![410; 1000]).await, scene.device(vec![]).await);
    scene.queue(&["one"]).await;
    let courier = scene.serve();
    scene.quiet().await;
    scene.queue(&["two"]).await;
    scene.quiet().await;
    assert!(scene.heard(&gone).is_empty());
    assert_eq!(scene.heard(&here), [["one"], ["two"]]);
    assert_eq!(scene.registered().await, [here]);
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_edge_is_tried_again_in_order() {
    let scene = Scene::new().await;
    let device = scene.device(vec![429, 500, 429]).await;
    scene.queue(&["one", "two"]).await;
    let courier = scene.serve();
    scene.quiet().await;
    scene.queue(&["three"]).await;
    scene.quiet().await;
    assert_eq!(scene.heard(&device), [vec!["one", "two"], vec!["three"]]);
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_stays_busy_costs_no_message() {
    let scene = Scene::new().await;
    scene.device(vec![500; 1000]).await;
    scene.queue(&["one", "two"]).await;
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Stuck);
    assert_eq!(scene.left().await, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn one_device_that_stays_busy_does_not_hold_up_another_for_ever() {
    let scene = Scene::new().await;
    let (busy, here) = (scene.device(vec![429; 1000]).await, scene.device(vec![]).await);
    scene.queue(&["one"]).await;
    let courier = scene.serve();
    scene.quiet().await;
    scene.queue(&["two"]).await;
    scene.quiet().await;
    assert_eq!(scene.heard(&here), [["one"], ["two"]]);
    assert!(scene.heard(&busy).is_empty());
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_refused_for_good_is_out_of_the_way() {
    let scene = Scene::new().await;
    let device = scene.device(vec![413]).await;
    scene.queue(&["one"]).await;
    let courier = scene.serve();
    scene.quiet().await;
    scene.queue(&["two"]).await;
    scene.quiet().await;
    assert_eq!(scene.heard(&device), [["two"]]);
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_while_the_edge_is_busy_hears_it_too() {
    let scene = Scene::new().await;
    let first = scene.device(vec![429; 3]).await;
    scene.queue(&["one"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let second = scene.device(vec![]).await;
    scene.signals.refresh.notify_one();
    scene.quiet().await;
    assert_eq!(
        (scene.heard(&first), scene.heard(&second)),
        (vec![vec!["one".to_owned()]], vec![vec!["one".to_owned()]])
    );
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn being_stopped_while_waiting_to_try_again_gives_everything_back() {
    let scene = Scene::new().await;
    scene.device(vec![500; 1000]).await;
    scene.queue(&["one", "two"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(scene.stop(courier).await, End::Stopped);
    assert_eq!(scene.left().await, ["one", "two"]);
}

/// So many large messages that each frame leaves one over for the next.
async fn backlog(scene: &Scene) -> Vec<String> {
    let texts: Vec<String> = (0..40).map(|n| format!("{n} {}", "x".repeat(20_000))).collect();
    scene.queue(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    texts
}

#[tokio::test(start_paused = true)]
async fn being_stopped_in_the_middle_of_a_backlog_keeps_the_rest_in_order() {
    let scene = Scene::new().await;
    let device = scene.device(vec![]).await;
    let texts = backlog(&scene).await;
    let courier = scene.serve();
    while scene.heard(&device).is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.stop(courier).await, End::Stopped);
    let heard: Vec<String> = scene.heard(&device).concat();
    assert!(heard.len() < texts.len(), "it did not listen until the backlog was done");
    assert_eq!([heard, scene.left().await].concat(), texts);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_in_the_middle_of_a_backlog_hears_the_rest() {
    let scene = Scene::new().await;
    let first = scene.device(vec![]).await;
    let texts = backlog(&scene).await;
    let courier = scene.serve();
    while scene.heard(&first).is_empty() {
        tokio::task::yield_now().await;
    }
    let second = scene.device(vec![]).await;
    scene.signals.refresh.notify_one();
    scene.quiet().await;
    let (one, two) = (scene.heard(&first).concat(), scene.heard(&second).concat());
    assert_eq!(one, texts);
    assert!(!two.is_empty() && texts.ends_with(&two), "{} messages", two.len());
    scene.stop(courier).await;
}
