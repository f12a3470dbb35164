//! Where a message stands among all that were pushed to a user.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// A place in one run of pushes to a user: what `POS`, `PREV` and acks name.
///
/// A message id does not name a push well enough: a send that was tried twice may be in the queue twice, and an ack of the
/// one copy would count for whatever came before the other. Places are counted within a run, and each drain of a queue is
/// a run of its own; so an ack that comes too late, to another owner, means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Drawn at random for each run.
    pub run: u32,
    /// Counted from 1.
    pub number: u64,
}

impl Position {
    /// Whether a client that has come here has got what stood there: what a client asks of `PREV`.
    #[must_use]
    pub const fn is_beyond(self, there: Self) -> bool {
        self.run == there.run && self.number >= there.number
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{}", self.run, self.number)
    }
}

/// A text that is no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the POS of a frame")]
pub struct InvalidPosition;

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let read = || {
            let (run, number) = text.split_once('.')?;
            let position = Self { run: u32::from_str_radix(run, 16).ok()?, number: number.parse().ok()? };
            // As we write it and no other way.
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
    fn a_position_reads_back_as_it_was_written_and_no_other_way() {
        for position in [Position { run: 0, number: 1 }, Position { run: u32::MAX, number: u64::MAX }] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for text in ["", ".", "1.1", "0000000a.01", "0000000A.1", "0000000a.+1", "0000000a.1 ", "0000000a1.1"] {
            assert_eq!(text.parse::<Position>(), Err(InvalidPosition), "{text}");
        }
    }
}
