//! The consumer's image, pushed to a real registry without Docker.

use std::path::Path;

use kschat_tests::{eventually, free_port, process::Process};
use tempfile::TempDir;

use crate::tools::python;

/// Debian's package of Docker's registry.
const REGISTRY: &str = "docker-registry";

#[tokio::test(flavor = "multi_thread")]
async fn dockerless_image_round_trips_through_registry() {
    let folder = TempDir::with_prefix("kschat-registry-").expect("a temporary folder");
    let port = free_port();
    let settings = [
        ("REGISTRY_HTTP_ADDR", format!("127.0.0.1:{port}")),
        ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", folder.path().join("data").display().to_string()),
    ];
    let configuration = folder.path().join("registry.yml");
    std::fs::write(&configuration, "version: 0.1\nstorage: { filesystem: {} }\nhttp: {}\n").expect("a file");
    let arguments = ["serve", &configuration.display().to_string()];
    let registry = Process::start(Path::new(REGISTRY), &arguments, &settings, &folder.path().join("log"));
    let url = format!("http://127.0.0.1:{port}");
    eventually("the registry answers", async || {
        assert!(registry.is_running(), "the registry has ended:\n{}", registry.output());
        reqwest::get(format!("{url}/v2/")).await.is_ok()
    })
    .await;
    let said = python("tests/infrastructure/image.py", &[&url], &[]).await;
    assert!(said.ends_with("the image came back whole\n"), "{said}");
}
