//! Third-party clients against the local edge.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::{collections::BTreeMap, time::Duration};

use kschat::stack::Options;
use kschat_edge::Settings;
use kschat_tests::{
    edge::{EdgeUnderTest, settings},
    script::{self, tool},
    stack::{self, SECRET, embedded, options},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::Command,
    time::timeout,
};

/// Timeout of a client's whole run.
const CLIENT_SCRIPT_TIMEOUT: Duration = Duration::from_secs(900);

/// Runs a script with third-party clients against an edge with our functions.
async fn unchanged(program: &str, name: &str, edge: &EdgeUnderTest, urls: &[String], checks: usize) {
    script::run(program, name, urls, checks).await;
    assert!(!edge.handed().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn kschat_client_passes_its_suite() {
    let stack = embedded().await;
    script::run("node", "with_kschat.mjs", &[stack.websocket_url(), SECRET.to_owned()], 145).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_with_failing_surroundings_loses_nothing_and_says_why() {
    let stack = embedded().await;
    script::run("node", "with_faults.mjs", &[stack.websocket_url(), SECRET.to_owned()], 175).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn room_message_during_restart_is_sent_after_the_room_is_restored() {
    let start = async |listen| stack::start(Options { listen, ..options() }).await;
    let first = start(options().listen).await;
    let address = first.address();
    let arguments = [first.websocket_url(), SECRET.to_owned(), "restarting".to_owned()];
    let mut stack = Some(first);
    script::run_with("node", "with_faults.mjs", &arguments, 3, async |request| match stack.take() {
        Some(running) if request == "stop" => running.stop().await,
        None if request == "start" => stack = Some(start(address).await),
        _ => panic!("{request} in the wrong order"),
    })
    .await;
    stack.expect("a restarted stack").stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_types_match_implementation() {
    script::run("node", "with_types.mjs", &[], 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_package_is_packed_installed_and_imported() {
    script::run("node", "with_package.mjs", &[], 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn react_hooks_work_in_strict_mode_and_hot_reload() {
    let stack = embedded().await;
    script::run("node", "with_react.mjs", &[stack.websocket_url(), SECRET.to_owned()], 31).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn test_server_behaves_as_the_stack() {
    let stack = embedded().await;
    script::run("node", "with_testing.mjs", &[stack.websocket_url(), SECRET.to_owned()], 38).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_models_read_every_golden_frame() {
    script::run("python", "with_models.py", &[], 87).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guide_samples_work_while_connections_break() {
    let stack = embedded().await;
    script::run("python", "with_guides.py", &[stack.websocket_url(), SECRET.to_owned()], 6).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_works_unchanged() {
    let edge = EdgeUnderTest::start(settings()).await;
    unchanged("python", "with_boto3.py", &edge, &[edge.websocket(), edge.callback()], 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_websockets_works_unchanged() {
    let edge = EdgeUnderTest::start(settings()).await;
    unchanged("python", "with_websockets.py", &edge, &[edge.websocket()], 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_javascript_sdk_works_unchanged() {
    let edge = EdgeUnderTest::start(settings()).await;
    unchanged("node", "with_sdk.mjs", &edge, &[edge.websocket(), edge.callback()], 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wscat_works_unchanged() {
    let edge = EdgeUnderTest::start(settings()).await;
    unchanged("node", "with_wscat.mjs", &edge, &[edge.websocket()], 3).await;
}

/// Proxies connections from `/` to the edge's stage path: the fuzzing client only knows `/`.
async fn at_the_root(edge: &EdgeUnderTest) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let address = edge.address;
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut line = [0; "GET / ".len()];
                let Ok(mut far) = TcpStream::connect(address).await else { return };
                if near.read_exact(&mut line).await.is_ok() && far.write_all(b"GET /dev ").await.is_ok() {
                    // Either side may close it at any time.
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    port
}

/// Whether the fuzzing client's case passed.
fn went_well(case: &Value) -> bool {
    let is = |key: &str, fine: &[&str]| fine.contains(&case[key].as_str().unwrap_or_default());
    is("behavior", &["OK", "NON-STRICT", "INFORMATIONAL"]) && is("behaviorClose", &["OK", "INFORMATIONAL"])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_autobahn_cases_pass() {
    // The suite sends frames of 64 KB and messages of 256 KB.
    let edge = EdgeUnderTest::start(Settings { max_frame: 1 << 20, max_message: 1 << 20, ..settings() }).await;
    let (folder, port) = (TempDir::with_prefix("kschat-autobahn-").expect("a folder"), at_the_root(&edge).await);
    let report = folder.path().join("report");
    let mut command = Command::new(tool("kosoku"));
    // Framing, pings, reserved bits, opcodes, fragments, UTF-8, closes; not 1.2, binary messages, which are rejected.
    for cases in ["1.1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*"] {
        command.args(["-i", cases]);
    }
    let ran = timeout(
        CLIENT_SCRIPT_TIMEOUT,
        command.arg("-o").arg(&report).arg(format!("127.0.0.1:{port}")).kill_on_drop(true).output(),
    );
    ran.await.expect("the client ends in time").expect("the command starts");
    let index = std::fs::read_to_string(report.join("index.json")).expect("a report");
    let index: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_str(&index).expect("JSON");
    let cases = index.into_values().next().expect("one agent");
    assert!(cases.len() >= 235, "{} cases", cases.len());
    let failed: Vec<_> = cases.iter().filter(|(_, case)| !went_well(case)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
