//! Child processes that never outlive the test.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

/// Runs the command as leader of a process group, and kills the group once its standard input ends: when we close it,
/// or when we exit.
const WATCHDOG_SCRIPT: &str = r#""$@" </dev/null & cat >/dev/null; kill -KILL 0"#;

/// Linux counts CPU time in hundredths of a second.
const MILLIS_PER_TICK: u64 = 10;

/// A program with all its child processes.
pub struct Process {
    watchdog: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program with output to `log`.
    ///
    /// # Panics
    /// When the program does not exist.
    #[must_use]
    pub fn start(program: &Path, arguments: &[&str], variables: &[(&str, String)], log: &Path) -> Self {
        let found = program.is_file() || find_in_path(program);
        assert!(found, "{} is missing; `tests/run` installs what the tests need", program.display());
        let out = File::create(log).expect("the log can be written");
        let keeper = Command::new("sh")
            .args(["-c", WATCHDOG_SCRIPT, "keeper"])
            .arg(program)
            .args(arguments)
            .envs(variables.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(out.try_clone().expect("a handle"))
            .stderr(out)
            .process_group(0)
            .spawn()
            .expect("sh can be started");
        Self { watchdog: keeper, log: log.to_owned() }
    }

    fn pid(&self) -> String {
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &self.watchdog.id().to_string()]).output();
        let children = String::from_utf8(children.expect("ps can be started").stdout).expect("numbers");
        children.split_whitespace().next().expect("the program has ended already").to_owned()
    }

    /// Sends a signal, by name, to the program only.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid()]).status();
        assert!(sent.expect("kill can be started").success(), "{name} could not be sent");
    }

    /// CPU time of the program and its child processes so far, to a hundredth of a second.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let group = self.watchdog.id();
        let processes = std::fs::read_dir("/proc").expect("Linux");
        let usages = processes.flatten().filter_map(|process| usage(&process.path()));
        usages.filter(|(its_group, _)| *its_group == group).map(|(_, time)| time).sum()
    }

    /// The program's memory, in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
    }

    /// Whether the program runs, or is about to start.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let children = Command::new("ps").args(["-o", "comm=", "--ppid", &self.watchdog.id().to_string()]).output();
        let children = String::from_utf8(children.expect("ps can be started").stdout).expect("names");
        // The watchdog starts `cat` second: until then, the program is still to come.
        let (keeping, others): (Vec<&str>, Vec<&str>) =
            children.lines().map(str::trim).partition(|name| *name == "cat");
        keeping.is_empty() || others.iter().any(|name| !name.contains("defunct"))
    }

    /// Kills it with all its child processes.
    pub fn kill(&mut self) {
        drop(self.watchdog.stdin.take());
        // It was killed by its own signal.
        let _ = self.watchdog.wait();
    }

    /// Its output so far.
    #[must_use]
    pub fn output(&self) -> String {
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

/// CPU time of this process so far, to a hundredth of a second.
///
/// # Panics
/// On a system other than Linux.
#[must_use]
pub fn own_cpu_time() -> Duration {
    usage(Path::new("/proc/self")).expect("Linux").1
}

/// The process group and the CPU time of a process, if it still runs.
///
/// Source: Linux, `man 5 proc_pid_stat`: fields 5 (process group), 14 and 15 (ticks in user and kernel mode).
fn usage(process: &Path) -> Option<(u32, Duration)> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    // The second field is the name, which may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<u64>().ok());
    let time = Duration::from_millis((ticks(11)? + ticks(12)?) * MILLIS_PER_TICK);
    Some((fields.get(2)?.parse().ok()?, time))
}

/// Folder of this workspace's binaries, once they are built.
static BUILT: OnceLock<PathBuf> = OnceLock::new();

/// Builds the binaries of this workspace, and shows the progress.
///
/// # Panics
/// When the build fails.
pub fn build_visibly() {
    BUILT.get_or_init(|| build(None));
}

/// Builds a binary of this workspace and returns its path.
///
/// # Panics
/// When the build fails.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    BUILT.get_or_init(|| build(Some("--quiet"))).join(name)
}

fn build(quiet: Option<&str>) -> PathBuf {
    let here = std::env::current_exe().expect("a test has a path");
    let folder = here.ancestors().nth(2).expect("a test lies in target/debug/deps").to_owned();
    let release = folder.ends_with("release").then_some("--release");
    let arguments = ["build", "--workspace", "--bins"].into_iter().chain(quiet).chain(release);
    let built = Command::new(env!("CARGO")).args(arguments).status();
    assert!(built.expect("cargo can be started").success(), "the binaries can't be built");
    folder
}
