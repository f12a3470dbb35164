//! Wire representations of frames.
//!
//! A raw client sends and receives frames as they are. A Socket.IO client sends and receives the same frames as events:
//! the event `X` with an object is the frame with the action `x`, and a frame `{"event":"X",…}` is the event `X` with
//! the remaining fields. Only this module knows more about Socket.IO.
//!
//! Sources: the Engine.IO protocol, revisions 3 and 4; the Socket.IO protocol, revisions 4 and 5; and packets captured
//! from the clients 2.5.0 and 4.8.4.

mod packet;
mod wire;

use std::{fmt, str::FromStr, time::Duration};

use crate::{ConnectionId, limits::MAX_NAMESPACE_BYTES, server_frame::json};

pub use packet::{InvalidPacket, Kind, MAX_PACKET_ID, Packet, SocketPacket};
pub use wire::{
    CallbackReply, IGNORED_CALLBACK_ID, RECONNECT_PACKET, V1_SEND_CALLBACK_TEXT, callback_packet, event_packet,
    token_in,
};

/// Wire representation of a connection's frames. It is stored as its [`Self::code`].
///
/// ```
/// use kschat_protocol::{ServerFrame, dialect::Dialect};
///
/// let frame = ServerFrame::from_text(r#"{"event":"RESPERROR","RC":1,"ER":6}"#).expect("a frame");
/// let client = Dialect::from_code("4/kschat").expect("a Socket.IO 4.x client in the namespace /kschat");
/// assert_eq!(client.encode(&frame), r#"42/kschat,["RESPERROR",{"RC":1,"ER":6}]"#);
/// assert_eq!(client.code().as_deref(), Some("4/kschat"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Dialect {
    /// Raw frames.
    #[default]
    Raw,
    /// Socket.IO events.
    SocketIo(SocketIo),
}

/// Protocol state of a Socket.IO connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketIo {
    /// Protocol revision of the client.
    pub revision: Revision,
    /// The namespace that the client has joined, where it receives events.
    pub namespace: Option<Namespace>,
}

/// Engine.IO revisions; each implies one of Socket.IO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revision {
    /// `EIO=3`: clients 1.x and 2.x. The client sends heartbeats, and joins the namespace `/` implicitly.
    Three,
    /// `EIO=4`: clients 3.x and 4.x. The server sends heartbeats, and the client requests each namespace.
    Four,
}

/// How long a client of revision 4 may take to join a namespace and authenticate. Then its connection is closed, and it
/// reconnects.
///
/// Source: the Socket.IO clients use the same connection timeout.
pub const NAMESPACE_JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a client of revision 3 may take to request a namespace other than the main one, which it joins implicitly.
/// Nothing is pushed until then, as the client would ignore it.
const MAIN_NAMESPACE_DELAY: Duration = Duration::from_secs(5);

/// Whether a connection's client receives pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The client is ready.
    Ready,
    /// The client becomes ready after this time.
    Waiting(Duration),
    /// The client has not joined a namespace in time.
    Overdue,
}

/// A Socket.IO namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace(String);

/// The text is not a supported namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a slash and at most {} printable ASCII characters without a comma", MAX_NAMESPACE_BYTES - 1)]
pub struct InvalidNamespace;

/// A handshake asks for an unsupported dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedDialect {
    /// Long polling needs an HTTP server that keeps state per client.
    #[error("only the WebSocket transport of Socket.IO is served here: set transports to ['websocket']")]
    Transport,
    /// The protocol revision is unknown.
    #[error("only Socket.IO clients with EIO=3 (2.x) or EIO=4 (3.x and 4.x) are served here")]
    Revision,
}

/// Heartbeat timing of an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Time between two heartbeats.
    pub interval: Duration,
    /// How late a heartbeat may be before a client closes the connection.
    pub timeout: Duration,
}

impl Namespace {
    /// The main namespace, for clients that name none.
    #[must_use]
    pub fn main() -> Self {
        Self("/".to_owned())
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace as a packet's prefix: empty for the main one.
    fn prefix(&self) -> String {
        if self.0 == "/" { String::new() } else { format!("{},", self.0) }
    }
}

impl FromStr for Namespace {
    type Err = InvalidNamespace;

