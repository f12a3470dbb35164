//! Error messages of the `kschat` command.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::{path::Path, process::Command, sync::LazyLock};

use futures_util::StreamExt;
use kschat_tests::{
    EVENTUALLY_TIMEOUT,
    client::{Client, Refused, token},
    edge::EdgeProcess,
    eventually, free_port,
    process::{Process, binary},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// Configuration directory of these tests, instead of the developer's own.
fn settings_folder() -> &'static Path {
    static FOLDER: LazyLock<TempDir> =
        LazyLock::new(|| TempDir::with_prefix("kschat-settings-").expect("a temporary folder"));
    FOLDER.path()
}

/// Runs the command with these arguments and variables; returns exit code and output.
fn kschat(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(binary("kschat"));
    command.env_clear().env("XDG_CONFIG_HOME", settings_folder()).args(arguments).envs(variables.iter().copied());
    let output = command.output().expect("the command starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

#[test]
fn all_invalid_settings_are_reported_without_password() {
    let arguments = ["--amqp-url", "http://me:hunter2@x", "--partitions", "0", "--functions", "http://me:hunter2@x"];
    let (code, text) = kschat(&arguments, &[("REDIS_URL", "rediss//:hunter2@x")]);
    assert_eq!(code, Some(64), "{text}");
    for part in ["AMQP_URL: must be", "REDIS_URL: must be", "PARTITIONS: must be", "--functions: must be"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn non_loopback_listen_requires_own_secret() {
    for secret in ["", " ", "short"] {
        let (code, text) = kschat(&["--listen", "0.0.0.0:0", "--jwt-secret", secret], &[("JWT_SECRET", secret)]);
        assert_eq!(code, Some(64), "{text}");
        assert!(text.contains("JWT_SECRET: 0.0.0.0:0 is not loopback"), "{text}");
    }
}

#[test]
fn remote_component_requires_broker() {
    let (code, text) = kschat(&["--no-consumer"], &[]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("give --amqp-url and --redis-url"), "{text}");
    let (code, text) = kschat(&["--functions", "http://127.0.0.1:9000"], &[("AMQP_URL", "")]);
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("--functions: messages leave"), "{text}");
    let (_, text) = kschat(&[], &[("AMQP_URL", "amqp://127.0.0.1:1")]);
    assert!(text.contains("REDIS_URL: is not set"), "{text}");
}

#[test]
fn unreachable_service_is_named() {
    let (code, text) =
        kschat(&["--amqp-url", "amqp://me:hunter2@127.0.0.1:1", "--redis-url", "redis://127.0.0.1:1"], &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("RabbitMQ at amqp://***@127.0.0.1:1 (AMQP_URL) can't be used"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn token_command_rejects_empty_secret() {
    let (code, built_in) = kschat(&["token", "alice"], &[("JWT_SECRET", "")]);
    assert_eq!(code, Some(0), "{built_in}");
    assert!(built_in.starts_with("ey") && built_in.trim().split('.').count() == 3, "{built_in}");
    for (arguments, hint) in
        [(["token", "alice", "--ttl", "banana"], "30s"), (["token", "alice", "--ttl", "0s"], "30s")]
    {
        let (code, text) = kschat(&arguments, &[]);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(hint), "{text}");
    }
    let (code, text) = kschat(&["--listen", "localhost:3000"], &[]);
    assert!(code == Some(2) && text.contains("such as 127.0.0.1:3000"), "{text}");
}

#[test]
fn unreadable_routes_file_error_shows_fix() {
    let folder = TempDir::with_prefix("kschat-routes-").expect("a temporary folder");
    let file = folder.path().join("routes.yaml");
    let routes = file.display().to_string();
    let edge = |routes: &str| kschat(&["edge", "--functions", "http://127.0.0.1:9000", "--routes", routes], &[]);
    for (content, problem) in [
        ("routes: { send: {} }", "each route needs either `function` or `mock`"),
        ("routes: { $conect: { function: f } }", "`$conect` is not a route key"),
        ("Resources: {}", "neither `routes` nor a WebSocket API"),
        ("", "the file is empty"),
    ] {
        std::fs::write(&file, content).expect("a file");
        let (code, text) = edge(&routes);
        assert!(code == Some(64) && text.contains(problem), "{problem}: {text}");
    }
    let (code, text) = edge("nowhere.yaml");
    assert!(code == Some(64) && text.contains("--routes: can't read nowhere.yaml"), "{text}");
}

#[test]
fn invalid_edge_option_error_shows_fix() {
    for (option, value, hint) in [
        ("--fault", "post=411", "post=410|429|500"),
        ("--idle", "soon", "30s"),
        ("--time-scale", "0", "from 1 to 1000000"),
        ("--route-selection", "body.action", "$request.body.action"),
        ("--stage", "a/b", "letters, digits"),
        ("--max-frame", "124", "from 125 to"),
        ("--timeout-close-code", "1006", "3000 to 4999"),
        ("--idle", "300000000000y", "at most ten years"),
        ("--stage", "_edge", "choose another"),
    ] {
        let (code, text) = kschat(&["edge", "--functions", "http://127.0.0.1:9000", option, value], &[]);
        assert!(code == Some(2) && text.contains(hint), "{option}: {text}");
    }
    let (code, text) = kschat(&["edge", "--functions", "ftp://me:hunter2@x", "--log", "xml"], &[]);
    assert_eq!(code, Some(64), "{text}");
    assert!(
        text.contains("--functions: must be") && text.contains("LOG_FORMAT: must be") && !text.contains("hunter2"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_option_closes_1001_and_logs_json() {
    let routes = concat!(env!("CARGO_MANIFEST_DIR"), "/edge/idle.yaml");
    // A tenth of a second.
    let clocks = ["--idle", "6s", "--time-scale", "60", "--log", "json"];
    let edge = EdgeProcess::start("http://127.0.0.1:1", routes, &clocks).await;
    let url = format!("ws://{}/dev", edge.address);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("the handshake succeeds");
    match timeout(EVENTUALLY_TIMEOUT, socket.next()).await.expect("the socket is closed") {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1001),
        other => panic!("{other:?}"),
    }
    eventually("the log tells of it", async || {
        let closes = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            line["message"] == "close" && line["status"] == 1001
        };
        edge.process.output().lines().any(closes)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_shutdown_closes_clients() {
    let routes = concat!(env!("CARGO_MANIFEST_DIR"), "/edge/idle.yaml");
    let edge = EdgeProcess::start("http://127.0.0.1:1", routes, &[]).await;
    let url = format!("ws://{}/dev", edge.address);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("the handshake succeeds");
    edge.process.signal("TERM");
    match timeout(EVENTUALLY_TIMEOUT, socket.next()).await.expect("the socket is closed") {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1001),
        other => panic!("{other:?}"),
    }
    eventually("it has ended", async || !edge.process.is_running()).await;
}

/// The secret that was once published in the source.
const PUBLISHED: &str = "kschat-local-development-only";

#[tokio::test(flavor = "multi_thread")]
async fn token_of_other_machine_is_refused() {
    let folders = [(); 2].map(|()| TempDir::with_prefix("kschat-settings-").expect("a temporary folder"));
    let [mine, other] = folders.each_ref().map(|folder| folder.path().display().to_string());
    let address = format!("127.0.0.1:{}", free_port());
    let log = folders[0].path().join("kschat.log");
    let variables = [("XDG_CONFIG_HOME", mine.clone()), ("JWT_SECRET", String::new())];
    let stack = Process::start(&binary("kschat"), &["--listen", &address], &variables, &log);
    eventually("the stack listens", async || {
        assert!(stack.is_running(), "the stack has ended:\n{}", stack.output());
        tokio::net::TcpStream::connect(&address).await.is_ok()
    })
    .await;
    let url = format!("ws://{address}/dev");
    let token_of = |folder: &str| kschat(&["token", "alice"], &[("XDG_CONFIG_HOME", folder)]).1.trim().to_owned();
    for forged in [token(PUBLISHED, "alice"), token_of(&other)] {
        assert_eq!(Client::connect_v2(&url, &forged, "alice").await.err(), Some(Refused(401)));
    }
    assert!(Client::connect_v2(&url, &token_of(&mine), "alice").await.is_ok());

    // The page has tokens for this machine, and not for remote clients of a tunnel.
    let asked = |header: Option<&str>| {
        let request = reqwest::Client::new().get(format!("http://{address}/token?uid=alice"));
        header.into_iter().fold(request, |request, name| request.header(name, "192.0.2.7")).send()
    };
    let given = asked(None).await.expect("an answer").text().await.expect("a token");
    assert!(Client::connect_v2(&url, given.trim(), "alice").await.is_ok());
    for name in ["x-forwarded-for", "x-forwarded-host", "forwarded", "via", "cf-connecting-ip"] {
        let refused = asked(Some(name)).await.expect("an answer");
        assert_eq!(refused.status(), 403, "{name}");
        assert!(refused.text().await.expect("a reason").contains("a proxy or a tunnel"), "{name}");
    }
}

#[test]
fn settings_of_parts_are_private_and_agree() {
    let (code, functions) = kschat(&["env", "functions"], &[]);
    assert_eq!(code, Some(0), "{functions}");
    let names: Vec<&str> = functions.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert_eq!(names, ["AMQP_URL", "JWT_SECRET", "MESSAGE_ID_KEY", "REDIS_URL"]);
    let (_, again) = kschat(&["env", "functions"], &[]);
    assert_eq!(functions, again);
    let (_, consumer) = kschat(&["env", "consumer"], &[]);
    assert!(
        consumer.contains("CALLBACK_URL=\"http://127.0.0.1:3000/dev\"\n") && !consumer.contains("JWT"),
        "{consumer}"
    );
    let (_, given) = kschat(&["env", "consumer"], &[("AMQP_URL", "amqp://me:hunter2@broker/%2f")]);
    assert!(given.contains("AMQP_URL=\"amqp://me:hunter2@broker/%2f\"\n"), "{given}");

    let folder = TempDir::with_prefix("kschat-env-").expect("a temporary folder");
    let file = folder.path().join("functions.env");
    std::fs::write(&file, "old").expect("a file");
    let (code, text) = kschat(&["env", "functions", "--output", &file.display().to_string()], &[]);
    assert_eq!((code, text.as_str()), (Some(0), ""));
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), functions);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("a file").permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn invalid_origin_option_error_shows_fix() {
    let (code, text) =
        kschat(&["edge", "--functions", "http://127.0.0.1:9000", "--allow-origin", "app.example/chat"], &[]);
    assert!(code == Some(2) && text.contains("https://app.example"), "{text}");
}
