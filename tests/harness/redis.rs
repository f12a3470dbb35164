//! A private Redis server.

use std::{path::Path, time::Duration};

use tempfile::TempDir;

use crate::{eventually, free_port, generation::Generation, process::Process};

const REDIS_SERVER: &str = "redis-server";

/// The successor of Redis in newer distributions.
const VALKEY_SERVER: &str = "/usr/bin/valkey-server";

/// A server that keeps its data over restarts, until it is dropped.
pub struct Redis {
    folder: TempDir,
    port: u16,
    /// Whether each change is written to disk before it is confirmed.
    is_durable: bool,
    server: Option<Process>,
}

impl Redis {
    /// Starts a server.
    pub async fn start() -> Self {
        Self::start_with(true).await
    }

    /// Starts a server that keeps nothing on disk, like a managed cache.
    pub async fn start_in_memory() -> Self {
        Self::start_with(false).await
    }

    async fn start_with(is_durable: bool) -> Self {
        let folder = Generation::current().folder("kschat-redis-");
        let mut redis = Self { folder, port: free_port(), is_durable, server: None };
        redis.run().await;
        redis
    }

    /// Restarts it after [`Self::kill`], on the same data and port.
    pub async fn run(&mut self) {
        let generation = Generation::current();
        let (port, folder) = (self.port.to_string(), generation.inside(self.folder.path()));
        let command = generation.command(if generation.is_newer() { VALKEY_SERVER } else { REDIS_SERVER });
        let settings = [
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--dir",
            &folder,
            "--appendonly",
            if self.is_durable { "yes" } else { "no" },
            "--save",
            "",
            "--appendfsync",
            "always",
        ];
        let arguments: Vec<&str> = command[1..].iter().map(String::as_str).chain(settings).collect();
        let log = self.folder.path().join("server.log");
        let server = Process::start(Path::new(&command[0]), &arguments, &[], &log);
        let client = redis::Client::open(self.url()).expect("a URL");
        eventually(&format!("Redis answers on port {port}"), async || {
            assert!(server.is_running(), "Redis has ended:\n{}", server.output());
            let Ok(mut connection) = client.get_multiplexed_async_connection().await else { return false };
            redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
        })
        .await;
        self.server = Some(server);
    }

    /// Requires that password from now on; returns the URL with it.
    pub async fn wants_password(&self, password: &str) -> String {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("Redis answers");
        let set: String = redis::cmd("CONFIG")
            .arg(&["SET", "requirepass", password])
            .query_async(&mut connection)
            .await
            .expect("Redis answers");
        assert_eq!(set, "OK");
        self.url().replace("redis://", &format!("redis://:{password}@"))
    }

    /// For how many seconds a key still lives; negative if it lives for ever or does not exist.
    pub async fn seconds_to_live(&self, key: &str) -> i64 {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("Redis answers");
        redis::cmd("TTL").arg(key).query_async(&mut connection).await.expect("Redis answers")
    }

    /// How many keys match a pattern.
    pub async fn count_keys(&self, pattern: &str) -> usize {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("Redis answers");
        let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.expect("keys");
        keys.len()
    }

    /// Deletes all data.
    pub async fn flush(&self) {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("Redis answers");
        // Asynchronously; the memory of a million keys is freed later.
        let flushed: String =
            redis::cmd("FLUSHALL").arg("ASYNC").query_async(&mut connection).await.expect("Redis answers");
        assert_eq!(flushed, "OK");
    }

    /// Kills it, as a power cut would.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// CPU time of its process so far.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        self.server.as_ref().expect("it runs").cpu_time()
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
}
