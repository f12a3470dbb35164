//! The consumer's image, pushed to a real registry without Docker.

use std::path::Path;

use kschat_tests::{eventually, free_port, process::Process};
use tempfile::TempDir;

use crate::tools::python;

/// Debian's build of the registry that Docker's makers publish.
const REGISTRY: &str = "docker-registry";

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_made_without_docker_is_taken_by_a_registry_and_comes_back_whole() {
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
        assert!(registry.is_running(), "it has ended:\n{}", registry.printed());
        reqwest::get(format!("{url}/v2/")).await.is_ok()
    })
    .await;
    let said = python("tests/infrastructure/image.py", &[&url], &[]).await;
    assert!(said.ends_with("the image came back whole\n"), "{said}");
}
