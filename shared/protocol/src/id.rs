//! Names of users, connections and messages.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Number;

use crate::limits::{MAX_CONNECTION_ID, MAX_ROOM_ID, MAX_USER_ID};

/// Says what a valid id looks like, to someone who sent another.
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

/// Names a person who chats. The token's issuer chooses it; we only compare it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(String);

/// Begins the ids of those who have not said yet who they are. No token and no frame can name them, as it is a control
/// character.
const NAMELESS: char = '\u{1}';

impl UserId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Stands for whoever is behind a connection, until that is known.
    #[must_use]
    pub fn nameless(connection: &ConnectionId) -> Self {
        Self(format!("{NAMELESS}{}", connection.as_str()))
    }

    /// Whether it is not known yet who that is.
    #[must_use]
    pub fn is_nameless(&self) -> bool {
        self.0.starts_with(NAMELESS)
    }

    /// Reads an id that we have written ourselves: it may be a nameless one.
    ///
    /// # Errors
    /// [`InvalidId`] for any other text.
    pub fn read_back(text: String) -> Result<Self, InvalidId> {
        match text.strip_prefix(NAMELESS) {
            Some(connection) => ConnectionId::try_from(connection).map(|connection| Self::nameless(&connection)),
            None => Self::try_from(text),
        }
    }
}

impl TryFrom<String> for UserId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        checked(text, MAX_USER_ID).map(Self)
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

/// Names a room, in which everybody hears what one of them says. Whoever joins first has made it.
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
        checked(text, MAX_ROOM_ID).map(Self)
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

/// Names one open socket. The edge mints it; we never look inside.
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
        checked(text, MAX_CONNECTION_ID).map(Self)
    }
}

impl TryFrom<&str> for ConnectionId {
    type Error = InvalidId;

    fn try_from(text: &str) -> Result<Self, InvalidId> {
        Self::try_from(text.to_owned())
    }
}

/// Names one message for ever: minted once when it is accepted, repeated on every retry.
///
/// Sorts by time, as it is a UUIDv7 in text. Receivers drop an id they have shown already.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(String);

impl MessageId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What names the send that made it: of a UUIDv7, all but the time and a count within it (its first 19 letters and
    /// dashes, RFC 9562). Two ids of one sender that agree in this are of one send that was tried twice, with all memory of
    /// the first try lost in between. Of two senders it says nothing: compare [`Identity`](crate::Identity).
    #[must_use]
    pub fn send(&self) -> &str {
        let is_v7 = self.0.len() == 36 && self.0.get(14..).is_some_and(|text| text.starts_with('7'));
        self.0.get(HEAD..).filter(|_| is_v7).unwrap_or(&self.0)
    }
}

/// How many letters and dashes of a UUIDv7 tell when it was made.
const HEAD: usize = 19;

impl From<String> for MessageId {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// An id in the JSON type its sender chose.
///
/// The seed renders ids into its page without quotes, so they reach us as numbers from some clients and as
/// strings from others. `7` and `"7"` name the same user; each side hears the type it said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum JsonId {
    /// Came as a JSON number. Only whole ones are read: a fraction names nobody.
    #[serde(deserialize_with = "whole")]
    Number(Number),
    /// Came as a JSON string.
    Text(String),
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

fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
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
    fn who_has_no_name_yet_can_be_read_back_and_named_by_nobody() {
        let nobody = UserId::nameless(&ConnectionId::try_from("L0SM9cOFvHcCIhw=").unwrap());
        assert!(nobody.is_nameless());
        assert_eq!(UserId::read_back(nobody.as_str().to_owned()), Ok(nobody.clone()));
        assert!(UserId::try_from(nobody.as_str()).is_err());
        assert!(UserId::try_from(&JsonId::Text(nobody.as_str().to_owned())).is_err());
        assert!(UserId::read_back("\u{1}".to_owned()).is_err());
        assert_eq!(UserId::read_back("alice".to_owned()), UserId::try_from("alice"));
    }

    #[test]
    fn a_number_and_its_text_name_the_same_user() {
        let number: JsonId = serde_json::from_str("12345").unwrap();
        let text: JsonId = serde_json::from_str("\"12345\"").unwrap();
        assert_eq!(UserId::try_from(&number), UserId::try_from(&text));
        assert_eq!(serde_json::to_string(&number).unwrap(), "12345");
        assert_eq!(serde_json::to_string(&text).unwrap(), "\"12345\"");
    }

    #[test]
    fn a_fraction_names_nobody() {
        for text in ["1.5", "1e3", "-0.0", "18446744073709551616", "null", "[7]"] {
            assert!(serde_json::from_str::<JsonId>(text).is_err(), "{text}");
        }
        for text in ["0", "18446744073709551615", "-9223372036854775808", "\"1.5\""] {
            assert_eq!(serde_json::to_string(&serde_json::from_str::<JsonId>(text).unwrap()).unwrap(), text);
        }
    }

    #[test]
    fn an_id_is_neither_empty_nor_long_nor_unprintable() {
        assert!(UserId::try_from("").is_err());
        assert!(UserId::try_from("a\nb").is_err());
        assert!(UserId::try_from("é".repeat(MAX_USER_ID / 2).as_str()).is_ok());
        assert!(UserId::try_from("é".repeat(MAX_USER_ID / 2 + 1).as_str()).is_err());
    }
}
