//! Error codes of the protocol.

use serde::{Serialize, Serializer};

/// Value of a frame's `ER`. Zero is success; 100 and above belong to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ErrorCode {
    /// Success.
    Ok = 0,
    /// An internal error that the sender can't fix.
    Internal = 1,
    /// The message broker is unreachable; nothing was accepted. V1 clients know this code.
    BrokerUnavailable = 2,
    /// The token is missing or invalid.
    TokenInvalid = 3,
    /// The token has expired.
    TokenExpired = 4,
    /// `uId` or `ksId` differs from the token's user.
    UserMismatch = 5,
    /// Not a JSON object.
    Malformed = 6,
    /// A field is missing or invalid; `ERRS` lists each.
    InvalidField = 7,
    /// The message exceeds what one frame to the receiver can carry.
    TooLarge = 8,
    /// The rate limit is exceeded; `RETRY` says how long to wait.
    RateLimited = 9,
    /// The recipient has never connected, and the deployment rejects unknown recipients.
    RecipientUnknown = 10,
    /// The recipient's queue is full.
    BacklogFull = 11,
    /// Reserved: the message is too old to be delivered.
    Expired = 12,
    /// This `rno` was already used for another message.
    RnoReused = 13,
    /// Not permitted.
    Forbidden = 14,
    /// The action is unknown.
    UnknownAction = 15,
    /// The registry is unavailable; nothing was accepted.
    RegistryUnavailable = 17,
    /// The broker did not confirm in time: the message may or may not have been accepted.
    Unconfirmed = 18,
    /// Reserved: an operator closed this session.
    Kicked = 19,
    /// Reserved: this server is shutting down.
    Draining = 20,
    /// The user has too many connections.
    TooManyConnections = 21,
    /// The user is in too many rooms.
    TooManyRooms = 22,
}

impl ErrorCode {
    /// All codes, in ascending order.
    pub const ALL: [Self; 22] = [
        Self::Ok,
        Self::Internal,
        Self::BrokerUnavailable,
        Self::TokenInvalid,
        Self::TokenExpired,
        Self::UserMismatch,
        Self::Malformed,
        Self::InvalidField,
        Self::TooLarge,
        Self::RateLimited,
        Self::RecipientUnknown,
        Self::BacklogFull,
        Self::Expired,
        Self::RnoReused,
        Self::Forbidden,
        Self::UnknownAction,
        Self::RegistryUnavailable,
        Self::Unconfirmed,
        Self::Kicked,
        Self::Draining,
        Self::TooManyConnections,
        Self::TooManyRooms,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// A sentence for a person, without details of the case.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Internal => "something failed on our side; try again",
            Self::BrokerUnavailable => "the message broker is unavailable; try again in a moment",
            Self::TokenInvalid => "the token is missing or invalid; get a new one and reconnect",
            Self::TokenExpired => "the token has expired; get a new one and reconnect",
            Self::UserMismatch => "uId must be the user that the token names",
            Self::Malformed => "the frame must be one JSON object with each field once",
            Self::InvalidField => "a field is missing or invalid; see ERRS",
            Self::TooLarge => "the message is too large",
            Self::RateLimited => "too many requests; wait as long as RETRY says",
            Self::RecipientUnknown => "no such recipient",
            Self::BacklogFull => "the recipient's backlog is full",
            Self::Expired => "the message is too old to be delivered",
            Self::RnoReused => "this rno was already used for another message",
            Self::Forbidden => "not allowed",
            Self::UnknownAction => "no such action; send with {\"action\":\"send\",…}",
            Self::RegistryUnavailable => "the connection registry is unavailable; try again in a moment",
            Self::Unconfirmed => "the broker did not confirm in time; repeat with the same rno",
            Self::Kicked => "the session was closed by an operator",
            Self::Draining => "the server is going away; reconnect",
            Self::TooManyConnections => "too many connections of this user",
            Self::TooManyRooms => "too many rooms; leave one first",
        }
    }

    /// Whether the error is on the server's side, so that an operator should know of it.
    #[must_use]
    pub const fn is_server_fault(self) -> bool {
        matches!(self, Self::Internal | Self::BrokerUnavailable | Self::RegistryUnavailable | Self::Unconfirmed)
    }

    /// The HTTP status of a rejected handshake at `$connect`.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::TokenInvalid | Self::TokenExpired => 401,
            Self::UserMismatch | Self::Forbidden | Self::Kicked => 403,
            Self::RateLimited | Self::TooManyConnections => 429,
            // In a handshake it only means that the issuer's keys are unreachable.
            Self::Internal
            | Self::BrokerUnavailable
            | Self::RegistryUnavailable
            | Self::Unconfirmed
            | Self::Draining => 503,
            Self::Malformed
            | Self::InvalidField
            | Self::TooLarge
            | Self::RecipientUnknown
            | Self::BacklogFull
            | Self::Expired
            | Self::RnoReused
            | Self::UnknownAction
            | Self::TooManyRooms => 400,
        }
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_published_ones() {
        let numbers: Vec<u16> = ErrorCode::ALL.iter().map(|er| er.number()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22]);
    }
}
