//! A whole deployment whose components can be broken under load.

use std::{
    path::PathBuf,
    sync::Mutex as StdMutex,
    time::{Duration, Instant},
};

use kschat::stack::{Options, Stack};
use kschat_edge::Settings;
use kschat_load::ConnectionCutter;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::faults::{Class, Fault};
use crate::{
    EVENTUALLY_TIMEOUT,
    lambda::Lambda,
    rabbitmq::RabbitMq,
    redis::Redis,
    stack::{self, Consumer, Services, options},
};

/// Heartbeat after which the broker drops a silent process.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// The edge's timeout for a function: some freezes are longer.
const INTEGRATION_TIMEOUT: Duration = Duration::from_secs(4);

/// How long the broker runs between two faults: it takes seconds to restart, and meanwhile no other fault is
/// observable.
const MIN_BROKER_UPTIME: Duration = Duration::from_secs(10);

/// Functions whose processes can be broken.
const FUNCTIONS: [&str; 2] = ["send", "connect"];

/// RabbitMQ, Redis, consumers, functions and the edge.
pub struct World {
    /// The edge.
    pub stack: Stack,
    /// Cuts clients' connections.
    pub cutter: ConnectionCutter,
    rabbitmq: Mutex<RabbitMq>,
    /// When the broker was restarted.
    broker_back: StdMutex<Option<Instant>>,
    redis: Mutex<Redis>,
    consumers: Vec<Mutex<Consumer>>,
    lambda: Option<Lambda>,
    variables: Vec<(&'static str, String)>,
    logs: TempDir,
    /// Number of consumers started.
    started: StdMutex<usize>,
    /// Unexpected process exits.
    deaths: StdMutex<Vec<String>>,
    http: reqwest::Client,
}

impl World {
    /// Starts everything, with functions in separate processes or in this one.
    pub async fn start(consumers: usize, has_lambda: bool) -> Self {
        let mut services = Services::start().await;
        services.heartbeat = Some(HEARTBEAT);
        let variables = services.variables();
        let lambda = if has_lambda { Some(Lambda::start(&variables).await) } else { None };
        let edge = Settings { integration_timeout: INTEGRATION_TIMEOUT, ..Settings::default() };
        let backends = if has_lambda { None } else { Some(services.backends()) };
        let functions = lambda.as_ref().map(Lambda::url);
        let options = Options { edge, backends, functions, consumer: false, ..options() };
        let stack = stack::start(options).await;
        let Services { rabbitmq, redis, .. } = services;
        let logs = TempDir::with_prefix("kschat-chaos-").expect("a temporary folder");
        let mut world = Self {
            stack,
            cutter: ConnectionCutter::default(),
            rabbitmq: Mutex::new(rabbitmq),
            broker_back: StdMutex::default(),
            redis: Mutex::new(redis),
            consumers: Vec::new(),
            lambda,
            variables,
            logs,
            started: StdMutex::default(),
            deaths: StdMutex::default(),
            http: reqwest::Client::new(),
        };
        for _ in 0..consumers {
            let consumer = world.consumer();
            consumer.is_ready().await;
            world.consumers.push(Mutex::new(consumer));
        }
        world
    }

    /// Starts a consumer without waiting for it: the broker may be down.
    fn consumer(&self) -> Consumer {
        let mut started = self.started.lock().expect("the lock is not poisoned");
        *started += 1;
        let log = self.logs.path().join(format!("consumer-{started}.log"));
        Consumer::spawn(self.variables.clone(), &self.stack.callback_url(), &log)
    }

    /// Unexpected process exits.
    #[must_use]
    pub fn deaths(&self) -> Vec<String> {
        self.deaths.lock().expect("the lock is not poisoned").clone()
    }

    /// Ends everything; with `keep`, returns where the consumers' logs are kept.
    pub async fn end(self, keep: bool) -> Option<PathBuf> {
        drop(self.consumers);
        self.stack.stop().await;
        keep.then(|| self.logs.keep())
    }

    /// Waits until a fault can be injected.
    pub async fn is_ready_for(&self, fault: &Fault) {
        if !matches!(fault.class, Class::BrokerKill | Class::BrokerStop) {
            return;
        }
        loop {
            let rabbitmq = self.rabbitmq.lock().await;
            let back = *self.broker_back.lock().expect("the lock is not poisoned");
            let left = back.and_then(|back| MIN_BROKER_UPTIME.checked_sub(back.elapsed()));
            drop(rabbitmq);
            match left {
                Some(left) => sleep(left).await,
                None => return,
            }
        }
    }

    async fn restart_broker(&self, lasts: Duration, is_asked: bool) {
        let mut rabbitmq = self.rabbitmq.lock().await;
        if is_asked {
            rabbitmq.stop().await;
        } else {
            rabbitmq.kill();
        }
        sleep(lasts).await;
        rabbitmq.run().await;
        *self.broker_back.lock().expect("the lock is not poisoned") = Some(Instant::now());
    }

