//! `kschat env` and `kschat broker-users`: settings of components in separate processes.

use std::{collections::BTreeMap, fmt::Write, path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use kschat_adapters::config::{EXIT_CONFIG, Environment};
use serde::Deserialize;

use super::{Secret, development_key, fail, local_secret, print_text};
use crate::development::{DevelopmentKey, write_private};

/// Broker permissions of functions and consumer. The AWS deployment reads the same file.
const PERMISSIONS: &str = include_str!("../../../../rabbitmq.json");

/// A component that runs in a separate process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Component {
    Functions,
    Consumer,
}

impl Component {
    const ALL: [Self; 2] = [Self::Functions, Self::Consumer];

    /// Its broker user.
    const fn broker_user(self) -> &'static str {
        match self {
            Self::Functions => "kschat-functions",
            Self::Consumer => "kschat-consumer",
        }
    }

    fn broker_password(self, key: &DevelopmentKey) -> String {
        key.secret(self.broker_user())
    }
}

/// Print the settings of the functions or of the consumer on this machine, secrets included.
///
/// For a shell, and for `cargo lambda watch --env-file`. Variables that are set are printed unchanged; the rest is what
/// the local stack uses.
#[derive(Args)]
pub(super) struct EnvCommand {
    /// Whose settings.
    part: Component,
    /// Write them to this file instead, readable by its owner only.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// RabbitMQ. [env: AMQP_URL] [default: the component's own user on 127.0.0.1, see `kschat broker-users`]
    #[arg(long, value_name = "URL")]
    amqp_url: Option<String>,
    /// Redis. [env: REDIS_URL] [default: redis://127.0.0.1:6379/0]
    #[arg(long, value_name = "URL")]
    redis_url: Option<String>,
    /// The connections API. [env: CALLBACK_URL] [default: http://127.0.0.1:3000/dev]
    #[arg(long, value_name = "URL")]
    callback_url: Option<String>,
    #[command(flatten)]
    secret: Secret,
}

/// Print the commands that create RabbitMQ users for functions and consumer, with the least permissions.
///
/// The passwords are generated, and match `kschat env`. Run the commands on RabbitMQ's host: pipe them to `sudo sh`.
#[derive(Args)]
pub(super) struct BrokerUsersCommand {
    /// The virtual host.
    #[arg(long, default_value = "/")]
    vhost: String,
}

#[derive(Deserialize)]
struct Permissions {
    permissions: Vec<Permission>,
    topic_permissions: Vec<TopicPermission>,
}

#[derive(Deserialize)]
struct Permission {
    user: String,
    configure: String,
    write: String,
    read: String,
}

#[derive(Deserialize)]
struct TopicPermission {
    user: String,
    exchange: String,
    write: String,
    read: String,
}

pub(super) fn print(command: EnvCommand, mut env: Environment) -> ExitCode {
    let (part, output) = (command.part, command.output);
    env.set("AMQP_URL", command.amqp_url);
    env.set("REDIS_URL", command.redis_url);
    env.set("CALLBACK_URL", command.callback_url);
    env.set("JWT_SECRET", command.secret.jwt_secret);
    let lines = settings(part, &env).and_then(|settings| settings.into_iter().map(line).collect::<Result<String, _>>());
    let lines = match lines {
        Ok(lines) => lines,
        Err(error) => return fail(&error, EXIT_CONFIG),
    };
    match output {
        None => print_text(&lines),
        Some(file) => match write_private(&file, &lines) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("can't write {}: {error}", file.display()), 1),
        },
    }
}

fn settings(part: Component, env: &Environment) -> Result<BTreeMap<&'static str, String>, String> {
    let key = development_key(env);
    let secret = |name: &str| key.as_ref().map(|key| key.secret(name)).map_err(Clone::clone);
    let or = |name: &str, default: &str| env.raw(name).unwrap_or(default).to_owned();
    let broker = match env.raw("AMQP_URL") {
        Some(url) => url.to_owned(),
        None => {
            let user = part.broker_user();
            format!("amqp://{user}:{}@127.0.0.1:5672/%2f", secret(user)?)
        }
    };
    let mut settings =
        BTreeMap::from([("AMQP_URL", broker), ("REDIS_URL", or("REDIS_URL", "redis://127.0.0.1:6379/0"))]);
    match part {
        Component::Functions => settings.extend([
            ("JWT_SECRET", local_secret(env)?),
            (
                "MESSAGE_ID_KEY",
                env.raw("MESSAGE_ID_KEY").map_or_else(|| secret("MESSAGE_ID_KEY"), |key| Ok(key.to_owned()))?,
            ),
        ]),
        Component::Consumer => settings.extend([("CALLBACK_URL", or("CALLBACK_URL", "http://127.0.0.1:3000/dev"))]),
    }
    Ok(settings)
}

/// Formats a variable so that shells and env-file parsers read it alike.
fn line((name, value): (&str, String)) -> Result<String, String> {
    if value.chars().any(|character| character.is_control() || "\"$`\\".contains(character)) {
        return Err(format!("{name}: an environment file cannot contain a quote, dollar sign, backquote or backslash"));
    }
    Ok(format!("{name}=\"{value}\"\n"))
}

pub(super) fn print_broker_users(command: &BrokerUsersCommand, env: &Environment) -> ExitCode {
    let lines = development_key(env).and_then(|key| {
        let permissions = serde_json::from_str(PERMISSIONS).map_err(|error| format!("rabbitmq.json: {error}"))?;
        Ok(broker_users(&key, &permissions, &command.vhost))
    });
    match lines {
        Ok(lines) => print_text(&lines),
        Err(error) => fail(&error, EXIT_CONFIG),
    }
}

fn broker_users(key: &DevelopmentKey, permissions: &Permissions, vhost: &str) -> String {
    let mut lines = String::new();
    // Writing to a string can't fail.
    let mut add = |line: String| {
        let _ = writeln!(lines, "{line}");
    };
    for part in Component::ALL {
        let (user, password) = (part.broker_user(), part.broker_password(key));
        // Over standard input, as every local user can see a program's arguments.
        let given = |verb: &str| format!("echo {password} | rabbitmqctl {verb} {user}");
        add(format!("{} || {}", given("add_user"), given("change_password")));
    }
    // The rest of the script is not meant for that program's standard input.
    let mut allow = |verb: &str, arguments: &[&str]| {
        let quoted: Vec<String> = [vhost].iter().chain(arguments).map(|argument| quoted(argument)).collect();
        add(format!("rabbitmqctl {verb} -p {} </dev/null", quoted.join(" ")));
    };
    for Permission { user, configure, write, read } in &permissions.permissions {
        allow("set_permissions", &[user, configure, write, read]);
    }
    for TopicPermission { user, exchange, write, read } in &permissions.topic_permissions {
        allow("set_topic_permissions", &[user, exchange, write, read]);
    }
    lines
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_/.".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
