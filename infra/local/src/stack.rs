//! Everything together: edge, functions, consumer, page, in one process on one port.

use std::{io, net::SocketAddr, sync::Arc};

use kschat_adapters::{
    api_gateway::{ApiGateway, CallbackUrl},
    config::{DEFAULT_PREFETCH, DEFAULT_RNO_WINDOW},
    identity::MessageIdKey,
    jwt::{JwtSettings, JwtVerifier},
    rabbitmq::{BrokerUrl, Consuming, Publishing, QueueSettings},
    redis::{RedisRegistry, RedisUrl},
};
use kschat_consumer as consumer;
use kschat_core::{
    Partitions, SystemClock, ack, deliver, inbound,
    limits::Limits,
    memory::{MemoryBroker, MemoryRegistry},
    ports::{
        Acks, Backlogs, ConnectionRegistry, IdempotencyStore, Mailbox, Memberships, Notices, Ownership, Pokes,
        Presences, Publisher, Queues, Receipts, Replies, RoomBindings, SenderShares, Supervision, Unavailable,
    },
    presence::Crier,
    receipts::Clerk,
    request,
    rooms::{self, Everybody},
    send::Strangers,
};
use kschat_functions::{connect, disconnect, send};
use kschat_protocol::dialect::Heartbeat;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    edge::{Edge, Settings},
    functions::{Functions, InProcess, Remote},
    page::Page,
    server::Server,
};

/// What the local stack is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How the edge behaves.
    pub edge: Settings,
    /// With what tokens are signed and checked. It has no default.
    pub secret: String,
    /// With what messages are named; without it, a random one, which another process with the same services would not have.
    pub message_id_key: Option<MessageIdKey>,
    /// Into how many parts the users are cut.
    pub partitions: Partitions,
    /// What happens to a message for somebody who has never connected.
    pub strangers: Strangers,
    /// How often silent Socket.IO clients and the consumer hear from one another.
    pub heartbeat: Heartbeat,
    /// How users' queues are made, where RabbitMQ has them.
    pub queues: QueueSettings,
    /// How much one user may do.
    pub limits: Limits,
    /// RabbitMQ and Redis; without them all is in memory.
    pub backends: Option<Backends>,
    /// Where functions run; without it, in this process.
    pub functions: Option<String>,
    /// Whether the consumer runs in this process.
    pub consumer: bool,
}

impl Options {
    /// Whether functions and consumer both run elsewhere: then nothing here needs a broker or a registry.
    #[must_use]
    pub fn is_edge_only(&self) -> bool {
        self.functions.is_some() && !self.consumer
    }
}

/// The real services.
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
            // One that everybody knows would be none: nothing starts without.
            secret: String::new(),
            message_id_key: None,
            partitions: Partitions::default(),
            strangers: Strangers::default(),
            heartbeat: deliver::HEARTBEAT,
            queues: QueueSettings::default(),
            limits: Limits::default(),
            backends: None,
            functions: None,
            consumer: true,
        }
    }
}

