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
    ports::{Mailbox, Memberships, PublishError, Publisher, RoomsOfUser, Unavailable},
};
use kschat_protocol::{RoomId, UserId};

use crate::scene::Scene;

/// Remembers rooms, but can't be asked for the first few times.
struct Failing {
    inner: Arc<MemoryRegistry>,
    failures: AtomicU32,
}

#[async_trait]
impl Memberships for Failing {
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

    async fn rooms_and_left(&self, user: &UserId) -> Result<RoomsOfUser, Unavailable> {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.fetch_sub(1, Ordering::Relaxed);
            return Err(Unavailable::new("redis", "answer", "it is away"));
        }
        self.inner.rooms_and_left(user).await
    }

    async fn forget_left(&self, user: &UserId) -> Result<(), Unavailable> {
        self.inner.forget_left(user).await
    }
}

#[tokio::test(start_paused = true)]
async fn rooms_that_could_not_be_bound_at_open_are_bound_soon() {
    let scene = Scene::new().await;
    let room = RoomId::try_from("team").expect("an id");
    scene.registry.join(&scene.user, &room, 1).await.expect("memory");
    let device = scene.device(vec![]).await;
    let memberships = Arc::new(Failing { inner: scene.registry.clone(), failures: AtomicU32::new(2) });
    let courier = scene.serve_with(|deps| deps.with_rooms(memberships));
    tokio::time::sleep(Duration::from_secs(5)).await;
    scene.broker.publish_to_room(&room, &message(&scene.user, "hello")).await.expect("it is bound");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.heard(&device).concat(), ["hello"]);
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn room_that_was_left_by_a_process_that_died_is_unbound_while_user_is_away() {
    let scene = Scene::new().await;
    let room = RoomId::try_from("team").expect("an id");
    let say = async |text| scene.broker.publish_to_room(&room, &message(&scene.user, text)).await;
    let rooms = [room.clone()];
    scene.broker.bind_rooms(&scene.user, &rooms).await.expect("memory");
    scene.registry.leave(&scene.user, &room).await.expect("memory");
    say("before").await.expect("it is bound");
    scene.serve_with(|deps| deps.with_rooms(scene.registry.clone())).await.expect("it does not panic");
    assert!(matches!(say("after").await, Err(PublishError::NoRoute)));
    assert_eq!(scene.left().await, ["before"]);
}
