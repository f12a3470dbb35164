//! A Redis server of our own.

use std::path::Path;

use tempfile::TempDir;

use crate::{eventually, free_port, process::Process};

/// One server that keeps its data over restarts, until it is dropped.
pub struct Redis {
    folder: TempDir,
    port: u16,
    server: Option<Process>,
}

impl Redis {
    /// Starts a server.
    pub async fn start() -> Self {
        let folder = TempDir::with_prefix("kschat-redis-").expect("a temporary folder");
        let mut redis = Self { folder, port: free_port(), server: None };
        redis.run().await;
        redis
    }

    /// Starts it again after [`Self::kill`], on the same data and port.
    pub async fn run(&mut self) {
        let (port, folder) = (self.port.to_string(), self.folder.path().display().to_string());
        let arguments = [
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--dir",
            &folder,
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ];
        let log = self.folder.path().join("server.log");
        let server = Process::start(Path::new("redis-server"), &arguments, &[], &log);
        let client = redis::Client::open(self.url()).expect("a URL");
        eventually(&format!("Redis answers on port {port}"), async || {
            assert!(server.is_running(), "Redis has ended:\n{}", server.printed());
            let Ok(mut connection) = client.get_multiplexed_async_connection().await else { return false };
            redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
        })
        .await;
        self.server = Some(server);
    }

    /// Makes it lose everything.
    pub async fn flush(&self) {
        let client = redis::Client::open(self.url()).expect("a URL");
        let mut connection = client.get_multiplexed_async_connection().await.expect("it answers");
        // Gone at once; the memory of a million keys is given back later.
        let flushed: String =
            redis::cmd("FLUSHALL").arg("ASYNC").query_async(&mut connection).await.expect("it answers");
        assert_eq!(flushed, "OK");
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
}
