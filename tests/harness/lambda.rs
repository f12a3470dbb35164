//! The functions as real Lambda binaries, behind the real Runtime API of `cargo lambda watch`.

use std::{fs, path::Path, process::Command, sync::Mutex};

use tempfile::TempDir;

use crate::{eventually, free_port, process::Process};

/// An event that every function of the tests can answer.
const WAKE: &str = r#"{"requestContext":{"connectionId":"wake","connectedAt":0,"requestTimeEpoch":0}}"#;

/// `cargo lambda watch` with the functions of one package.
pub struct Lambda {
    port: u16,
    watch: Process,
    /// Functions that took the place of killed ones.
    replaced: Mutex<Vec<Process>>,
    folder: TempDir,
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
        let env_file = folder.path().join("functions.env");
        let lines: Vec<String> = variables.iter().map(|(name, value)| format!("{name}=\"{value}\"\n")).collect();
        fs::write(&env_file, lines.concat()).expect("a file");
        let (port, manifest) = (free_port(), functions.join("Cargo.toml"));
        let (port_text, env_file) = (port.to_string(), env_file.display().to_string());
        let manifest = manifest.display().to_string();
        let arguments = [
            "lambda",
            "watch",
            "-A",
            "127.0.0.1",
            "-P",
            &port_text,
            "--ignore-changes",
            "--env-file",
            &env_file,
            "--manifest-path",
            &manifest,
        ];
        let log = folder.path().join("watch.log");
        let watch = Process::start(Path::new("cargo-lambda"), &arguments, &[], &log);
        let lambda = Self { port, watch, replaced: Mutex::default(), folder };
        for function in names {
            lambda.wake(function).await;
        }
        lambda
    }

    async fn wake(&self, function: &str) {
        let url = format!("{}/2015-03-31/functions/{function}/invocations", self.url());
        let client = reqwest::Client::new();
        eventually(&format!("the function {function} answers"), async || {
            assert!(self.watch.is_running(), "cargo lambda has ended:\n{}", self.watch.printed());
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

    /// Kills every process of a function, with the event in its hands, and starts another one in its place as the
    /// platform does: `cargo lambda watch` itself would not.
    pub fn replace(&self, function: &str) {
        for process in self.processes(function) {
            let folder = Path::new("/proc").join(&process);
            // One may have ended since they were listed.
            let (Ok(program), Ok(variables)) = (fs::read_link(folder.join("exe")), fs::read(folder.join("environ")))
            else {
                continue;
            };
            let variables = String::from_utf8(variables).expect("text");
            let variables = variables.split('\0').filter_map(|variable| variable.split_once('='));
            let variables: Vec<(&str, String)> = variables.map(|(name, value)| (name, value.to_owned())).collect();
            self.try_signal(function, "KILL");
            let mut replaced = self.replaced.lock().expect("no test panics here");
            let log = self.folder.path().join(format!("{function}-{}.log", replaced.len()));
            // A build that replaces the file meanwhile leaves ` (deleted)` behind its name.
            let program = program.display().to_string();
            let program = Path::new(program.trim_end_matches(" (deleted)"));
            replaced.push(Process::start(program, &[], &variables, &log));
        }
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
        self.watch.printed()
    }
}
