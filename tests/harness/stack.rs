//! Stacks under test: embedded, or with private services.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use kschat::stack::{Backends, Options, Stack, StartError};
use kschat_core::Partitions;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    client::{Client, Refused, token},
    eventually, free_port,
    process::{Process, binary},
    rabbitmq::RabbitMq,
    redis::Redis,
};

/// The secret of all stacks under test.
pub const SECRET: &str = "a secret that only the tests know, long enough";

/// The message id key of all functions under test.
pub const MESSAGE_ID_KEY: &str = "a key that only the tests know, long enough";

/// Private RabbitMQ and Redis servers.
pub struct Services {
    /// The broker.
    pub rabbitmq: RabbitMq,
    /// The registry.
    pub redis: Redis,
    /// Heartbeat of processes, where a test can't wait for the default.
    pub heartbeat: Option<Duration>,
    /// Telemetry settings of processes.
    pub telemetry: Vec<(&'static str, String)>,
}

impl Services {
    /// Starts both.
    pub async fn start() -> Self {
        let (rabbitmq, redis) = tokio::join!(RabbitMq::start(), Redis::start());
        Self { rabbitmq, redis, heartbeat: None, telemetry: Vec::new() }
    }

    /// Starts both as a benchmark wants them: RabbitMQ also speaks MQTT, and Redis keeps nothing on disk.
    pub async fn start_for_benchmark() -> Self {
        let (rabbitmq, redis) = tokio::join!(RabbitMq::start_with_web_mqtt(), Redis::start_in_memory());
        Self { rabbitmq, redis, heartbeat: None, telemetry: Vec::new() }
    }

    /// Removes all queues, messages and sessions.
    pub async fn reset(&self) {
        self.rabbitmq.reset();
        self.redis.flush().await;
    }

    /// Settings for a stack in this process.
    #[must_use]
    pub fn backends(&self) -> Backends {
        Backends {
            broker: self.rabbitmq.url().parse().expect("a broker URL"),
            redis: self.redis.url().parse().expect("a Redis URL"),
        }
    }

    /// Environment variables for a separate process.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let heartbeat = self.heartbeat.map(|span| format!("?heartbeat={}", span.as_secs())).unwrap_or_default();
        let mut variables = vec![
            ("AMQP_URL", self.rabbitmq.url() + &heartbeat),
            ("REDIS_URL", self.redis.url()),
            ("JWT_SECRET", SECRET.to_owned()),
            ("MESSAGE_ID_KEY", MESSAGE_ID_KEY.to_owned()),
        ];
        variables.extend(self.telemetry.iter().cloned());
        variables
    }
}

/// Options of a stack on a free port.
#[must_use]
pub fn options() -> Options {
    let message_id_key = Some(MESSAGE_ID_KEY.parse().expect("a key"));
    Options { listen: ([127, 0, 0, 1], 0).into(), secret: SECRET.to_owned(), message_id_key, ..Options::default() }
}

/// Starts a stack with everything in memory.
pub async fn embedded() -> Stack {
    start(options()).await
}

/// Starts a stack. The first one on a new broker declares its exchanges and queues, which may take a busy machine longer
/// than a stack waits for its services.
///
/// # Panics
/// When its configuration is refused, or its services do not answer.
pub async fn start(options: Options) -> Stack {
    let mut stack = None;
    eventually("the stack starts", async || {
        match Stack::start(options.clone()).await {
            Ok(started) => stack = Some(started),
            Err(StartError::Backend(..) | StartError::Listen(..)) => {}
            Err(error) => panic!("{error}"),
        }
        stack.is_some()
    })
    .await;
    stack.expect("a started stack")
}

/// Activates a fault rule at a stack's edge.
pub async fn add_fault_rule(stack: &Stack, rule: &str) {
    let request = reqwest::Client::new().post(format!("{}_edge/faults", stack.page_url()));
    let request = request.header("content-type", "application/json").body(json!({ "rule": rule }).to_string());
    let answer = request.send().await.expect("the edge answers");
    assert_eq!(answer.status(), 201, "{rule}");
}

/// Waits until owners have set their epoch markers and seen them once: from then on they notice that Redis has lost its
/// data.
pub async fn until_markers_are_known(services: &Services) {
    let all = usize::from(Partitions::default().count());
    eventually("the epoch markers are set", async || services.redis.count_keys("ks:m:*").await == all).await;
    // They look every two seconds.
    tokio::time::sleep(Duration::from_secs(3)).await;
}

