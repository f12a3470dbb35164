//! The real adapters keep the same contracts as the in-memory ones.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use kschat_tests::stack::Services;
use tokio::sync::OnceCell;

/// One broker and one registry for all clauses of this binary: each clause makes up its own users.
async fn services() -> &'static Services {
    static SERVICES: OnceCell<Services> = OnceCell::const_new();
    SERVICES.get_or_init(Services::start).await
}

mod registry {
    use std::time::Duration;

    use kschat_adapters::redis::RedisRegistry;
    use kschat_core::{
        Partitions, Timestamp,
        contract::somebody,
        ports::{Presences, Seen},
    };
    use kschat_tests::proxy::Proxy;

    use super::services;

    async fn redis() -> RedisRegistry {
        let url = services().await.redis.url().parse().expect("a Redis URL");
        RedisRegistry::new(url, Partitions::default(), Duration::from_secs(60))
    }

    kschat_core::registry_contract!(redis());

    #[tokio::test]
    async fn lost_answer_does_not_change_who_was_here() {
        let service = &services().await.redis;
        let proxy = Proxy::start(service.port()).await;
        let url = proxy.in_front_of(&service.url(), service.port()).parse().expect("a Redis URL");
        let registry = RedisRegistry::new(url, Partitions::default(), Duration::from_secs(60));
        let (user, then) = (somebody(), Timestamp::from_millis(1_700_000_000_000));
        assert_eq!(registry.came(&user).await.expect("Redis answers"), Seen::Never);
        registry.left(&user, then).await.expect("Redis answers");
        // It is noted, and tried again on a new connection.
        proxy.lose_answers();
        assert_eq!(registry.came(&user).await.expect("Redis answers"), Seen::Left(then));
        assert_eq!(registry.came(&user).await.expect("Redis answers"), Seen::Here);
    }
}

mod broker {
    use async_trait::async_trait;
    use futures_util::future::BoxFuture;
    use kschat_adapters::rabbitmq::{Consuming, PartitionOwnership, Publishing, QueueKind, QueueSettings};
    use kschat_core::{
        Partitions,
        ports::{Bound, Deliveries, Mailbox, PublishError, Publisher, Retired, RoomBindings, Unavailable},
    };
    use kschat_protocol::{Message, RoomId, UserId};
    use kschat_tests::eventually;

    use super::services;

    /// Both sides of RabbitMQ as one broker.
    struct RabbitMq {
        publishing: Publishing,
        consuming: Consuming,
        // Held, as it is what connects the consuming side.
        _ownership: PartitionOwnership,
    }

    async fn rabbitmq(queues: QueueSettings) -> RabbitMq {
        let url = services().await.rabbitmq.url();
        let partitions = Partitions::default();
        let publishing = Publishing::new(url.parse().expect("a broker URL"), partitions, queues);
        let consuming = Consuming::new(url.parse().expect("a broker URL"), partitions, 32, queues);
        let ownership = consuming.ownership();
        eventually("the consuming side is connected", async || consuming.is_connected()).await;
        RabbitMq { publishing, consuming, _ownership: ownership }
    }

    #[async_trait]
    impl Publisher for RabbitMq {
        async fn publish(&self, to: &UserId, message: &Message) -> Result<(), PublishError> {
            self.publishing.publish(to, message).await
        }

        async fn publish_to_room(&self, room: &RoomId, message: &Message) -> Result<(), PublishError> {
            self.publishing.publish_to_room(room, message).await
        }
    }

    #[async_trait]
    impl RoomBindings for RabbitMq {
        async fn bind(&self, user: &UserId, room: &RoomId) -> Result<Bound, Unavailable> {
            self.publishing.bind(user, room).await
        }

        async fn unbind(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
            self.publishing.unbind(user, room).await
        }
    }

    #[async_trait]
    impl Mailbox for RabbitMq {
        async fn open(&self, user: &UserId) -> Result<Box<dyn Deliveries>, Unavailable> {
            self.consuming.open(user).await
        }

        async fn ensure(&self, user: &UserId) -> Result<(), Unavailable> {
            self.consuming.ensure(user).await
        }

        async fn bind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable> {
            self.consuming.bind_rooms(user, rooms).await
        }

        async fn unbind_rooms(&self, user: &UserId, rooms: &[RoomId]) -> Result<(), Unavailable> {
            self.consuming.unbind_rooms(user, rooms).await
        }

        async fn look(&self, user: &UserId) -> Result<Retired, Unavailable> {
            self.consuming.look(user).await
        }

        async fn retire(&self, user: &UserId, called_back: BoxFuture<'_, ()>) -> Result<Retired, Unavailable> {
            self.consuming.retire(user, called_back).await
        }
    }

    mod classic {
        use super::{QueueSettings, rabbitmq};

        kschat_core::broker_contract!(rabbitmq(QueueSettings::default()));
        kschat_core::broker_contract!(@ rabbitmq(QueueSettings::default()), an_empty_queue_is_removed,);
    }

    /// All but the removal of queues, which quorum queues do not know.
    mod quorum {
        use super::{QueueKind, QueueSettings, rabbitmq};

        kschat_core::broker_contract!(rabbitmq(QueueSettings { kind: QueueKind::Quorum, ..QueueSettings::default() }));
    }
}

mod ownership {
    use std::{collections::BTreeSet, time::Duration};

    use kschat_adapters::rabbitmq::{Consuming, PartitionOwnership, Publishing, QueueSettings};
    use kschat_core::{
        Partition, Partitions,
        contract::ownership,
        ports::{Notices, Ownership, OwnershipEvent, Queues, Requested},
    };
    use kschat_protocol::{JsonId, Notice};
    use tokio::time::timeout;

    /// How long nothing may change until we believe that nothing will.
    const QUIET: Duration = Duration::from_secs(2);

