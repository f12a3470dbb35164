//! Clients that nobody here wrote, against the local edge.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::{collections::BTreeMap, time::Duration};

use kschat::edge::Settings;
use kschat_tests::{
    edge::{EdgeUnderTest, settings},
    script::{self, tool},
    stack::{SECRET, embedded},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::Command,
    time::timeout,
};

/// How long a client's whole run may take.
const DEADLINE: Duration = Duration::from_secs(150);

/// Runs a script that others' clients take part in against an edge that calls our functions.
async fn unchanged(program: &str, name: &str, edge: &EdgeUnderTest, urls: &[String], checks: usize) {
    script::run(program, name, urls, checks).await;
    assert!(!edge.handed().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_client_sends_acknowledges_reconnects_and_rolls_over() {
    let stack = embedded().await;
    script::run("node", "with_kschat.mjs", &[stack.websocket_url(), SECRET.to_owned()], 141).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_types_of_our_own_client_are_what_it_does() {
    script::run("node", "with_types.mjs", &[], 5).await;
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

/// Passes connections on to the edge under the path of its stage: the fuzzing client knows only `/`.
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
                    // Either side may end it at any time.
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    });
    port
}

/// What a fuzzing client says of a case.
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
    // Framing, pings, reserved bits, opcodes, fragments, UTF-8, closes; not 1.2, binary messages: they are refused.
    for cases in ["1.1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*"] {
        command.args(["-i", cases]);
    }
    let ran =
        timeout(DEADLINE, command.arg("-o").arg(&report).arg(format!("127.0.0.1:{port}")).kill_on_drop(true).output());
    ran.await.expect("it ends in time").expect("it can be started");
    let index = std::fs::read_to_string(report.join("index.json")).expect("a report");
    let index: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_str(&index).expect("JSON");
    let cases = index.into_values().next().expect("one agent");
    assert!(cases.len() >= 235, "{} cases", cases.len());
    let failed: Vec<_> = cases.iter().filter(|(_, case)| !went_well(case)).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
