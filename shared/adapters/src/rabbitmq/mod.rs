//! RabbitMQ behind [`Publisher`](kschat_core::ports::Publisher),
//! [`QueueProvisioner`](kschat_core::ports::QueueProvisioner), [`RoomBindings`](kschat_core::ports::RoomBindings),
//! [`OwnerChannel`](kschat_core::ports::OwnerChannel), [`QueueManager`](kschat_core::ports::QueueManager) and
//! [`Ownership`](kschat_core::ports::Ownership).
//!
//! | what | name |
//! |---|---|
//! | exchange of messages, direct | `kschat.direct` |
//! | exchange of broadcasts, fanout | `kschat.broadcast` |
//! | exchange of rooms, topic | `kschat.rooms` |
//! | routing key of a room, escaped | `room.<room>` |
//! | routing key of a user, as in v1 | `ks_<user>` |
//! | queue of a user | `kschat.user.<user>` |
//! | exchange and queue of dead letters; the reason is in the header `x-kschat-reason`, or the broker's `x-first-death-reason` | `kschat.dead` |
//! | exchange of control messages, direct | `kschat.control` |
//! | control queue of a partition, which its owner consumes exclusively; its routing key there is the same | `kschat.control.<partition>` |
//! | members queue, which every consumer process consumes so that they can be counted | `kschat.members` |
//!
//! [`RabbitMqPublisher`] is the functions' side, [`RabbitMqConsumer`] the consumer's. Each holds one connection, and
//! needs only the permissions listed for it in `infra/rabbitmq.json`.

mod connection;
mod consumer;
mod dead_letters;
mod headers;
pub mod owner_message;
mod ownership;
mod pause_guard;
mod publish_channel;
mod publisher;
mod queues;
mod topology;

use std::{fmt, str::FromStr, time::Duration};

use kschat_core::ports::{BoxError, Unavailable};
use lapin::{
    Connection, ConnectionProperties,
    runtime::default_runtime,
    tcp::OwnedTLSConfig,
    uri::{AMQPScheme, AMQPUri},
};
use url::{Host, Url};

use self::connection::reply_code;
use crate::{
    address::{only_parameters, service_url},
    tls,
};

pub use consumer::RabbitMqConsumer;
pub use ownership::PartitionOwnership;
pub use publisher::RabbitMqPublisher;
pub use queues::QueueSettings;

/// The default heartbeat: after that many silent seconds either side drops the connection.
const HEARTBEAT_SECONDS: u16 = 10;

const MIN_HEARTBEAT_SECONDS: u16 = 2;

/// Source of all four: AMQP 0-9-1, "Reply codes".
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// The delivery mode of a message that outlives a restart of the broker.
///
/// Source: AMQP 0-9-1, "Basic class", property `delivery-mode`.
const DELIVERY_MODE_PERSISTENT: u8 = 2;

/// The broker's type of queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// On one node of the broker.
    Classic,
    /// On several nodes of a cluster: it survives the loss of one, and costs three times as much. An empty one is not
    /// removed when its user goes offline, but when it was unused for long. Each online user has a channel, of which a
    /// connection has 2,047.
    Quorum,
}

/// The broker's URL. Cannot be printed with its password.
///
/// ```
/// use kschat_adapters::rabbitmq::BrokerUrl;
///
/// let url: BrokerUrl = "amqps://kschat:secret@mq.internal:5671/chat?heartbeat=5".parse()?;
/// assert_eq!(format!("{url:?}"), "amqps://***@mq.internal:5671");
/// // An error never repeats the URL.
/// let error = "amqp://kschat:p/w@mq.internal".parse::<BrokerUrl>().unwrap_err();
/// assert!(error.contains("%2F") && !error.contains("p/w"));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone)]
pub struct BrokerUrl(AMQPUri);

impl BrokerUrl {
    /// The span after which a silent side counts as dead.
    pub(crate) fn heartbeat(&self) -> Duration {
        Duration::from_secs(u64::from(self.0.query.heartbeat.unwrap_or(HEARTBEAT_SECONDS)))
    }

    /// Connects, under a name that operators see.
    async fn connect(&self, name: &str) -> Result<Connection, BoxError> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let chain = (self.0.scheme == AMQPScheme::AMQPS).then(|| tls::roots_in_pem().to_owned());
        let trusted = OwnedTLSConfig { cert_chain: chain, ..OwnedTLSConfig::default() };
        let connected = Connection::connect_uri_with_config(self.0.clone(), properties, trusted, default_runtime()?);
        connected.await.map_err(|error| self.explain(error))
    }

    /// Adds a hint for the operator, where the broker refuses the connection itself.
    fn explain(&self, error: lapin::Error) -> BoxError {
        let (user, vhost) = (&self.0.authority.userinfo.username, &self.0.vhost);
        match reply_code(&error) {
            Some(ACCESS_REFUSED) => {
                format!("the broker refuses user `{user}`: are the name and the password right?").into()
            }
            Some(NOT_ALLOWED) => format!(
                "the broker refuses virtual host `{vhost}`: is there one of that name, and may user `{user}` use it?"
            )
            .into(),
            _ => tls::with_hint(error.into()),
        }
    }
}

