//! The functions as real Lambda binaries, with the real Runtime API of `cargo lambda watch`.

use std::{fs, path::Path, process::Command, sync::Mutex};

use tempfile::TempDir;

use crate::{eventually, free_port, process::Process};

/// An event that every function of the tests can handle.
const WARM_UP_EVENT: &str = r#"{"requestContext":{"connectionId":"wake","connectedAt":0,"requestTimeEpoch":0}}"#;

/// File with the functions' environment variables.
const VARIABLES_FILE: &str = "functions.env";

/// `cargo lambda watch` with the functions of one package.
pub struct Lambda {
    port: u16,
    names: Vec<String>,
    manifest: String,
    watch: Mutex<Process>,
    folder: TempDir,
}

/// Starts it on that port, with the variables in the folder.
fn watch(port: u16, manifest: &str, folder: &TempDir) -> Process {
    let (port, variables) = (port.to_string(), folder.path().join(VARIABLES_FILE).display().to_string());
    let listen = ["lambda", "watch", "-A", "127.0.0.1", "-P", &port, "--ignore-changes"];
    let arguments = [&listen[..], &["--env-file", &variables, "--manifest-path", manifest]].concat();
    Process::start(Path::new("cargo-lambda"), &arguments, &[], &folder.path().join("watch.log"))
}

impl Lambda {
    /// Starts it with kschat's own functions.
    pub async fn start(variables: &[(&str, String)]) -> Self {
        Self::start_in("../functions", &["connect", "disconnect", "send"], variables).await
    }

    /// Starts a package's functions with these variables; returns once every one has answered.
    pub async fn start_in(package: &str, names: &[&str], variables: &[(&str, String)]) -> Self {
        let functions = Path::new(env!("CARGO_MANIFEST_DIR")).join(package);
        // Built in advance with the same features as `watch` selects, as each start runs `cargo run`.
        let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--bins"]).current_dir(&functions).status();
        assert!(built.expect("cargo can be started").success(), "the functions can't be built");
        let folder = TempDir::with_prefix("kschat-lambda-").expect("a temporary folder");
        let lines: Vec<String> = variables.iter().map(|(name, value)| format!("{name}=\"{value}\"\n")).collect();
        fs::write(folder.path().join(VARIABLES_FILE), lines.concat()).expect("a file");
        let (port, manifest) = (free_port(), functions.join("Cargo.toml").display().to_string());
        let watch = Mutex::new(watch(port, &manifest, &folder));
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let lambda = Self { port, names, manifest, watch, folder };
        for function in &lambda.names {
            lambda.wake(function).await;
        }
        lambda
    }

    async fn wake(&self, function: &str) {
        let url = format!("{}/2015-03-31/functions/{function}/invocations", self.url());
        let client = reqwest::Client::new();
        eventually(&format!("the function {function} answers"), async || {
            assert!(self.is_running(), "cargo lambda has ended:\n{}", self.printed());
            let answer = client.post(&url).body(WARM_UP_EVENT).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }

    /// URL for the edge's `--functions`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sends a signal, by name, to every process of a function, as the platform freezes and thaws it.
    pub fn signal(&self, function: &str, name: &str) {
        assert!(self.try_signal(function, name), "the function {function} does not run");
    }

    /// The same for a function that may not run; returns whether it does.
    pub fn try_signal(&self, function: &str, name: &str) -> bool {
        let signal = format!("-{name}");
        let sent = |process: &String| Command::new("kill").args([&signal, process]).status();
        // A process may have ended since it was listed.
        self.processes(function).iter().filter(|process| sent(process).is_ok_and(|sent| sent.success())).count() > 0
    }

    /// Kills all functions during their invocations, and restarts them as the platform does.
    ///
    /// `cargo lambda watch` does not notice that an instance is dead and keeps events for it, so it is restarted, too:
    /// pending calls fail.
    pub fn replace(&self) {
        for function in &self.names {
            self.try_signal(function, "KILL");
        }
        let mut running = self.watch.lock().expect("the lock is not poisoned");
        running.kill();
        *running = watch(self.port, &self.manifest, &self.folder);
    }

    /// Processes of a function that poll our Runtime API.
    fn processes(&self, function: &str) -> Vec<String> {
        let api = format!("AWS_LAMBDA_RUNTIME_API={}/", self.url());
        let is_ours = |folder: &Path| {
            let program = fs::read_link(folder.join("exe")).unwrap_or_default();
            let variables = fs::read(folder.join("environ")).unwrap_or_default();
            // The kernel appends ` (deleted)` to the name when a build replaces the file.
            let name = program.file_name().and_then(|name| name.to_str()?.split(' ').next()).unwrap_or_default();
            name == function && variables.split(|byte| *byte == 0).any(|variable| variable.starts_with(api.as_bytes()))
        };
        let all = fs::read_dir("/proc").expect("processes can be listed");
        let ours = all.flatten().map(|entry| entry.path()).filter(|folder| is_ours(folder));
        ours.filter_map(|folder| Some(folder.file_name()?.to_str()?.to_owned())).collect()
    }

    /// The output of it and of the functions so far.
    #[must_use]
    pub fn printed(&self) -> String {
        self.watch.lock().expect("the lock is not poisoned").output()
    }

    fn is_running(&self) -> bool {
        self.watch.lock().expect("the lock is not poisoned").is_running()
    }
}
