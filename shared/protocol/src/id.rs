//! Identifiers of users, rooms, connections and messages.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Number;

use crate::limits::{MAX_CONNECTION_ID_BYTES, MAX_ROOM_ID_BYTES, MAX_USER_ID_BYTES};

/// The id is invalid; the message describes a valid one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {max} bytes without control characters")]
pub struct InvalidId {
    max: usize,
}

fn checked(text: String, max: usize) -> Result<String, InvalidId> {
    if text.is_empty() || text.len() > max || text.chars().any(char::is_control) {
        return Err(InvalidId { max });
    }
    Ok(text)
}

/// Identifies a user. The token's issuer chooses it; we only compare it.
///
/// ```
/// use kschat_protocol::{InvalidId, JsonId, UserId};
///
/// let alice: UserId = "alice".parse()?;
/// assert_eq!(alice.as_str(), "alice");
/// // `7` and `"7"` name the same user.
/// assert_eq!(UserId::try_from(&JsonId::Number(7.into()))?, UserId::try_from("7")?);
/// assert!(UserId::try_from("").is_err() && UserId::try_from("a\nb").is_err());
/// # Ok::<(), InvalidId>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(String);

/// Prefix of provisional ids, for connections that are not authenticated yet. A control character, so no token or frame
/// can name them.
const PROVISIONAL_PREFIX: char = '\u{1}';

impl UserId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The provisional user of an unauthenticated connection.
    #[must_use]
    pub fn provisional(connection: &ConnectionId) -> Self {
        Self(format!("{PROVISIONAL_PREFIX}{}", connection.as_str()))
    }

    /// Whether the user is provisional.
    #[must_use]
    pub fn is_provisional(&self) -> bool {
        self.0.starts_with(PROVISIONAL_PREFIX)
    }

    /// Parses an id that we have stored ourselves, which may be provisional.
    ///
    /// # Errors
    /// [`InvalidId`] for any other text.
    pub fn from_stored(text: String) -> Result<Self, InvalidId> {
        match text.strip_prefix(PROVISIONAL_PREFIX) {
            Some(connection) => ConnectionId::try_from(connection).map(|connection| Self::provisional(&connection)),
            None => Self::try_from(text),
        }
    }
}

impl TryFrom<String> for UserId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        checked(text, MAX_USER_ID_BYTES).map(Self)
    }
}

impl TryFrom<&str> for UserId {
    type Error = InvalidId;

    fn try_from(text: &str) -> Result<Self, InvalidId> {
        Self::try_from(text.to_owned())
    }
}

impl FromStr for UserId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::try_from(text)
    }
}

impl TryFrom<&JsonId> for UserId {
    type Error = InvalidId;

    fn try_from(id: &JsonId) -> Result<Self, InvalidId> {
        Self::try_from(id.to_string())
    }
}

/// Identifies a room, whose members receive each message sent to it. The first member to join creates it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomId(String);

impl RoomId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RoomId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        checked(text, MAX_ROOM_ID_BYTES).map(Self)
    }
}

impl TryFrom<&str> for RoomId {
    type Error = InvalidId;

    fn try_from(text: &str) -> Result<Self, InvalidId> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<&JsonId> for RoomId {
    type Error = InvalidId;

    fn try_from(id: &JsonId) -> Result<Self, InvalidId> {
        Self::try_from(id.to_string())
    }
}

/// Identifies one open socket. The edge generates it; we treat it as opaque.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(String);

impl ConnectionId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ConnectionId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        checked(text, MAX_CONNECTION_ID_BYTES).map(Self)
    }
}

impl TryFrom<&str> for ConnectionId {
    type Error = InvalidId;

    fn try_from(text: &str) -> Result<Self, InvalidId> {
        Self::try_from(text.to_owned())
    }
}

/// Identifies one message permanently: generated once when it is accepted, repeated on every retry.
///
/// A UUIDv7 in text, so it sorts by time. Receivers drop an id that they have already shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(String);

impl MessageId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part that identifies the send: a UUIDv7 without its time and counter (its first 19 letters and dashes, RFC
    /// 9562). Two ids of one sender that share it come from one send that was retried after its state was lost. Across
    /// senders it means nothing: compare [`MessageIdentity`](crate::MessageIdentity).
    ///
    /// ```
    /// use kschat_protocol::MessageId;
    ///
    /// let id = |text: &str| MessageId::from(text.to_owned());
    /// let first = id("018bcfe5-6800-7000-a000-00000000002a");
    /// let retried = id("018bcfe5-7d00-7001-a000-00000000002a");
    /// assert!(first < retried, "ids sort by time");
    /// assert_eq!(first.dedup_key(), retried.dedup_key());
    /// ```
    #[must_use]
    pub fn dedup_key(&self) -> &str {
        let is_v7 = self.0.len() == 36 && self.0.get(14..).is_some_and(|text| text.starts_with('7'));
        self.0.get(TIME_ORDERED_PREFIX_LENGTH..).filter(|_| is_v7).unwrap_or(&self.0)
    }
}

