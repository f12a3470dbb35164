//! The servers that are compared.

use std::{path::Path, time::Duration};

use tempfile::TempDir;

use crate::{
    eventually, eventually_within, free_port,
    process::{Process, binary},
    stack::{Consumer, SECRET, Services},
};

/// Timeout of a server's start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// No rate limits, as the clients send as fast as they can; and no log line for each frame, as the others write none.
const SETTINGS: [(&str, &str); 4] =
    [("SEND_RATE", "off"), ("ACK_RATE", "off"), ("CONNECT_RATE", "off"), ("RUST_LOG", "warn")];

/// A server under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Contender {
    /// The kind of server that the Node.js guide builds: Socket.IO and amqplib, nothing is kept.
    Guide,
    /// RabbitMQ's Web-MQTT plugin, quality of service 1.
    WebMqtt,
    /// This project in one process, v1 clients.
    V1,
    /// This project in one process, v2 clients, who acknowledge.
    V2,
    /// This project in one process, Socket.IO clients, who acknowledge.
    SocketIo,
    /// This project in three processes: an edge with functions, and two consumers; v1 clients.
    V1Split,
    /// The same with v2 clients.
    V2Split,
    /// The same with Socket.IO clients.
    SocketIoSplit,
}

/// What the clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Guide,
    Mqtt,
    V1,
    V2,
    SocketIo,
}

impl Contender {
    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guide => "guide",
            Self::WebMqtt => "Web-MQTT QoS 1",
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::SocketIo => "Socket.IO",
            Self::V1Split => "v1, three processes",
            Self::V2Split => "v2, three processes",
            Self::SocketIoSplit => "Socket.IO, three processes",
        }
    }

    /// Whether it stores a message before it confirms it.
    #[must_use]
    pub const fn is_durable(self) -> bool {
        !matches!(self, Self::Guide)
    }

    pub(super) const fn protocol(self) -> Protocol {
        match self {
            Self::Guide => Protocol::Guide,
            Self::WebMqtt => Protocol::Mqtt,
            Self::V1 | Self::V1Split => Protocol::V1,
            Self::V2 | Self::V2Split => Protocol::V2,
            Self::SocketIo | Self::SocketIoSplit => Protocol::SocketIo,
        }
    }
}

/// A running server.
pub(super) struct Server {
    pub(super) url: String,
    processes: Vec<Process>,
    consumers: Vec<Consumer>,
    _folder: TempDir,
}

impl Server {
    /// Starts a contender on empty services.
    pub(super) async fn start(contender: Contender, services: &Services) -> Self {
        let folder = TempDir::with_prefix("kschat-benchmark-").expect("a temporary folder");
        let log = folder.path().join("server.log");
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let mut server = Self { url: String::new(), processes: Vec::new(), consumers: Vec::new(), _folder: folder };
        match contender {
            Contender::WebMqtt => server.url = services.rabbitmq.web_mqtt_url(),
            Contender::Guide => {
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/guide_server.mjs");
                let variables = [("AMQP_URL", services.rabbitmq.url()), ("JWT_SECRET", SECRET.to_owned())];
                let arguments = [script.to_str().expect("a path of text"), &port.to_string()];
                let process = Process::start(Path::new("node"), &arguments, &variables, &log);
                eventually_within(START_TIMEOUT, "the guide's server listens", async || {
                    assert!(process.is_running(), "it has ended:\n{}", process.output());
                    process.output().contains("ready")
                })
                .await;
                server.processes.push(process);
                server.url = format!("ws://{address}/socket.io");
            }
            Contender::V1 | Contender::V2 | Contender::SocketIo => {
                server.run_stack(services, &address, &log, &[]).await;
            }
            Contender::V1Split | Contender::V2Split | Contender::SocketIoSplit => {
                server.run_stack(services, &address, &log, &["--no-consumer"]).await;
                for _ in 0..2 {
                    let callback = format!("http://{address}/dev");
                    server.consumers.push(
                        Consumer::start_with(
                            services,
                            &callback,
                            &SETTINGS.map(|(name, value)| (name, value.to_owned())),
                        )
                        .await,
                    );
                }
            }
        }
        server
    }

    async fn run_stack(&mut self, services: &Services, address: &str, log: &Path, more: &[&str]) {
        let mut variables = services.variables();
        variables.extend(SETTINGS.map(|(name, value)| (name, value.to_owned())));
        let arguments = [&["--listen", address], more].concat();
        let process = Process::start(&binary("kschat"), &arguments, &variables, log);
        eventually("the stack is ready", async || {
            assert!(process.is_running(), "it has ended:\n{}", process.output());
            reqwest::get(format!("http://{address}/healthz/ready")).await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        self.processes.push(process);
        self.url = format!("ws://{address}/dev");
    }

    /// CPU time of its processes so far.
    pub(super) fn cpu_time(&self) -> Duration {
        self.all_processes().map(Process::cpu_time).sum()
    }

    /// Memory of its processes, in bytes.
    pub(super) fn resident_bytes(&self) -> u64 {
        self.all_processes().map(Process::resident_bytes).sum()
    }

    fn all_processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().chain(self.consumers.iter().map(|consumer| &consumer.process))
    }
}