impl FromStr for BrokerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const HINT: &str = "must be an AMQP URL such as amqps://user:password@host:5671/vhost";
        let url = service_url(text, &["amqp", "amqps"], HINT)?;
        only_parameters(&url, &["heartbeat", "frame_max", "channel_max", "connection_timeout", "auth_mechanism"])?;
        let mut uri = AMQPUri::from_str(text).map_err(|_| HINT.to_owned())?;
        // The library does not recognize an IPv6 address.
        uri.authority.host = host(&url).ok_or(HINT)?;
        if uri.vhost.is_empty() {
            return Err(
                "ends in `/`, which names a virtual host without a name: leave it out, or write %2F after it for \
                        the usual one"
                    .to_owned(),
            );
        }
        // Without a heartbeat, or with a very short one, a dead peer can't be distinguished from a living one.
        if *uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS) < MIN_HEARTBEAT_SECONDS {
            return Err(format!("the heartbeat must be at least {MIN_HEARTBEAT_SECONDS} seconds"));
        }
        Ok(Self(uri))
    }
}

/// The host as it is looked up: a name, or an address without brackets.
fn host(url: &Url) -> Option<String> {
    Some(match url.host()? {
        // Without the encoding that a URL may have.
        Host::Domain(name) => AMQPUri::from_str(&format!("amqp://{name}")).ok()?.authority.host,
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    })
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (&self.0.authority.host, self.0.authority.port);
        let is_address = host.contains(':');
        let host = if is_address { format!("[{host}]") } else { host.clone() };
        write!(f, "{}://***@{host}:{port}", self.0.scheme)
    }
}

fn unavailable(action: &'static str, source: impl Into<BoxError>) -> Unavailable {
    Unavailable::new("rabbitmq", action, redact_names(source.into()))
}

/// The broker's error text names the queue, and so the user: only its code may reach a log.
fn redact_names(error: BoxError) -> BoxError {
    match error.downcast_ref::<lapin::Error>().and_then(reply_code) {
        Some(ACCESS_REFUSED) => {
            "the broker answered 403, access refused: has this user the permissions that it needs?".into()
        }
        Some(number) => format!("the broker answered {number}").into(),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broker_url_debug_hides_password() {
        let url: BrokerUrl = "amqps://me:hunter2@broker.example:5671/chat".parse().unwrap();
        assert_eq!(format!("{url:?}"), "amqps://***@broker.example:5671");
        assert!("http://me:hunter2@x".parse::<BrokerUrl>().is_err_and(|error| !error.contains("hunter2")));
    }

    #[test]
    fn host_is_the_one_that_was_given() {
        let shown = |url: &str| url.parse::<BrokerUrl>().map(|url| format!("{url:?}"));
        let shows = |url: &str, shown_as: &str| assert_eq!(shown(url), Ok(shown_as.to_owned()), "{url}");
        shows("amqp://guest:guest@[2001:db8::5]:5672", "amqp://***@[2001:db8::5]:5672");
        shows("amqps://[::1]", "amqps://***@[::1]:5671");
        shows("amqp://me:pw@10.0.0.7:5673/chat", "amqp://***@10.0.0.7:5673");
        shows("amqp://me:p%40%2F%3F%23ss@broker/chat?heartbeat=5", "amqp://***@broker:5672");
        // The last `@` ends the password, as nothing else can be meant.
        shows("amqp://me:hunter@2@broker", "amqp://***@broker:5672");
    }

    #[tokio::test]
    async fn address_of_ipv6_is_where_a_connection_goes() {
        use tokio::io::AsyncReadExt;

        // A machine without IPv6 can't run this.
        let Ok(listener) = tokio::net::TcpListener::bind("[::1]:0").await else { return };
        let url: BrokerUrl = format!("amqp://guest:guest@{}", listener.local_addr().unwrap()).parse().unwrap();
        let connecting = tokio::spawn(async move { url.connect("test").await.map(drop) });
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut header = [0; 4];
        stream.read_exact(&mut header).await.unwrap();
        assert_eq!(&header, b"AMQP");
        connecting.abort();
    }

    #[test]
    fn url_with_what_is_not_understood_is_refused_without_its_password() {
        let refused = [
            ("amqp://me:hunter/2@broker:5672/chat", "%2F"),
            ("amqp://me:12/hunter@broker:5672/chat", "%2F"),
            ("amqp://me:hunter?2@broker", "%3F"),
            ("amqp://me:hunter#2@broker", "%23"),
            ("amqp://me:hunter@2/x@broker", "%40"),
            ("amqp://me:hunter@broker#2", "%23"),
            ("amqp://me:hunter@broker:hunter", "port"),
            ("amqp://me:hunter@", "host"),
            ("amqp:///chat", "host"),
            ("amqp://", "host"),
            ("amqp://me:hunter@broker/", "virtual host"),
            ("amqp://me:hunter@broker/chat?heartbeat=hunter", "AMQP URL"),
            ("amqp://me:hunter@broker/chat?verify=verify_none", "heartbeat"),
            ("amqps://me:hunter@broker/chat?cacertfile=hunter.pem", "heartbeat"),
            ("amqp://me:hunter@broker?heartbeat=5&heartbeat=6", "twice"),
            ("http://me:hunter@broker", "AMQP URL"),
            ("me:hunter@broker:5672", "AMQP URL"),
            ("hunter", "AMQP URL"),
        ];
        for (url, hint) in refused {
            let error = url.parse::<BrokerUrl>().err().unwrap_or_else(|| "nothing".to_owned());
            assert!(error.contains(hint) && !error.contains("hunter") && !error.contains("12"), "{url}: {error}");
        }
    }

    #[test]
    fn heartbeat_defaults_unless_url_sets_it() {
        let heartbeat = |url: &str| url.parse::<BrokerUrl>().unwrap().heartbeat().as_secs();
        assert_eq!(heartbeat("amqp://localhost"), 10);
        assert_eq!(heartbeat("amqp://localhost/%2f?heartbeat=2"), 2);
        assert!("amqp://localhost/%2f?heartbeat=0".parse::<BrokerUrl>().is_err());
    }
}
