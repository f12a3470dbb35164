//! How frames look on the wire of a connection.
//!
//! A raw client gets and sends frames as they are. A Socket.IO client gets and sends the very same ones as events: the
//! event `X` with an object is the frame with the action `x`, and a frame `{"event":"X",…}` is the event `X` with the
//! rest of the frame. Nothing but this module knows more of Socket.IO than that.
//!
//! Sources: the Engine.IO protocol, revisions 3 and 4; the Socket.IO protocol, revisions 4 and 5; and what the clients
//! 2.5.0 and 4.8.4 were seen to send.

mod packet;
mod wire;

use std::{fmt, str::FromStr, time::Duration};

use crate::{ConnectionId, limits::MAX_NAMESPACE, server::json};

pub use packet::{InvalidPacket, Kind, MAX_PACKET_ID, Packet, SocketPacket};
pub use wire::{CALLBACK, RESTART, SENT, as_event, as_frame, reply_to, token_in};

/// How the frames of a connection look. Whoever stores it, stores its [`Self::code`].
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Dialect {
    /// As they are.
    #[default]
    Raw,
    /// As events of Socket.IO.
    SocketIo(SocketIo),
}

/// A Socket.IO client's side of the talk, as far as it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketIo {
    /// Which revision of the protocols it speaks.
    pub revision: Revision,
    /// Where it hears events: the namespace that it has connected to.
    pub namespace: Option<Namespace>,
}

/// Revisions of Engine.IO, each of which goes with one of Socket.IO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revision {
    /// `EIO=3`: clients 1.x and 2.x. The client sends the heartbeats, and is in the namespace `/` by itself.
    Three,
    /// `EIO=4`: clients 3.x and 4.x. The server sends the heartbeats, and each namespace has to be asked for.
    Four,
}

/// How long a client of revision 4 may take to say where it listens, and who it is. Then its connection is ended, and
/// it connects anew.
///
/// Source: as long as the Socket.IO clients themselves wait for a connection.
pub const JOIN_WITHIN: Duration = Duration::from_secs(20);

/// How long a client of revision 3 may take to name another namespace than the main one, where it is by itself: until
/// then nothing is pushed to it, as it would not be heard.
const MAIN_AFTER: Duration = Duration::from_secs(5);

/// Whether a connection's client hears what is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Hears,
    /// Not yet; that changes by itself after so long.
    Waits(Duration),
    /// It was to say where it listens, and has not.
    Overdue,
}

/// A namespace of Socket.IO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace(String);

/// A text that names no namespace of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a slash and at most {} printable ASCII characters without a comma", MAX_NAMESPACE - 1)]
pub struct InvalidNamespace;

/// A handshake that asks for what is not served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedDialect {
    /// Long polling, which needs an HTTP server that remembers its clients.
    #[error("only the WebSocket transport of Socket.IO is served here: set transports to ['websocket']")]
    Transport,
    /// A revision that nobody knows yet.
    #[error("only Socket.IO clients with EIO=3 (2.x) or EIO=4 (3.x and 4.x) are served here")]
    Revision,
}

/// How often both sides of a silent connection hear from one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Between two heartbeats.
    pub interval: Duration,
    /// How much later one may come before a client gives the connection up.
    pub timeout: Duration,
}

impl Namespace {
    /// The namespace of clients that name none.
    #[must_use]
    pub fn main() -> Self {
        Self("/".to_owned())
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it stands in a packet: the main one is left out.
    fn prefix(&self) -> String {
        if self.0 == "/" { String::new() } else { format!("{},", self.0) }
    }
}

impl FromStr for Namespace {
    type Err = InvalidNamespace;

