//! The functions as real Lambda binaries, behind the real Runtime API of `cargo lambda watch`.

use std::{fs, path::Path, process::Command, sync::Mutex};

use tempfile::TempDir;

use crate::{eventually, free_port, process::Process};

/// An event that every function of the tests can answer.
const WAKE: &str = r#"{"requestContext":{"connectionId":"wake","connectedAt":0,"requestTimeEpoch":0}}"#;

/// The file of the functions' variables.
const VARIABLES: &str = "functions.env";

/// `cargo lambda watch` with the functions of one package.
pub struct Lambda {
    port: u16,
    names: Vec<String>,
    manifest: String,
    watch: Mutex<Process>,
    folder: TempDir,
}

/// Starts it on that port, with the variables that lie in the folder.
fn watch(port: u16, manifest: &str, folder: &TempDir) -> Process {
    let (port, variables) = (port.to_string(), folder.path().join(VARIABLES).display().to_string());
    let listen = ["lambda", "watch", "-A", "127.0.0.1", "-P", &port, "--ignore-changes"];
    let arguments = [&listen[..], &["--env-file", &variables, "--manifest-path", manifest]].concat();
    Process::start(Path::new("cargo-lambda"), &arguments, &[], &folder.path().join("watch.log"))
}

impl Lambda {
    /// Starts it with kschat's own functions.
    pub async fn start(variables: &[(&str, String)]) -> Self {
        Self::start_in("../functions", &["connect", "disconnect", "send"], variables).await
    }

    /// Starts it in that folder with those variables for the functions; returns once every one has answered.
    pub async fn start_in(package: &str, names: &[&str], variables: &[(&str, String)]) -> Self {
        let functions = Path::new(env!("CARGO_MANIFEST_DIR")).join(package);
        // Built beforehand and with the selection of features that `watch` uses, as each start runs `cargo run`.
        let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--bins"]).current_dir(&functions).status();
        assert!(built.expect("cargo can be started").success(), "the functions can't be built");
        let folder = TempDir::with_prefix("kschat-lambda-").expect("a temporary folder");
        let lines: Vec<String> = variables.iter().map(|(name, value)| format!("{name}=\"{value}\"\n")).collect();
        fs::write(folder.path().join(VARIABLES), lines.concat()).expect("a file");
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
            let answer = client.post(&url).body(WAKE).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }

    /// What the edge is told by `--functions`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sends a signal, by name, to every process of a function, as the platform freezes and thaws it.
    pub fn signal(&self, function: &str, name: &str) {
        assert!(self.try_signal(function, name), "the function {function} does not run");
    }

    /// The same, where it may be that none runs; says whether one did.
    pub fn try_signal(&self, function: &str, name: &str) -> bool {
        let signal = format!("-{name}");
        let sent = |process: &String| Command::new("kill").args([&signal, process]).status();
        // One may have ended since they were listed.
        self.processes(function).iter().filter(|process| sent(process).is_ok_and(|sent| sent.success())).count() > 0
    }

    /// Kills all functions with the events in their hands, and has others in their place as the platform does.
    ///
    /// `cargo lambda watch` never notices that an instance is dead and keeps events for it, so it is started anew, too:
    /// whoever has called it hears that the call failed.
    pub fn replace(&self) {
        for function in &self.names {
            self.try_signal(function, "KILL");
        }
        let mut running = self.watch.lock().expect("no test panics here");
        running.kill();
        *running = watch(self.port, &self.manifest, &self.folder);
    }

    /// The processes of a function that poll our own Runtime API.
    fn processes(&self, function: &str) -> Vec<String> {
        let api = format!("AWS_LAMBDA_RUNTIME_API={}/", self.url());
        let is_ours = |folder: &Path| {
            let program = fs::read_link(folder.join("exe")).unwrap_or_default();
            let variables = fs::read(folder.join("environ")).unwrap_or_default();
            // A build that replaces the file meanwhile leaves ` (deleted)` behind its name.
            let name = program.file_name().and_then(|name| name.to_str()?.split(' ').next()).unwrap_or_default();
            name == function && variables.split(|byte| *byte == 0).any(|variable| variable.starts_with(api.as_bytes()))
        };
        let all = fs::read_dir("/proc").expect("processes can be listed");
        let ours = all.flatten().map(|entry| entry.path()).filter(|folder| is_ours(folder));
        ours.filter_map(|folder| Some(folder.file_name()?.to_str()?.to_owned())).collect()
    }

    /// What it and the functions have printed so far.
    #[must_use]
    pub fn printed(&self) -> String {
        self.watch.lock().expect("no test panics here").printed()
    }

    fn is_running(&self) -> bool {
        self.watch.lock().expect("no test panics here").is_running()
    }
}
