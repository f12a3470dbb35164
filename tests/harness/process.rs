//! Child processes that never outlive the test.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

/// Runs the command as the head of a process group, and kills the group once its own standard input ends:
/// when we close it, or when we are gone.
const KEEPER: &str = r#""$@" </dev/null & cat >/dev/null; kill -KILL 0"#;

/// A program with all that it started.
pub struct Process {
    keeper: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; what it prints goes to `log`.
    ///
    /// # Panics
    /// When there is no such program.
    #[must_use]
    pub fn start(program: &Path, arguments: &[&str], variables: &[(&str, String)], log: &Path) -> Self {
        let found = program.is_file() || find_in_path(program);
        assert!(found, "{} is missing; `tests/run` installs what the tests need", program.display());
        let out = File::create(log).expect("the log can be written");
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(program)
            .args(arguments)
            .envs(variables.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(out.try_clone().expect("a handle"))
            .stderr(out)
            .process_group(0)
            .spawn()
            .expect("sh can be started");
        Self { keeper, log: log.to_owned() }
    }

    fn pid(&self) -> String {
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &self.keeper.id().to_string()]).output();
        let children = String::from_utf8(children.expect("ps can be started").stdout).expect("numbers");
        children.split_whitespace().next().expect("the program has ended already").to_owned()
    }

    /// Sends a signal, by name, to the program alone.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid()]).status();
        assert!(sent.expect("kill can be started").success(), "{name} could not be sent");
    }

    /// The memory that the program holds, in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
    }

    /// Whether the program itself still runs, or is about to.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let children = Command::new("ps").args(["-o", "comm=", "--ppid", &self.keeper.id().to_string()]).output();
        let children = String::from_utf8(children.expect("ps can be started").stdout).expect("names");
        // The keeper starts `cat` second: as long as that is not there, the program is still to come.
        let (keeping, others): (Vec<&str>, Vec<&str>) =
            children.lines().map(str::trim).partition(|name| *name == "cat");
        keeping.is_empty() || others.iter().any(|name| !name.contains("defunct"))
    }

    /// Kills it, at once and with all that it started.
    pub fn kill(&mut self) {
        drop(self.keeper.stdin.take());
        // It was killed by its own signal.
        let _ = self.keeper.wait();
    }

    /// What it has printed so far.
    #[must_use]
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn find_in_path(program: &Path) -> bool {
    let found = Command::new("sh").args(["-c", r#"command -v "$0""#]).arg(program).stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// A binary of this workspace, as its sources are now.
///
/// # Panics
/// When it can't be built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let here = std::env::current_exe().expect("a test has a path");
        let folder = here.ancestors().nth(2).expect("a test lies in target/debug/deps").to_owned();
        let release = folder.ends_with("release").then_some("--release");
        let arguments = ["build", "--workspace", "--bins", "--quiet"].into_iter().chain(release);
        let built = Command::new(env!("CARGO")).args(arguments).status();
        assert!(built.expect("cargo can be started").success(), "the binaries can't be built");
        folder
    });
    folder.join(name)
}