    fn from_str(text: &str) -> Result<Self, InvalidNamespace> {
        let is_fine = |byte: u8| byte.is_ascii_graphic() && !b",?\"\\".contains(&byte);
        let is_valid = text.starts_with('/') && text.len() <= MAX_NAMESPACE && text.bytes().all(is_fine);
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
    /// A client that has said nothing yet.
    #[must_use]
    pub const fn new(revision: Revision) -> Self {
        Self { revision, namespace: None }
    }

    /// The packets by which the talk begins.
    fn greeting(&self, connection: &ConnectionId, heartbeat: Heartbeat) -> Vec<String> {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let open = format!(
            r#"0{{"sid":{},"upgrades":[],"pingInterval":{},"pingTimeout":{},"maxPayload":{}}}"#,
            json(&connection.as_str()),
            millis(heartbeat.interval),
            millis(heartbeat.timeout),
            crate::limits::MAX_FRAME,
        );
        match self.revision {
            Revision::Three => vec![open, "40".to_owned()],
            Revision::Four => vec![open],
        }
    }

    /// The packet that lets a client into a namespace.
    #[must_use]
    pub fn welcome(&self, namespace: &Namespace, connection: &ConnectionId) -> String {
        let prefix = namespace.prefix();
        match self.revision {
            Revision::Three => format!("40{prefix}"),
            Revision::Four => format!(r#"40{prefix}{{"sid":{}}}"#, json(&connection.as_str())),
        }
    }

    /// The packet that keeps a client out of a namespace, for good: it does not try again by itself.
    #[must_use]
    pub fn refusal(&self, namespace: &Namespace, message: &str, code: crate::Er) -> String {
        let (prefix, message) = (namespace.prefix(), json(&message));
        match self.revision {
            Revision::Three => format!("44{prefix}{message}"),
            Revision::Four => format!(r#"44{prefix}{{"message":{message},"data":{{"ER":{}}}}}"#, code.number()),
        }
    }

    fn readiness(&self, age: Duration) -> Readiness {
        let (span, then) = match self.revision {
            Revision::Three => (MAIN_AFTER, Readiness::Hears),
            Revision::Four => (JOIN_WITHIN, Readiness::Overdue),
        };
        match (&self.namespace, span.checked_sub(age)) {
            (Some(_), _) => Readiness::Hears,
            (None, Some(left)) if !left.is_zero() => Readiness::Waits(left),
            _ => then,
        }
    }
}

impl Dialect {
    /// Which dialect a handshake asks for, by a look-up in its query.
    ///
    /// # Errors
    /// [`UnsupportedDialect`], as words for the client's developer.
    pub fn asked_for<'a>(query: impl Fn(&str) -> Option<&'a str>) -> Result<Self, UnsupportedDialect> {
        let Some(revision) = query("EIO") else { return Ok(Self::Raw) };
        if query("transport") != Some("websocket") {
            return Err(UnsupportedDialect::Transport);
        }
        let digit: Option<char> = revision.parse().ok();
        let revision = digit.and_then(Revision::from_digit).ok_or(UnsupportedDialect::Revision)?;
        Ok(Self::SocketIo(SocketIo::new(revision)))
    }

    /// What a client waits for before it says anything itself: packets, as they go over the wire.
    #[must_use]
    pub fn greeting(&self, connection: &ConnectionId, heartbeat: Heartbeat) -> Vec<String> {
        match self {
            Self::Raw => Vec::new(),
            Self::SocketIo(client) => client.greeting(connection, heartbeat),
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

    /// Whether a client that connected so long ago hears what is pushed.
    #[must_use]
    pub fn readiness(&self, age: Duration) -> Readiness {
        match self {
            Self::Raw => Readiness::Hears,
            Self::SocketIo(client) => client.readiness(age),
        }
    }

    /// Whether its clients may bring their token after the handshake.
    #[must_use]
    pub const fn may_name_its_user_later(&self) -> bool {
        matches!(self, Self::SocketIo(SocketIo { revision: Revision::Four, .. }))
    }

    /// A short text for it; `None` for the raw one, which whoever stores it may leave out.
    #[must_use]
    pub fn code(&self) -> Option<String> {
        let Self::SocketIo(SocketIo { revision, namespace }) = self else { return None };
        Some(format!("{}{}", revision.digit(), namespace.as_ref().map_or("", Namespace::as_str)))
    }

    /// The dialect of that code, if there is one.
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
    use crate::Er;

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
            Dialect::asked_for(|key| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
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
    fn who_names_no_namespace_is_in_the_main_one_or_late_by_revision() {
        let at = |code: &str, seconds| Dialect::from_code(code).unwrap().readiness(Duration::from_secs(seconds));
        assert_eq!([at("4/kschat", 99), at("3/", 0), Dialect::Raw.readiness(Duration::ZERO)], [Readiness::Hears; 3]);
        assert_eq!([at("3", 1), at("3", 5)], [Readiness::Waits(Duration::from_secs(4)), Readiness::Hears]);
        assert_eq!([at("4", 1), at("4", 20)], [Readiness::Waits(Duration::from_secs(19)), Readiness::Overdue]);
    }

    #[test]
    fn each_revision_is_greeted_and_let_in_or_kept_out_in_its_own_way() {
        let open =
            r#"0{"sid":"L0SM9cOFvHcCIhw=","upgrades":[],"pingInterval":8000,"pingTimeout":2000,"maxPayload":32768}"#;
        assert_eq!(client(Revision::Four).greeting(&id(), BEAT), [open]);
        assert_eq!(client(Revision::Three).greeting(&id(), BEAT), [open, "40"]);
        let namespace: Namespace = "/kschat".parse().unwrap();
        let (three, four) = (client(Revision::Three), client(Revision::Four));
        assert_eq!(four.welcome(&namespace, &id()), r#"40/kschat,{"sid":"L0SM9cOFvHcCIhw="}"#);
        assert_eq!(three.welcome(&namespace, &id()), "40/kschat,");
        assert_eq!(three.welcome(&Namespace::main(), &id()), "40");
        let refused = r#"44/kschat,{"message":"no","data":{"ER":3}}"#;
        assert_eq!(four.refusal(&namespace, "no", Er::TokenInvalid), refused);
        assert_eq!(three.refusal(&namespace, "no", Er::TokenInvalid), r#"44/kschat,"no""#);
    }
}
