//! A RabbitMQ node of our own.

use std::{path::Path, time::Duration};

use tempfile::TempDir;
use tokio::{sync::Semaphore, time::timeout};

use crate::{eventually, eventually_within, free_port, process::Process};

/// The server itself: the wrapper in `sbin` would switch the user.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// How long a start may take: seven seconds, on a machine that does nothing else.
const START: Duration = Duration::from_secs(120);

/// How long a connection may take.
const ANSWER: Duration = Duration::from_secs(3);

/// One node that keeps its data over restarts, until it is dropped.
pub struct RabbitMq {
    folder: TempDir,
    port: u16,
    ports: [u16; 2],
    node: Option<(Process, Process)>,
}

impl RabbitMq {
    /// Starts a node.
    pub async fn start() -> Self {
        let folder = TempDir::with_prefix("kschat-rabbitmq-").expect("a temporary folder");
        let mut node = Self { folder, port: free_port(), ports: [free_port(), free_port()], node: None };
        node.run().await;
        node
    }

    /// Starts it again after [`Self::kill`], on the same data and port.
    pub async fn run(&mut self) {
        // A start takes seconds of a processor: many at once would all be late.
        static STARTS: Semaphore = Semaphore::const_new(2);
        let _turn = STARTS.acquire().await.expect("it is never closed");
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let [distribution, names] = self.ports;
        // Its own name server, as a shared one would outlive us.
        let epmd_port = names.to_string();
        let epmd = ["-port", epmd_port.as_str(), "-address", "127.0.0.1"];
        let epmd = Process::start(Path::new("epmd"), &epmd, &[], &self.folder.path().join("epmd.log"));
        std::fs::write(path("rabbitmq.conf"), format!("listeners.tcp.1 = 127.0.0.1:{}\n", self.port)).expect("a file");
        std::fs::write(path("enabled_plugins"), "[].\n").expect("a file");
        let variables = [
            ("HOME", path("")),
            ("ERL_EPMD_PORT", epmd_port.clone()),
            ("RABBITMQ_NODENAME", format!("kschat{}@localhost", self.port)),
            ("RABBITMQ_DIST_PORT", distribution.to_string()),
            ("RABBITMQ_MNESIA_BASE", path("data")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_PID_FILE", path("pid")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
            ("RABBITMQ_GENERATED_CONFIG_DIR", path("config")),
            ("RABBITMQ_FEATURE_FLAGS_FILE", path("feature_flags")),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
        ];
        let server = Process::start(Path::new(SERVER), &[], &variables, &self.folder.path().join("server.log"));
        eventually_within(START, &format!("RabbitMQ answers on port {}", self.port), async || {
            assert!(server.is_running(), "RabbitMQ has ended:\n{}", server.printed());
            tokio::time::sleep(Duration::from_millis(200)).await;
            let url = self.url();
            let connecting = lapin::Connection::connect(&url, lapin::ConnectionProperties::default());
            // A node that is just starting may take a connection and never say a word.
            matches!(timeout(ANSWER, connecting).await, Ok(Ok(_)))
        })
        .await;
        self.node = Some((server, epmd));
    }

    /// Ends it in good order, as for maintenance.
    pub async fn stop(&mut self) {
        if let Some((server, _)) = &self.node {
            server.signal("TERM");
            eventually("RabbitMQ has stopped", async || !server.is_running()).await;
        }
        self.node = None;
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.node = None;
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }
}
