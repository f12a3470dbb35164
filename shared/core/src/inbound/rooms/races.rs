//! Concurrent joins and leaves of one user's devices, and its owner, in every order: in the end the bindings match the
//! memberships.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use kschat_protocol::{Message, MessageId, Status, UserId};
use tokio::task::{JoinHandle, yield_now};

use super::*;
use crate::{
    Partitions, Timestamp,
    memory::{MemoryBroker, MemoryRegistry},
    ports::{
        BindOutcome, PublishError, Publisher, QueueConsumer, QueueManager, QueueStatus, RoomBindings, RoomMemberships,
        Unavailable, UserRooms,
    },
    rooms::{AllowAllRooms, reconcile_all_bindings},
};

const ROUNDS: u64 = 3_000;

/// Ports behind a network: other tasks run before and after every call.
#[derive(Clone)]
struct RemotePorts {
    registry: Arc<MemoryRegistry>,
    broker: MemoryBroker,
}

impl RemotePorts {
    fn new() -> Self {
        let registry = Arc::new(MemoryRegistry::new(Partitions::default()));
        Self { registry, broker: MemoryBroker::new(Partitions::default()).0 }
    }
}

async fn with_latency<T>(there: impl Future<Output = T>) -> T {
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
impl RoomMemberships for RemotePorts {
    async fn join(&self, user: &UserId, room: &RoomId, limit: usize) -> Result<bool, Unavailable> {
        with_latency(self.registry.join(user, room, limit)).await
    }

    async fn leave(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
        with_latency(self.registry.leave(user, room)).await
    }

    async fn rooms(&self, user: &UserId) -> Result<Vec<RoomId>, Unavailable> {
        with_latency(self.registry.rooms(user)).await
    }

    async fn is_member(&self, user: &UserId, room: &RoomId) -> Result<bool, Unavailable> {
        with_latency(self.registry.is_member(user, room)).await
    }

    async fn rooms_and_left(&self, user: &UserId) -> Result<UserRooms, Unavailable> {
        with_latency(self.registry.rooms_and_left(user)).await
    }

    async fn clear_left_rooms(&self, user: &UserId) -> Result<(), Unavailable> {
        with_latency(self.registry.clear_left_rooms(user)).await
    }
}

#[async_trait]
impl RoomBindings for RemotePorts {
    async fn bind(&self, user: &UserId, room: &RoomId) -> Result<BindOutcome, Unavailable> {
        with_latency(self.broker.bind(user, room)).await
    }

    async fn unbind(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
        with_latency(self.broker.unbind(user, room)).await
    }
}

#[async_trait]
impl QueueManager for RemotePorts {
    async fn open(&self, user: &UserId) -> Result<Box<dyn QueueConsumer>, Unavailable> {
        with_latency(self.broker.open(user)).await
    }

    async fn ensure(&self, user: &UserId) -> Result<(), Unavailable> {
        with_latency(self.broker.ensure(user)).await
    }

    async fn bind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable> {
        with_latency(self.broker.bind_rooms(user, rooms)).await
    }

    async fn unbind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable> {
        with_latency(self.broker.unbind_rooms(user, rooms)).await
    }

    async fn queue_status(&self, user: &UserId) -> Result<QueueStatus, Unavailable> {
        with_latency(self.broker.queue_status(user)).await
    }

    async fn retire(&self, user: &UserId, cancelled: BoxFuture<'_, ()>) -> Result<QueueStatus, Unavailable> {
        with_latency(self.broker.retire(user, cancelled)).await
    }
}

/// A room, a user, and the dependencies that change both.
struct Fixture {
    ports: RemotePorts,
    deps: Deps,
    user: UserId,
    room: RoomId,
}

impl Fixture {
    async fn new() -> Self {
        let ports = RemotePorts::new();
        let (memberships, bindings) = (Arc::new(ports.clone()), Arc::new(ports.clone()));
        let (queues, policy) = (Arc::new(ports.broker.clone()), Arc::new(AllowAllRooms));
        let deps = Deps { memberships, bindings, queues, policy };
        let (user, room) = (UserId::try_from("alice").unwrap(), RoomId::try_from("team").unwrap());
        ports.broker.ensure(&user).await.unwrap();
        Self { ports, deps, user, room }
    }

    /// A device that joins or leaves.
    fn device(&self, joins: bool) -> JoinHandle<()> {
        let (deps, room) = (self.deps.clone(), self.room.clone());
        let session = Session {
            user: self.user.clone(),
            version: kschat_protocol::ProtocolVersion::V2,
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

    /// The owner, which opens the queue.
    fn owner(&self) -> JoinHandle<()> {
        let (ports, user) = (self.ports.clone(), self.user.clone());
        tokio::spawn(async move { reconcile_all_bindings(&ports, &ports, &user).await.unwrap() })
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
            sender_connection: None,
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
        let fixture = Fixture::new().await;
        if fastrand::bool() {
            fixture.device(true).await.unwrap();
        }
        let mut acting = vec![fixture.owner()];
        acting.extend((0..fastrand::usize(1..4)).map(|_| fixture.device(fastrand::bool())));
        for one in acting {
            one.await.unwrap();
        }
        fixture.assert_agreed(round).await;
    }
}

#[tokio::test]
async fn next_open_repairs_binding_after_crash() {
    for round in 0..ROUNDS {
        fastrand::seed(round);
        let fixture = Fixture::new().await;
        if fastrand::bool() {
            fixture.device(true).await.unwrap();
        }
        let mut acting = vec![fixture.owner()];
        acting.extend((0..fastrand::usize(1..4)).map(|_| fixture.device(fastrand::bool())));
        for _ in 0..fastrand::usize(0..12) {
            yield_now().await;
        }
        let dies = fastrand::usize(..acting.len());
        acting[dies].abort();
        for one in acting {
            let _ = one.await;
        }
        fixture.owner().await.unwrap();
        fixture.assert_agreed(round).await;
    }
}

#[tokio::test]
async fn send_after_leave_binds_nothing() {
    for round in 0..ROUNDS {
        fastrand::seed(round);
        let fixture = Fixture::new().await;
        fixture.ports.registry.join(&fixture.user, &fixture.room, 1).await.unwrap();
        // It has found no route, and was in the room just before.
        let (deps, user, room) = (fixture.deps.clone(), fixture.user.clone(), fixture.room.clone());
        let sends = tokio::spawn(async move { ensure_bound(&deps, &user, &room).await.is_ok() });
        let leaves = fixture.device(false);
        assert!(sends.await.unwrap());
        leaves.await.unwrap();
        assert!(!fixture.is_bound().await, "round {round}");
    }
}
