//! Handshake of a connecting client.

use crate::dialect::{Dialect, UnsupportedDialect};

/// The subprotocol by which a browser requests version 2; the only one that is ever echoed.
pub const SUBPROTOCOL: &str = "kschat.v2";

/// Prefix of the token among the offered subprotocols, the only header that a browser's page can set.
pub const BEARER_PREFIX: &str = "bearer.";

/// Protocol version of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ProtocolVersion {
    /// The original Socket.IO guide's clients: `rno` is drawn once per page and repeated, so it only correlates.
    #[default]
    V1,
    /// `rno` is fresh for every message and is its idempotency key.
    V2,
}

impl ProtocolVersion {
    /// The version number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }

    /// The version with that number, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            2 => Some(Self::V2),
            _ => None,
        }
    }
}

/// An unverified handshake.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Handshake {
    /// The token, from the query or else from the offered subprotocols.
    pub token: Option<String>,
    /// The user that the client claims to be: `ksId` of v1 clients.
    pub claimed_user: Option<String>,
    /// The requested version.
    pub version: ProtocolVersion,
    /// The subprotocol to answer with. A browser that offered some drops the connection without an answer.
    pub subprotocol: Option<&'static str>,
    /// Wire representation of its frames.
    pub dialect: Dialect,
    /// The client's address, if the edge provides it.
    pub source: Option<String>,
}

impl Handshake {
    /// Reads a handshake from its query parameters and its `Sec-WebSocket-Protocol` header.
    ///
    /// ```
    /// use kschat_protocol::{Handshake, ProtocolVersion};
    ///
    /// let browser = Handshake::read(|_| None, Some("kschat.v2, bearer.TOKEN"))?;
    /// assert_eq!((browser.token.as_deref(), browser.version), (Some("TOKEN"), ProtocolVersion::V2));
    ///
    /// let v1 = Handshake::read(|key| (key == "token").then_some("TOKEN"), None)?;
    /// assert_eq!((v1.token.as_deref(), v1.version), (Some("TOKEN"), ProtocolVersion::V1));
    /// # Ok::<(), kschat_protocol::dialect::UnsupportedDialect>(())
    /// ```
    ///
    /// # Errors
    /// [`UnsupportedDialect`], if it asks for an unsupported dialect.
    pub fn read<'a>(
        query: impl Fn(&str) -> Option<&'a str>,
        protocols: Option<&str>,
    ) -> Result<Self, UnsupportedDialect> {
        let offered = || protocols.unwrap_or_default().split(',').map(str::trim);
        let subprotocol = offered().any(|name| name == SUBPROTOCOL).then_some(SUBPROTOCOL);
        let bearer = || offered().find_map(|name| name.strip_prefix(BEARER_PREFIX));
        let is_v2 = subprotocol.is_some() || query("v") == Some("2");
        Ok(Self {
            dialect: Dialect::from_query(&query)?,
            token: query("token").or_else(bearer).filter(|token| !token.is_empty()).map(str::to_owned),
            claimed_user: query("ksId").filter(|user| !user.is_empty()).map(str::to_owned),
            version: if is_v2 { ProtocolVersion::V2 } else { ProtocolVersion::V1 },
            subprotocol,
            source: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_handshake_reads_token_from_query() {
        let query = |key: &str| match key {
            "token" => Some("T"),
            "ksId" => Some("7"),
            _ => None,
        };
        let handshake = Handshake::read(query, None).unwrap();
        assert_eq!(handshake.token.as_deref(), Some("T"));
        assert_eq!(handshake.claimed_user.as_deref(), Some("7"));
        assert_eq!((handshake.version, handshake.subprotocol), (ProtocolVersion::V1, None));
    }

    #[test]
    fn subprotocol_token_is_read_not_echoed() {
        let handshake = Handshake::read(|_| None, Some("kschat.v2, bearer.a.b-c")).unwrap();
        assert_eq!(handshake.token.as_deref(), Some("a.b-c"));
        assert_eq!((handshake.version, handshake.subprotocol), (ProtocolVersion::V2, Some("kschat.v2")));
    }

    #[test]
    fn query_parameter_selects_version_two() {
        let handshake = Handshake::read(|key| (key == "v").then_some("2"), None).unwrap();
        assert_eq!((handshake.version, handshake.subprotocol), (ProtocolVersion::V2, None));
        assert_eq!(handshake.token, None);
    }
}
