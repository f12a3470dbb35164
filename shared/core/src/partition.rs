//! How the users are cut into parts that consumers share.

use std::fmt;

use kschat_protocol::UserId;

use crate::hash::stable;

/// One part of the users: what a consumer owns as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(u16);

impl Partition {
    /// Its number, from 0.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Into how many parts the users are cut. Functions and consumers must agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partitions(u16);

/// A count that can't be one of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be from 1 to {}", Partitions::MAX)]
pub struct InvalidPartitions;

impl Partitions {
    /// The most that makes sense: each costs a queue and a channel of the broker.
    pub const MAX: u16 = 1024;

    /// That many partitions.
    ///
    /// # Errors
    /// [`InvalidPartitions`] for none or more than [`Self::MAX`].
    pub const fn new(count: u16) -> Result<Self, InvalidPartitions> {
        if count == 0 || count > Self::MAX { Err(InvalidPartitions) } else { Ok(Self(count)) }
    }

    /// How many there are.
    #[must_use]
    pub const fn count(self) -> u16 {
        self.0
    }

    /// Each of them.
    pub fn all(self) -> impl Iterator<Item = Partition> {
        (0..self.0).map(Partition)
    }

    /// The one that a user is in, in every process alike.
    #[must_use]
    pub fn of(self, user: &UserId) -> Partition {
        let part = stable(&[user.as_str().as_bytes()]) % u128::from(self.0);
        Partition(u16::try_from(part).unwrap_or_default())
    }
}

impl Default for Partitions {
    fn default() -> Self {
        Self(16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_stays_in_its_partition_in_every_release() {
        let of = |name: &str| Partitions::default().of(&UserId::try_from(name).unwrap()).number();
        assert_eq!([of("alice"), of("bob"), of("12345")], [6, 7, 13]);
    }

    #[test]
    fn users_spread_evenly() {
        let mut counts = [0_u32; 16];
        for n in 0..16_000 {
            let user = UserId::try_from(format!("user-{n}")).unwrap();
            counts[usize::from(Partitions::default().of(&user).number())] += 1;
        }
        assert!(counts.iter().all(|&count| (800..1200).contains(&count)), "{counts:?}");
    }
}
