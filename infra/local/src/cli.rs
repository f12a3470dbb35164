//! The command line: `kschat` runs the local stack, `kschat token` signs a token.

use std::{io::Write, net::SocketAddr, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand};
use kschat_adapters::{
    config::{EXIT_CONFIG, Environment, LogSettings},
    install_crypto_provider,
    jwt::sign_seed_token,
    log,
    rabbitmq::BrokerUrl,
    redis::RedisUrl,
    signal::stop_requested,
};
use kschat_core::{Clock, Partitions, SystemClock, send::Strangers};
use kschat_protocol::UserId;

use crate::stack::{Backends, Options, Stack};

/// A chat backend on one machine: socket edge, functions, consumer and page in one process.
///
/// Without options everything is in memory: nothing to install, and all is forgotten when it ends.
/// With --amqp-url and --redis-url it uses real RabbitMQ and Redis.
#[derive(Parser)]
#[command(name = "kschat", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Print a token for a user, signed with the local secret.
    Token(Token),
}

#[derive(Args)]
struct Serve {
    /// Address to listen on. Beyond loopback, JWT_SECRET must be set, and the chat page stays away.
    #[arg(long, value_name = "ADDR", default_value_t = Options::default().listen)]
    listen: SocketAddr,
    /// Name of the stage: the WebSocket is at /STAGE.
    #[arg(long, default_value_t = Options::default().stage, value_parser = stage)]
    stage: String,
    /// RabbitMQ, such as amqp://guest:guest@127.0.0.1:5672. Needs --redis-url.
    #[arg(long, env = "AMQP_URL", hide_env_values = true, value_name = "URL", requires = "redis_url")]
    amqp_url: Option<BrokerUrl>,
    /// Redis, such as redis://127.0.0.1:6379. Needs --amqp-url.
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL", requires = "amqp_url")]
    redis_url: Option<RedisUrl>,
    /// Where functions run, such as http://127.0.0.1:9000 for `cargo lambda watch`.
    #[arg(long, value_name = "URL", value_parser = http_url)]
    functions: Option<String>,
    /// Leave the consumer to a process of its own.
    #[arg(long)]
    no_consumer: bool,
    /// Refuse messages for users who have never connected, instead of queueing them.
    #[arg(long)]
    refuse_strangers: bool,
    /// Into how many parts the users are cut; must be the same in functions and consumer.
    #[arg(long, env = "PARTITIONS", value_name = "N", default_value_t = Partitions::default().count(), value_parser = partitions)]
    partitions: u16,
    #[command(flatten)]
    secret: Secret,
}

#[derive(Args)]
struct Secret {
    /// Secret that signs and checks tokens (HS256). A built-in one serves on loopback.
    #[arg(long, env = "JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    jwt_secret: Option<String>,
}

#[derive(Args)]
struct Token {
    /// The user whom the token names.
    user: UserId,
    /// How long it is good for.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: humantime::Duration,
    #[command(flatten)]
    secret: Secret,
}

impl Secret {
    fn or_local(self) -> String {
        self.jwt_secret.unwrap_or_else(|| Options::default().secret)
    }
}

fn stage(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if is_name { Ok(text.to_owned()) } else { Err("must be letters, digits, `-` or `_`".to_owned()) }
}

fn http_url(text: &str) -> Result<String, String> {
    let is_http = text.starts_with("http://") || text.starts_with("https://");
    if is_http { Ok(text.to_owned()) } else { Err("must be an http URL such as http://127.0.0.1:9000".to_owned()) }
}

fn partitions(text: &str) -> Result<u16, String> {
    let count = text.parse().map_err(|_| "must be a whole number".to_owned())?;
    Partitions::new(count).map(Partitions::count).map_err(|error| error.to_string())
}

/// Runs the command that this process was started with.
pub async fn run() -> ExitCode {
    let cli = Cli::parse();
    install_crypto_provider();
    let mut env = Environment::read();
    let logging = LogSettings::read(&mut env);
    let logging = match env.finish(logging) {
        Ok(logging) => logging,
        Err(error) => return fail(&error, EXIT_CONFIG),
    };
    log::init(logging.format, logging.filter.as_deref());
    match cli.command {
        Some(Command::Token(token)) => print_token(token),
        None => serve(cli.serve).await,
    }
}

fn print_token(args: Token) -> ExitCode {
    let now = SystemClock.now();
    let signed = sign_seed_token(&args.secret.or_local(), &args.user, now, now.plus(Duration::from(args.ttl)));
    match signed {
        Ok(token) => say(&format!("{token}\n")),
        Err(error) => fail(&error, 1),
    }
}

impl Serve {
    fn options(self) -> Result<Options, String> {
        if !self.listen.ip().is_loopback() && self.secret.jwt_secret.is_none() {
            return Err(format!("{} is not loopback: set JWT_SECRET to a secret of your own", self.listen));
        }
        let partitions = Partitions::new(self.partitions).map_err(|error| error.to_string())?;
        let backends = self.amqp_url.zip(self.redis_url).map(|(broker, redis)| Backends { broker, redis });
        let apart = self.functions.is_some() != self.no_consumer;
        if apart && backends.is_none() {
            let elsewhere = if self.no_consumer { "--no-consumer" } else { "--functions" };
            return Err(format!(
                "with {elsewhere} messages leave this process: give --amqp-url and --redis-url, or both \
                 --functions and --no-consumer"
            ));
        }
        Ok(Options {
            listen: self.listen,
            stage: self.stage,
            secret: self.secret.or_local(),
            partitions,
            strangers: if self.refuse_strangers { Strangers::Refuse } else { Strangers::Queue },
            backends,
            functions: self.functions,
            consumer: !self.no_consumer,
        })
    }
}

async fn serve(args: Serve) -> ExitCode {
    let options = match args.options() {
        Ok(options) => options,
        Err(error) => return fail(&error, EXIT_CONFIG),
    };
    let description = describe(&options);
    let stack = match Stack::start(options).await {
        Ok(stack) => stack,
        Err(error) => return fail(&chain(&error), 1),
    };
    say(&banner(&stack, &description));
    if let Err(error) = stop_requested().await {
        return fail(&error, 1);
    }
    say("\nstopping\n");
    stack.stop().await;
    ExitCode::SUCCESS
}

fn describe(options: &Options) -> String {
    let here = "in this process".to_owned();
    let in_memory = "in memory; --amqp-url and --redis-url use real ones".to_owned();
    let (broker, registry) = match &options.backends {
        _ if options.is_edge_only() => ("as the functions and the consumer say".to_owned(), "likewise".to_owned()),
        Some(backends) => (format!("{:?}", backends.broker), format!("{:?}", backends.redis)),
        None => (in_memory.clone(), in_memory),
    };
    let functions = options.functions.clone().unwrap_or_else(|| here.clone());
    let consumer = if options.consumer { here } else { "a process of its own".to_owned() };
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
         {description}\n\
         Open alice and bob in two windows. Ctrl-C stops.\n"
    )
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

/// Writes to standard output, where a reader may have gone away already.
fn say(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn fail(error: &(impl std::fmt::Display + ?Sized), code: u8) -> ExitCode {
    // Standard error is the last resort: if that is gone, the exit code still tells.
    let _ = writeln!(std::io::stderr(), "kschat: {error}");
    ExitCode::from(code)
}
