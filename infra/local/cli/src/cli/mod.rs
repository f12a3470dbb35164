//! The command line: `kschat` runs the local stack, `kschat edge` the socket edge alone, `kschat token` signs a token,
//! `kschat env` prints the settings of components in separate processes.

mod edge;
mod env;
mod load;

use std::{io::Write, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use clap::{Args, Parser, Subcommand};
use kschat_adapters::{
    config::{self, Address, Backends, EXIT_CONFIG, Environment, LogSettings, MetricsSettings, Reported},
    install_crypto_provider,
    jwt::{check_secret, sign_v1_token},
    log,
    metrics::collect_for_service,
    rabbitmq::QueueSettings,
    signal::stop_requested,
};
use kschat_core::{Clock, SystemClock, delivery, inbound::send::UnknownRecipientPolicy};
use kschat_edge::error_chain::error_chain;
use kschat_protocol::UserId;

use self::{
    edge::{EdgeArgs, EdgeCommand},
    env::{BrokerUsersCommand, EnvCommand},
    load::LoadCommand,
};
use crate::{
    development::DevelopmentKey,
    stack::{self, Options, Stack},
};

/// A chat backend on one machine: socket edge, functions, consumer and page in one process.
///
/// Without options everything is in memory: nothing to install, and all data is lost at exit.
/// With --amqp-url and --redis-url it uses real RabbitMQ and Redis.
#[derive(Parser)]
#[command(name = "kschat", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Format of log lines: text or json. [env: LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT", global = true)]
    log: Option<String>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    Edge(Box<EdgeCommand>),
    Load(Box<LoadCommand>),
    Env(Box<EnvCommand>),
    BrokerUsers(BrokerUsersCommand),
    /// Print a token for a user, signed with the local secret.
    Token(Token),
}

#[derive(Args)]
struct Serve {
    /// Address to listen on. Beyond loopback, JWT_SECRET must be set, and the chat page is disabled.
    #[arg(long, value_name = "ADDR", default_value_t = Options::default().listen, value_parser = address)]
    listen: SocketAddr,
    /// RabbitMQ, such as amqp://guest:guest@127.0.0.1:5672. Needs --redis-url. [env: AMQP_URL]
    #[arg(long, value_name = "URL")]
    amqp_url: Option<String>,
    /// Redis, such as redis://127.0.0.1:6379. Needs --amqp-url. [env: REDIS_URL]
    #[arg(long, value_name = "URL")]
    redis_url: Option<String>,
    /// Address of the functions, such as http://127.0.0.1:9000 for `cargo lambda watch`.
    #[arg(long, value_name = "URL")]
    functions: Option<String>,
    /// Run the consumer in a separate process.
    #[arg(long)]
    no_consumer: bool,
    /// Reject messages for users who have never connected, instead of queueing them.
    #[arg(long)]
    refuse_strangers: bool,
    /// Number of partitions; the same in functions and consumer. [env: PARTITIONS] [default: 16]
    #[arg(long, value_name = "N")]
    partitions: Option<String>,
    #[command(flatten)]
    secret: Secret,
    #[command(flatten)]
    edge: EdgeArgs,
}

#[derive(Args)]
struct Secret {
    /// Secret that signs and verifies tokens (HS256). On loopback a generated one is the default. [env: JWT_SECRET]
    #[arg(long, value_name = "SECRET")]
    jwt_secret: Option<String>,
}

#[derive(Args)]
struct Token {
    /// User of the token.
    user: UserId,
    /// Lifetime, such as 30s, 15m, 1h or 7d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = positive_time)]
    ttl: Duration,
    #[command(flatten)]
    secret: Secret,
}

/// Minimum secret beyond loopback, where tokens can be brute-forced: HS256 needs a key at least as long as its hash.
///
/// Source: RFC 7518, section 3.2.
const MIN_SECRET_BYTES: usize = 32;

/// The longest accepted duration.
const MAX_TOKEN_TTL: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map(|Address(address)| address)
}

fn positive_time(text: &str) -> Result<Duration, &'static str> {
    let span = text.parse::<humantime::Duration>().map(Duration::from);
    let span = span.ok().filter(|span| !span.is_zero() && *span <= MAX_TOKEN_TTL);
    span.ok_or("must be a time of at most ten years, such as 30s, 15m, 1h or 7d")
}

