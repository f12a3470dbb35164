//! The configuration from the environment, read once, with every problem reported at once.
//!
//! | variable | for | default |
//! |---|---|---|
//! | `AMQP_URL` | all | required |
//! | `REDIS_URL` | all | required |
//! | `PARTITIONS` | all; must be the same everywhere | 16 |
//! | `JWT_SECRET`, `JWT_PUBLIC_KEY` (PEM), `JWT_JWKS` (JSON) or `JWT_JWKS_URL` | connect, send | one is required |
//! | `JWT_ALGORITHM` | connect, send | `HS256` |
//! | `JWT_USER_CLAIM` | connect, send: name or path of the claim that names the user | `data.id` |
//! | `JWT_ROOMS_CLAIM` | connect, send: name or path of the claim that lists the rooms which the user may join | every user may join every room |
//! | `JWT_AUDIENCE`, `JWT_ISSUER` | connect, send | not checked |
//! | `JWT_LEEWAY` | connect, send: seconds | 0 |
//! | `JWT_REQUIRE_EXP` | connect, send: `true` or `false` | `true` |
//! | `UNKNOWN_RECIPIENT` | connect, send, consumer: `queue` or `refuse` | `queue` |
//! | `QUEUE_TYPE` | connect, send, consumer: `classic` or `quorum` | `classic` |
//! | `MESSAGE_RETENTION` | connect, send, consumer: seconds for which a message waits for its recipient | 1209600 |
//! | `QUEUE_MAX_MESSAGES` | connect, send, consumer: messages that wait for one user at most | 100000 |
//! | `QUEUE_MAX_BYTES` | connect, send, consumer: bytes of messages that wait for one user at most | 67108864 |
//! | `SENDER_SHARE` | send: percentage of those that may come from one sender, or `off` | 25 |
//! | `SEND_RATE` | send: messages of one user a second, or `off` | 50 |
//! | `SEND_BURST` | send: the same at once | 200 |
//! | `ACK_RATE` | send: acks of one user a second, or `off` | 200 |
//! | `ACK_BURST` | send: the same at once | 1000 |
//! | `REQUEST_RATE` | send: other requests of one user a second, or `off` | 20 |
//! | `REQUEST_BURST` | send: the same at once | 300 |
//! | `CONNECT_RATE` | connect, send: handshakes of one user a second, or `off` | 2 |
//! | `CONNECT_BURST` | connect, send: the same at once | 120 |
//! | `NEW_RECIPIENTS` | send: new recipients of one user an hour, or `off` | 100 |
//! | `HANDSHAKE_TOKEN` | connect, send: `required`, or `optional` for Socket.IO clients that send it later | `optional` |
//! | `RNO_WINDOW` | send: seconds for which an `rno` is remembered | 86400 |
//! | `MESSAGE_ID_KEY` | send: at least 32 bytes of random text, the same in every process | required |
//! | `RECEIPTS` | consumer: `on` or `off`: whether senders get delivery receipts | `on` |
//! | `CALLBACK_URL` | consumer: the connections API | required |
//! | `PREFETCH` | consumer: unacked messages of one user at most (256) | 64 |
//! | `HEALTH_ADDR` | consumer: listen address of `/healthz` and `/metrics` | `127.0.0.1:8080` |
//! | `LOG_FORMAT` | all: `text` or `json` | `text`; `json` on Lambda |
//! | `RUST_LOG` | all | `info` |
//! | `METRICS_EMF` | all: `true` writes metrics for CloudWatch to standard output | `false`; `true` on Lambda |
//! | `METRICS_NAMESPACE` | all: CloudWatch's namespace for them | `kschat` |
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | all: an OpenTelemetry collector that gets traces by OTLP over HTTP | none |
//!
//! Outgoing TLS trusts the public authorities, and those of the system or, instead, of `SSL_CERT_FILE` and
//! `SSL_CERT_DIR`, in PEM: see [`crate::tls`]. The stacks on AWS set neither, as all services that they call have
//! certificates of public authorities.
//!
//! With a collector, OpenTelemetry's own variables set the rest: `OTEL_EXPORTER_OTLP_HEADERS`,
//! `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_TRACES_SAMPLER` (and `_ARG`), `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`.

#![expect(clippy::missing_errors_doc, reason = "each problem is added to the `Environment`, as `Reported` says")]

mod environment;
mod limits;
mod telemetry;

use std::{net::SocketAddr, num::NonZero, str::FromStr, sync::Arc, time::Duration};

