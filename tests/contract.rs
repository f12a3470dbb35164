//! Contract tests of the real adapters, the same as of the in-memory ones.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use kschat_tests::stack::Services;
use tokio::sync::OnceCell;

/// One broker and one registry for all tests of this binary: each test has users of its own.
async fn services() -> &'static Services {
    static SERVICES: OnceCell<Services> = OnceCell::const_new();
    SERVICES.get_or_init(Services::start).await
}

mod registry {
    use std::time::Duration;

    use kschat_adapters::redis::RedisRegistry;
    use kschat_core::{
        Clock, Partitions, SystemClock, Timestamp,
        contract::{self, unique_connection, unique_user},
        limits::Share,
        ports::{Charge, ConnectionRegistry, LastSeen, MessageCharge, PresenceStore, RateClass},
    };
    use kschat_tests::proxy::Proxy;

    use super::services;

    async fn redis() -> RedisRegistry {
        let url = services().await.redis.url().parse().expect("a Redis URL");
        RedisRegistry::new(url, Partitions::default(), Duration::from_secs(60))
    }

    kschat_core::registry_contract!(redis());

    /// The count of a recipient whom nobody serves must not stay for ever.
    #[tokio::test]
    async fn counted_share_expires_from_first_message_on() {
        let registry = redis().await;
        let (connection, sender, recipient) = (unique_connection(), unique_user(), unique_user());
        let now = SystemClock.now();
        let session = contract::session(&sender, now, Duration::from_secs(60));
        contract::register(&registry, &connection, &session).await.expect("Redis answers");
        let share = Share::of_queue(25, 1 << 20, 1_000, Duration::from_secs(3_600));
        let message = MessageCharge { to: Some(&recipient), bytes: 10, new_recipients: None, share: Some(share) };
        let charge = Charge { class: RateClass::Sends, cost: 1, rate: None, message: Some(message) };
        registry.charge_session(&connection, &charge, now).await.expect("Redis answers").expect("a session");
        let key = format!("ks:f:{{{}}}", recipient.as_str());
        let seconds = services().await.redis.seconds_to_live(&key).await;
        assert!((3_000..=3_600).contains(&seconds), "{seconds}");
    }

    #[tokio::test]
    async fn lost_reply_keeps_first_presence_answer() {
        let service = &services().await.redis;
        let proxy = Proxy::start(service.port()).await;
        let url = proxy.in_front_of(&service.url(), service.port()).parse().expect("a Redis URL");
        let registry = RedisRegistry::new(url, Partitions::default(), Duration::from_secs(60));
        let (user, then) = (unique_user(), Timestamp::from_millis(1_700_000_000_000));
        assert_eq!(registry.mark_online(&user).await.expect("Redis answers"), LastSeen::Never);
        registry.mark_offline(&user, then).await.expect("Redis answers");
        // The command is executed, and retried on a new connection.
        proxy.drop_responses();
        assert_eq!(registry.mark_online(&user).await.expect("Redis answers"), LastSeen::OfflineSince(then));
        assert_eq!(registry.mark_online(&user).await.expect("Redis answers"), LastSeen::Online);
    }
}

mod broker {
    use async_trait::async_trait;
    use futures_util::future::BoxFuture;
    use kschat_adapters::rabbitmq::{
        PartitionOwnership, QueueKind, QueueSettings, RabbitMqConsumer, RabbitMqPublisher,
    };
    use kschat_core::{
        Partitions,
        ports::{
            BindOutcome, PublishError, Publisher, QueueConsumer, QueueManager, QueueStatus, RoomBindings, Unavailable,
        },
    };
    use kschat_protocol::{Message, RoomId, UserId};
    use kschat_tests::eventually;

    use super::services;

    /// Both sides of RabbitMQ as one broker.
    struct RabbitMq {
        publishing: RabbitMqPublisher,
        consuming: RabbitMqConsumer,
        // Held, as it keeps the consuming side connected.
        _ownership: PartitionOwnership,
    }

