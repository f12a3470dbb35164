//! Chromium, driven by WebDriver.

use std::path::Path;

use fantoccini::{Client, ClientBuilder, error::NewSessionError};
use serde_json::json;
use tempfile::TempDir;

use crate::{eventually, free_port, process::Process};

/// A browser driver that opens windows.
pub struct Browser {
    url: String,
    folder: TempDir,
    _driver: Process,
}

impl Browser {
    /// Starts the driver.
    pub async fn start() -> Self {
        let folder = TempDir::with_prefix("kschat-browser-").expect("a temporary folder");
        let port = free_port();
        let log = folder.path().join("driver.log");
        let driver = Process::start(Path::new("chromedriver"), &[&format!("--port={port}")], &[], &log);
        let url = format!("http://127.0.0.1:{port}");
        eventually("the browser's driver answers", async || reqwest::get(format!("{url}/status")).await.is_ok()).await;
        Self { url, folder, _driver: driver }
    }

    /// Opens a window with a separate profile.
    pub async fn window(&self, name: &str, width: u32, height: u32) -> Client {
        let mut started = self.try_window(name, width, height).await;
        // On a busy machine the driver may give up.
        for attempt in 2..=3 {
            if started.is_err() {
                started = self.try_window(&format!("{name}-{attempt}"), width, height).await;
            }
        }
        let window = started.expect("Chromium starts");
        window.set_window_size(width, height).await.expect("a window has a size");
        window
    }

    async fn try_window(&self, name: &str, width: u32, height: u32) -> Result<Client, NewSessionError> {
        let profile = self.folder.path().join(name);
        let arguments = json!([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", profile.display()),
        ]);
        let options = json!({ "args": arguments });
        let logging = json!({ "browser": "ALL" });
        // Of scripts, in milliseconds.
        let timeouts = json!({ "script": 120_000 });
        let capabilities = [("goog:chromeOptions", options), ("goog:loggingPrefs", logging), ("timeouts", timeouts)];
        ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities.map(|(name, value)| (name.to_owned(), value)).into_iter().collect())
            .connect(&self.url)
            .await
    }
}
