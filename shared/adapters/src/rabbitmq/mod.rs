//! RabbitMQ behind [`Publisher`](kschat_core::ports::Publisher), [`Queues`](kschat_core::ports::Queues),
//! [`Pokes`](kschat_core::ports::Pokes), [`Mailbox`](kschat_core::ports::Mailbox) and
//! [`Ownership`](kschat_core::ports::Ownership).
//!
//! | what | name |
//! |---|---|
//! | exchange of messages, direct | `kschat.direct` |
//! | exchange of what is for everybody, fanout | `kschat.broadcast` |
//! | exchange of rooms, topic | `kschat.rooms` |
//! | routing key of a room, escaped | `room.<room>` |
//! | routing key of a user, the seed's | `ks_<user>` |
//! | queue of a user | `kschat.user.<user>` |
//! | exchange and queue of what can't be delivered; its headers say why: `x-kschat-reason`, or the broker's `x-first-death-reason` | `kschat.dead` |
//! | exchange of control messages, direct | `kschat.control` |
//! | queue that a partition's owner consumes exclusively, and is poked by; its routing key there is the same | `kschat.control.<partition>` |
//! | queue that every consumer process consumes, so that they can be counted | `kschat.members` |
//!
//! [`Publishing`] is the functions' side, [`Consuming`] the consumer's. Each holds one connection, and needs no permission
//! that is not listed for it in `infra/rabbitmq.json`.

mod consuming;
mod dead;
mod notices;
mod ownership;
mod publishing;
mod queues;
mod topology;
mod traces;

use std::{fmt, str::FromStr, time::Duration};

use kschat_core::ports::{BoxError, Unavailable};
use lapin::{Connection, ConnectionProperties, ErrorKind, uri::AMQPUri};

pub use consuming::Consuming;
pub use ownership::PartitionOwnership;
pub use publishing::Publishing;
pub use queues::QueueSettings;

/// After how many seconds without a sign the broker and we give each other up, unless the URL says otherwise.
const HEARTBEAT_SECONDS: u16 = 10;

const MIN_HEARTBEAT_SECONDS: u16 = 2;

/// Source of all three: AMQP 0-9-1, "Reply codes".
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;

/// The broker's type of queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// On one node of the broker.
    Classic,
    /// On several nodes of a cluster: it outlives one of them, and costs three times as much. An empty one is not
    /// removed when its user goes, but when it has not been used for long; and each user who is online has a channel, of
    /// which a connection has 2,047.
    Quorum,
}

/// Where the broker is. Cannot be printed with its password.
#[derive(Clone)]
pub struct BrokerUrl(AMQPUri);

impl BrokerUrl {
    /// The span after which a silent side counts as dead.
    pub(crate) fn heartbeat(&self) -> Duration {
        Duration::from_secs(u64::from(self.0.query.heartbeat.unwrap_or(HEARTBEAT_SECONDS)))
    }

    /// Connects, under a name that operators see.
    async fn connect(&self, name: &str) -> Result<Connection, lapin::Error> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        Connection::connect_uri(self.0.clone(), properties).await
    }
}

impl FromStr for BrokerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut uri = AMQPUri::from_str(text)
            .map_err(|_| "must be an AMQP URL such as amqps://user:password@host:5671/vhost".to_owned())?;
        // Without one, or with a very short one, a dead peer can't be told from a living one.
        if *uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS) < MIN_HEARTBEAT_SECONDS {
            return Err(format!("its heartbeat must be at least {MIN_HEARTBEAT_SECONDS} (seconds)"));
        }
        Ok(Self(uri))
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://***@{}:{}", self.0.scheme, self.0.authority.host, self.0.authority.port)
    }
}

fn unavailable(action: &'static str, source: impl Into<BoxError>) -> Unavailable {
    Unavailable::new("rabbitmq", action, without_names(source.into()))
}

/// What the broker says of an error names the queue, and so the user: only its number may reach a log.
fn without_names(error: BoxError) -> BoxError {
    match error.downcast_ref::<lapin::Error>().map(lapin::Error::kind) {
        Some(ErrorKind::ProtocolError(refused)) if refused.get_id() == ACCESS_REFUSED => {
            "the broker answered 403, access refused: are user, password, virtual host and permissions right?".into()
        }
        Some(ErrorKind::ProtocolError(refused)) => format!("the broker answered {}", refused.get_id()).into(),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_printed() {
        let url: BrokerUrl = "amqps://me:hunter2@broker.example:5671/chat".parse().unwrap();
        assert_eq!(format!("{url:?}"), "amqps://***@broker.example:5671");
        assert!("http://me:hunter2@x".parse::<BrokerUrl>().is_err_and(|error| !error.contains("hunter2")));
    }

    #[test]
    fn the_heartbeat_is_ours_unless_the_url_has_one() {
        let heartbeat = |url: &str| url.parse::<BrokerUrl>().unwrap().heartbeat().as_secs();
        assert_eq!(heartbeat("amqp://localhost"), 10);
        assert_eq!(heartbeat("amqp://localhost/%2f?heartbeat=2"), 2);
        assert!("amqp://localhost/%2f?heartbeat=0".parse::<BrokerUrl>().is_err());
    }
}
