//! The whole stack: edge, functions, consumer and page in one process on one port.

use std::{io, net::SocketAddr, sync::Arc};

use kschat_adapters::{
    config::{DEFAULT_PREFETCH, DEFAULT_RNO_WINDOW},
    identity::MessageIdKey,
    jwt::{JwtSettings, JwtVerifier},
    metrics::Prometheus,
    rabbitmq::{BrokerUrl, QueueSettings, RabbitMqConsumer, RabbitMqPublisher},
    redis::{OwnerRoutes, RedisRegistry, RedisUrl, SubscribedOwnership},
};
use kschat_consumer::{self as consumer, health::ReadinessProbe, watch::RegistryHealth};
use kschat_core::{
    Partitions, SystemClock, delivery,
    inbound::send::UnknownRecipientPolicy,
    limits::Limits,
    memory::{MemoryBroker, MemoryRegistry},
    ports::{Broker, OwnerChannel, Ownership, QueueManager, Registry, Unavailable},
    rooms::AllowAllRooms,
};
use kschat_edge::{
    Edge, Settings,
    functions::{Functions, Remote},
    server::Server,
};
use kschat_protocol::dialect::Heartbeat;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{health, in_process::InProcess, page::Page};

/// Options of the local stack.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address to listen on; port 0 selects a free port.
    pub listen: SocketAddr,
    /// Settings of the edge.
    pub edge: Settings,
    /// Secret that signs and verifies tokens. It has no default.
    pub secret: String,
    /// Key of message ids. The default is random, and so not shared with other processes.
    pub message_id_key: Option<MessageIdKey>,
    /// Number of partitions.
    pub partitions: Partitions,
    /// Policy for messages to users who have never connected.
    pub unknown_recipients: UnknownRecipientPolicy,
    /// Heartbeat of idle Socket.IO clients and of the consumer.
    pub heartbeat: Heartbeat,
    /// Settings of users' queues in RabbitMQ.
    pub queues: QueueSettings,
    /// Rate limits of one user.
    pub limits: Limits,
    /// RabbitMQ and Redis; without them all is in memory.
    pub backends: Option<Backends>,
    /// URL of the functions; without it, they run in this process.
    pub functions: Option<String>,
    /// Whether the consumer runs in this process.
    pub consumer: bool,
    /// Metrics for `/metrics`, if this process collects any.
    pub metrics: Option<Prometheus>,
}

impl Options {
    /// Whether functions and consumer both run elsewhere: then this process needs no broker or registry.
    #[must_use]
    pub fn is_edge_only(&self) -> bool {
        self.functions.is_some() && !self.consumer
    }
}

/// The external services.
#[derive(Clone, Debug)]
pub struct Backends {
    /// RabbitMQ.
    pub broker: BrokerUrl,
    /// Redis.
    pub redis: RedisUrl,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 3000)),
            edge: Settings::default(),
            // A known default would be insecure: the stack does not start without a secret.
            secret: String::new(),
            message_id_key: None,
            partitions: Partitions::default(),
            unknown_recipients: UnknownRecipientPolicy::default(),
            heartbeat: delivery::DEFAULT_HEARTBEAT,
            queues: QueueSettings::default(),
            limits: Limits::default(),
            backends: None,
            functions: None,
            consumer: true,
            metrics: None,
        }
    }
}

