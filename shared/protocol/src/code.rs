//! The codes by which a frame tells success from failure.

use serde::{Serialize, Serializer};

/// What a frame's `ER` says. Zero is success; 100 and above belong to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Er {
    /// Success.
    Ok = 0,
    /// A fault of ours that the sender can't mend.
    Internal = 1,
    /// The message broker can't be reached; nothing was accepted. The seed's own code.
    BrokerUnavailable = 2,
    /// No token, or one that does not verify.
    TokenInvalid = 3,
    /// The token's time is over.
    TokenExpired = 4,
    /// `uId` or `ksId` names somebody other than the token does.
    NotYou = 5,
    /// Not a JSON object.
    Malformed = 6,
    /// A field is missing or wrong; `ERRS` lists each.
    InvalidField = 7,
    /// More bytes than a frame to the receiver can carry.
    TooLarge = 8,
    /// Too many in too short a time; `RETRY` says how long to wait.
    RateLimited = 9,
    /// Nobody of that name has ever connected, and the deployment refuses strangers.
    RecipientUnknown = 10,
    /// The recipient's queue is full.
    BacklogFull = 11,
    /// Too old to be delivered.
    Expired = 12,
    /// This `rno` was used already, for another message.
    RnoReused = 13,
    /// Not allowed.
    Forbidden = 14,
    /// No such action.
    UnknownAction = 15,
    /// Nobody can be looked up just now; nothing was accepted.
    RegistryUnavailable = 17,
    /// The broker did not confirm in time: the message may or may not have been accepted.
    Unconfirmed = 18,
    /// An operator closed this session.
    Kicked = 19,
    /// This server is about to go.
    Draining = 20,
    /// One user has more connections than allowed.
    TooManyDevices = 21,
    /// One user is in more rooms than allowed.
    TooManyRooms = 22,
}

impl Er {
    /// Every code, in the order of its number.
    pub const ALL: [Self; 22] = [
        Self::Ok,
        Self::Internal,
        Self::BrokerUnavailable,
        Self::TokenInvalid,
        Self::TokenExpired,
        Self::NotYou,
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
        Self::TooManyDevices,
        Self::TooManyRooms,
    ];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// One sentence for a person, without any detail of the case.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Internal => "something failed on our side; try again",
            Self::BrokerUnavailable => "the message broker is unavailable; try again in a moment",
            Self::TokenInvalid => "the token is missing or invalid; get a new one and reconnect",
            Self::TokenExpired => "the token has expired; get a new one and reconnect",
            Self::NotYou => "uId must be the user that the token names",
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
            Self::TooManyDevices => "too many connections of this user",
            Self::TooManyRooms => "too many rooms; leave one first",
        }
    }

    /// Whether the fault is on our side, so that an operator should hear of it.
    #[must_use]
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::Internal | Self::BrokerUnavailable | Self::RegistryUnavailable | Self::Unconfirmed)
    }

    /// The status with which `$connect` answers a refused handshake.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::TokenInvalid | Self::TokenExpired => 401,
            Self::NotYou | Self::Forbidden | Self::Kicked => 403,
            Self::RateLimited | Self::TooManyDevices => 429,
            Self::BrokerUnavailable | Self::RegistryUnavailable | Self::Unconfirmed | Self::Draining => 503,
            Self::Malformed
            | Self::InvalidField
            | Self::TooLarge
            | Self::RecipientUnknown
            | Self::BacklogFull
            | Self::Expired
            | Self::RnoReused
            | Self::UnknownAction
            | Self::TooManyRooms => 400,
            Self::Internal => 500,
        }
    }
}

impl Serialize for Er {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_published_ones() {
        let numbers: Vec<u16> = Er::ALL.iter().map(|er| er.number()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 22]);
    }
}
