//! `kschat load`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, ValueEnum};
use kschat_adapters::config::{EXIT_CONFIG, Environment};
use kschat_load::{ConnectionCutter, Dialect, Pattern, Plan, Size, Until, oracle::Report, plot, run};

use super::{Secret, fail, local_secret, positive_time, print_text};

/// Send many messages, and check that none is lost, duplicated or out of order.
///
/// Real WebSocket clients of version 2: each sends its messages in turn, retries unanswered sends, acknowledges what it
/// receives, and reconnects. Latency counts from the time when a message was due, so any delay of a sender counts, too.
/// Exits with 1 if any check fails.
#[derive(Args)]
pub(super) struct LoadCommand {
    /// WebSocket URL. Tokens are signed with the secret and name users as the functions expect by default.
    #[arg(default_value = "ws://127.0.0.1:3000/dev")]
    url: String,
    /// Dialect of the clients.
    #[arg(long, value_enum, default_value_t = Dialect::default())]
    dialect: Dialect,
    /// Number of users, which must be even.
    #[arg(long, value_name = "N", default_value_t = 100)]
    users: usize,
    /// Connections per user.
    #[arg(long, value_name = "N", default_value_t = 1)]
    devices: usize,
    /// Total number of messages.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Send for this long, instead of a number of messages.
    #[arg(long, value_name = "TIME", value_parser = positive_time, conflicts_with = "messages")]
    duration: Option<Duration>,
    /// Messages per second. [default: each user sends as soon as its last message is accepted]
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Bytes of each text, such as 100, or 10..2000 for evenly distributed sizes. The minimum is about 30.
    #[arg(long, value_name = "BYTES", default_value = "100")]
    size: Size,
    /// Traffic pattern.
    #[arg(long, value_enum, default_value_t = Pattern::Pairs)]
    pattern: Pattern,
    /// Messages per user in a burst, with --pattern burst. Without --rate a burst begins every 5 seconds.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    burst: u64,
    /// Time without any arrival after which missing messages count as lost.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = positive_time)]
    settle: Duration,
    /// Also write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Plot latency over time to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    secret: Secret,
}

fn rate(text: &str) -> Result<f64, &'static str> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=1e6).contains(rate));
    rate.ok_or("must be a number from 0.001 to 1000000")
}

impl LoadCommand {
    fn plan(self, secret: String) -> Plan {
        Plan {
            url: self.url,
            dialect: self.dialect,
            secret,
            users: self.users,
            devices: self.devices,
            until: self.duration.map_or(Until::Messages(self.messages), Until::Elapsed),
            rate: self.rate,
            size: self.size,
            pattern: self.pattern,
            burst: self.burst,
            settle: self.settle,
            cutter: ConnectionCutter::default(),
        }
    }
}

/// Runs the load, reports progress, and prints the result.
pub(super) async fn load(mut command: LoadCommand, mut env: Environment) -> ExitCode {
    env.set("JWT_SECRET", command.secret.jwt_secret.take());
    let secret = match local_secret(&env) {
        Ok(secret) => secret,
        Err(error) => return fail(&error, EXIT_CONFIG),
    };
    let (json, picture) = (command.json.take(), command.plot.take());
    let plan = command.plan(secret);
    let title = title(&plan);
    let tell = |report: &Report| {
        let Report { seconds, accepted, received, lost, reconnects, .. } = report;
        print_text(&format!(
            "{seconds:5.0} s  {accepted} accepted  {received} received  {lost} in flight  {reconnects} reconnects\n"
        ));
    };
    let outcome = match run(plan, tell).await {
        Ok(outcome) => outcome,
        Err(error) => return fail(&error, 1),
    };
    print_text(&format!("\n{}", outcome.report));
    let figures = json.map(|file| (file, serde_json::to_string_pretty(&outcome).unwrap_or_default()));
    let drawn = picture.map(|file| (file, plot::draw(&outcome, &title, &[])));
    for (file, text) in [figures, drawn].into_iter().flatten() {
        if let Err(error) = write(&file, &text) {
            return fail(&error, 1);
        }
    }
    if outcome.clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn title(plan: &Plan) -> String {
    let rate =
        plan.rate.map_or_else(|| "as fast as sends are accepted".to_owned(), |rate| format!("{rate} messages/s"));
    let pattern = plan.pattern.to_possible_value();
    let pattern = pattern.as_ref().map_or("", |value| value.get_name());
    format!("kschat load: {} users, {pattern}, {rate}", plan.users)
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|error| format!("can't write {}: {error}", file.display()))
}