    async fn rabbitmq(queues: QueueSettings) -> RabbitMq {
        let url = services().await.rabbitmq.url();
        let partitions = Partitions::default();
        let publishing = RabbitMqPublisher::new(url.parse().expect("a broker URL"), partitions, queues);
        let consuming = RabbitMqConsumer::new(url.parse().expect("a broker URL"), partitions, 32, queues);
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
        async fn bind(&self, user: &UserId, room: &RoomId) -> Result<BindOutcome, Unavailable> {
            self.publishing.bind(user, room).await
        }

        async fn unbind(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
            self.publishing.unbind(user, room).await
        }
    }

    #[async_trait]
    impl QueueManager for RabbitMq {
        async fn open(&self, user: &UserId) -> Result<Box<dyn QueueConsumer>, Unavailable> {
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

        async fn queue_status(&self, user: &UserId) -> Result<QueueStatus, Unavailable> {
            self.consuming.queue_status(user).await
        }

        async fn retire(&self, user: &UserId, called_back: BoxFuture<'_, ()>) -> Result<QueueStatus, Unavailable> {
            self.consuming.retire(user, called_back).await
        }
    }

    mod classic {
        use super::{QueueSettings, rabbitmq};

        kschat_core::broker_contract!(rabbitmq(QueueSettings::default()));
        kschat_core::broker_contract!(@ rabbitmq(QueueSettings::default()), empty_queue_is_removed, removing_a_queue_keeps_order,);
    }

    /// All but the removal of queues, which quorum queues do not support.
    mod quorum {
        use super::{QueueKind, QueueSettings, rabbitmq};

        kschat_core::broker_contract!(rabbitmq(QueueSettings { kind: QueueKind::Quorum, ..QueueSettings::default() }));
    }
}

mod ownership {
    use std::{collections::BTreeSet, time::Duration};

    use kschat_adapters::rabbitmq::{PartitionOwnership, QueueSettings, RabbitMqConsumer, RabbitMqPublisher};
    use kschat_core::{
        Partition, Partitions,
        contract::ownership,
        ports::{OwnerMessage, Ownership, OwnershipEvent, QueueProvisioner, QueueRequestOutcome},
    };
    use tokio::time::timeout;

    /// How long a stable state counts as final.
    const OWNERSHIP_QUIET_PERIOD: Duration = Duration::from_secs(2);

    /// Maximum quiet periods until the partitions must be balanced.
    const ROUNDS: usize = 20;

