//! `kschat load`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use kschat_adapters::config::Environment;

use super::{Secret, fail, positive_time, say};
use crate::{
    load::{Pattern, Plan, oracle::Report, run},
    stack::Options,
};

/// Send many messages, and check that none is lost, shown twice or out of order.
///
/// Real WebSocket clients, which send one message after the other, repeat what is not answered, acknowledge what they
/// get and connect again. Exits with 1 if anything was not as promised.
#[derive(Args)]
pub(super) struct LoadCommand {
    /// Where clients connect to.
    #[arg(default_value = "ws://127.0.0.1:3000/dev")]
    url: String,
    /// Users: an even number.
    #[arg(long, value_name = "N", default_value_t = 100)]
    users: usize,
    /// Connections of each user.
    #[arg(long, value_name = "N", default_value_t = 1)]
    devices: usize,
    /// Messages in all.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    messages: u64,
    /// Messages a second. [default: each user sends as soon as the last one is accepted]
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Bytes of each text.
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    size: usize,
    /// Who writes to whom.
    #[arg(long, value_enum, default_value_t = Pattern::Pairs)]
    pattern: Pattern,
    /// How long nothing may arrive until what is missing counts as lost.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = positive_time)]
    settle: Duration,
    /// Write the report there, too, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    secret: Secret,
}

fn rate(text: &str) -> Result<f64, &'static str> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=1e6).contains(rate));
    rate.ok_or("must be a number from 0.001 to 1000000")
}

/// Does it, tells how far it is, and what has come of it.
pub(super) async fn load(command: LoadCommand, mut env: Environment) -> ExitCode {
    env.set("JWT_SECRET", command.secret.jwt_secret);
    let secret = env.local_secret().unwrap_or_else(|| Options::default().secret);
    let LoadCommand { url, users, devices, messages, rate, size, pattern, settle, json, .. } = command;
    let plan = Plan { url, secret, users, devices, messages, rate, size, pattern, settle };
    let tell = |report: &Report| {
        let Report { seconds, accepted, received, lost, reconnects, .. } = report;
        say(&format!(
            "{seconds:5.0} s  {accepted} accepted  {received} received  {lost} under way  {reconnects} reconnects\n"
        ));
    };
    let report = match run(plan, tell).await {
        Ok(report) => report,
        Err(error) => return fail(&error, 1),
    };
    say(&format!("\n{report}"));
    if let Some(file) = json {
        let written = serde_json::to_vec_pretty(&report).map_err(std::io::Error::from);
        if let Err(error) = written.and_then(|text| std::fs::write(&file, text)) {
            return fail(&format!("can't write {}: {error}", file.display()), 1);
        }
    }
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
