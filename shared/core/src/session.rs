//! Who is behind a connection.

use std::time::Duration;

use kschat_protocol::{UserId, Version, dialect::Dialect, limits::CONNECTION_LIFETIME};

use crate::Timestamp;

/// The edge closes a connection at its lifetime, but not to the second.
const SLACK: Duration = Duration::from_secs(10 * 60);

/// What a verified handshake has told us: kept for as long as its connection can live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose connection it is.
    pub user: UserId,
    /// Which promises the client knows.
    pub version: Version,
    /// When it connected.
    pub connected: Timestamp,
    /// When its token ends; `None` for a token without an end, where a deployment allows such.
    pub expires: Option<Timestamp>,
    /// How its frames look.
    pub dialect: Dialect,
    /// The rooms that its token lists, where a deployment looks at such a list.
    pub rooms: Option<Vec<String>>,
    /// The address that it came from, as long as nobody knows whose it is.
    pub source: Option<String>,
}

impl Session {
    /// How long a session is remembered after its connection was made.
    pub const REMEMBERED: Duration = Duration::from_secs(CONNECTION_LIFETIME.as_secs() + SLACK.as_secs());

    /// Whether nobody may act by it: the token's time is over, or there was none yet.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.user.is_nameless() || self.expires.is_some_and(|expires| expires <= now)
    }

    /// When the edge has surely closed the connection: nothing needs to be remembered after that.
    #[must_use]
    pub fn forgotten_at(&self) -> Timestamp {
        self.connected.plus(Self::REMEMBERED)
    }

    /// Until when messages may be pushed: nobody listens beyond the connection, nor outlives a token.
    #[must_use]
    pub fn reachable_until(&self) -> Timestamp {
        self.expires.map_or(self.forgotten_at(), |expires| expires.min(self.forgotten_at()))
    }
}