    /// Injects a fault, and repairs it. Faults may overlap; those of one component wait for one another.
    pub async fn strike(&self, fault: &Fault) {
        let Fault { class, lasts, share, which } = fault;
        let (lasts, share) = (*lasts, *share);
        match class {
            Class::ConsumerKill => self.replace_consumer(*which, lasts, false).await,
            Class::ConsumerStop => self.replace_consumer(*which, lasts, true).await,
            Class::ConsumerFreeze => {
                let consumer = self.living(*which).await;
                consumer.process.signal("STOP");
                sleep(lasts).await;
                consumer.process.signal("CONT");
            }
            Class::ConsumersGone => self.stop_all_consumers(lasts).await,
            Class::BrokerKill => self.restart_broker(lasts, false).await,
            Class::BrokerStop => self.restart_broker(lasts, true).await,
            Class::RegistryKill => {
                let mut redis = self.redis.lock().await;
                redis.kill();
                sleep(lasts).await;
                redis.run().await;
            }
            Class::RegistryFlush => self.redis.lock().await.flush().await,
            Class::FunctionFreeze => {
                self.signal_functions("STOP");
                sleep(lasts).await;
                self.signal_functions("CONT");
            }
            Class::FunctionKill => self.lambda().replace(),
            Class::PostGone => {
                self.add_temporary_rule(&format!("post=410 share={share}%"), lasts).await;
                // Make the reports true: surviving clients must reconnect.
                self.cutter.cut(1.0);
            }
            Class::PostBusy => self.add_temporary_rule(&format!("post=429 share={share}%"), lasts).await,
            Class::PostFail => self.add_temporary_rule(&format!("post=500 share={share}%"), lasts).await,
            Class::PostSwallow => self.add_temporary_rule(&format!("post=swallow share={share}%"), lasts).await,
            Class::PostSlow => self.add_temporary_rule(&format!("post=delay:700ms share={share}%"), lasts).await,
            Class::DisconnectLost => {
                let cut = async {
                    sleep(lasts / 2).await;
                    self.cutter.cut(share as f64 / 100.0);
                };
                tokio::join!(self.add_temporary_rule("disconnect=drop", lasts), cut);
            }
            Class::InvokeFail => self.add_temporary_rule(&format!("invoke=fail share={share}%"), lasts).await,
            Class::InvokeFreeze => {
                let time = lasts.as_millis();
                self.add_temporary_rule(
                    &format!("invoke=freeze:{time}ms share={share}%"),
                    lasts.max(INTEGRATION_TIMEOUT),
                )
                .await;
            }
            Class::InvokeTwice => self.add_temporary_rule(&format!("invoke=duplicate share={share}%"), lasts).await,
            Class::ClientCut => self.cutter.cut(share as f64 / 100.0),
        }
    }

    /// One of the consumers; a dead one is recorded, and restarted.
    async fn living(&self, which: usize) -> tokio::sync::MutexGuard<'_, Consumer> {
        let mut consumer = self.consumers[which % self.consumers.len()].lock().await;
        if !consumer.process.is_running() {
            let printed = consumer.process.output();
            let last = printed.lines().last().unwrap_or_default();
            let mut deaths = self.deaths.lock().expect("the lock is not poisoned");
            deaths.push(format!("a consumer has ended by itself; its last words: {last}"));
            drop(deaths);
            *consumer = self.consumer();
        }
        consumer
    }

    async fn replace_consumer(&self, which: usize, lasts: Duration, is_asked: bool) {
        let mut consumer = self.living(which).await;
        if is_asked {
            stop(&consumer).await;
        } else {
            consumer.process.kill();
        }
        sleep(lasts).await;
        *consumer = self.consumer();
    }

    async fn stop_all_consumers(&self, lasts: Duration) {
        let mut all = Vec::new();
        for which in 0..self.consumers.len() {
            all.push(self.living(which).await);
        }
        all.iter_mut().for_each(|consumer| consumer.process.kill());
        sleep(lasts).await;
        all.iter_mut().for_each(|consumer| **consumer = self.consumer());
    }

    fn signal_functions(&self, name: &str) {
        for function in FUNCTIONS {
            self.lambda().try_signal(function, name);
        }
    }

    fn lambda(&self) -> &Lambda {
        self.lambda.as_ref().expect("this kind of fault needs function processes")
    }

    /// Activates a fault rule at the edge for that time.
    async fn add_temporary_rule(&self, rule: &str, lasts: Duration) {
        let url = format!("http://{}/_edge/faults", self.stack.address());
        let (kind, body) = ("application/json", json!({ "rule": rule }).to_string());
        let added = self.http.post(&url).header("content-type", kind).body(body).send().await.expect("an answer");
        let added: Value = serde_json::from_slice(&added.bytes().await.expect("a body")).expect("JSON");
        let id = added["id"].as_u64().unwrap_or_else(|| panic!("{rule} is no rule: {added}"));
        sleep(lasts).await;
        self.http.delete(format!("{url}/{id}")).send().await.expect("an answer");
    }
}

/// Asks a consumer to stop, and waits until it has.
async fn stop(consumer: &Consumer) {
    consumer.process.signal("TERM");
    let ended = async {
        while consumer.process.is_running() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(
        timeout(EVENTUALLY_TIMEOUT, ended).await.is_ok(),
        "a consumer does not stop:\n{}",
        consumer.process.output()
    );
}