    /// Follows what one member is told, as a consumer without any users would.
    async fn settle(member: &mut PartitionOwnership, owned: &mut BTreeSet<Partition>) {
        while let Ok(event) = timeout(QUIET, member.next()).await {
            match event {
                OwnershipEvent::Acquired(partition) => assert!(owned.insert(partition), "acquired twice"),
                OwnershipEvent::Lost(partition) => assert!(owned.remove(&partition)),
                OwnershipEvent::Asked(partition) => {
                    owned.remove(&partition);
                    member.release(partition).await;
                }
                OwnershipEvent::Poked(_)
                | OwnershipEvent::Acked(..)
                | OwnershipEvent::Wanted(..)
                | OwnershipEvent::Noticed(..)
                | OwnershipEvent::Replied(..)
                | OwnershipEvent::Closing(..)
                | OwnershipEvent::Checking(_) => {}
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn members_share_the_partitions_and_each_has_one_owner() {
        let rabbitmq = kschat_tests::rabbitmq::RabbitMq::start().await;
        let partitions = Partitions::default();
        let queues = QueueSettings::default();
        let pokes = Publishing::new(rabbitmq.url().parse().expect("a URL"), partitions, queues);
        let member = || Consuming::new(rabbitmq.url().parse().expect("a URL"), partitions, 32, queues).ownership();
        let all: BTreeSet<Partition> = partitions.all().collect();
        let asker = kschat_core::contract::somebody();
        let early = pokes.request(&kschat_core::contract::somebody(), &asker).await.expect("the broker works");
        assert_eq!(early, Requested::Made, "nobody could be asked");
        let mut first = member();
        ownership::the_only_member_owns_everything_and_hears_pokes_and_acks(&mut first, &pokes, partitions)
            .await
            .expect("the broker failed");
        let user = kschat_core::contract::somebody();
        assert_eq!(pokes.request(&user, &asker).await.expect("the broker works"), Requested::Asked);
        let wanted = OwnershipEvent::Wanted(user.clone(), Some(asker));
        assert_eq!(timeout(QUIET, first.next()).await.expect("it is asked"), wanted);
        let side = Consuming::new(rabbitmq.url().parse().expect("a URL"), partitions, 32, queues);
        let notice = Notice::Typing { from: JsonId::Text("alice".to_owned()), on: true };
        side.notify(&user, &notice).await.expect_err("it is not connected");
        let connected = side.ownership();
        kschat_tests::eventually("the consuming side is connected", async || side.is_connected()).await;
        side.notify(&user, &notice).await.expect("the broker works");
        let heard = async {
            loop {
                match first.next().await {
                    OwnershipEvent::Noticed(to, heard) => return (to, heard),
                    OwnershipEvent::Asked(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        assert_eq!(timeout(QUIET, heard).await.expect("it is told"), (user, notice));
        drop(connected);
        let mut first_owns = all.clone();
        let (mut second, mut second_owns) = (member(), BTreeSet::new());
        for _ in 0..2 {
            tokio::join!(settle(&mut first, &mut first_owns), settle(&mut second, &mut second_owns));
        }
        assert_eq!((first_owns.len(), second_owns.len()), (8, 8));
        assert_eq!(&first_owns | &second_owns, all);
        first.resign().await;
        settle(&mut second, &mut second_owns).await;
        assert_eq!(second_owns, all);
    }
}

mod connections_api {
    use kschat_adapters::api_gateway::ApiGateway;
    use kschat_core::ports::{ConnectionsApi, PostError};
    use kschat_protocol::ConnectionId;
    use kschat_tests::{
        client::{Client, token},
        stack::{SECRET, embedded, somebody},
    };

    async fn api(url: &str) -> ApiGateway {
        ApiGateway::new(&url.parse().expect("a callback URL")).await
    }

    fn id(text: &str) -> ConnectionId {
        ConnectionId::try_from(text).expect("an id")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_answer_of_the_edge_is_told_for_what_it_is() {
        let stack = embedded().await;
        let user = somebody("alice");
        let client = Client::connect_v2(&stack.websocket_url(), &token(SECRET, &user), &user).await;
        let mut client = client.expect("connected");
        let open = id(&stack.edge().ids()[0]);
        let here = api(&stack.callback_url()).await;
        here.post(&open, r#"{"event":"HELLO"}"#).await.expect("the connection is open");
        client.next("HELLO").await;
        for gone in ["BFHPhfCWIAMCKlQ=", "no id of the edge"] {
            assert!(matches!(here.post(&id(gone), "{}").await, Err(PostError::Gone)), "{gone}");
        }
        let large = "x".repeat(128 * 1024 + 1);
        assert!(matches!(here.post(&open, &large).await, Err(PostError::Refused(_))));
        let wrong_stage = api(&stack.callback_url().replace("/dev", "/prod")).await;
        assert!(matches!(wrong_stage.post(&open, "{}").await, Err(PostError::Retryable(_))));
        assert!(here.is_open(&open).await.expect("the edge answers"));
        here.close(&open).await.expect("it is open");
        assert_eq!(client.closed().await, 1000);
        assert!(matches!(here.post(&open, "{}").await, Err(PostError::Gone)));
        here.close(&open).await.expect("it is closed already");
        for gone in [open.as_str(), "BFHPhfCWIAMCKlQ=", "no id of the edge"] {
            assert!(!here.is_open(&id(gone)).await.expect("the edge answers"), "{gone}");
        }
        wrong_stage.is_open(&open).await.expect_err("nobody can tell");
        stack.stop().await;
        here.close(&open).await.expect_err("nobody answers");
        here.is_open(&open).await.expect_err("nobody answers");
        assert!(matches!(here.post(&open, "{}").await, Err(PostError::Retryable(_))));
    }
}