    fn from_str(text: &str) -> Result<Self, InvalidNamespace> {
        let is_fine = |byte: u8| byte.is_ascii_graphic() && !b",?\"\\".contains(&byte);
        let is_valid = text.starts_with('/') && text.len() <= MAX_NAMESPACE_BYTES && text.bytes().all(is_fine);
        is_valid.then(|| Self(text.to_owned())).ok_or(InvalidNamespace)
    }
}

impl Revision {
    const fn digit(self) -> char {
        match self {
            Self::Three => '3',
            Self::Four => '4',
        }
    }

    const fn from_digit(digit: char) -> Option<Self> {
        match digit {
            '3' => Some(Self::Three),
            '4' => Some(Self::Four),
            _ => None,
        }
    }
}

impl SocketIo {
    /// State of a client that has sent nothing yet.
    #[must_use]
    pub const fn new(revision: Revision) -> Self {
        Self { revision, namespace: None }
    }

    /// The packets that open the session.
    fn handshake_packets(&self, connection: &ConnectionId, heartbeat: Heartbeat) -> Vec<String> {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let open = format!(
            r#"0{{"sid":{},"upgrades":[],"pingInterval":{},"pingTimeout":{},"maxPayload":{}}}"#,
            json(&connection.as_str()),
            millis(heartbeat.interval),
            millis(heartbeat.timeout),
            crate::limits::MAX_FRAME_BYTES,
        );
        match self.revision {
            Revision::Three => vec![open, "40".to_owned()],
            Revision::Four => vec![open],
        }
    }

    /// The packet that accepts a client into a namespace.
    #[must_use]
    pub fn connect_accepted(&self, namespace: &Namespace, connection: &ConnectionId) -> String {
        let prefix = namespace.prefix();
        match self.revision {
            Revision::Three => format!("40{prefix}"),
            Revision::Four => format!(r#"40{prefix}{{"sid":{}}}"#, json(&connection.as_str())),
        }
    }

    /// The packet that rejects a client from a namespace. The client does not retry by itself.
    #[must_use]
    pub fn connect_refused(&self, namespace: &Namespace, message: &str, code: crate::ErrorCode) -> String {
        let (prefix, message) = (namespace.prefix(), json(&message));
        match self.revision {
            Revision::Three => format!("44{prefix}{message}"),
            Revision::Four => format!(r#"44{prefix}{{"message":{message},"data":{{"ER":{}}}}}"#, code.number()),
        }
    }

    fn readiness(&self, age: Duration) -> Readiness {
        let (span, then) = match self.revision {
            Revision::Three => (MAIN_NAMESPACE_DELAY, Readiness::Ready),
            Revision::Four => (NAMESPACE_JOIN_TIMEOUT, Readiness::Overdue),
        };
        match (&self.namespace, span.checked_sub(age)) {
            (Some(_), _) => Readiness::Ready,
            (None, Some(left)) if !left.is_zero() => Readiness::Waiting(left),
            _ => then,
        }
    }
}

impl Dialect {
    /// Selects the dialect of a handshake from its query parameters.
    ///
    /// # Errors
    /// [`UnsupportedDialect`], with a message for the client's developer.
    pub fn from_query<'a>(query: impl Fn(&str) -> Option<&'a str>) -> Result<Self, UnsupportedDialect> {
        let Some(revision) = query("EIO") else { return Ok(Self::Raw) };
        if query("transport") != Some("websocket") {
            return Err(UnsupportedDialect::Transport);
        }
        let digit: Option<char> = revision.parse().ok();
        let revision = digit.and_then(Revision::from_digit).ok_or(UnsupportedDialect::Revision)?;
        Ok(Self::SocketIo(SocketIo::new(revision)))
    }

    /// Packets that a client waits for before it sends anything.
    #[must_use]
    pub fn handshake_packets(&self, connection: &ConnectionId, heartbeat: Heartbeat) -> Vec<String> {
        match self {
            Self::Raw => Vec::new(),
            Self::SocketIo(client) => client.handshake_packets(connection, heartbeat),
        }
    }

    /// The heartbeat that the server sends, if it does.
    #[must_use]
    pub const fn ping(&self) -> Option<&'static str> {
        match self {
            Self::SocketIo(SocketIo { revision: Revision::Four, .. }) => Some("2"),
            _ => None,
        }
    }

    /// Whether a client that connected this long ago receives pushes.
    #[must_use]
    pub fn readiness(&self, age: Duration) -> Readiness {
        match self {
            Self::Raw => Readiness::Ready,
            Self::SocketIo(client) => client.readiness(age),
        }
    }

