//! Position of a message in the sequence pushed to a user.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// A position in one run of pushes to a user, used by `POS`, `PREV` and acks.
///
/// A message id is not enough: a retried send may be queued twice, and an ack of one copy would cover what precedes the
/// other. Positions are counted per run, and a run begins whenever a queue is opened. So an ack that arrives late, at
/// another owner, is ignored.
///
/// ```
/// use kschat_protocol::Position;
///
/// let here: Position = "0000002a.7".parse()?;
/// assert_eq!(here, Position { run: 42, number: 7 });
/// assert!(here.is_after(Position { run: 42, number: 6 }));
/// assert!(!here.is_after(Position { run: 41, number: 6 }), "positions of two runs do not compare");
/// # Ok::<(), kschat_protocol::InvalidPosition>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Random number of the run.
    pub run: u32,
    /// Counted from 1.
    pub number: u64,
}

impl Position {
    /// Whether a client at this position has received that one: what a client checks for `PREV`.
    #[must_use]
    pub const fn is_after(self, there: Self) -> bool {
        self.run == there.run && self.number >= there.number
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{}", self.run, self.number)
    }
}

/// The text is not a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the POS of a frame")]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let read = || {
            let (run, number) = text.split_once('.')?;
            let position = Self { run: u32::from_str_radix(run, 16).ok()?, number: number.parse().ok()? };
            // Only the canonical form is valid.
            (position.to_string() == text).then_some(position)
        };
        read().ok_or(InvalidPosition)
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_round_trips_strictly() {
        for position in [Position { run: 0, number: 1 }, Position { run: u32::MAX, number: u64::MAX }] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for text in ["", ".", "1.1", "0000000a.01", "0000000A.1", "0000000a.+1", "0000000a.1 ", "0000000a1.1"] {
            assert_eq!(text.parse::<Position>(), Err(InvalidPosition), "{text}");
        }
    }
}
