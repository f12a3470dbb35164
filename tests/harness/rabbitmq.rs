//! A private RabbitMQ node.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{sync::Semaphore, time::timeout};

use crate::{eventually, eventually_within, free_port, generation::Generation, process::Process};

/// The server itself: the wrapper in `sbin` would switch the user.
const RABBITMQ_SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// The administration tool.
const RABBITMQ_CTL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";

/// The limit that Amazon MQ sets on brokers of RabbitMQ 4.
///
/// Source: Amazon MQ developer guide, "Resource limit defaults": consumers per channel.
const AMAZON_MQ_DEFAULTS: &str = "consumer_max_per_channel = 10\n";

/// Timeout of a start, which takes seven seconds on an idle machine.
const RABBITMQ_START_TIMEOUT: Duration = Duration::from_secs(600);

/// Timeout of a connection.
const RABBITMQ_CTL_TIMEOUT: Duration = Duration::from_secs(15);

/// A node that keeps its data over restarts, until it is dropped.
pub struct RabbitMq {
    folder: TempDir,
    port: u16,
    ports: [u16; 2],
    node: Option<(Process, Process)>,
    plugins: Plugins,
}

/// Ports of the plugins that are enabled.
#[derive(Clone, Copy, Default)]
struct Plugins {
    management: Option<u16>,
    web_mqtt: Option<u16>,
}

impl Plugins {
    fn names(self) -> String {
        let names = [self.management.map(|_| "rabbitmq_management"), self.web_mqtt.map(|_| "rabbitmq_web_mqtt")];
        format!("[{}].\n", names.into_iter().flatten().collect::<Vec<_>>().join(","))
    }

    fn settings(self) -> String {
        let listen = |name: &str, port| format!("{name}.tcp.ip = 127.0.0.1\n{name}.tcp.port = {port}\n");
        let management = self.management.map(|port| listen("management", port));
        // The plugin for plain sockets comes with it, and would take the default port.
        let web_mqtt = self.web_mqtt.map(|port| listen("web_mqtt", port) + "mqtt.listeners.tcp = none\n");
        management.into_iter().chain(web_mqtt).collect()
    }
}

impl RabbitMq {
    /// Starts a node.
    pub async fn start() -> Self {
        Self::start_with(Plugins::default()).await
    }

    /// Starts a node with the management API, as Amazon MQ has it; returns its address, too.
    pub async fn start_with_management() -> (Self, String) {
        let port = free_port();
        let plugins = Plugins { management: Some(port), ..Plugins::default() };
        (Self::start_with(plugins).await, format!("http://127.0.0.1:{port}"))
    }

    /// Starts a node that speaks MQTT over WebSockets, too.
    pub async fn start_with_web_mqtt() -> Self {
        Self::start_with(Plugins { web_mqtt: Some(free_port()), ..Plugins::default() }).await
    }

    async fn start_with(plugins: Plugins) -> Self {
        let folder = Generation::current().folder("kschat-rabbitmq-");
        let ports = [free_port(), free_port()];
        let mut node = Self { folder, port: free_port(), ports, node: None, plugins };
        node.run().await;
        node
    }

    /// Restarts it after [`Self::kill`], on the same data and port.
    pub async fn run(&mut self) {
        // A start takes seconds of CPU time: many concurrent ones would all time out.
        static STARTS: Semaphore = Semaphore::const_new(2);
        let _turn = STARTS.acquire().await.expect("the semaphore is never closed");
        let generation = Generation::current();
        let outside = |name: &str| self.folder.path().join(name);
        let path = |name: &str| generation.inside(&outside(name));
        let [distribution, names] = self.ports;
        // A separate name server, as a shared one would outlive us.
        let epmd_port = names.to_string();
        let epmd = ["-port", epmd_port.as_str(), "-address", "127.0.0.1"];
        let epmd = Process::start(Path::new("epmd"), &epmd, &[], &self.folder.path().join("epmd.log"));
        let listeners = format!("listeners.tcp.1 = 127.0.0.1:{}\n", self.port);
        let limits = if generation.is_newer() { AMAZON_MQ_DEFAULTS } else { "" };
        let settings = listeners + &self.plugins.settings() + limits;
        std::fs::write(outside("rabbitmq.conf"), settings).expect("a file");
        std::fs::write(outside("enabled_plugins"), self.plugins.names()).expect("a file");
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
        let command = generation.command(RABBITMQ_SERVER);
        let arguments: Vec<&str> = command[1..].iter().map(String::as_str).collect();
        let server = Process::start(Path::new(&command[0]), &arguments, &variables, &outside("server.log"));
        eventually_within(RABBITMQ_START_TIMEOUT, &format!("RabbitMQ answers on port {}", self.port), async || {
            assert!(server.is_running(), "RabbitMQ has ended:\n{}", server.output());
            tokio::time::sleep(Duration::from_millis(200)).await;
            let url = self.url();
            let connecting = lapin::Connection::connect(&url, lapin::ConnectionProperties::default());
            // A starting node may accept a connection and never answer.
            matches!(timeout(RABBITMQ_CTL_TIMEOUT, connecting).await, Ok(Ok(_)))
        })
        .await;
        self.node = Some((server, epmd));
    }

    /// Stops it gracefully, as for maintenance.
    pub async fn stop(&mut self) {
        if let Some((server, _)) = &self.node {
            server.signal("TERM");
            eventually("RabbitMQ has stopped", async || !server.is_running()).await;
        }
        self.node = None;
    }

    /// Kills it, as a power cut would.
    pub fn kill(&mut self) {
        self.node = None;
    }

    /// Runs shell lines that call `rabbitmqctl` for this node.
    pub fn control(&self, script: &str) {
        let tools = self.folder.path().join("tools");
        std::fs::create_dir_all(&tools).expect("a folder");
        let tool = tools.join("rabbitmqctl");
        let generation = Generation::current();
        let words: Vec<String> = generation.command(RABBITMQ_CTL).iter().map(|word| format!("'{word}'")).collect();
        std::fs::write(&tool, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "))).expect("a file");
        std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
        let path = format!("{}:{}", tools.display(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let mut shell = Command::new("sh");
        shell.env_clear().env("PATH", path).env("HOME", generation.inside(self.folder.path()));
        shell.env("ERL_EPMD_PORT", self.ports[1].to_string()).env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        shell.env("RABBITMQ_NODENAME", format!("kschat{}@localhost", self.port));
        // Over standard input, as users pipe them.
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("sh can be started");
        child.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("the script is read");
        assert!(child.wait().expect("the script ends").success(), "{script}");
    }

    /// Removes all queues and messages.
    pub fn reset(&self) {
        self.control(
            "set -e\nrabbitmqctl -q delete_vhost /\nrabbitmqctl -q add_vhost /\n\
             rabbitmqctl -q set_permissions -p / guest '.*' '.*' '.*'\n",
        );
    }

    /// CPU time of its processes so far.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.node.as_ref().expect("it runs").0.cpu_time()
    }

    /// Where it speaks MQTT.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn web_mqtt_url(&self) -> String {
        format!("ws://127.0.0.1:{}/ws", self.plugins.web_mqtt.expect("the plugin is enabled"))
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("guest", "guest")
    }

    /// Its URL for that user.
    #[must_use]
    pub fn url_of(&self, user: &str, password: &str) -> String {
        format!("amqp://{user}:{password}@127.0.0.1:{}/%2f", self.port)
    }
}
