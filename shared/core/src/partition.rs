//! Partitions of the users, which consumers share.

use std::fmt;

use kschat_protocol::UserId;

use crate::hash::stable_hash;

/// One partition of the users, which a consumer owns as a whole.
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

/// The number of partitions. Functions and consumers must use the same.
///
/// ```
/// use kschat_core::Partitions;
/// use kschat_protocol::UserId;
///
/// let partitions = Partitions::new(16)?;
/// let alice = UserId::try_from("alice").expect("a valid id");
/// assert_eq!(partitions.of(&alice).number(), 6, "the same in every process and release");
/// assert!(Partitions::new(0).is_err());
/// # Ok::<(), kschat_core::InvalidPartitions>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partitions(u16);

/// An invalid number of partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be from 1 to {}", Partitions::MAX_COUNT)]
pub struct InvalidPartitions;

impl Partitions {
    /// The maximum: each partition costs a queue and a channel of the broker.
    pub const MAX_COUNT: u16 = 1024;

    /// Creates this many partitions.
    ///
    /// # Errors
    /// [`InvalidPartitions`] for none or more than [`Self::MAX_COUNT`].
    pub const fn new(count: u16) -> Result<Self, InvalidPartitions> {
        if count == 0 || count > Self::MAX_COUNT { Err(InvalidPartitions) } else { Ok(Self(count)) }
    }

    /// The number of partitions.
    #[must_use]
    pub const fn count(self) -> u16 {
        self.0
    }

    /// All partitions.
    pub fn all(self) -> impl Iterator<Item = Partition> {
        (0..self.0).map(Partition)
    }

    /// The partition of a user, the same in every process.
    #[must_use]
    pub fn of(self, user: &UserId) -> Partition {
        let part = stable_hash(&[user.as_str().as_bytes()]) % u128::from(self.0);
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
    fn partition_of_user_never_changes() {
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
