//! The session behind a connection.

use std::time::Duration;

use kschat_protocol::{ProtocolVersion, UserId, dialect::Dialect, limits::CONNECTION_LIFETIME};

use crate::Timestamp;

/// The edge closes a connection at its maximum lifetime, but not to the second.
const CONNECTION_LIFETIME_SLACK: Duration = Duration::from_secs(10 * 60);

/// The data of a verified handshake, kept for as long as its connection can live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The user of the connection.
    pub user: UserId,
    /// The protocol version of the client.
    pub version: ProtocolVersion,
    /// When it connected.
    pub connected: Timestamp,
    /// When its token expires; `None` for a token without expiry, where a deployment allows such.
    pub expires: Option<Timestamp>,
    /// The wire format of its frames.
    pub dialect: Dialect,
    /// The rooms that its token lists, where a deployment reads such a list.
    pub rooms: Option<Vec<String>>,
    /// The source address, while the connection is unauthenticated.
    pub source: Option<String>,
}

impl Session {
    /// How long a session is stored after its connection was made.
    pub const SESSION_RETENTION: Duration =
        Duration::from_secs(CONNECTION_LIFETIME.as_secs() + CONNECTION_LIFETIME_SLACK.as_secs());

    /// Whether it may not be used: the token has expired, or there was none yet.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.user.is_provisional() || self.expires.is_some_and(|expires| expires <= now)
    }

    /// When the edge has certainly closed the connection: nothing needs to be stored after that.
    #[must_use]
    pub fn retained_until(&self) -> Timestamp {
        self.connected.plus(Self::SESSION_RETENTION)
    }

    /// Until when messages may be pushed: the end of the connection or of the token, whichever is first.
    #[must_use]
    pub fn reachable_until(&self) -> Timestamp {
        self.expires.map_or(self.retained_until(), |expires| expires.min(self.retained_until()))
    }
}
