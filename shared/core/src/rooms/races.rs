//! Devices of one user that join and leave, and its owner, in every order: in the end the queue is bound as the list says.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use kschat_protocol::{Message, MessageId, Status};
use tokio::task::{JoinHandle, yield_now};

use super::*;
use crate::{
    Partitions, Timestamp,
    memory::{MemoryBroker, MemoryRegistry},
    ports::{Deliveries, PublishError, Publisher, Retired},
};

const ROUNDS: u64 = 3_000;

/// Ports behind a network: others get their turn before and after everything.
#[derive(Clone)]
struct Far {
    registry: Arc<MemoryRegistry>,
    broker: MemoryBroker,
}

impl Far {
    fn new() -> Self {
        let registry = Arc::new(MemoryRegistry::new(Partitions::default()));
        Self { registry, broker: MemoryBroker::new(Partitions::default()).0 }
    }
}

async fn far<T>(there: impl Future<Output = T>) -> T {
    let way = async || {
        for _ in 0..fastrand::usize(0..4) {
            yield_now().await;
        }
    };
    way().await;
    let answer = there.await;
    way().await;
    answer
}

#[async_trait]
impl Memberships for Far {
    async fn join(&self, user: &UserId, room: &RoomId, limit: usize) -> Result<bool, Unavailable> {
        far(self.registry.join(user, room, limit)).await
    }

    async fn leave(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
        far(self.registry.leave(user, room)).await
    }

    async fn rooms(&self, user: &UserId) -> Result<Vec<RoomId>, Unavailable> {
        far(self.registry.rooms(user)).await
    }

    async fn is_member(&self, user: &UserId, room: &RoomId) -> Result<bool, Unavailable> {
        far(self.registry.is_member(user, room)).await
    }

    async fn rooms_and_left(&self, user: &UserId) -> Result<RoomsOfUser, Unavailable> {
        far(self.registry.rooms_and_left(user)).await
    }

    async fn forget_left(&self, user: &UserId) -> Result<(), Unavailable> {
        far(self.registry.forget_left(user)).await
    }
}

#[async_trait]
impl RoomBindings for Far {
    async fn bind(&self, user: &UserId, room: &RoomId) -> Result<Bound, Unavailable> {
        far(self.broker.bind(user, room)).await
    }

    async fn unbind(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
        far(self.broker.unbind(user, room)).await
    }
}

#[async_trait]
impl Mailbox for Far {
    async fn open(&self, user: &UserId) -> Result<Box<dyn Deliveries>, Unavailable> {
        far(self.broker.open(user)).await
    }

    async fn ensure(&self, user: &UserId) -> Result<(), Unavailable> {
        far(self.broker.ensure(user)).await
    }

    async fn bind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable> {
        far(self.broker.bind_rooms(user, rooms)).await
    }

    async fn unbind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable> {
        far(self.broker.unbind_rooms(user, rooms)).await
    }

    async fn look(&self, user: &UserId) -> Result<Retired, Unavailable> {
        far(self.broker.look(user)).await
    }

    async fn retire(&self, user: &UserId, called_back: BoxFuture<'_, ()>) -> Result<Retired, Unavailable> {
        far(self.broker.retire(user, called_back)).await
    }
}

/// A room, one of its members-to-be, and what changes both.
struct Scene {
    ports: Far,
    deps: Deps,
    user: UserId,
    room: RoomId,
}

impl Scene {
    async fn new() -> Self {
        let ports = Far::new();
        let (memberships, bindings) = (Arc::new(ports.clone()), Arc::new(ports.clone()));
        let (queues, policy) = (Arc::new(ports.broker.clone()), Arc::new(Everybody));
        let deps = Deps { memberships, bindings, queues, policy };
        let (user, room) = (UserId::try_from("alice").unwrap(), RoomId::try_from("team").unwrap());
        ports.broker.ensure(&user).await.unwrap();
        Self { ports, deps, user, room }
    }

    /// A device that joins, or leaves.
    fn device(&self, joins: bool) -> JoinHandle<()> {
        let (deps, room) = (self.deps.clone(), self.room.clone());
        let session = Session {
            user: self.user.clone(),
            version: kschat_protocol::Version::V2,
            connected: Timestamp::from_millis(0),
            expires: None,
            dialect: kschat_protocol::dialect::Dialect::Raw,
            rooms: None,
            source: None,
        };
        tokio::spawn(async move {
            let gid = JsonId::Text(room.as_str().to_owned());
            let answer = if joins {
                join(&deps, &session, &room, &gid).await
            } else {
                leave(&deps, &session, &room, &gid).await
            };
            assert!(answer.is_ok(), "{answer:?}");
        })
    }

    /// The owner, who opens the queue.
    fn owner(&self) -> JoinHandle<()> {
        let (ports, user) = (self.ports.clone(), self.user.clone());
        tokio::spawn(async move { settle_all(&ports, &ports, &user).await.unwrap() })
    }

    async fn is_bound(&self) -> bool {
        let message = Message {
            from: JsonId::Text("bob".to_owned()),
            to: JsonId::Text("team".to_owned()),
            msg: "hello".to_owned(),
            status: Status::Accepted,
            time: 1,
            id: MessageId::from("1".to_owned()),
            rno: None,
            trace: None,
            room: None,
            via: None,
        };
        match self.ports.broker.publish_to_room(&self.room, &message).await {
            Ok(()) => true,
            Err(PublishError::NoRoute) => false,
            Err(other) => panic!("{other}"),
        }
    }

    async fn assert_agreed(&self, round: u64) {
        let listed = self.ports.registry.is_member(&self.user, &self.room).await.unwrap();
        assert_eq!(self.is_bound().await, listed, "round {round}: bound, and listed");
    }
}

#[tokio::test]
async fn binding_follows_list_in_every_order() {
    for round in 0..ROUNDS {
        fastrand::seed(round);
        let scene = Scene::new().await;
        if fastrand::bool() {
            scene.device(true).await.unwrap();
        }
        let mut acting = vec![scene.owner()];
        acting.extend((0..fastrand::usize(1..4)).map(|_| scene.device(fastrand::bool())));
        for one in acting {
            one.await.unwrap();
        }
        scene.assert_agreed(round).await;
    }
}

#[tokio::test]
async fn binding_after_a_death_follows_list_at_next_open() {
    for round in 0..ROUNDS {
        fastrand::seed(round);
        let scene = Scene::new().await;
        if fastrand::bool() {
            scene.device(true).await.unwrap();
        }
        let mut acting = vec![scene.owner()];
        acting.extend((0..fastrand::usize(1..4)).map(|_| scene.device(fastrand::bool())));
        for _ in 0..fastrand::usize(0..12) {
            yield_now().await;
        }
        let dies = fastrand::usize(..acting.len());
        acting[dies].abort();
        for one in acting {
            let _ = one.await;
        }
        scene.owner().await.unwrap();
        scene.assert_agreed(round).await;
    }
}

#[tokio::test]
async fn send_of_somebody_who_left_meanwhile_binds_nothing() {
    for round in 0..ROUNDS {
        fastrand::seed(round);
        let scene = Scene::new().await;
        scene.ports.registry.join(&scene.user, &scene.room, 1).await.unwrap();
        // It has found no route, and was in the room just before.
        let (deps, user, room) = (scene.deps.clone(), scene.user.clone(), scene.room.clone());
        let sends = tokio::spawn(async move { bind(&deps, &user, &room).await.is_ok() });
        let leaves = scene.device(false);
        assert!(sends.await.unwrap());
        leaves.await.unwrap();
        assert!(!scene.is_bound().await, "round {round}");
    }
}
