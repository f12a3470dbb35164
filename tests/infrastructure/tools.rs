//! Python programs of these tests and of the deployment, with the tools that `tests/run` installs.

use std::path::{Path, PathBuf};

use tokio::process::Command;

/// The project's folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the project").to_owned()
}

/// Path of a tool in that environment.
pub(crate) fn tool(environment: &str, name: &str) -> PathBuf {
    let path = root().join("target/tools").join(environment).join("bin").join(name);
    assert!(path.is_file(), "{} is missing; `tests/run` installs what the tests need", path.display());
    path
}

/// Runs a Python program of the project and returns its output.
///
/// # Panics
/// With its output, when it fails.
pub(crate) async fn python(program: &str, arguments: &[&str], variables: &[(&str, String)]) -> String {
    let python = tool("infrastructure", "python");
    let tools = python.parent().expect("a folder");
    let path = format!("{}:{}", tools.display(), path());
    let mut command = Command::new(&python);
    command.arg(root().join(program)).args(arguments).current_dir(root()).env("PATH", path);
    let done =
        command.envs(variables.iter().cloned()).kill_on_drop(true).output().await.expect("python can be started");
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{program} {arguments:?} has failed:\n{out}\n{err}");
    out.into_owned()
}

#[expect(clippy::disallowed_methods, reason = "child processes find programs as we do")]
fn path() -> String {
    std::env::var("PATH").expect("a PATH")
}