use kschat_core::{
    Partitions,
    inbound::send::UnknownRecipientPolicy,
    ports::RoomPolicy,
    rooms::{AllowAllRooms, RoomsListedInToken},
};

#[cfg(feature = "api-gateway")]
use crate::api_gateway::CallbackUrl;
use crate::{
    identity::{self, MessageIdKey},
    jwt::{JwtSettings, JwtVerifier, KeySource, SignatureAlgorithm, V1_USER_CLAIM},
    rabbitmq::BrokerUrl,
    redis::RedisUrl,
    tls,
};

pub use environment::{ConfigError, Environment, Reported};
pub use limits::{read_connect_rate, read_limits, read_queue_settings};
pub use telemetry::{LogSettings, MetricsSettings, TelemetrySettings, TraceEndpoint, TraceSettings};

/// The exit code of a process whose configuration is wrong.
///
/// Source: BSD `sysexits.h`, `EX_USAGE`.
pub const EXIT_CONFIG: u8 = 64;

/// The services that every process needs.
#[derive(Clone, Debug)]
pub struct Backends {
    /// RabbitMQ.
    pub broker: BrokerUrl,
    /// Redis.
    pub redis: RedisUrl,
    /// The number of partitions.
    pub partitions: Partitions,
}

impl Backends {
    /// Reads `AMQP_URL`, `REDIS_URL` and `PARTITIONS`.
    pub fn read(env: &mut Environment) -> Result<Self, Reported> {
        let broker = env.required("AMQP_URL", "set it to the broker, such as amqp://guest:guest@127.0.0.1:5672");
        let redis = env.required("REDIS_URL", "set it to Redis, such as redis://127.0.0.1:6379");
        let partitions = read_partitions(env);
        trusted_certificates(env);
        Ok(Self { broker: broker?, redis: redis?, partitions: partitions? })
    }

    /// The same, where a process can do without both; but not without only one of them.
    pub fn read_if_set(env: &mut Environment) -> Result<Option<Self>, Reported> {
        if env.is_set("AMQP_URL") || env.is_set("REDIS_URL") { Self::read(env).map(Some) } else { Ok(None) }
    }
}

/// Reads `SSL_CERT_FILE` and `SSL_CERT_DIR`, to report missing files at the start.
fn trusted_certificates(env: &mut Environment) {
    let (file, folders) = (env.text("SSL_CERT_FILE"), env.text("SSL_CERT_DIR"));
    if let Some(problem) = tls::problem_with(file, folders) {
        env.problem("SSL_CERT_FILE, SSL_CERT_DIR", problem);
    }
}

/// Reads `PARTITIONS`.
pub fn read_partitions(env: &mut Environment) -> Result<Partitions, Reported> {
    let range = format!("from 1 to {}", Partitions::MAX_COUNT);
    let count = env.number("PARTITIONS", Partitions::default().count(), &range)?;
    Partitions::new(count).map_err(|error| env.problem("PARTITIONS", error))
}

/// Reads the token settings.
pub fn read_jwt_verifier(env: &mut Environment) -> Result<JwtVerifier, Reported> {
    let keys = key_source(env);
    let algorithm = env.optional("JWT_ALGORITHM", SignatureAlgorithm::default());
    let leeway = env.number("JWT_LEEWAY", 0, "of seconds");
    let require_exp = env.flag("JWT_REQUIRE_EXP", true);
    let (name, keys) = keys?;
    let settings = JwtSettings {
        algorithm: algorithm?,
        keys,
        user_claim: env.text("JWT_USER_CLAIM").unwrap_or(V1_USER_CLAIM).to_owned(),
        rooms_claim: env.text("JWT_ROOMS_CLAIM").map(str::to_owned),
        audience: env.text("JWT_AUDIENCE").map(str::to_owned),
        issuer: env.text("JWT_ISSUER").map(str::to_owned),
        leeway: leeway?,
        require_exp: require_exp?,
    };
    JwtVerifier::new(&settings).map_err(|error| env.problem(name, error))
}

/// The room policy: rooms listed in the token where `JWT_ROOMS_CLAIM` is set, else all rooms.
#[must_use]
pub fn read_room_policy(env: &Environment) -> Arc<dyn RoomPolicy> {
    if env.is_set("JWT_ROOMS_CLAIM") { Arc::new(RoomsListedInToken) } else { Arc::new(AllowAllRooms) }
}

