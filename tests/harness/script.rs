//! Runs the scripts of `tests/clients`, whose clients are not written in Rust.

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

/// Timeout of a script without output: it reports progress.
const MAX_SILENCE: Duration = Duration::from_secs(300);

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

/// Folder of page screenshots for review.
///
/// # Panics
/// When it can't be created.
#[must_use]
pub fn screenshots() -> PathBuf {
    let folder = here().join("../target/screenshots");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Runs a script to its end; each success is a line that begins with `ok`, and their number is checked.
///
/// # Panics
/// When a check fails, or there are too few.
pub async fn run(program: &str, name: &str, arguments: &[String], checks: usize) {
    let unasked = async |request: String| panic!("{name} asks for {request:?}");
    run_with(program, name, arguments, checks, unasked).await;
}

/// The same for a script with requests: a line `do WHAT` is passed to `act`, and answered when that is done.
///
/// # Panics
/// When a check fails, or there are too few.
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
        .expect("the command starts");
    let mut answers = script.stdin.take().expect("a pipe");
    let mut lines = BufReader::new(script.stdout.take().expect("a pipe")).lines();
    let mut printed = Vec::new();
    let listening = async {
        while let Some(line) =
            timeout(MAX_SILENCE, lines.next_line()).await.expect("the script makes progress").expect("text")
        {
            if let Some(request) = line.strip_prefix("do ") {
                act(request.to_owned()).await;
                answers.write_all(b"done\n").await.expect("the script reads its input");
            }
            printed.push(line);
        }
    };
    listening.await;
    let output = script.wait_with_output().await.expect("the script ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    let printed = printed.join("\n");
    assert!(output.status.success(), "{printed}\n{errors}");
    let passed = printed.lines().filter(|line| line.starts_with("ok ")).count();
    assert!(passed >= checks, "{passed} checks of {checks}: {printed}\n{errors}");
}
