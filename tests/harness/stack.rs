//! Stacks to test: embedded, or on services of our own.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use kschat::stack::{Backends, Options, Stack};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    client::{Client, Refused, token},
    eventually, free_port,
    process::{Process, binary},
    rabbitmq::RabbitMq,
    redis::Redis,
};

/// The secret that all stacks of the tests share.
pub const SECRET: &str = "a secret that only the tests know, long enough";

/// The key with which all functions of the tests name messages.
pub const MESSAGE_ID_KEY: &str = "a key that only the tests know, long enough";

/// RabbitMQ and Redis of our own.
pub struct Services {
    /// The broker.
    pub rabbitmq: RabbitMq,
    /// The registry.
    pub redis: Redis,
    /// After which silence a process counts as dead, where a test can't wait for the usual one.
    pub heartbeat: Option<Duration>,
    /// What processes shall tell of themselves.
    pub telemetry: Vec<(&'static str, String)>,
}

impl Services {
    /// Starts both.
    pub async fn start() -> Self {
        let (rabbitmq, redis) = tokio::join!(RabbitMq::start(), Redis::start());
        Self { rabbitmq, redis, heartbeat: None, telemetry: Vec::new() }
    }

    /// What a stack in this process needs to use them.
    #[must_use]
    pub fn backends(&self) -> Backends {
        Backends {
            broker: self.rabbitmq.url().parse().expect("a broker URL"),
            redis: self.redis.url().parse().expect("a Redis URL"),
        }
    }

    /// What a process needs to use them.
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

/// A stack that has everything in memory.
pub async fn embedded() -> Stack {
    Stack::start(options()).await.expect("the embedded stack starts")
}

/// Makes the edge of a stack do something wrong on purpose from now on.
pub async fn break_edge(stack: &Stack, rule: &str) {
    let request = reqwest::Client::new().post(format!("{}_edge/faults", stack.page_url()));
    let request = request.header("content-type", "application/json").body(json!({ "rule": rule }).to_string());
    let answer = request.send().await.expect("the edge answers");
    assert_eq!(answer.status(), 201, "{rule}");
}

/// A user whom no other test knows.
#[must_use]
pub fn somebody(name: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    format!("{name}-{}", now.as_nanos())
}

/// Connects a client of version 2.
pub async fn connect(url: &str, user: &str) -> Client {
    Client::connect_v2(url, &token(SECRET, user), user).await.expect("the handshake succeeds")
}

/// Connects as soon as the stack lets us: for what is just coming back.
pub async fn connect_eventually(url: &str, user: &str) -> Client {
    let mut client = None;
    eventually("a client can connect", async || {
        match Client::connect_v2(url, &token(SECRET, user), user).await {
            Ok(connected) => client = Some(connected),
            Err(Refused(503)) => tokio::time::sleep(Duration::from_millis(200)).await,
            Err(Refused(status)) => panic!("refused with {status}"),
        }
        client.is_some()
    })
    .await;
    client.expect("it is connected by now")
}

/// A consumer process of its own.
pub struct Consumer {
    /// The process.
    pub process: Process,
    health: String,
    /// Holds its log, if nobody else does.
    _folder: Option<TempDir>,
}

impl Consumer {
    /// Starts one that pushes to `callback`; returns once it is ready.
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

    /// Starts one with these settings and no others, but for where it can be asked how it is; returns once it is ready.
    pub async fn start_as(variables: &[(&str, String)]) -> Self {
        let folder = TempDir::with_prefix("kschat-consumer-").expect("a temporary folder");
        let consumer = Self::spawn_as(variables, &folder.path().join("consumer.log"));
        consumer.is_ready().await;
        Self { _folder: Some(folder), ..consumer }
    }

    /// Starts one with those variables, and does not wait for it.
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
            assert!(self.process.is_running(), "the consumer has ended:\n{}", self.process.printed());
            self.health("ready").await == Some(200)
        })
        .await;
    }

    /// The status of one of its health endpoints; `None` if nobody answers.
    pub async fn health(&self, which: &str) -> Option<u16> {
        let answer = reqwest::get(format!("http://{}/healthz/{which}", self.health)).await;
        answer.ok().map(|answer| answer.status().as_u16())
    }

    /// What a scraper of its metrics gets.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn metrics(&self) -> String {
        let answer = reqwest::get(format!("http://{}/metrics", self.health)).await.expect("an answer");
        answer.text().await.expect("text")
    }
}

/// Runs a stack for as long as this process lives, and returns its address.
///
/// It has a runtime of its own: that of a test would end with the test.
pub fn run_for_all(options: impl AsyncFnOnce() -> Options + Send + 'static) -> Address {
    let (told, tell) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async move {
            let stack = Stack::start(options().await).await.expect("the stack starts");
            let address = Address { websocket: stack.websocket_url(), page: stack.page_url() };
            told.send(address).expect("somebody waits for it");
            std::future::pending::<()>().await;
        });
    });
    tell.recv().expect("the stack did not start")
}

/// Where a stack is.
#[derive(Clone, Debug)]
pub struct Address {
    /// For clients.
    pub websocket: String,
    /// For browsers.
    pub page: String,
}