fn key_source(env: &mut Environment) -> Result<(&'static str, KeySource), Reported> {
    let mut given: Vec<(&'static str, KeySource)> = Vec::new();
    let mut look = |name, source: fn(String) -> KeySource| {
        given.extend(env.text(name).map(|text| (name, source(text.to_owned()))));
    };
    look("JWT_SECRET", KeySource::Secret);
    look("JWT_PUBLIC_KEY", KeySource::Pem);
    look("JWT_JWKS", KeySource::Jwks);
    look("JWT_JWKS_URL", KeySource::JwksUrl);
    let count = given.len();
    given.pop().filter(|_| count == 1).ok_or_else(|| {
        let names = "JWT_SECRET, JWT_PUBLIC_KEY, JWT_JWKS, JWT_JWKS_URL";
        env.problem(names, format_args!("set exactly one of these, not {count}"))
    })
}

/// The settings of the send function alone.
#[derive(Clone, Debug)]
pub struct SendSettings {
    /// The policy for messages to users who have never connected.
    pub unknown_recipients: UnknownRecipientPolicy,
    /// How long an `rno` is remembered.
    pub rno_window: Duration,
    /// The key for message ids.
    pub message_id_key: MessageIdKey,
}

/// How long an `rno` is remembered by default.
pub const DEFAULT_RNO_WINDOW: Duration = Duration::from_secs(24 * 60 * 60);

impl SendSettings {
    /// Reads `UNKNOWN_RECIPIENT`, `RNO_WINDOW` and `MESSAGE_ID_KEY`.
    pub fn read(env: &mut Environment) -> Result<Self, Reported> {
        let unknown_recipients = read_unknown_recipients(env);
        let default = NonZero::new(DEFAULT_RNO_WINDOW.as_secs()).unwrap_or(NonZero::<u64>::MIN);
        let window = env.number("RNO_WINDOW", default, "of seconds, from 1");
        let message_id_key = env.required("MESSAGE_ID_KEY", identity::MESSAGE_ID_KEY_HINT);
        let rno_window = Duration::from_secs(window?.get());
        Ok(Self { unknown_recipients: unknown_recipients?, rno_window, message_id_key: message_id_key? })
    }
}

/// Reads `MESSAGE_ID_KEY`, where a process can do without it.
pub fn message_id_key_if_set(env: &mut Environment) -> Result<Option<MessageIdKey>, Reported> {
    if !env.is_set("MESSAGE_ID_KEY") {
        return Ok(None);
    }
    env.required("MESSAGE_ID_KEY", identity::MESSAGE_ID_KEY_HINT).map(Some)
}

fn read_unknown_recipients(env: &mut Environment) -> Result<UnknownRecipientPolicy, Reported> {
    let choices = [("queue", UnknownRecipientPolicy::Queue), ("refuse", UnknownRecipientPolicy::Reject)];
    env.choice("UNKNOWN_RECIPIENT", choices, UnknownRecipientPolicy::Queue)
}

/// Reads `HANDSHAKE_TOKEN`: whether Socket.IO clients must send their token in the handshake, as all others must.
pub fn read_requires_token(env: &mut Environment) -> Result<bool, Reported> {
    env.choice("HANDSHAKE_TOKEN", [("required", true), ("optional", false)], false)
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| "must be an IP address and a port such as 127.0.0.1:3000")
    }
}

/// The default number of unacked messages of one user.
pub const DEFAULT_PREFETCH: NonZero<u16> = NonZero::new(64).unwrap();

/// The settings of the consumer alone.
#[cfg(feature = "api-gateway")]
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    /// The connections API.
    pub callback_url: CallbackUrl,
    /// Unacked messages of one user at most.
    pub prefetch: u16,
    /// The listen address of `/healthz` and `/metrics`.
    pub health_addr: SocketAddr,
    /// Whether senders get delivery receipts.
    pub receipts: bool,
}

#[cfg(feature = "api-gateway")]
impl ConsumerSettings {
    /// Reads `CALLBACK_URL`, `PREFETCH`, `HEALTH_ADDR` and `RECEIPTS`.
    pub fn read(env: &mut Environment) -> Result<Self, Reported> {
        let callback_url =
            env.required("CALLBACK_URL", "set it to the stage's https URL, or to http://127.0.0.1:3000/dev locally");
        let prefetch = env.number("PREFETCH", DEFAULT_PREFETCH, "from 1 to 65535");
        let default = Address(SocketAddr::from(([127, 0, 0, 1], 8080)));
        let health_addr = env.optional("HEALTH_ADDR", default);
        let receipts = env.choice("RECEIPTS", [("on", true), ("off", false)], true);
        let (callback_url, prefetch) =
            (callback_url?, prefetch?.get().min(kschat_core::delivery::MAX_PREFETCH_PER_USER));
        Ok(Self { callback_url, prefetch, health_addr: health_addr?.0, receipts: receipts? })
    }
}