/// A user that no other test uses.
#[must_use]
pub fn unique_user(name: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    format!("{name}-{}", now.as_nanos())
}

/// Connects a client of version 2, as soon as the stack accepts it: a restarting or busy one answers 503.
pub async fn connect(url: &str, user: &str) -> Client {
    let mut client = None;
    eventually("a client can connect", async || {
        match Client::connect_v2(url, &token(SECRET, user), user).await {
            Ok(connected) => client = Some(connected),
            // Longer than the rate limit of handshakes asks for.
            Err(Refused(503)) => tokio::time::sleep(Duration::from_millis(600)).await,
            Err(Refused(status)) => panic!("refused with {status}"),
        }
        client.is_some()
    })
    .await;
    client.expect("a connected client")
}

/// A separate consumer process.
pub struct Consumer {
    /// The process.
    pub process: Process,
    health: String,
    /// Holds its log, unless somebody else does.
    _folder: Option<TempDir>,
}

impl Consumer {
    /// Starts a consumer that pushes to `callback`; returns once it is ready.
    pub async fn start(services: &Services, callback: &str) -> Self {
        Self::start_with(services, callback, &[]).await
    }

    /// The same, with more settings.
    pub async fn start_with(services: &Services, callback: &str, more: &[(&'static str, String)]) -> Self {
        let folder = TempDir::with_prefix("kschat-consumer-").expect("a temporary folder");
        let log = folder.path().join("consumer.log");
        let variables = [services.variables(), more.to_vec()].concat();
        let consumer = Self::spawn(variables, callback, &log);
        consumer.is_ready().await;
        Self { _folder: Some(folder), ..consumer }
    }

    /// Starts one with only these settings, plus its health address; returns once it is ready.
    pub async fn start_as(variables: &[(&str, String)]) -> Self {
        let folder = TempDir::with_prefix("kschat-consumer-").expect("a temporary folder");
        let consumer = Self::spawn_as(variables, &folder.path().join("consumer.log"));
        consumer.is_ready().await;
        Self { _folder: Some(folder), ..consumer }
    }

    /// Starts one with these variables, without waiting for it.
    #[must_use]
    pub fn spawn(mut variables: Vec<(&'static str, String)>, callback: &str, log: &Path) -> Self {
        variables.push(("CALLBACK_URL", callback.to_owned()));
        Self::spawn_as(&variables, log)
    }

    fn spawn_as(variables: &[(&str, String)], log: &Path) -> Self {
        let health = format!("127.0.0.1:{}", free_port());
        let mut variables = variables.to_vec();
        variables.push(("HEALTH_ADDR", health.clone()));
        let process = Process::start(&binary("consumer"), &[], &variables, log);
        Self { process, health, _folder: None }
    }

    /// Waits until it is ready.
    pub async fn is_ready(&self) {
        eventually("the consumer is ready", async || {
            assert!(self.process.is_running(), "the consumer has ended:\n{}", self.process.output());
            self.health("ready").await == Some(200)
        })
        .await;
    }

    /// Status of a health endpoint; `None` without a response.
    pub async fn health(&self, which: &str) -> Option<u16> {
        let answer = reqwest::get(format!("http://{}/healthz/{which}", self.health)).await;
        answer.ok().map(|answer| answer.status().as_u16())
    }

    /// Its metrics, as a scraper reads them.
    ///
    /// # Panics
    /// Without a response.
    pub async fn metrics(&self) -> String {
        let answer = reqwest::get(format!("http://{}/metrics", self.health)).await.expect("an answer");
        answer.text().await.expect("text")
    }
}

/// Runs a stack for the lifetime of this process, and returns its address.
///
/// It has a separate runtime: that of a test would end with the test.
pub fn run_for_all(options: impl AsyncFnOnce() -> Options + Send + 'static) -> Address {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async move {
            let stack = start(options().await).await;
            let address = Address { websocket: stack.websocket_url(), page: stack.page_url() };
            sender.send(address).expect("the receiver is alive");
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().expect("the stack did not start")
}

/// Addresses of a stack.
#[derive(Clone, Debug)]
pub struct Address {
    /// For clients.
    pub websocket: String,
    /// For browsers.
    pub page: String,
}
