//! What a client acknowledges, and what it does not.

use std::time::Duration;

use kschat_core::{contract::message, deliver::End, ports::Publisher};
use kschat_protocol::{AckFrame, Message, MessageId, Position};
use serde_json::Value;

use crate::scene::Scene;

#[tokio::test(start_paused = true)]
async fn what_a_client_acknowledges_leaves_the_queue_and_the_rest_stays() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    scene.queue(&["one", "two", "three"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.heard(&device), [["one", "two", "three"]]);
    // It stands for all before it.
    scene.ack("two");
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.stop(courier).await;
    assert_eq!(scene.left().await, ["three"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_acknowledged_comes_again_in_order_and_marked() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    scene.queue(&["one", "two"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.queue(&["three"]).await;
    scene.quiet().await;
    let heard = scene.heard(&device);
    assert_eq!(heard[..2], [vec!["one", "two"], vec!["three"]]);
    assert!(heard.len() > 2 && heard[2..].iter().all(|frame| *frame == ["one", "two", "three"]), "{heard:?}");
    let taken = scene.edge.taken.lock().expect("no test panics here")[2].1.clone();
    assert_eq!(taken.matches(r#""redelivered":true"#).count(), 3);
    scene.ack("three");
    scene.quiet().await;
    let count = scene.heard(&device).len();
    scene.quiet().await;
    assert_eq!(scene.heard(&device).len(), count, "what is acknowledged does not come again");
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn when_the_client_goes_what_it_has_not_acknowledged_waits_in_order() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    scene.queue(&["one", "two", "three"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.ack("one");
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.leave(&device).await;
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
    assert_eq!(scene.left().await, ["two", "three"]);
}

#[tokio::test(start_paused = true)]
async fn who_comes_later_gets_first_what_is_not_acknowledged() {
    let scene = Scene::new().await;
    let half_open = scene.acking(vec![]).await;
    scene.queue(&["one", "two"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The edge does not know the new one yet, as `$connect` has not returned.
    let again = scene.acking(vec![410; 3]).await;
    scene.signals.refresh.notify_one();
    scene.queue(&["three"]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.heard(&again).concat(), ["one", "two", "three"]);
    assert_eq!(scene.heard(&half_open).concat(), ["one", "two", "three"]);
    scene.ack("three");
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_of_the_seeds_kind_settles_what_others_have_not_acknowledged() {
    let scene = Scene::new().await;
    let silent = scene.acking(vec![]).await;
    scene.queue(&["one"]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let seed = scene.device(vec![]).await;
    scene.signals.refresh.notify_one();
    scene.queue(&["two"]).await;
    scene.quiet().await;
    // Nothing comes twice to a client that would show it twice.
    assert_eq!(scene.heard(&seed).concat(), ["one", "two"]);
    assert_eq!(scene.heard(&silent).concat(), ["one", "two"]);
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_an_ack_is_bounded() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    let texts: Vec<String> = (0..2_000).map(|n| n.to_string()).collect();
    scene.queue(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let heard = scene.heard(&device).concat();
    assert!(heard.len() < 600, "{} messages are under way", heard.len());
    for _ in 0..20 {
        scene.ack(scene.heard(&device).concat().last().expect("it has got some"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(scene.heard(&device).concat(), texts);
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_minutes_without_any_ack_the_messages_go_back() {
    let scene = Scene::new().await;
    scene.acking(vec![]).await;
    scene.queue(&["one", "two"]).await;
    let began = tokio::time::Instant::now();
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Stuck);
    let took = began.elapsed();
    assert!((Duration::from_secs(300)..Duration::from_secs(420)).contains(&took), "{took:?}");
    assert_eq!(scene.left().await, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn who_has_missed_a_frame_gets_everything_again_at_once_but_not_all_the_time() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    let courier = scene.serve();
    for text in ["one", "two"] {
        scene.queue(&[text]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ask = || scene.signals.acks.put(AckFrame { message: None, position: None, again: true });
    ask();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(scene.heard(&device), [vec!["one"], vec!["two"], vec!["one", "two"]]);
    for _ in 0..9 {
        ask();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let count = scene.heard(&device).len();
    assert!(count <= 5, "once a second is enough, and not {count} frames");
    scene.ack("two");
    tokio::time::sleep(Duration::from_millis(100)).await;
    ask();
    scene.quiet().await;
    assert_eq!(scene.heard(&device).len(), count, "nothing is left to repeat");
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_copy_is_not_pushed_and_an_ack_of_it_counts_for_nothing_else() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    let courier = scene.serve();
    let twice = message(&scene.user, "twice");
    let queue = async |message: &Message| scene.broker.publish(&scene.user, message).await.expect("memory");
    queue(&twice).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    // The first try was confirmed too late, and another sender came in between.
    queue(&message(&scene.user, "between")).await;
    queue(&twice).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(scene.heard(&device), [["twice"], ["between"]]);
    for _ in 0..2 {
        scene.ack("twice");
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Another copy, after the first one has left the queue.
        queue(&twice).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    scene.stop(courier).await;
    assert_eq!(scene.left().await, ["between"]);
}

#[tokio::test(start_paused = true)]
async fn copies_that_wait_together_share_no_frame() {
    let scene = Scene::new().await;
    let device = scene.device(vec![]).await;
    let twice = message(&scene.user, "twice");
    for message in [&twice, &message(&scene.user, "between"), &twice] {
        scene.broker.publish(&scene.user, message).await.expect("memory");
    }
    let courier = scene.serve();
    scene.quiet().await;
    scene.broker.publish(&scene.user, &twice).await.expect("memory");
    scene.quiet().await;
    assert_eq!(scene.heard(&device), [["twice", "between"]]);
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_ack_counts_for_what_stood_before_its_place_in_this_run_only() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    let courier = scene.serve();
    for text in ["one", "two", "three"] {
        scene.queue(&[text]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let place = |n: usize| {
        let taken = scene.edge.taken.lock().expect("no test panics here");
        let frame: Value = serde_json::from_str(&taken[n].1).expect("JSON");
        (frame["PREV"].clone(), frame["POS"].as_str().expect("text").parse::<Position>().expect("a place"))
    };
    let (one, two, three) = (place(0), place(1), place(2));
    assert_eq!((one.0, two.0, three.0), (Value::Null, one.1.to_string().into(), two.1.to_string().into()));
    let ack = async |position| {
        let message = Some(MessageId::from("whatever".to_owned()));
        scene.signals.acks.put(AckFrame { message, position: Some(position), again: false });
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // Of an owner before this one, which has counted further.
    ack(Position { run: one.1.run ^ 1, number: 99 }).await;
    ack(two.1).await;
    ack(one.1).await;
    scene.leave(&device).await;
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
    assert_eq!(scene.left().await, ["three"]);
}

/// How long each run may have messages on loan at most: a third of what the broker bears.
const LOAN: Duration = Duration::from_secs(10 * 60);

#[tokio::test(start_paused = true)]
async fn slow_acknowledger_gives_back_in_time_and_in_order() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    let texts: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    scene.queue(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut acked = 0;
    for _ in 0..5 {
        let (began, courier) = (tokio::time::Instant::now(), scene.serve());
        // An ack comes every four minutes, so it never looks as if nobody was there.
        while !courier.is_finished() {
            tokio::time::sleep(Duration::from_secs(4 * 60)).await;
            if !courier.is_finished() {
                scene.ack(&texts[acked]);
                acked += 1;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            assert!(began.elapsed() < LOAN + Duration::from_secs(5 * 60), "it goes on for ever");
        }
        assert_eq!(courier.await.expect("it does not panic"), End::Stuck);
        assert_eq!(scene.left().await, texts[acked..]);
    }
    assert!(acked >= 10);
    assert_eq!(scene.heard(&device)[0][0], "0");
}

#[tokio::test(start_paused = true)]
async fn busy_user_who_acknowledges_soon_keeps_its_loans() {
    let scene = Scene::new().await;
    let device = scene.acking(vec![]).await;
    let courier = scene.serve();
    for n in 0..3_000 {
        scene.queue(&[&n.to_string()]).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        if n % 8 == 7 {
            scene.ack(scene.heard(&device).concat().last().expect("it has got some"));
        }
    }
    assert!(!courier.is_finished(), "25 minutes of talk are no reason to give anything back");
    scene.quiet().await;
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}