    /// Whether its clients may send their token after the handshake.
    #[must_use]
    pub const fn allows_late_authentication(&self) -> bool {
        matches!(self, Self::SocketIo(SocketIo { revision: Revision::Four, .. }))
    }

    /// A short code for storage; `None` for the raw dialect, which a store may omit.
    #[must_use]
    pub fn code(&self) -> Option<String> {
        let Self::SocketIo(SocketIo { revision, namespace }) = self else { return None };
        Some(format!("{}{}", revision.digit(), namespace.as_ref().map_or("", Namespace::as_str)))
    }

    /// The dialect of that code, if it is valid.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        let mut rest = code.chars();
        let revision = rest.next().and_then(Revision::from_digit)?;
        let namespace = rest.as_str();
        let namespace = if namespace.is_empty() { None } else { Some(namespace.parse().ok()?) };
        Some(Self::SocketIo(SocketIo { revision, namespace }))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;

    fn id() -> ConnectionId {
        ConnectionId::try_from("L0SM9cOFvHcCIhw=").unwrap()
    }

    fn client(revision: Revision) -> SocketIo {
        SocketIo::new(revision)
    }

    const BEAT: Heartbeat = Heartbeat { interval: Duration::from_secs(8), timeout: Duration::from_secs(2) };

    #[test]
    fn a_handshake_says_which_dialect_it_speaks() {
        let asked = |pairs: &[(&str, &'static str)]| {
            Dialect::from_query(|key| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
        };
        assert_eq!(asked(&[("token", "T")]), Ok(Dialect::Raw));
        for (digit, revision) in [("3", Revision::Three), ("4", Revision::Four)] {
            let found = asked(&[("EIO", digit), ("transport", "websocket")]);
            assert_eq!(found, Ok(Dialect::SocketIo(client(revision))));
        }
        assert_eq!(asked(&[("EIO", "4"), ("transport", "polling")]), Err(UnsupportedDialect::Transport));
        assert_eq!(asked(&[("EIO", "4")]), Err(UnsupportedDialect::Transport));
        assert_eq!(asked(&[("EIO", "5"), ("transport", "websocket")]), Err(UnsupportedDialect::Revision));
    }

    #[test]
    fn a_stored_dialect_reads_back() {
        for code in ["3", "4", "3/", "4/kschat"] {
            assert_eq!(Dialect::from_code(code).unwrap().code().as_deref(), Some(code));
        }
        assert_eq!(Dialect::Raw.code(), None);
        for code in ["", "5", "4kschat", "4/a,b", "/kschat"] {
            assert_eq!(Dialect::from_code(code), None, "{code}");
        }
    }

    #[test]
    fn missing_namespace_depends_on_revision() {
        let at = |code: &str, seconds| Dialect::from_code(code).unwrap().readiness(Duration::from_secs(seconds));
        assert_eq!([at("4/kschat", 99), at("3/", 0), Dialect::Raw.readiness(Duration::ZERO)], [Readiness::Ready; 3]);
        assert_eq!([at("3", 1), at("3", 5)], [Readiness::Waiting(Duration::from_secs(4)), Readiness::Ready]);
        assert_eq!([at("4", 1), at("4", 20)], [Readiness::Waiting(Duration::from_secs(19)), Readiness::Overdue]);
    }

    #[test]
    fn handshake_packets_differ_by_revision() {
        let open =
            r#"0{"sid":"L0SM9cOFvHcCIhw=","upgrades":[],"pingInterval":8000,"pingTimeout":2000,"maxPayload":32768}"#;
        assert_eq!(client(Revision::Four).handshake_packets(&id(), BEAT), [open]);
        assert_eq!(client(Revision::Three).handshake_packets(&id(), BEAT), [open, "40"]);
        let namespace: Namespace = "/kschat".parse().unwrap();
        let (three, four) = (client(Revision::Three), client(Revision::Four));
        assert_eq!(four.connect_accepted(&namespace, &id()), r#"40/kschat,{"sid":"L0SM9cOFvHcCIhw="}"#);
        assert_eq!(three.connect_accepted(&namespace, &id()), "40/kschat,");
        assert_eq!(three.connect_accepted(&Namespace::main(), &id()), "40");
        let refused = r#"44/kschat,{"message":"no","data":{"ER":3}}"#;
        assert_eq!(four.connect_refused(&namespace, "no", ErrorCode::TokenInvalid), refused);
        assert_eq!(three.connect_refused(&namespace, "no", ErrorCode::TokenInvalid), r#"44/kschat,"no""#);
    }
}