#[cfg(all(test, feature = "api-gateway"))]
mod tests {
    use kschat_core::limits::Limits;

    use super::*;
    use crate::rabbitmq::{QueueKind, QueueSettings};

    fn env(variables: &[(&str, &str)]) -> Environment {
        Environment::from_variables(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    fn problems<T>(mut env: Environment, read: impl Fn(&mut Environment) -> Result<T, Reported>) -> String {
        let settings = read(&mut env);
        match env.finish(settings) {
            Ok(_) => panic!("the invalid setting was accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_config_problem_is_reported_without_secret() {
        let env =
            env(&[("AMQP_URL", "http://me:hunter2@x"), ("REDIS_URL", ""), ("PARTITIONS", "0"), ("PREFETCH", "0")]);
        let report = problems(env, |env| {
            let backends = Backends::read(env);
            let consumer = ConsumerSettings::read(env);
            Ok((backends?, consumer?))
        });
        for part in [
            "5 problem(s)",
            "AMQP_URL: must be an AMQP URL",
            "REDIS_URL: is not set; set it to",
            "PARTITIONS: must be from 1 to 1024",
            "CALLBACK_URL: is not set",
            "PREFETCH: `0` is not a whole number from 1 to 65535",
        ] {
            assert!(report.contains(part), "{part} is missing in: {report}");
        }
        assert!(!report.contains("hunter2"));
    }

    #[test]
    fn impossible_queue_setting_is_reported_once() {
        let wrong = [
            ("QUEUE_TYPE", "stream"),
            ("MESSAGE_RETENTION", "5"),
            ("QUEUE_MAX_MESSAGES", "0"),
            ("UNKNOWN_RECIPIENT", "shrug"),
            ("MESSAGE_ID_KEY", "short"),
        ];
        let report = problems(env(&wrong), |env| {
            let (queues, send) = (read_queue_settings(env), SendSettings::read(env));
            Ok((queues?, send?))
        });
        for part in [
            "5 problem(s)",
            "MESSAGE_ID_KEY: must be at least 32 bytes",
            "QUEUE_TYPE: must be `classic` or `quorum`",
            "MESSAGE_RETENTION: must be a number of seconds from 60 to 2073600",
            "QUEUE_MAX_MESSAGES: `0` is not a whole number from 1",
            "UNKNOWN_RECIPIENT: must be `queue` or `refuse`",
        ] {
            assert!(report.contains(part), "{part} is missing in: {report}");
        }
        let refusing =
            read_queue_settings(&mut env(&[("UNKNOWN_RECIPIENT", "refuse"), ("QUEUE_TYPE", "quorum")])).unwrap();
        assert_eq!((refusing.keeps_empty, refusing.kind), (true, QueueKind::Quorum));
        assert_eq!(read_queue_settings(&mut env(&[])), Ok(QueueSettings::default()));
    }

    #[test]
    fn wrong_limits_are_reported_beside_wrong_queue_settings() {
        let wrong = [("MESSAGE_RETENTION", "5"), ("SEND_RATE", "0"), ("SENDER_SHARE", "101"), ("CONNECT_BURST", "x")];
        let report = problems(env(&wrong), |env| {
            let queues = read_queue_settings(env);
            let limits = read_limits(env, queues);
            Ok((queues?, limits?))
        });
        for part in [
            "4 problem(s)",
            "MESSAGE_RETENTION: must be a number of seconds from 60",
            "SEND_RATE: must be a whole number from 1 to 4294967295, or `off`",
            "SENDER_SHARE: must be a whole number from 1 to 100, or `off`",
            "CONNECT_BURST: `x` is not a whole number from 1 to 4294967295",
        ] {
            assert!(report.contains(part), "{part} is missing in: {report}");
        }
    }

    #[test]
    fn limits_have_defaults_and_can_be_off() {
        let limits = |variables: &[(&str, &str)]| read_limits(&mut env(variables), Ok(QueueSettings::default()));
        assert_eq!(limits(&[]), Ok(Limits::default()));
        let names = ["SEND_RATE", "ACK_RATE", "REQUEST_RATE", "CONNECT_RATE", "NEW_RECIPIENTS", "SENDER_SHARE"];
        assert_eq!(limits(&names.map(|name| (name, "off"))), Ok(Limits::OFF));
    }

    #[test]
    fn certificates_that_can_not_be_read_are_told() {
        let services = [("AMQP_URL", "amqp://127.0.0.1"), ("REDIS_URL", "redis://127.0.0.1")];
        let report =
            |more: (&'static str, &'static str)| problems(env(&[services[0], services[1], more]), Backends::read);
        let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/");
        let (nothing, no_certificate) = (format!("{keys}none.pem"), format!("{keys}rsa.pub.pem"));
        assert!(report(("SSL_CERT_FILE", nothing.leak())).contains("SSL_CERT_FILE, SSL_CERT_DIR: can't be read"));
        assert!(report(("SSL_CERT_DIR", "/no/such/folder")).contains("SSL_CERT_FILE, SSL_CERT_DIR: can't be read"));
        assert!(report(("SSL_CERT_FILE", no_certificate.leak())).contains("there is no certificate in it"));
        let fine = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/rsa.cert.pem");
        assert!(Backends::read(&mut env(&[services[0], services[1], ("SSL_CERT_FILE", fine)])).is_ok());
    }

    #[test]
    fn exactly_one_matching_jwt_key_is_required() {
        assert!(problems(env(&[]), read_jwt_verifier).contains("set exactly one of these, not 0"));
        assert!(problems(env(&[("JWT_SECRET", "s"), ("JWT_JWKS", "{}")]), read_jwt_verifier).contains("not 2"));
        assert!(
            problems(env(&[("JWT_SECRET", "s"), ("JWT_ALGORITHM", "none")]), read_jwt_verifier)
                .contains("JWT_ALGORITHM: must be")
        );
        assert!(
            problems(env(&[("JWT_SECRET", "s"), ("JWT_ALGORITHM", "ES256")]), read_jwt_verifier)
                .contains("JWT_SECRET: ES256 needs a public key")
        );
        let elsewhere = [("JWT_JWKS_URL", "http://example.com/keys"), ("JWT_ALGORITHM", "RS256")];
        assert!(problems(env(&elsewhere), read_jwt_verifier).contains("JWT_JWKS_URL: must be an https URL"));
        assert!(read_jwt_verifier(&mut env(&[("JWT_SECRET", "s")])).is_ok());
    }

    #[test]
    fn message_id_key_is_required_and_secret() {
        assert!(problems(env(&[]), SendSettings::read).contains("MESSAGE_ID_KEY: is not set; draw one with"));
        let short = problems(env(&[("MESSAGE_ID_KEY", "hunter2")]), SendSettings::read);
        assert!(short.contains("MESSAGE_ID_KEY: must be at least 32 bytes") && !short.contains("hunter2"), "{short}");
        assert!(message_id_key_if_set(&mut env(&[])).unwrap().is_none());
    }

    #[test]
    fn defaults_match_documentation() {
        let key = ("MESSAGE_ID_KEY", "a key of the tests, of 32 bytes or more");
        let mut env = env(&[("CALLBACK_URL", "http://127.0.0.1:3000/dev"), key]);
        let send = SendSettings::read(&mut env).unwrap();
        assert_eq!((send.unknown_recipients, send.rno_window), (UnknownRecipientPolicy::Queue, DEFAULT_RNO_WINDOW));
        let consumer = ConsumerSettings::read(&mut env).unwrap();
        assert_eq!((consumer.prefetch, consumer.health_addr.port(), consumer.receipts), (64, 8080, true));
        assert_eq!(read_partitions(&mut env), Ok(Partitions::default()));
        let TelemetrySettings { metrics, traces, .. } = TelemetrySettings::read(&mut env).unwrap();
        assert_eq!((metrics.emf, traces.endpoint), (None, None));
    }

    #[test]
    fn emf_is_enabled_on_lambda_or_on_request() {
        let emf = |variables: &[(&str, &str)]| MetricsSettings::read(&mut env(variables)).unwrap().emf;
        let on_lambda = ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand");
        assert_eq!(emf(&[on_lambda]).as_deref(), Some("kschat"));
        assert_eq!(emf(&[on_lambda, ("METRICS_EMF", "false")]), None);
        assert_eq!(emf(&[("METRICS_EMF", "true"), ("METRICS_NAMESPACE", "chat/prod")]).as_deref(), Some("chat/prod"));
        let report = problems(env(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")]), TraceSettings::read);
        assert!(report.contains("OTEL_EXPORTER_OTLP_ENDPOINT: must be an http or https URL"), "{report}");
    }
}
