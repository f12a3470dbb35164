//! The scripts of `tests/clients`, which test with clients that are not written in Rust.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
    time::timeout,
};

/// How long a script may take.
const DEADLINE: Duration = Duration::from_secs(300);

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program that `tests/run` has installed.
///
/// # Panics
/// When it is missing.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    let tool = here().join("../target/tools/bin").join(name);
    assert!(tool.is_file(), "{} is missing; `tests/run` installs what the tests need", tool.display());
    tool
}

/// Where pictures of pages are left, to be looked at.
///
/// # Panics
/// When it can't be made.
#[must_use]
pub fn screenshots() -> PathBuf {
    let folder = here().join("../target/screenshots");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Runs a script to its end; each line of success begins with `ok`, and that many are wanted.
///
/// # Panics
/// When a check fails, or too few were made.
pub async fn run(program: &str, name: &str, arguments: &[String], checks: usize) {
    let unasked = async |request: String| panic!("{name} asks for {request:?}");
    run_with(program, name, arguments, checks, unasked).await;
}

/// The same for a script that asks for something: a line `do WHAT` is given to `act`, and answered when that is done.
///
/// # Panics
/// When a check fails, or too few were made.
pub async fn run_with(
    program: &str,
    name: &str,
    arguments: &[String],
    checks: usize,
    mut act: impl AsyncFnMut(String),
) {
    let mut script = Command::new(tool(program))
        .arg(here().join("clients").join(name))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it can be started");
    let mut answers = script.stdin.take().expect("a pipe");
    let mut lines = BufReader::new(script.stdout.take().expect("a pipe")).lines();
    let mut printed = Vec::new();
    let listening = async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if let Some(request) = line.strip_prefix("do ") {
                act(request.to_owned()).await;
                answers.write_all(b"done\n").await.expect("it listens");
            }
            printed.push(line);
        }
    };
    timeout(DEADLINE, listening).await.expect("it ends in time");
    let output = script.wait_with_output().await.expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    let printed = printed.join("\n");
    assert!(output.status.success(), "{printed}\n{errors}");
    let passed = printed.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(passed >= checks, "{passed} checks of {checks}: {printed}\n{errors}");
}