/// Runs the command given by the process arguments.
pub async fn run() -> ExitCode {
    let cli = Cli::parse();
    install_crypto_provider();
    // Every socket is an open file, and the system's default limit is low.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::debug!(%error, "the open-file limit could not be raised");
    }
    let mut env = Environment::read();
    env.set("LOG_FORMAT", cli.log);
    // The next steps may already log.
    let logging = LogSettings::read(&mut env);
    if let Ok(logging) = &logging {
        log::init(logging.format, logging.filter.as_deref());
    }
    match cli.command {
        Some(Command::Token(token)) => print_token(token, env),
        Some(Command::Env(command)) => env::print(*command, env),
        Some(Command::BrokerUsers(command)) => env::print_broker_users(&command, &env),
        Some(Command::Load(command)) => Box::pin(load::load(*command, env)).await,
        Some(Command::Edge(command)) => {
            let alone = command.options(&mut env);
            match env.finish(logging.and(alone)) {
                Ok(alone) => Box::pin(edge::serve(alone)).await,
                Err(error) => fail(&error, EXIT_CONFIG),
            }
        }
        None => {
            let options = cli.serve.options(&mut env);
            match env.finish(logging.and(options)) {
                Ok(options) => Box::pin(serve(options)).await,
                Err(error) => fail(&error, EXIT_CONFIG),
            }
        }
    }
}

fn print_token(args: Token, mut env: Environment) -> ExitCode {
    env.set("JWT_SECRET", args.secret.jwt_secret);
    let secret = match local_secret(&env) {
        Ok(secret) => secret,
        Err(error) => return fail(&error, EXIT_CONFIG),
    };
    let now = SystemClock.now();
    match sign_v1_token(&secret, &args.user, now, now.plus(args.ttl)) {
        Ok(token) => print_text(&format!("{token}\n")),
        Err(error) => fail(&error, 1),
    }
}

impl Serve {
    /// Command-line options override environment variables; both are validated the same way.
    fn options(self, env: &mut Environment) -> Result<Options, Reported> {
        env.set("AMQP_URL", self.amqp_url);
        env.set("REDIS_URL", self.redis_url);
        env.set("PARTITIONS", self.partitions);
        env.set("JWT_SECRET", self.secret.jwt_secret);
        env.set("UNKNOWN_RECIPIENT", self.refuse_strangers.then(|| "refuse".to_owned()));
        let queues = config::read_queue_settings(env);
        let limits = config::read_limits(env, queues);
        let backends = Backends::read_if_set(env);
        let partitions = config::read_partitions(env);
        let secret = secret(env, self.listen);
        let message_id_key = config::message_id_key_if_set(env);
        let functions = self.functions.map(|url| functions(env, url)).transpose();
        let consumer = !self.no_consumer;
        if let (Ok(functions), Ok(None)) = (&functions, &backends) {
            report_messages_that_leave(env, functions.is_some(), consumer);
        }
        let edge = self.edge.settings(env);
        let queues = queues?;
        Ok(Options {
            listen: self.listen,
            edge: edge?,
            secret: secret?,
            message_id_key: message_id_key?,
            partitions: partitions?,
            unknown_recipients: unknown_recipients(&queues),
            heartbeat: delivery::DEFAULT_HEARTBEAT,
            queues,
            limits: limits?,
            backends: backends?.map(|Backends { broker, redis, .. }| stack::Backends { broker, redis }),
            functions: functions?,
            consumer,
            metrics: None,
        })
    }
}

const fn unknown_recipients(queues: &QueueSettings) -> UnknownRecipientPolicy {
    if queues.keeps_empty { UnknownRecipientPolicy::Reject } else { UnknownRecipientPolicy::Queue }
}

/// Reports a stack without a broker and a registry of its own, of which only functions or only the consumer are in this
/// process.
fn report_messages_that_leave(env: &mut Environment, has_remote_functions: bool, has_consumer: bool) {
    if has_remote_functions == has_consumer {
        let hint =
            "messages leave this process: give --amqp-url and --redis-url, or both of --functions and --no-consumer";
        env.problem(if has_consumer { "--functions" } else { "--no-consumer" }, hint);
    }
}

fn secret(env: &mut Environment, listen: SocketAddr) -> Result<String, Reported> {
    let secret = env.local_secret();
    if !listen.ip().is_loopback() && secret.as_ref().is_none_or(|secret| secret.len() < MIN_SECRET_BYTES) {
        let problem =
            format!("{listen} is not loopback: set a secret of your own, of at least {MIN_SECRET_BYTES} bytes");
        return Err(env.problem("JWT_SECRET", problem));
    }
    let usable = local_secret(env).and_then(|secret| check_secret(&secret).map(|()| secret));
    usable.map_err(|error| env.problem("JWT_SECRET", error))
}