/// Why the stack can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not ours.
    #[error("can't listen on {0}; choose another address with --listen")]
    Listen(SocketAddr, #[source] io::Error),
    /// A service does not answer.
    #[error("{0} does not answer")]
    Backend(String, #[source] Unavailable),
    /// The secret can't check tokens, or the callback URL can't be made.
    #[error("the configuration does not fit: {0}")]
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

/// The ports that functions and consumer share.
struct Parts {
    registry: Arc<dyn ConnectionRegistry>,
    idempotency: Arc<dyn IdempotencyStore>,
    backlogs: Arc<dyn Backlogs>,
    publisher: Arc<dyn Publisher>,
    queues: Arc<dyn Queues>,
    pokes: Arc<dyn Pokes>,
    acks: Arc<dyn Acks>,
    notices: Arc<dyn Notices>,
    shares: Arc<dyn SenderShares>,
    supervision: Arc<dyn Supervision>,
    replies: Arc<dyn Replies>,
    memberships: Arc<dyn Memberships>,
    bindings: Arc<dyn RoomBindings>,
    receipts: Arc<dyn Receipts>,
    presences: Arc<dyn Presences>,
    work: Work,
}

/// The consumer's side of the broker; it connects only if there is a consumer.
enum Work {
    Memory(Box<dyn Mailbox>, Box<dyn Ownership>),
    Real(Consuming),
}

impl Parts {
    fn in_memory(partitions: Partitions, queues: QueueSettings) -> Self {
        let (broker, ownership) = MemoryBroker::new(partitions);
        let broker = if queues.keeps_empty { broker.keeping_empty_queues() } else { broker };
        let registry = Arc::new(MemoryRegistry::new(partitions));
        Self {
            registry: registry.clone(),
            idempotency: registry.clone(),
            backlogs: registry.clone(),
            shares: registry.clone(),
            receipts: registry.clone(),
            presences: registry.clone(),
            memberships: registry,
            bindings: Arc::new(broker.clone()),
            supervision: Arc::new(broker.clone()),
            publisher: Arc::new(broker.clone()),
            queues: Arc::new(broker.clone()),
            pokes: Arc::new(broker.clone()),
            acks: Arc::new(broker.clone()),
            notices: Arc::new(broker.clone()),
            replies: Arc::new(broker.clone()),
            work: Work::Memory(Box::new(broker), Box::new(ownership)),
        }
    }

    async fn real(backends: &Backends, partitions: Partitions, queues: QueueSettings) -> Result<Self, StartError> {
        let broker = Arc::new(Publishing::new(backends.broker.clone(), partitions, queues));
        let registry = Arc::new(RedisRegistry::new(backends.redis.clone(), partitions, DEFAULT_RNO_WINDOW));
        // Asked now, so that a wrong URL is told at the start and not to the first client.
        let silent = |url: String| |error| StartError::Backend(url, error);
        broker.check().await.map_err(silent(format!("RabbitMQ at {:?} (AMQP_URL)", backends.broker)))?;
        registry.check().await.map_err(silent(format!("Redis at {:?} (REDIS_URL)", backends.redis)))?;
        Ok(Self {
            registry: registry.clone(),
            idempotency: registry.clone(),
            backlogs: registry.clone(),
            shares: registry.clone(),
            receipts: registry.clone(),
            presences: registry.clone(),
            memberships: registry,
            bindings: broker.clone(),
            supervision: broker.clone(),
            publisher: broker.clone(),
            queues: broker.clone(),
            pokes: broker.clone(),
            acks: broker.clone(),
            notices: broker.clone(),
            replies: broker,
            work: Work::Real(Consuming::new(backends.broker.clone(), partitions, DEFAULT_PREFETCH.get(), queues)),
        })
    }

    fn functions(&self, options: &Options) -> Result<InProcess, String> {
        let verifier = Arc::new(JwtVerifier::new(&JwtSettings::seed(options.secret.clone()))?);
        let hash = options.message_id_key.clone().map_or_else(MessageIdKey::random, Ok)?;
        let clock = Arc::new(SystemClock);
        let connect = connect::Deps {
            verifier: verifier.clone(),
            registry: self.registry.clone(),
            queues: self.queues.clone(),
            pokes: self.pokes.clone(),
            supervision: self.supervision.clone(),
            clock: clock.clone(),
            rate: options.limits.connects,
            requires_token: false,
        };
        let rooms = rooms::Deps {
            memberships: self.memberships.clone(),
            bindings: self.bindings.clone(),
            queues: self.queues.clone(),
            policy: Arc::new(Everybody),
        };
        Ok(InProcess {
            connect: connect.clone(),
            disconnect: disconnect::Deps { registry: self.registry.clone(), pokes: self.pokes.clone() },
            send: send::Deps {
                inbound: inbound::Deps {
                    registry: self.registry.clone(),
                    supervision: self.supervision.clone(),
                    clock: clock.clone(),
                    limits: options.limits,
                },
                send: kschat_core::send::Deps {
                    idempotency: self.idempotency.clone(),
                    backlogs: self.backlogs.clone(),
                    hash: Arc::new(hash),
                    publisher: self.publisher.clone(),
                    queues: self.queues.clone(),
                    shares: Some(self.shares.clone()),
                    clock: clock.clone(),
                    rooms: rooms.clone(),
                    strangers: options.strangers,
                },
                ack: ack::Deps { acks: self.acks.clone(), clock: clock.clone() },
                request: request::Deps {
                    registry: self.registry.clone(),
                    receipts: self.receipts.clone(),
                    presences: self.presences.clone(),
                    rooms,
                    verifier,
                    pokes: self.pokes.clone(),
                    notices: self.notices.clone(),
                    clock,
                },
                join: connect,
                replies: self.replies.clone(),
                supervision: self.supervision.clone(),
            },
        })
    }

    fn into_consumer(self, connections: ApiGateway, partitions: Partitions) -> (deliver::Deps, Box<dyn Ownership>) {
        let (mailbox, notices, ownership): (Arc<dyn Mailbox>, Arc<dyn Notices>, Box<dyn Ownership>) = match self.work {
            Work::Memory(mailbox, ownership) => (mailbox.into(), self.notices, ownership),
            Work::Real(broker) => {
                let ownership = broker.ownership();
                let broker = Arc::new(broker);
                (broker.clone(), broker, Box::new(ownership))
            }
        };
        let clock = Arc::new(SystemClock);
        let connections = Arc::new(connections);
        let clerk = Arc::new(Clerk::new(self.receipts, notices.clone()));
        let crier = Arc::new(Crier::new(self.registry.clone(), self.presences, notices, clock.clone()));
        let deps = deliver::Deps::new(self.registry, mailbox, self.backlogs, connections, clock, partitions);
        let deps = deps.with_receipts(clerk).with_presence(crier).with_rooms(self.memberships);
        (deps.with_shares(self.shares), ownership)
    }
}

impl Stack {
    /// Starts everything; returns once clients can connect.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(mut options: Options) -> Result<Self, StartError> {
        if options.secret.is_empty() {
            return Err(StartError::Configuration("a secret is needed that tokens are signed with".to_owned()));
        }
        options.queues.keeps_empty = options.strangers == Strangers::Refuse;
        let parts = match &options.backends {
            Some(backends) if !options.is_edge_only() => {
                Parts::real(backends, options.partitions, options.queues).await?
            }
            _ => Parts::in_memory(options.partitions, options.queues),
        };
        let functions: Arc<dyn Functions> = match &options.functions {
            Some(url) => Arc::new(Remote::new(url)),
            None => Arc::new(parts.functions(&options).map_err(StartError::Configuration)?),
        };
        let stage = options.edge.stage.clone();
        let edge = Edge::new(options.edge, functions);
        let page = Page { stage: stage.clone(), secret: options.secret };
        let server = Server::start(options.listen, page.routes().merge(edge.routes())).await;
        let server = server.map_err(|error| StartError::Listen(options.listen, error))?;
        let mut stack = Self { stage, edge, server, shutdown: CancellationToken::new(), consumer: None };
        if options.consumer {
            stack.start_consumer(parts, options.partitions, options.heartbeat).await?;
        }
        Ok(stack)
    }

    async fn start_consumer(
        &mut self,
        parts: Parts,
        partitions: Partitions,
        heartbeat: Heartbeat,
    ) -> Result<(), StartError> {
        let url: CallbackUrl = self.callback_url().parse().map_err(StartError::Configuration)?;
        let (mut deps, ownership) = parts.into_consumer(ApiGateway::new(&url).await, partitions);
        deps.heartbeat = heartbeat;
        self.consumer = Some(tokio::spawn(consumer::run(deps, ownership, self.shutdown.child_token())));
        Ok(())
    }

    /// Where it can be reached.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.reachable()
    }

    /// What clients connect to.
    #[must_use]
    pub fn websocket_url(&self) -> String {
        format!("ws://{}/{}", self.address(), self.stage)
    }

    /// Where a consumer pushes.
    #[must_use]
    pub fn callback_url(&self) -> String {
        format!("http://{}/{}", self.address(), self.stage)
    }

    /// Where the page is.
    #[must_use]
    pub fn page_url(&self) -> String {
        format!("http://{}/", self.address())
    }

    /// The edge, for a look at it.
    #[must_use]
    pub fn edge(&self) -> &Edge {
        &self.edge
    }

    /// Ends it in good order: clients are told, posts under way are finished.
    pub async fn stop(mut self) {
        self.server.close();
        self.edge.close_all().await;
        self.shutdown.cancel();
        if let Some(consumer) = self.consumer.take() {
            // It ends by itself within its own deadline.
            let _ = consumer.await;
        }
        self.server.end();
    }
}
