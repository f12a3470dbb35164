//! Users who come and go, and their queues.

use kschat_core::ports::OwnerMessage;
use std::{slice, time::Duration};

use kschat_core::{
    Partitions,
    contract::message,
    delivery::DeliveryEnd,
    ports::{BacklogStore, ConnectionRegistry, PublishError, Publisher, QueueManager, RoomMemberships},
};
use kschat_protocol::RoomId;
use tokio::time::timeout;

use crate::fixture::{Fixture, HOUR, NOW};

#[tokio::test(start_paused = true)]
async fn offline_user_leaves_queue_untouched() {
    let fixture = Fixture::new().await;
    fixture.queue(&["one"]).await;
    assert_eq!(fixture.serve().await.expect("the task does not panic"), DeliveryEnd::Offline);
    assert_eq!(fixture.queued_texts().await, ["one"]);
}

#[tokio::test(start_paused = true)]
async fn last_disconnect_keeps_messages_in_order() {
    let fixture = Fixture::new().await;
    fixture.device(vec![410; 1000]).await;
    fixture.queue(&["one", "two"]).await;
    assert_eq!(fixture.serve().await.expect("the task does not panic"), DeliveryEnd::Offline);
    assert_eq!(fixture.queued_texts().await, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn expired_token_stops_pushes() {
    let fixture = Fixture::new().await;
    let device = fixture.device(vec![]).await;
    fixture.queue(&["in time"]).await;
    let delivery = fixture.serve();
    fixture.wait_a_minute().await;
    fixture.clock.set(NOW.plus(HOUR));
    fixture.queue(&["too late"]).await;
    let end =
        timeout(Duration::from_secs(60), delivery).await.expect("delivery ends").expect("the task does not panic");
    assert_eq!(end, DeliveryEnd::Offline);
    assert_eq!(fixture.received_texts(&device), [["in time"]]);
    assert_eq!(fixture.queued_texts().await, ["too late"]);
}

#[tokio::test(start_paused = true)]
async fn flushed_registry_is_restored_by_owner() {
    let fixture = Fixture::new().await;
    let (one, two) = (fixture.device(vec![]).await, fixture.acking_device(vec![]).await);
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = fixture.registry.session(&two).await.expect("memory");
    fixture.registry.flush_all();
    // Any refresh must not make it believe that everybody has left.
    fixture.signals.inbox.put(OwnerMessage::Refresh);
    fixture.queue(&["after"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        (fixture.received_texts(&one), fixture.received_texts(&two)),
        (vec![vec!["after".to_owned()]], vec![vec!["after".to_owned()]])
    );
    assert_eq!(fixture.registry.session(&two).await.expect("memory"), before);
    // From now on a missing connection has left.
    fixture.registry.set_epoch_marker(Partitions::default().of(&fixture.user)).await.expect("memory");
    fixture.leave(&one).await;
    fixture.leave(&two).await;
    assert_eq!(delivery.await.expect("the task does not panic"), DeliveryEnd::Offline);
}

#[tokio::test(start_paused = true)]
async fn restore_signal_rewrites_sessions() {
    let fixture = Fixture::new().await;
    let device = fixture.device(vec![]).await;
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    fixture.registry.flush_all();
    fixture.signals.restore.notify_one();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.registered().await, [device]);
    fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn gone_connection_is_also_closed() {
    let fixture = Fixture::new().await;
    let gone = fixture.device(vec![410; 1000]).await;
    fixture.queue(&["one"]).await;
    assert_eq!(fixture.serve().await.expect("the task does not panic"), DeliveryEnd::Offline);
    assert_eq!(*fixture.edge.closed.lock().expect("no test panics here"), [gone]);
}

#[tokio::test(start_paused = true)]
async fn offline_user_queue_is_removed_or_counted() {
    let fixture = Fixture::new().await;
    let partition = Partitions::default().of(&fixture.user);
    let backlogs = async || fixture.registry.count(partition).await.expect("memory");
    let device = fixture.device(vec![]).await;
    let delivery = fixture.serve();
    fixture.queue(&["one"]).await;
    fixture.wait_a_minute().await;
    fixture.leave(&device).await;
    assert_eq!(delivery.await.expect("the task does not panic"), DeliveryEnd::Offline);
    let publish = async || fixture.broker.publish(&fixture.user, &message(&fixture.user, "away")).await;
    assert!(matches!(publish().await, Err(PublishError::NoRoute)), "the queue is still there");
    assert_eq!(backlogs().await, 0);

    fixture.broker.ensure(&fixture.user).await.expect("memory");
    publish().await.expect("memory");
    assert_eq!(fixture.serve().await.expect("the task does not panic"), DeliveryEnd::Offline);
    assert_eq!((backlogs().await, fixture.queued_texts().await), (1, vec!["away".to_owned()]));
    let due = async |now| fixture.registry.due(partition, now, 10).await.expect("memory");
    assert_eq!((due(NOW).await, due(NOW.plus(HOUR * 24 * 365)).await), (vec![], vec![fixture.user.clone()]));

    let back = fixture.device(vec![]).await;
    let delivery = fixture.serve();
    fixture.wait_a_minute().await;
    assert_eq!((backlogs().await, fixture.received_texts(&back)), (0, vec![vec!["away".to_owned()]]));
    fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn quick_return_or_request_keeps_queue() {
    let fixture = Fixture::new().await;
    let publish = async || fixture.broker.publish(&fixture.user, &message(&fixture.user, "hello")).await;
    let device = fixture.device(vec![]).await;
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    fixture.leave(&device).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let began = tokio::time::Instant::now();
    let back = fixture.device(vec![]).await;
    fixture.signals.inbox.put(OwnerMessage::Refresh);
    assert_eq!(delivery.await.expect("the task does not panic"), DeliveryEnd::Offline);
    assert!(began.elapsed() < Duration::from_millis(100), "whoever is back must not wait");
    publish().await.expect("the queue is there");
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.received_texts(&back), [["hello"]]);
    fixture.leave(&back).await;
    delivery.await.expect("the task does not panic");
    assert!(matches!(publish().await, Err(PublishError::NoRoute)));
    // The owner gets the request, and starts to serve an offline user.
    fixture.signals.inbox.put(OwnerMessage::QueueRequest { requester: None });
    assert_eq!(fixture.serve().await.expect("the task does not panic"), DeliveryEnd::Offline);
    publish().await.expect("the queue is made");
    assert_eq!(fixture.registry.count(Partitions::default().of(&fixture.user)).await.expect("memory"), 1);
}

#[tokio::test(start_paused = true)]
async fn room_member_empty_queue_is_checked() {
    let fixture = Fixture::new().await;
    let partition = Partitions::default().of(&fixture.user);
    let room = RoomId::try_from("team.7").expect("an id");
    assert!(fixture.registry.join(&fixture.user, &room, 1).await.expect("memory"));
    fixture.broker.bind_rooms(&fixture.user, slice::from_ref(&room)).await.expect("memory");
    let away = async || {
        let delivery = fixture.serve_with(|deps| deps.with_rooms(fixture.registry.clone()));
        assert_eq!(delivery.await.expect("the task does not panic"), DeliveryEnd::Offline);
        let due = async |now| fixture.registry.due(partition, now, 10).await.expect("memory");
        (due(NOW).await, due(NOW.plus(HOUR * 24 * 365)).await)
    };
    assert_eq!(away().await, (vec![], vec![fixture.user.clone()]), "the queue of a room member is checked again");
    fixture.broker.publish_to_room(&room, &message(&fixture.user, "away")).await.expect("memory");
    assert_eq!(away().await, (vec![], vec![fixture.user.clone()]));
    assert_eq!(fixture.queued_texts().await, ["away"]);
}

#[tokio::test(start_paused = true)]
async fn kept_empty_queue_is_checked() {
    let mut fixture = Fixture::new().await;
    fixture.broker = fixture.broker.keeping_empty_queues();
    assert_eq!(fixture.serve().await.expect("the task does not panic"), DeliveryEnd::Offline);
    let later = NOW.plus(HOUR * 24 * 365);
    let due = fixture.registry.due(Partitions::default().of(&fixture.user), later, 10).await.expect("memory");
    assert_eq!(due, slice::from_ref(&fixture.user));
    fixture.queue(&["away"]).await;
}
