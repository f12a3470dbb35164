//! Text packets of Engine.IO and Socket.IO.

use std::fmt;

use serde_json::value::RawValue;

use super::Namespace;
use crate::limits::MAX_FRAME_BYTES;

/// The largest packet id: clients keep it as a JSON number.
pub const MAX_PACKET_ID: u64 = (1 << 53) - 1;

/// The text is not a supported packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a text packet of Engine.IO")]
pub struct InvalidPacket;

/// An Engine.IO packet.
#[derive(Clone, Debug)]
pub enum Packet<'a> {
    /// Opens the session, with JSON.
    Open(&'a str),
    /// Closes the session.
    Close,
    /// Asks for a pong, with a payload to repeat.
    Ping(&'a str),
    /// Answers a ping, with its payload.
    Pong(&'a str),
    /// Carries a Socket.IO packet.
    Message(SocketPacket<'a>),
    /// Changes the transport; only long polling uses it.
    Upgrade,
    /// No operation.
    Noop,
}

/// A Socket.IO packet.
#[derive(Clone, Debug)]
pub struct SocketPacket<'a> {
    /// Namespace of the packet.
    pub namespace: Namespace,
    /// Correlation id: an event's, which its ack repeats.
    pub id: Option<u64>,
    /// Type of the packet.
    pub kind: Kind<'a>,
}

/// Type and payload of a Socket.IO packet.
#[derive(Clone, Debug)]
pub enum Kind<'a> {
    /// Requests to join a namespace, with an authentication object.
    Connect(Option<&'a RawValue>),
    /// Leaves the namespace.
    Disconnect,
    /// An event: its name and arguments.
    Event(String, Vec<&'a RawValue>),
    /// Acknowledges an event, with a list.
    Ack(&'a RawValue),
    /// Rejects a join: text from revision 3, an object from revision 4.
    Refused(&'a RawValue),
}

impl<'a> Packet<'a> {
    /// Parses one packet. Binary packets are rejected: the edge carries no binary frames.
    ///
    /// # Errors
    /// [`InvalidPacket`].
    pub fn parse(text: &'a str) -> Result<Self, InvalidPacket> {
        if text.len() > MAX_FRAME_BYTES {
            return Err(InvalidPacket);
        }
        let mut chars = text.chars();
        let kind = chars.next().ok_or(InvalidPacket)?;
        match (kind, chars.as_str()) {
            ('0', rest) => Ok(Self::Open(rest)),
            ('1', "") => Ok(Self::Close),
            ('2', rest) => Ok(Self::Ping(rest)),
            ('3', rest) => Ok(Self::Pong(rest)),
            ('4', rest) => SocketPacket::parse(rest).map(Self::Message),
            ('5', "") => Ok(Self::Upgrade),
            ('6', "") => Ok(Self::Noop),
            _ => Err(InvalidPacket),
        }
    }
}

impl<'a> SocketPacket<'a> {
    /// Parses what follows the Engine.IO digit.
    fn parse(text: &'a str) -> Result<Self, InvalidPacket> {
        let mut chars = text.chars();
        let kind = chars.next().ok_or(InvalidPacket)?;
        let (namespace, rest) = namespace(chars.as_str())?;
        let (id, rest) = id(rest)?;
        let data = if rest.is_empty() { None } else { Some(serde_json::from_str(rest).map_err(|_| InvalidPacket)?) };
        let kind = Kind::read(kind, id, data).ok_or(InvalidPacket)?;
        Ok(Self { namespace, id, kind })
    }
}

impl<'a> Kind<'a> {
    fn read(kind: char, id: Option<u64>, data: Option<&'a RawValue>) -> Option<Self> {
        let begins_with = |open: char| data.is_some_and(|data| data.get().starts_with(open));
        match kind {
            '0' if id.is_none() && (data.is_none() || begins_with('{')) => Some(Self::Connect(data)),
            '1' if id.is_none() && data.is_none() => Some(Self::Disconnect),
            '2' => {
                let mut list: Vec<&RawValue> = serde_json::from_str(data?.get()).ok()?;
                let name = (!list.is_empty()).then(|| list.remove(0))?;
                Some(Self::Event(serde_json::from_str(name.get()).ok()?, list))
            }
            '3' if id.is_some() && begins_with('[') => data.map(Self::Ack),
            '4' if id.is_none() && (begins_with('{') || begins_with('"')) => data.map(Self::Refused),
            _ => None,
        }
    }
}

/// Parses a namespace, which ends at a comma or with the packet. Clients 2.x append a query, as in the handshake.
fn namespace(text: &str) -> Result<(Namespace, &str), InvalidPacket> {
    if !text.starts_with('/') {
        return Ok((Namespace::main(), text));
    }
    let (named, rest) = text.split_once(',').unwrap_or((text, ""));
    let name = named.split_once('?').map_or(named, |(name, _)| name);
    Ok((name.parse().map_err(|_| InvalidPacket)?, rest))
}

fn id(text: &str) -> Result<(Option<u64>, &str), InvalidPacket> {
    let end = text.find(|next: char| !next.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() {
        return Ok((None, rest));
    }
    let id = digits.parse().ok().filter(|id| *id <= MAX_PACKET_ID);
    id.map(|id| (Some(id), rest)).ok_or(InvalidPacket)
}

impl fmt::Display for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(rest) => write!(f, "0{rest}"),
            Self::Close => f.write_str("1"),
            Self::Ping(rest) => write!(f, "2{rest}"),
            Self::Pong(rest) => write!(f, "3{rest}"),
            Self::Message(packet) => write!(f, "4{packet}"),
            Self::Upgrade => f.write_str("5"),
            Self::Noop => f.write_str("6"),
        }
    }
}

impl fmt::Display for SocketPacket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Connect(_) => '0',
            Kind::Disconnect => '1',
            Kind::Event(..) => '2',
            Kind::Ack(_) => '3',
            Kind::Refused(_) => '4',
        };
        write!(f, "{kind}{}", self.namespace.prefix())?;
        if let Some(id) = self.id {
            write!(f, "{id}")?;
        }
        match &self.kind {
            Kind::Connect(None) | Kind::Disconnect => Ok(()),
            Kind::Connect(Some(data)) | Kind::Ack(data) | Kind::Refused(data) => f.write_str(data.get()),
            Kind::Event(name, arguments) => {
                write!(f, "[{}", crate::server_frame::json(name))?;
                arguments.iter().try_for_each(|argument| write!(f, ",{argument}"))?;
                f.write_str("]")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets captured from the clients 2.5.0 and 4.8.4, and packets that they accept.
    const SEEN: [&str; 19] = [
        "2",
        "2probe",
        "3",
        "40",
        "40/kschat,",
        r#"40/kschat,{"token":"T"}"#,
        r#"40/kschat,{"sid":"x"}"#,
        r#"42["Send",{"uId":1}]"#,
        r#"42/kschat,0["Send",{"uId":1,"msg":"a, b"}]"#,
        r#"4217["x"]"#,
        r#"43/kschat,0[{"RESPONSE":"Send Emit is success.","uId":1}]"#,
        "43/kschat,9007199254740991[]",
        "41/kschat,",
        "41",
        r#"44/kschat,{"message":"Authentication error"}"#,
        r#"44"no""#,
        "5",
        "6",
        "1",
    ];

    #[test]
    fn client_packets_round_trip() {
        for text in SEEN {
            assert_eq!(Packet::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn namespace_query_is_ignored() {
        let packet = Packet::parse("40/kschat?token=a.b-c&ksId=7,").unwrap();
        assert_eq!(packet.to_string(), "40/kschat,");
    }

    #[test]
    fn invalid_packet_is_refused() {
        let wrong = [
            "",
            "4",
            "7",
            "x",
            "{}",
            "45",
            "11",
            "50",
            "47",
            "42",
            "42{}",
            "42[]",
            "42[7]",
            "42[",
            "43[]",
            "43/kschat,[]",
            "4/kschat",
            "40{",
            "40[]",
            "407",
            "41{}",
            "44",
            "44[]",
            "42/a b,[\"x\"]",
            "429007199254740992[\"x\"]",
            "451-[\"Send\",{\"_placeholder\":true,\"num\":0}]",
            "b4AAEC",
            "42[\"x\"] ]",
            "42/kschat",
        ];
        for text in wrong {
            assert!(Packet::parse(text).is_err(), "{text}");
        }
    }
}
