//! Compares this project with other servers: `cargo run --release -p kschat-tests --example benchmark -- --help`.

#![expect(clippy::print_stdout, reason = "the tables are for a person at a terminal")]

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use kschat_adapters::install_crypto_provider;
use kschat_tests::{
    benchmark::{
        Contender, Plan, measure,
        report::{Comparison, replace_part},
    },
    process::build_visibly,
    stack::Services,
};

/// The part of the document that this command writes.
const DOCUMENT_PART: &str = "benchmark";

/// Compare this project with the kind of server that the Node.js guide builds and with RabbitMQ's Web-MQTT plugin.
///
/// Each round measures each contender once, with real clients, RabbitMQ and Redis on this machine. Everything shares the
/// machine's cores: compare figures within one run only. With the defaults a run takes about half an hour. Exits with 1
/// if a durable contender loses a message.
#[derive(Parser)]
#[command(name = "benchmark")]
struct Arguments {
    /// What to compare. [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// Number of rounds.
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Number of users, which must be even.
    #[arg(long, value_name = "N", default_value_t = 200)]
    users: usize,
    /// How long each figure is measured.
    #[arg(long, value_name = "TIME", default_value = "8s")]
    span: humantime::Duration,
    /// Messages in flight per user, in turn.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,4,16")]
    in_flight: Vec<usize>,
    /// Messages per second at which latency is measured.
    #[arg(long, value_name = "N", default_value_t = 200.0)]
    rate: f64,
    /// Write all figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Plot throughput to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Replace the tables in this document, such as shared/docs/PERFORMANCE.md.
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.users == 0 || !arguments.users.is_multiple_of(2) || arguments.rounds == 0 {
        println!("--users must be even, and --rounds at least 1");
        return ExitCode::from(2);
    }
    install_crypto_provider();
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or_default();
    if files < arguments.users as u64 * 2 + 200 {
        println!("only {files} open files are allowed: too few for {} users", arguments.users);
        return ExitCode::from(2);
    }
    build_visibly();
    let all = [
        Contender::Guide,
        Contender::WebMqtt,
        Contender::V1,
        Contender::V2,
        Contender::SocketIo,
        Contender::V1Split,
        Contender::V2Split,
        Contender::SocketIoSplit,
    ];
    let contenders = if arguments.contenders.is_empty() { all.to_vec() } else { arguments.contenders.clone() };
    let plan = Plan {
        users: arguments.users,
        span: Duration::from(arguments.span),
        in_flight: arguments.in_flight.clone(),
        rate: arguments.rate,
    };
    let services = Services::start_for_benchmark().await;
    let mut comparison = Comparison::default();
    for round in 1..=arguments.rounds {
        for contender in &contenders {
            println!("round {round} of {}: {}", arguments.rounds, contender.name());
            let outcome = measure(*contender, &plan, &services).await;
            let throughput = outcome.closed_loop.iter();
            let throughput: Vec<String> =
                throughput.map(|(count, figures)| format!("{:.0} ({count} in flight)", figures.throughput)).collect();
            println!("  {} messages per second", throughput.join(", "));
            comparison.add(*contender, outcome);
        }
    }
    println!("\n{}", comparison.tables());
    if let Err(error) = write_files(&arguments, &comparison) {
        println!("{error}");
        return ExitCode::FAILURE;
    }
    let lost: u64 = contenders.iter().filter(|one| one.is_durable()).map(|one| comparison.counts(*one).lost).sum();
    if lost > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn write_files(arguments: &Arguments, comparison: &Comparison) -> Result<(), String> {
    let failed = |file: &PathBuf, error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    if let Some(file) = &arguments.json {
        std::fs::write(file, format!("{:#}\n", comparison.to_json())).map_err(|error| failed(file, &error))?;
    }
    if let Some(file) = &arguments.plot {
        std::fs::write(file, comparison.plot()).map_err(|error| failed(file, &error))?;
    }
    if let Some(file) = &arguments.document {
        let document = std::fs::read_to_string(file).map_err(|error| failed(file, &error))?;
        let document =
            replace_part(&document, DOCUMENT_PART, &comparison.tables()).map_err(|error| failed(file, &error))?;
        std::fs::write(file, document).map_err(|error| failed(file, &error))?;
    }
    Ok(())
}
