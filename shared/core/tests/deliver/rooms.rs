//! Rooms of a user whose queue is opened.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kschat_core::{
    contract::message,
    memory::MemoryRegistry,
    ports::{PublishError, Publisher, QueueManager, RoomMemberships, Unavailable, UserRooms},
};
use kschat_protocol::{RoomId, UserId};

use crate::fixture::Fixture;

/// Stores rooms, but fails the first few reads.
struct FlakyMemberships {
    inner: Arc<MemoryRegistry>,
    failures: AtomicU32,
}

#[async_trait]
impl RoomMemberships for FlakyMemberships {
    async fn join(&self, user: &UserId, room: &RoomId, limit: usize) -> Result<bool, Unavailable> {
        self.inner.join(user, room, limit).await
    }

    async fn leave(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
        self.inner.leave(user, room).await
    }

    async fn rooms(&self, user: &UserId) -> Result<Vec<RoomId>, Unavailable> {
        self.inner.rooms(user).await
    }

    async fn is_member(&self, user: &UserId, room: &RoomId) -> Result<bool, Unavailable> {
        self.inner.is_member(user, room).await
    }

    async fn rooms_and_left(&self, user: &UserId) -> Result<UserRooms, Unavailable> {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.fetch_sub(1, Ordering::Relaxed);
            return Err(Unavailable::new("redis", "answer", "it is away"));
        }
        self.inner.rooms_and_left(user).await
    }

    async fn clear_left_rooms(&self, user: &UserId) -> Result<(), Unavailable> {
        self.inner.clear_left_rooms(user).await
    }
}

#[tokio::test(start_paused = true)]
async fn failed_room_binding_is_retried() {
    let fixture = Fixture::new().await;
    let room = RoomId::try_from("team").expect("an id");
    fixture.registry.join(&fixture.user, &room, 1).await.expect("memory");
    let device = fixture.device(vec![]).await;
    let memberships = Arc::new(FlakyMemberships { inner: fixture.registry.clone(), failures: AtomicU32::new(2) });
    let delivery = fixture.serve_with(|deps| deps.with_rooms(memberships));
    tokio::time::sleep(Duration::from_secs(5)).await;
    fixture.broker.publish_to_room(&room, &message(&fixture.user, "hello")).await.expect("the queue is bound");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.received_texts(&device).concat(), ["hello"]);
    fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn left_room_is_unbound_after_crash() {
    let fixture = Fixture::new().await;
    let room = RoomId::try_from("team").expect("an id");
    let say = async |text| fixture.broker.publish_to_room(&room, &message(&fixture.user, text)).await;
    let rooms = [room.clone()];
    fixture.broker.bind_rooms(&fixture.user, &rooms).await.expect("memory");
    fixture.registry.leave(&fixture.user, &room).await.expect("memory");
    say("before").await.expect("the queue is bound");
    fixture.serve_with(|deps| deps.with_rooms(fixture.registry.clone())).await.expect("the task does not panic");
    assert!(matches!(say("after").await, Err(PublishError::NoRoute)));
    assert_eq!(fixture.queued_texts().await, ["before"]);
}
