//! A RabbitMQ node of our own.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{sync::Semaphore, time::timeout};

use crate::{eventually, eventually_within, free_port, process::Process};

/// The server itself: the wrapper in `sbin` would switch the user.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// The tool that tells it what to do.
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";

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
    /// The port of the management API, where there is one.
    management: Option<u16>,
}

impl RabbitMq {
    /// Starts a node.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts a node with the management API, as Amazon MQ has it; returns its address, too.
    pub async fn start_with_management() -> (Self, String) {
        let port = free_port();
        (Self::start_with(Some(port)).await, format!("http://127.0.0.1:{port}"))
    }

    async fn start_with(management: Option<u16>) -> Self {
        let folder = TempDir::with_prefix("kschat-rabbitmq-").expect("a temporary folder");
        let ports = [free_port(), free_port()];
        let mut node = Self { folder, port: free_port(), ports, node: None, management };
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
        let management = |port| format!("management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}\n");
        let listeners = format!("listeners.tcp.1 = 127.0.0.1:{}\n", self.port);
        let settings = listeners + &self.management.map(management).unwrap_or_default();
        std::fs::write(path("rabbitmq.conf"), settings).expect("a file");
        let plugins = self.management.map_or("[].\n", |_| "[rabbitmq_management].\n");
        std::fs::write(path("enabled_plugins"), plugins).expect("a file");
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

    /// Runs the lines of a shell that call `rabbitmqctl`, for this node.
    pub fn control(&self, script: &str) {
        let tools = self.folder.path().join("tools");
        std::fs::create_dir_all(&tools).expect("a folder");
        let tool = tools.join("rabbitmqctl");
        std::fs::write(&tool, format!("#!/bin/sh\nexec {CONTROL} \"$@\"\n")).expect("a file");
        std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
        let path = format!("{}:{}", tools.display(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let mut shell = Command::new("sh");
        shell.env_clear().env("PATH", path).env("HOME", self.folder.path());
        shell.env("ERL_EPMD_PORT", self.ports[1].to_string()).env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        shell.env("RABBITMQ_NODENAME", format!("kschat{}@localhost", self.port));
        // By its standard input, as a person pipes them.
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("sh can be started");
        child.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("the script is read");
        assert!(child.wait().expect("it ends").success(), "{script}");
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("guest", "guest")
    }

    /// Where it is for a user of its own.
    #[must_use]
    pub fn url_of(&self, user: &str, password: &str) -> String {
        format!("amqp://{user}:{password}@127.0.0.1:{}/%2f", self.port)
    }
}