/// Reason for which the stack can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is in use or not available.
    #[error("can't listen on {0}; choose another address with --listen")]
    Listen(SocketAddr, #[source] io::Error),
    /// A service is unreachable, or rejects us.
    #[error("{0} can't be used")]
    Backend(String, #[source] Unavailable),
    /// The secret can't verify tokens.
    #[error("the configuration is inconsistent: {0}")]
    Configuration(String),
}

/// A running stack. Dropping it leaves it running; [`Self::stop`] ends it.
pub struct Stack {
    stage: String,
    edge: Edge,
    server: Server,
    shutdown: CancellationToken,
    consumer: Option<JoinHandle<()>>,
}

/// The adapters that functions and consumer share.
struct Adapters {
    registry: Arc<dyn Registry>,
    broker: Arc<dyn Broker>,
    /// Sends messages of functions to the owners of users.
    owners: Arc<dyn OwnerChannel>,
    /// The Redis registry that the readiness probe checks.
    watched: Option<Arc<RedisRegistry>>,
    consumer: ConsumerBackend,
}

/// The consumer's side of the broker; it connects only if there is a consumer.
enum ConsumerBackend {
    Memory(MemoryBroker, Box<dyn Ownership>),
    Services(RabbitMqConsumer, Box<RedisUrl>),
}

impl Adapters {
    fn in_memory(partitions: Partitions, queues: QueueSettings) -> Self {
        let (broker, ownership) = MemoryBroker::new(partitions);
        let broker = if queues.keeps_empty { broker.keeping_empty_queues() } else { broker };
        Self {
            registry: Arc::new(MemoryRegistry::new(partitions)),
            broker: Arc::new(broker.clone()),
            owners: Arc::new(broker.clone()),
            watched: None,
            consumer: ConsumerBackend::Memory(broker, Box::new(ownership)),
        }
    }

    async fn real(backends: &Backends, partitions: Partitions, queues: QueueSettings) -> Result<Self, StartError> {
        let broker = Arc::new(RabbitMqPublisher::new(backends.broker.clone(), partitions, queues));
        let registry = Arc::new(RedisRegistry::new(backends.redis.clone(), partitions, DEFAULT_RNO_WINDOW));
        // Checked now, so that a wrong URL fails at the start and not at the first client.
        let silent = |url: String| |error| StartError::Backend(url, error);
        broker.check().await.map_err(silent(format!("RabbitMQ at {:?} (AMQP_URL)", backends.broker)))?;
        registry.check().await.map_err(silent(format!("Redis at {:?} (REDIS_URL)", backends.redis)))?;
        let consumer = RabbitMqConsumer::new(backends.broker.clone(), partitions, DEFAULT_PREFETCH.get(), queues);
        Ok(Self {
            registry: registry.clone(),
            owners: Arc::new(OwnerRoutes::new(registry.clone(), broker.clone())),
            broker,
            watched: Some(registry),
            consumer: ConsumerBackend::Services(consumer, Box::new(backends.redis.clone())),
        })
    }

    /// Readiness probe of the backends; its checks run until `stop`.
    fn watch(&self, has_consumer: bool, stop: CancellationToken) -> ReadinessProbe {
        let health = RegistryHealth::default();
        if let Some(registry) = self.watched.clone() {
            let watched = health.clone().watch(move || {
                let registry = Arc::clone(&registry);
                async move { registry.check().await }
            });
            tokio::spawn(async move { stop.run_until_cancelled(watched).await });
        }
        let broker = match &self.consumer {
            ConsumerBackend::Services(broker, _) if has_consumer => Some(broker.clone()),
            ConsumerBackend::Services(..) | ConsumerBackend::Memory(..) => None,
        };
        Arc::new(move || health.is_up() && broker.as_ref().is_none_or(RabbitMqConsumer::is_connected))
    }

    fn functions(&self, options: &Options) -> Result<InProcess, String> {
        let verifier = JwtVerifier::new(&JwtSettings::v1(options.secret.clone()))?;
        let hash = options.message_id_key.clone().map_or_else(MessageIdKey::random, Ok)?;
        let services = kschat_functions::dependencies::Services {
            registry: self.registry.clone(),
            broker: self.broker.clone(),
            owners: self.owners.clone(),
            verifier: Arc::new(verifier),
            hash: Arc::new(hash),
            room_policy: Arc::new(AllowAllRooms),
            clock: Arc::new(SystemClock),
            limits: options.limits,
            requires_token: false,
            unknown_recipients: options.unknown_recipients,
        };
        Ok(InProcess { connect: services.connect(), disconnect: services.disconnect(), send: services.send() })
    }

    fn into_consumer(self, edge: Edge, partitions: Partitions) -> (delivery::Deps, Box<dyn Ownership>) {
        let (queues, ownership): (Arc<dyn QueueManager>, Box<dyn Ownership>) = match self.consumer {
            ConsumerBackend::Memory(broker, ownership) => (Arc::new(broker), ownership),
            ConsumerBackend::Services(broker, redis) => {
                let ownership = SubscribedOwnership::new(*redis, broker.ownership());
                (Arc::new(broker), Box::new(ownership))
            }
        };
        let services = consumer::wiring::Services {
            registry: self.registry,
            queues,
            owners: self.owners,
            edge: Arc::new(edge),
            clock: Arc::new(SystemClock),
            partitions,
            sends_receipts: true,
        };
        (services.delivery(), ownership)
    }
}

impl Stack {
    /// Starts the stack; returns once clients can connect.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(mut options: Options) -> Result<Self, StartError> {
        if options.secret.is_empty() {
            return Err(StartError::Configuration("a secret for signing tokens is required".to_owned()));
        }
        options.queues.keeps_empty = options.unknown_recipients == UnknownRecipientPolicy::Reject;
        let parts = match &options.backends {
            Some(backends) if !options.is_edge_only() => {
                Adapters::real(backends, options.partitions, options.queues).await?
            }
            _ => Adapters::in_memory(options.partitions, options.queues),
        };
        let functions: Arc<dyn Functions> = match &options.functions {
            Some(url) => Arc::new(Remote::new(url)),
            None => Arc::new(parts.functions(&options).map_err(StartError::Configuration)?),
        };
        let stage = options.edge.stage.clone();
        let edge = Edge::new(options.edge, functions);
        let page = Page { stage: stage.clone(), secret: options.secret };
        let shutdown = CancellationToken::new();
        let ready = parts.watch(options.consumer, shutdown.child_token());
        let routes = page.routes().merge(edge.routes()).merge(health::routes(ready, options.metrics));
        let server = Server::start(options.listen, routes).await;
        let server = server.map_err(|error| StartError::Listen(options.listen, error))?;
        let mut stack = Self { stage, edge, server, shutdown, consumer: None };
        if options.consumer {
            stack.start_consumer(parts, options.partitions, options.heartbeat);
        }
        Ok(stack)
    }

    fn start_consumer(&mut self, parts: Adapters, partitions: Partitions, heartbeat: Heartbeat) {
        let (mut deps, ownership) = parts.into_consumer(self.edge.clone(), partitions);
        deps.heartbeat = heartbeat;
        self.consumer = Some(tokio::spawn(consumer::run(deps, ownership, self.shutdown.child_token())));
    }

    /// The address of the stack.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.reachable()
    }

    /// The WebSocket URL for clients.
    #[must_use]
    pub fn websocket_url(&self) -> String {
        format!("ws://{}/{}", self.address(), self.stage)
    }

    /// The URL of the connections API.
    #[must_use]
    pub fn callback_url(&self) -> String {
        format!("http://{}/{}", self.address(), self.stage)
    }

    /// The URL of the page.
    #[must_use]
    pub fn page_url(&self) -> String {
        format!("http://{}/", self.address())
    }

    /// The edge, for inspection.
    #[must_use]
    pub fn edge(&self) -> &Edge {
        &self.edge
    }

    /// Shuts down gracefully: clients receive a close, and posts in flight finish.
    pub async fn stop(mut self) {
        self.server.close();
        self.edge.close_all().await;
        self.shutdown.cancel();
        if let Some(consumer) = self.consumer.take() {
            // It ends within its own deadline.
            let _ = consumer.await;
        }
        self.server.stop();
    }
}