    /// Processes one member's ownership events, as a consumer without users would.
    async fn settle(member: &mut PartitionOwnership, owned: &mut BTreeSet<Partition>) {
        while let Ok(event) = timeout(OWNERSHIP_QUIET_PERIOD, member.next()).await {
            match event {
                OwnershipEvent::Acquired(partition) => assert!(owned.insert(partition), "acquired twice"),
                OwnershipEvent::Lost(partition) => assert!(owned.remove(&partition)),
                OwnershipEvent::ReleaseRequested(partition) => {
                    owned.remove(&partition);
                    member.release(partition).await;
                }
                OwnershipEvent::Message(..) => {}
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn members_share_partitions_exclusively() {
        let rabbitmq = kschat_tests::rabbitmq::RabbitMq::start().await;
        let partitions = Partitions::default();
        let queues = QueueSettings::default();
        let publisher = RabbitMqPublisher::new(rabbitmq.url().parse().expect("a URL"), partitions, queues);
        let member =
            || RabbitMqConsumer::new(rabbitmq.url().parse().expect("a URL"), partitions, 32, queues).ownership();
        let all: BTreeSet<Partition> = partitions.all().collect();
        let asker = kschat_core::contract::unique_user();
        kschat_tests::eventually("the broker works", async || publisher.check().await.is_ok()).await;
        let early =
            publisher.request_queue(&kschat_core::contract::unique_user(), &asker).await.expect("the broker works");
        assert_eq!(early, QueueRequestOutcome::Created, "no owner was asked");
        let mut first = member();
        ownership::single_member_owns_all_and_receives_owner_messages(&mut first, &publisher, partitions)
            .await
            .expect("the broker failed");
        let user = kschat_core::contract::unique_user();
        assert_eq!(
            publisher.request_queue(&user, &asker).await.expect("the broker works"),
            QueueRequestOutcome::Pending { has_owner: true }
        );
        let request = OwnerMessage::QueueRequest { requester: Some(asker) };
        let wanted = OwnershipEvent::Message(user.clone(), request);
        assert_eq!(timeout(OWNERSHIP_QUIET_PERIOD * 10, first.next()).await.expect("a queue request"), wanted);
        let mut first_owns = all.clone();
        let (mut second, mut second_owns) = (member(), BTreeSet::new());
        // A busy machine needs longer to connect.
        for _ in 0..ROUNDS {
            tokio::join!(settle(&mut first, &mut first_owns), settle(&mut second, &mut second_owns));
            if first_owns.len() == second_owns.len() {
                break;
            }
        }
        assert_eq!((first_owns.len(), second_owns.len()), (8, 8));
        assert_eq!(&first_owns | &second_owns, all);
        first.resign().await;
        settle(&mut second, &mut second_owns).await;
        assert_eq!(second_owns, all);
    }
}

mod owner_signals {
    use std::{sync::Arc, time::Duration};

    use kschat_adapters::{
        rabbitmq::{QueueSettings, RabbitMqConsumer, RabbitMqPublisher},
        redis::{OwnerRoutes, RedisRegistry, SubscribedOwnership},
    };
    use kschat_core::{
        Partitions,
        contract::{ownership, unique_user},
        ports::{OwnerChannel, OwnerMessage, Ownership, OwnershipEvent},
    };
    use kschat_protocol::{AckFrame, Position};
    use kschat_tests::{EVENTUALLY_TIMEOUT, rabbitmq::RabbitMq, redis::Redis};
    use tokio::time::timeout;

    /// After that a message that Redis has taken is sent again.
    const REDIS_DELIVERY_TIMEOUT: Duration = Duration::from_secs(1);

    fn ack(number: u64) -> OwnerMessage {
        let position = Some(Position { run: 7, number });
        OwnerMessage::Ack(AckFrame { message: None, position, redelivery_requested: false })
    }

    async fn next_message(ownership: &mut impl Ownership) -> OwnerMessage {
        loop {
            match timeout(EVENTUALLY_TIMEOUT, ownership.next()).await.expect("an event") {
                OwnershipEvent::Message(_, message) => return message,
                OwnershipEvent::Acquired(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Acks come by Redis while somebody has subscribed, and by the broker otherwise.
    #[tokio::test(flavor = "multi_thread")]
    async fn acks_go_by_redis_or_by_broker() {
        let (rabbitmq, mut redis) = (RabbitMq::start().await, Redis::start().await);
        let (partitions, queues) = (Partitions::default(), QueueSettings::default());
        let broker: Arc<RabbitMqPublisher> =
            Arc::new(RabbitMqPublisher::new(rabbitmq.url().parse().expect("a URL"), partitions, queues));
        let url = redis.url();
        let registry = RedisRegistry::new(url.parse().expect("a URL"), partitions, Duration::from_secs(60));
        let routes = OwnerRoutes::new(Arc::new(registry), broker.clone());
        let consumer = RabbitMqConsumer::new(rabbitmq.url().parse().expect("a URL"), partitions, 32, queues);
        let mut owner = SubscribedOwnership::new(url.parse().expect("a URL"), consumer.ownership());
        ownership::single_member_owns_all_and_receives_owner_messages(&mut owner, &routes, partitions)
            .await
            .expect("the services failed");
        let user = unique_user();
        // While the broker takes no messages.
        rabbitmq.control("rabbitmqctl set_vm_memory_high_watermark 0");
        for number in 1..=300 {
            routes.send(&user, ack(number)).await.expect("Redis works");
            assert_eq!(next_message(&mut owner).await, ack(number));
        }
        rabbitmq.control("rabbitmqctl set_vm_memory_high_watermark 0.9");
        // While there is no Redis.
        redis.kill();
        routes.send(&user, ack(301)).await.expect("the broker works");
        assert_eq!(next_message(&mut owner).await, ack(301));
        redis.run().await;
        rabbitmq.control("rabbitmqctl set_vm_memory_high_watermark 0");
        // The broker delivers none of them, and need not say so.
        let came_by_redis = async || {
            let sent = routes.send(&user, ack(302)).await.is_ok();
            sent && timeout(REDIS_DELIVERY_TIMEOUT, next_message(&mut owner)).await.is_ok_and(|came| came == ack(302))
        };
        kschat_tests::eventually("the subscription is back", came_by_redis).await;
    }
}

mod connections_api {
    use kschat_adapters::api_gateway::ApiGateway;
    use kschat_core::ports::{ConnectionsApi, PostError};
    use kschat_protocol::ConnectionId;
    use kschat_tests::{
        client::{Client, token},
        stack::{SECRET, embedded, unique_user},
    };

    async fn api(url: &str) -> ApiGateway {
        ApiGateway::new(&url.parse().expect("a callback URL")).await.expect("TLS works")
    }

    fn id(text: &str) -> ConnectionId {
        ConnectionId::try_from(text).expect("an id")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn edge_answers_map_to_port_errors() {
        let stack = embedded().await;
        check_answers(&stack, &api(&stack.callback_url()).await).await;
        let open = id("BFHPhfCWIAMCKlQ=");
        let wrong_stage = api(&stack.callback_url().replace("/dev", "/prod")).await;
        assert!(matches!(wrong_stage.post(&open, "{}").await, Err(PostError::Retryable(_))));
        wrong_stage.is_open(&open).await.expect_err("nobody can tell");
        let here = api(&stack.callback_url()).await;
        stack.stop().await;
        here.close_connection(&open).await.expect_err("nobody answers");
        here.is_open(&open).await.expect_err("nobody answers");
        assert!(matches!(here.post(&open, "{}").await, Err(PostError::Retryable(_))));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn edge_in_process_answers_as_over_http() {
        let stack = embedded().await;
        check_answers(&stack, stack.edge()).await;
        stack.stop().await;
    }

    async fn check_answers(stack: &kschat::stack::Stack, here: &dyn ConnectionsApi) {
        let user = unique_user("alice");
        let client = Client::connect_v2(&stack.websocket_url(), &token(SECRET, &user), &user).await;
        let mut client = client.expect("connected");
        let open = id(&stack.edge().ids()[0]);
        here.post(&open, r#"{"event":"HELLO"}"#).await.expect("the connection is open");
        client.next("HELLO").await;
        for gone in ["BFHPhfCWIAMCKlQ=", "no id of the edge"] {
            assert!(matches!(here.post(&id(gone), "{}").await, Err(PostError::Gone)), "{gone}");
        }
        let large = "x".repeat(128 * 1024 + 1);
        assert!(matches!(here.post(&open, &large).await, Err(PostError::Rejected(_))));
        assert!(here.is_open(&open).await.expect("the edge answers"));
        here.close_connection(&open).await.expect("the open connection is closed");
        assert_eq!(client.closed().await, 1000);
        assert!(matches!(here.post(&open, "{}").await, Err(PostError::Gone)));
        here.close_connection(&open).await.expect("a closed connection is ignored");
        for gone in [open.as_str(), "BFHPhfCWIAMCKlQ=", "no id of the edge"] {
            assert!(!here.is_open(&id(gone)).await.expect("the edge answers"), "{gone}");
        }
    }
}