/// Length of the time-ordered prefix of a UUIDv7, in letters and dashes.
const TIME_ORDERED_PREFIX_LENGTH: usize = 19;

impl From<String> for MessageId {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// An id in the JSON type that its sender chose.
///
/// V1 pages render ids without quotes, so some clients send numbers and others strings. `7` and `"7"` name the same
/// user; each side receives the type that it sent. Numbers that JavaScript would round are sent as text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum JsonId {
    /// From a JSON number. Only whole numbers are valid.
    #[serde(deserialize_with = "whole_number")]
    Number(Number),
    /// From a JSON string.
    Text(String),
}

/// The largest number up to which JavaScript distinguishes all whole numbers.
///
/// Source: ECMAScript, `Number.MAX_SAFE_INTEGER`.
const MAX_SAFE: u64 = (1 << 53) - 1;

impl Serialize for JsonId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) if is_safe(number) => number.serialize(serializer),
            Self::Number(number) => serializer.collect_str(number),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

fn is_safe(number: &Number) -> bool {
    let size = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
    size.is_some_and(|size| size <= MAX_SAFE)
}

impl JsonId {
    /// The id as text, the same for either type.
    #[must_use]
    pub fn to_text(&self) -> Cow<'_, str> {
        match self {
            Self::Number(number) => number.to_string().into(),
            Self::Text(text) => text.as_str().into(),
        }
    }

    /// Whether it names that user.
    #[must_use]
    pub fn names(&self, user: &UserId) -> bool {
        self.to_text() == user.as_str()
    }
}

fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
    let number = Number::deserialize(deserializer)?;
    if number.is_u64() || number.is_i64() { Ok(number) } else { Err(de::Error::custom("not a whole number")) }
}

impl fmt::Display for JsonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl From<&UserId> for JsonId {
    fn from(user: &UserId) -> Self {
        Self::Text(user.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provisional_user_id_is_not_parseable() {
        let nobody = UserId::provisional(&ConnectionId::try_from("L0SM9cOFvHcCIhw=").unwrap());
        assert!(nobody.is_provisional());
        assert_eq!(UserId::from_stored(nobody.as_str().to_owned()), Ok(nobody.clone()));
        assert!(UserId::try_from(nobody.as_str()).is_err());
        assert!(UserId::try_from(&JsonId::Text(nobody.as_str().to_owned())).is_err());
        assert!(UserId::from_stored("\u{1}".to_owned()).is_err());
        assert_eq!(UserId::from_stored("alice".to_owned()), UserId::try_from("alice"));
    }

    #[test]
    fn numeric_and_text_id_are_equal() {
        let number: JsonId = serde_json::from_str("12345").unwrap();
        let text: JsonId = serde_json::from_str("\"12345\"").unwrap();
        assert_eq!(UserId::try_from(&number), UserId::try_from(&text));
        assert_eq!(serde_json::to_string(&number).unwrap(), "12345");
        assert_eq!(serde_json::to_string(&text).unwrap(), "\"12345\"");
    }

    #[test]
    fn fractional_id_is_refused() {
        for text in ["1.5", "1e3", "-0.0", "18446744073709551616", "null", "[7]"] {
            assert!(serde_json::from_str::<JsonId>(text).is_err(), "{text}");
        }
        for text in ["0", "-7", "\"1.5\""] {
            assert_eq!(written(text), text);
        }
    }

    fn written(text: &str) -> String {
        serde_json::to_string(&serde_json::from_str::<JsonId>(text).unwrap()).unwrap()
    }

    #[test]
    fn number_that_javascript_would_round_goes_out_as_text() {
        for exact in ["9007199254740991", "-9007199254740991"] {
            assert_eq!(written(exact), exact);
        }
        for rounded in ["9007199254740992", "-9007199254740993", "18446744073709551615", "-9223372036854775808"] {
            assert_eq!(written(rounded), format!("\"{rounded}\""));
            let number: JsonId = serde_json::from_str(rounded).unwrap();
            assert!(number.names(&UserId::try_from(rounded).unwrap()));
        }
    }

    #[test]
    fn invalid_ids_are_refused() {
        assert!(UserId::try_from("").is_err());
        assert!(UserId::try_from("a\nb").is_err());
        assert!(UserId::try_from("é".repeat(MAX_USER_ID_BYTES / 2).as_str()).is_ok());
        assert!(UserId::try_from("é".repeat(MAX_USER_ID_BYTES / 2 + 1).as_str()).is_err());
    }
}
