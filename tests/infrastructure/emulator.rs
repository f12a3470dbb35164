//! The stacks, deployed by `kschat-aws` to an emulator of CloudFormation, with our real programs.

use std::{path::Path, process::Command};

use kschat_tests::{
    client::{Client, token},
    eventually, free_port,
    process::{Process, binary},
    stack::{Consumer, SECRET, Services, unique_user},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::tools::{python, root, tool};

const PROGRAM: &str = "tests/infrastructure/emulate.py";

/// An AWS emulator on a free port.
struct Emulator {
    port: u16,
    folder: TempDir,
    process: Process,
    variables: Vec<(&'static str, String)>,
}

impl Emulator {
    /// Starts it with the addresses of these services.
    async fn start(services: &Services) -> Self {
        let folder = TempDir::with_prefix("kschat-emulator-").expect("a temporary folder");
        let (port, home) = (free_port(), folder.path().display().to_string());
        let settings = [
            ("BIND_HOST", "127.0.0.1".to_owned()),
            ("GATEWAY_PORT", port.to_string()),
            ("LAMBDA_EXECUTOR", "local".to_owned()),
            ("PERSIST_STATE", "0".to_owned()),
            ("HOME", home.clone()),
            ("TMPDIR", home),
        ];
        let log = folder.path().join("emulator.log");
        let process = Process::start(&tool("ministack", "ministack"), &[], &settings, &log);
        let mut variables = services.variables();
        variables.push(("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")));
        let made_up = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        variables.extend(made_up.map(|name| (name, "test".to_owned())));
        variables.push(("AWS_DEFAULT_REGION", "us-east-1".to_owned()));
        let emulator = Self { port, folder, process, variables };
        eventually("the emulator answers", async || {
            assert!(emulator.process.is_running(), "the emulator has ended:\n{}", emulator.process.output());
            reqwest::get(format!("http://127.0.0.1:{port}/_ministack/health")).await.is_ok()
        })
        .await;
        emulator
    }

    /// Folder of the functions.
    fn functions(&self) -> String {
        self.folder.path().join("functions").display().to_string()
    }

    async fn run(&self, verb: &str, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = [verb].into_iter().chain(arguments.iter().copied()).collect();
        let said = python(PROGRAM, &arguments, &self.variables).await;
        serde_json::from_str(&said).expect("output in JSON")
    }

    /// The WebSocket and connections API URLs of a deployment.
    fn urls(&self, outputs: &Value) -> (String, String) {
        let text = |name: &str| outputs[name].as_str().expect("an output").to_owned();
        let place = format!("127.0.0.1:{}/_aws/execute-api/{}/{}", self.port, text("ApiId"), text("StageName"));
        (format!("ws://{place}"), format!("http://{place}"))
    }
}

/// Copies the functions, without debug information, to where a deployment reads them.
fn put_functions(folder: &Path) {
    for name in ["connect", "disconnect", "send"] {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let stripped = Command::new("strip").arg("-o").arg(folder.join("bootstrap")).arg(binary(name)).status();
        assert!(stripped.expect("strip can be started").success());
    }
}

async fn connect(url: &str, user: &str) -> Client {
    // The emulator answers no subprotocol, so the token is in the query.
    let query = format!("token={}", token(SECRET, user));
    Client::connect(url, &query, user).await.expect("the handshake succeeds")
}

/// The environment of the consumer's task as ECS would set it, except for the connections API's address.
async fn task(emulator: &Emulator, outputs: &Value, callback: String) -> Vec<(String, String)> {
    let task = emulator.run("task", &[]).await;
    let task = task.as_object().expect("an environment");
    assert_eq!(task["CALLBACK_URL"], outputs["CallbackUrl"]);
    let own = task.iter().filter(|(name, _)| !["CALLBACK_URL", "HEALTH_ADDR"].contains(&name.as_str()));
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    own.map(|(name, value)| (name.clone(), text(value))).chain([("CALLBACK_URL".to_owned(), callback)]).collect()
}

/// Two clients chat before and after an update of the deployment.
async fn chats_and_is_updated(emulator: &Emulator, functions: &str, outputs: &Value, url: &str) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(url, &a).await, connect(url, &b).await);
    alice.deliver(&b, "hello").await;
    assert_eq!(bob.texts(1).await, ["hello"]);
    bob.deliver(&a, "and back").await;
    assert_eq!(alice.texts(1).await, ["and back"]);
    alice.deliver(&unique_user("unknown"), "anybody there?").await;
    let forged = format!("token={}", token("another secret", &a));
    assert!(Client::connect(url, &forged, &a).await.is_err());

    // One setting changes: a new version goes live, and the API keeps its URL.
    let after = emulator.run("update", &[functions, "UnknownRecipient=refuse"]).await;
    assert_eq!(after["WebSocketUrl"], outputs["WebSocketUrl"]);
    assert_eq!(alice.send(&unique_user("unknown"), "anybody there?").await["ER"], 10);
    alice.deliver(&b, "still here?").await;
    assert_eq!(bob.texts(1).await, ["still here?"]);

    // Rollback: the previous version is live again.
    emulator.run("rollback", &[functions]).await;
    alice.deliver(&unique_user("unknown"), "anybody there?").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cloudformation_deployment_full_lifecycle() {
    let services = Services::start().await;
    let emulator = Emulator::start(&services).await;
    let functions = emulator.functions();
    put_functions(Path::new(&functions));

    let outputs = emulator.run("deploy", &[&functions]).await;
    let (url, callback) = emulator.urls(&outputs);
    let settings = task(&emulator, &outputs, callback).await;
    let settings: Vec<(&str, String)> = settings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    let _consumer = Consumer::start_as(&settings).await;

    chats_and_is_updated(&emulator, &functions, &outputs, &url).await;
    emulator.run("destroy", &[&functions]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "by hand: the emulator closes a connection now and then, and the provider then creates something twice"]
async fn terraform_deployment_applies_and_destroys() {
    python("tests/infrastructure/terraform_emulate.py", &[], &[]).await;
}

/// The release as it is deployed: zips of `cargo lambda build`, and the consumer alone in its image, run as its user.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "`tests/run-release` builds what it needs, which takes half an hour"]
async fn release_artifacts_serve_chat() {
    let services = Services::start().await;
    let emulator = Emulator::start(&services).await;
    let functions = root().join("target/release-functions").display().to_string();
    let image = root().join("target/image-root");
    // The image contains an emulator if its programs are for another processor.
    let emulated = image.join("emulator").is_file().then_some("/emulator");
    let image = image.display().to_string();
    let inside = |arguments: &[&'static str]| -> Vec<String> {
        let start = ["--userspec=65532:65532", &image].into_iter().chain(emulated);
        start.chain(arguments.iter().copied()).map(str::to_owned).collect()
    };

    let outputs = emulator.run("deploy", &[&functions]).await;
    let (url, callback) = emulator.urls(&outputs);
    let settings = task(&emulator, &outputs, callback).await;
    let health = format!("127.0.0.1:{}", free_port());
    let mut settings: Vec<(&str, String)> =
        settings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    settings.push(("HEALTH_ADDR", health.clone()));
    let log = emulator.folder.path().join("consumer.log");
    let started = inside(&["/consumer"]);
    let started: Vec<&str> = started.iter().map(String::as_str).collect();
    let consumer = Process::start(Path::new("chroot"), &started, &settings, &log);
    eventually("the image's own probe says that the consumer is ready", async || {
        assert!(consumer.is_running(), "the consumer has ended:\n{}", consumer.output());
        let probe = inside(&["/probe"]).into_iter().chain([health.clone(), "/healthz/ready".to_owned()]);
        Command::new("chroot").args(probe).status().expect("chroot can be started").success()
    })
    .await;

    chats_and_is_updated(&emulator, &functions, &outputs, &url).await;
    emulator.run("destroy", &[&functions]).await;
}
