//! A long run with injected faults: `cargo run --release -p kschat-tests --example chaos -- --help`.

#![expect(clippy::print_stdout, reason = "the report is for a person at a terminal")]

use std::{ops::Range, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use kschat_tests::{
    chaos::{Mode, Options, faults::Class, run},
    process::build_visibly,
};

/// Send many messages through real RabbitMQ, Redis, consumers and an edge while faults are injected, and check that
/// none is lost, duplicated or out of order. Exits with 1 otherwise.
///
/// The seed determines the faults: the same seed, kinds and pauses produce the same sequence. How they interleave with
/// messages depends on the machine.
#[derive(Parser)]
#[command(name = "chaos")]
struct Arguments {
    /// Seed of the faults. [default: random; it is printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Total number of messages; faults go on until they are sent.
    #[arg(long, value_name = "N", conflicts_with = "duration")]
    messages: Option<u64>,
    /// Duration of fault injection, instead of a number of messages. [default: 2m]
    #[arg(long, value_name = "TIME")]
    duration: Option<humantime::Duration>,
    /// Inject each kind of fault once, one after the other, instead of a mixture.
    #[arg(long, conflicts_with = "messages", conflicts_with = "duration")]
    alone: bool,
    /// Number of users, which must be even.
    #[arg(long, value_name = "N", default_value_t = 200)]
    users: usize,
    /// Messages per second. [default: each user sends as soon as its last message is accepted]
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Number of consumer processes.
    #[arg(long, value_name = "N", default_value_t = 2)]
    consumers: usize,
    /// Milliseconds between two faults, drawn from this range.
    #[arg(long, value_name = "FROM..TO", default_value = "1000..15000", value_parser = pause)]
    pause: Range<Duration>,
    /// Kinds of fault, such as consumer-kill,broker-kill. [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    faults: Vec<Class>,
    /// Where functions run. Under cargo-lambda they are processes, which can freeze and die, and handle one event at a
    /// time: a few hundred messages per second.
    #[arg(long, value_enum, default_value_t = Functions::InProcess)]
    functions: Functions,
    /// Write all results to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Plot latency and faults over time to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Functions {
    /// In the edge's process.
    InProcess,
    /// Under `cargo lambda watch`.
    Lambda,
}

fn pause(text: &str) -> Result<Range<Duration>, String> {
    let bounds = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    let range = bounds.map(|(from, to)| Duration::from_millis(from)..Duration::from_millis(to));
    range.filter(|range| !range.is_empty()).ok_or_else(|| "must be milliseconds such as 1000..15000".to_owned())
}

impl Arguments {
    fn options(&self) -> Result<Options, String> {
        let lambda = self.functions == Functions::Lambda;
        let classes = if self.faults.is_empty() { Class::all(lambda) } else { self.faults.clone() };
        if let Some(class) = classes.iter().find(|class| class.needs_lambda() && !lambda) {
            return Err(format!("{class} takes function processes: give --functions lambda"));
        }
        let duration = self.duration.map_or(Duration::from_secs(120), Into::into);
        let mode = match (self.alone, self.messages) {
            (true, _) => Mode::Alone,
            (false, Some(_)) => Mode::Mixed(None),
            (false, None) => Mode::Mixed(Some(duration)),
        };
        Ok(Options {
            seed: self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000)),
            classes,
            mode,
            pause: self.pause.clone(),
            messages: self.messages,
            users: self.users,
            rate: self.rate,
            consumers: self.consumers.max(1),
            lambda,
        })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = match arguments.options() {
        Ok(options) => options,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("building the programs that it starts");
    build_visibly();
    let began = std::time::Instant::now();
    let say = move |line| println!("{:6.1}  {line}", began.elapsed().as_secs_f64());
    let verdict = run(options, say).await;
    println!("\n{verdict}");
    let figures = arguments.json.map(|file| (file, format!("{:#}\n", verdict.json())));
    let picture = arguments.plot.map(|file| (file, verdict.svg()));
    for (file, text) in [figures, picture].into_iter().flatten() {
        if let Err(error) = std::fs::write(&file, text) {
            println!("can't write {}: {error}", file.display());
            return ExitCode::FAILURE;
        }
    }
    if verdict.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
