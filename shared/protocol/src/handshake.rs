//! What a client may say while it connects.

use crate::dialect::{Dialect, UnsupportedDialect};

/// The subprotocol by which a browser asks for version 2; the only one that is ever echoed.
pub const SUBPROTOCOL: &str = "kschat.v2";

/// Precedes the token among the offered subprotocols, the one header that a browser's page can set.
pub const BEARER_PREFIX: &str = "bearer.";

/// Which promises client and server keep to one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    /// The seed's clients: `rno` is drawn once a page and repeated, so it only correlates.
    #[default]
    Seed,
    /// `rno` is fresh for every message and is its idempotency key.
    V2,
}

impl Version {
    /// The number that names it.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Seed => 1,
            Self::V2 => 2,
        }
    }

    /// The version of that number, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Seed),
            2 => Some(Self::V2),
            _ => None,
        }
    }
}

/// A handshake as the client asked for it, before anything in it is believed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Handshake {
    /// The token, from the query or else from the offered subprotocols.
    pub token: Option<String>,
    /// Whom the client takes itself for: the seed's `ksId`.
    pub claimed_user: Option<String>,
    /// The version that the client asked for.
    pub version: Version,
    /// The subprotocol to answer with. A browser drops the connection when it offered some and hears none.
    pub subprotocol: Option<&'static str>,
    /// How its frames look.
    pub dialect: Dialect,
    /// The address that it came from, if the edge has told.
    pub source: Option<String>,
}

impl Handshake {
    /// Reads a handshake from a look-up in the query and from the `Sec-WebSocket-Protocol` header.
    ///
    /// # Errors
    /// [`UnsupportedDialect`], if it asks for what is not served.
    pub fn read<'a>(
        query: impl Fn(&str) -> Option<&'a str>,
        protocols: Option<&str>,
    ) -> Result<Self, UnsupportedDialect> {
        let offered = || protocols.unwrap_or_default().split(',').map(str::trim);
        let subprotocol = offered().any(|name| name == SUBPROTOCOL).then_some(SUBPROTOCOL);
        let bearer = || offered().find_map(|name| name.strip_prefix(BEARER_PREFIX));
        let is_v2 = subprotocol.is_some() || query("v") == Some("2");
        Ok(Self {
            dialect: Dialect::asked_for(&query)?,
            token: query("token").or_else(bearer).filter(|token| !token.is_empty()).map(str::to_owned),
            claimed_user: query("ksId").filter(|user| !user.is_empty()).map(str::to_owned),
            version: if is_v2 { Version::V2 } else { Version::Seed },
            subprotocol,
            source: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_brings_its_token_in_the_query() {
        let query = |key: &str| match key {
            "token" => Some("T"),
            "ksId" => Some("7"),
            _ => None,
        };
        let handshake = Handshake::read(query, None).unwrap();
        assert_eq!(handshake.token.as_deref(), Some("T"));
        assert_eq!(handshake.claimed_user.as_deref(), Some("7"));
        assert_eq!((handshake.version, handshake.subprotocol), (Version::Seed, None));
    }

    #[test]
    fn a_browser_brings_it_among_the_subprotocols_and_only_ours_is_echoed() {
        let handshake = Handshake::read(|_| None, Some("kschat.v2, bearer.a.b-c")).unwrap();
        assert_eq!(handshake.token.as_deref(), Some("a.b-c"));
        assert_eq!((handshake.version, handshake.subprotocol), (Version::V2, Some("kschat.v2")));
    }

    #[test]
    fn version_two_can_be_asked_for_in_the_query_too() {
        let handshake = Handshake::read(|key| (key == "v").then_some("2"), None).unwrap();
        assert_eq!((handshake.version, handshake.subprotocol), (Version::V2, None));
        assert_eq!(handshake.token, None);
    }
}
