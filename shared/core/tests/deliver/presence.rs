//! Who is there, who has gone, and what becomes of the queue.

use std::{slice, time::Duration};

use kschat_core::{
    Partitions,
    contract::message,
    deliver::End,
    ports::{Backlogs, ConnectionRegistry, Mailbox, Memberships, PublishError, Publisher},
};
use kschat_protocol::RoomId;
use tokio::time::timeout;

use crate::scene::{HOUR, NOW, Scene};

#[tokio::test(start_paused = true)]
async fn without_any_connection_the_queue_is_left_alone() {
    let scene = Scene::new().await;
    scene.queue(&["one"]).await;
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Offline);
    assert_eq!(scene.left().await, ["one"]);
}

#[tokio::test(start_paused = true)]
async fn when_the_last_connection_is_gone_the_messages_wait_in_order() {
    let scene = Scene::new().await;
    scene.device(vec![410; 1000]).await;
    scene.queue(&["one", "two"]).await;
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Offline);
    assert_eq!(scene.left().await, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_hears_anything_beyond_the_end_of_a_token() {
    let scene = Scene::new().await;
    let device = scene.device(vec![]).await;
    scene.queue(&["in time"]).await;
    let courier = scene.serve();
    scene.quiet().await;
    scene.clock.set(NOW.plus(HOUR));
    scene.queue(&["too late"]).await;
    let end = timeout(Duration::from_secs(60), courier).await.expect("it ends").expect("it does not panic");
    assert_eq!(end, End::Offline);
    assert_eq!(scene.heard(&device), [["in time"]]);
    assert_eq!(scene.left().await, ["too late"]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_has_lost_everything_is_told_again_and_nobody_is_given_up() {
    let scene = Scene::new().await;
    let (one, two) = (scene.device(vec![]).await, scene.acking(vec![]).await);
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = scene.registry.session(&two).await.expect("memory");
    scene.registry.lose_everything();
    // Whatever makes it look: it must not believe that everybody has left.
    scene.signals.refresh.notify_one();
    scene.queue(&["after"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        (scene.heard(&one), scene.heard(&two)),
        (vec![vec!["after".to_owned()]], vec![vec!["after".to_owned()]])
    );
    assert_eq!(scene.registry.session(&two).await.expect("memory"), before);
    // From then on who leaves has left.
    scene.registry.mark(Partitions::default().of(&scene.user)).await.expect("memory");
    scene.leave(&one).await;
    scene.leave(&two).await;
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
}

#[tokio::test(start_paused = true)]
async fn the_owner_can_have_everything_told_again() {
    let scene = Scene::new().await;
    let device = scene.device(vec![]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.registry.lose_everything();
    scene.signals.restore.notify_one();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.registered().await, [device]);
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_edge_calls_gone_is_cut_off_in_case_it_is_not() {
    let scene = Scene::new().await;
    let gone = scene.device(vec![410; 1000]).await;
    scene.queue(&["one"]).await;
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Offline);
    assert_eq!(*scene.edge.closed.lock().expect("no test panics here"), [gone]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_queue_goes_with_its_user_and_one_in_which_messages_wait_is_counted() {
    let scene = Scene::new().await;
    let partition = Partitions::default().of(&scene.user);
    let backlogs = async || scene.registry.count(partition).await.expect("memory");
    let device = scene.device(vec![]).await;
    let courier = scene.serve();
    scene.queue(&["one"]).await;
    scene.quiet().await;
    scene.leave(&device).await;
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
    let publish = async || scene.broker.publish(&scene.user, &message(&scene.user, "away")).await;
    assert!(matches!(publish().await, Err(PublishError::NoRoute)), "the queue is still there");
    assert_eq!(backlogs().await, 0);

    scene.broker.ensure(&scene.user).await.expect("memory");
    publish().await.expect("memory");
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Offline);
    assert_eq!((backlogs().await, scene.left().await), (1, vec!["away".to_owned()]));
    let due = async |now| scene.registry.due(partition, now, 10).await.expect("memory");
    assert_eq!((due(NOW).await, due(NOW.plus(HOUR * 24 * 365)).await), (vec![], vec![scene.user.clone()]));

    let back = scene.device(vec![]).await;
    let courier = scene.serve();
    scene.quiet().await;
    assert_eq!((backlogs().await, scene.heard(&back)), (0, vec![vec!["away".to_owned()]]));
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_soon_finds_the_queue_and_so_does_a_sender_who_asks() {
    let scene = Scene::new().await;
    let publish = async || scene.broker.publish(&scene.user, &message(&scene.user, "hello")).await;
    let device = scene.device(vec![]).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.leave(&device).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let began = tokio::time::Instant::now();
    let back = scene.device(vec![]).await;
    scene.signals.refresh.notify_one();
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
    assert!(began.elapsed() < Duration::from_millis(100), "whoever is back must not wait");
    publish().await.expect("the queue is there");
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.heard(&back), [["hello"]]);
    scene.leave(&back).await;
    courier.await.expect("it does not panic");
    assert!(matches!(publish().await, Err(PublishError::NoRoute)));
    // The owner is asked, and begins to serve a user who is not there.
    scene.signals.wanted.put(None);
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Offline);
    publish().await.expect("the queue is made");
    assert_eq!(scene.registry.count(Partitions::default().of(&scene.user)).await.expect("memory"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_empty_queue_of_somebody_in_a_room_is_looked_at_while_they_are_away() {
    let scene = Scene::new().await;
    let partition = Partitions::default().of(&scene.user);
    let room = RoomId::try_from("team.7").expect("an id");
    assert!(scene.registry.join(&scene.user, &room, 1).await.expect("memory"));
    scene.broker.bind_rooms(&scene.user, slice::from_ref(&room)).await.expect("memory");
    let away = async || {
        let courier = scene.serve_with(|deps| deps.with_rooms(scene.registry.clone()));
        assert_eq!(courier.await.expect("it does not panic"), End::Offline);
        let due = async |now| scene.registry.due(partition, now, 10).await.expect("memory");
        (due(NOW).await, due(NOW.plus(HOUR * 24 * 365)).await)
    };
    assert_eq!(away().await, (vec![], vec![scene.user.clone()]), "what comes into it comes unseen");
    scene.broker.publish_to_room(&room, &message(&scene.user, "away")).await.expect("memory");
    assert_eq!(away().await, (vec![], vec![scene.user.clone()]));
    assert_eq!(scene.left().await, ["away"]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_queue_that_tells_a_user_from_a_stranger_is_looked_at_too() {
    let mut scene = Scene::new().await;
    scene.broker = scene.broker.keeping_empty_queues();
    assert_eq!(scene.serve().await.expect("it does not panic"), End::Offline);
    let later = NOW.plus(HOUR * 24 * 365);
    let due = scene.registry.due(Partitions::default().of(&scene.user), later, 10).await.expect("memory");
    assert_eq!(due, slice::from_ref(&scene.user));
    scene.queue(&["away"]).await;
}