/// The secret for local tokens: the configured one, or one generated for the developer of this machine.
fn local_secret(env: &Environment) -> Result<String, String> {
    env.local_secret().map_or_else(|| development_key(env).map(|key| key.secret("JWT_SECRET")), Ok)
}

fn development_key(env: &Environment) -> Result<DevelopmentKey, String> {
    DevelopmentKey::of(env.config_folder().as_deref()).map_err(|error| error_chain(&error))
}

/// Checks the address of functions in other processes.
fn functions(env: &mut Environment, url: String) -> Result<String, Reported> {
    let host = url.strip_prefix("http://").and_then(|rest| rest.split(['/', ':']).next());
    if host.is_none_or(str::is_empty) || url.contains('@') {
        let problem = "must be an http URL without a password, such as http://127.0.0.1:9000";
        return Err(env.problem("--functions", problem));
    }
    Ok(url)
}

async fn serve(mut options: Options) -> ExitCode {
    let description = describe(&options);
    let collected = match collect_for_service(MetricsSettings { emf: None }) {
        Ok(collected) => Arc::new(collected),
        Err(error) => return fail(&error_chain(&error), 1),
    };
    options.metrics = Some(collected.prometheus.clone());
    tokio::spawn(async move { collected.run_upkeep().await });
    let stack = match Stack::start(options).await {
        Ok(stack) => stack,
        Err(error) => return fail(&error_chain(&error), 1),
    };
    print_text(&banner(&stack, &description));
    if let Err(error) = stop_requested().await {
        return fail(&error, 1);
    }
    print_text("\nstopping\n");
    stack.stop().await;
    ExitCode::SUCCESS
}

fn describe(options: &Options) -> String {
    let here = "in this process".to_owned();
    let in_memory = "in memory; use --amqp-url and --redis-url for real services".to_owned();
    let (broker, registry) = match &options.backends {
        _ if options.is_edge_only() => {
            ("as configured for the functions and the consumer".to_owned(), "likewise".to_owned())
        }
        Some(backends) => (format!("{:?}", backends.broker), format!("{:?}", backends.redis)),
        None => (in_memory.clone(), in_memory),
    };
    let functions = options.functions.clone().unwrap_or_else(|| here.clone());
    let consumer = if options.consumer { here } else { "in a separate process".to_owned() };
    format!("  broker      {broker}\n  registry    {registry}\n  functions   {functions}\n  consumer    {consumer}\n")
}

fn banner(stack: &Stack, description: &str) -> String {
    let (page, socket, callback) = (stack.page_url(), stack.websocket_url(), stack.callback_url());
    format!(
        "kschat is running\n\n\
         \x20 chat page   {page}\n\
         \x20   alice     {page}?uid=alice&rid=bob\n\
         \x20   bob       {page}?uid=bob&rid=alice\n\
         \x20 websocket   {socket}\n\
         \x20 callback    {callback}/@connections/{{id}}\n\
         \x20 view        {page}_edge\n\
         {description}\n\
         Open alice and bob in two windows. Ctrl-C stops.\n"
    )
}

/// Writes to standard output, whose reader may have closed it.
fn print_text(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn fail(error: &(impl std::fmt::Display + ?Sized), code: u8) -> ExitCode {
    // Standard error is the last resort: if it is closed, the exit code still tells.
    let _ = writeln!(std::io::stderr(), "kschat: {error}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_of_options_and_variables_is_reported() {
        let variables = [("JWT_SECRET", "a secret of the tests"), ("MESSAGE_RETENTION", "5"), ("SEND_RATE", "0")];
        let mut env = Environment::from_variables(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let cli = Cli::parse_from(["kschat", "--partitions", "0", "--routes", "/no/such/file", "--no-consumer"]);
        let options = cli.serve.options(&mut env);
        let report = env.finish(options).err().unwrap().to_string();
        for part in
            ["5 problem(s)", "MESSAGE_RETENTION: ", "SEND_RATE: ", "PARTITIONS: ", "--routes: ", "--no-consumer: "]
        {
            assert!(report.contains(part), "{part} is missing in: {report}");
        }
    }
}
