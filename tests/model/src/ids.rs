//! A few message ids in a row, in one word: a state must be small, as there are millions of them.

use std::fmt;

/// The name of a message, from 1.
pub type Id = u8;

const BITS: u32 = 4;

/// Up to eight ids, in order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ids(u32);

impl Ids {
    /// These.
    #[must_use]
    pub fn of(ids: impl IntoIterator<Item = Id>) -> Self {
        ids.into_iter().fold(Self::default(), Self::with)
    }

    /// These and one more.
    #[must_use]
    pub fn with(self, id: Id) -> Self {
        debug_assert!(self.len() < 8 && (1..16).contains(&id));
        Self(self.0 | u32::from(id) << (BITS * self.len()))
    }

    /// These, and those.
    #[must_use]
    pub fn then(self, those: Self) -> Self {
        those.iter().fold(self, Self::with)
    }

    /// In order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Id> {
        (0..self.len()).map(move |at| (self.0 >> (BITS * at) & 15) as Id)
    }

    /// How many.
    #[must_use]
    pub fn len(self) -> u32 {
        (u32::BITS - self.0.leading_zeros()).div_ceil(BITS)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The first.
    #[must_use]
    pub fn first(self) -> Option<Id> {
        self.iter().next()
    }

    /// The last.
    #[must_use]
    pub fn last(self) -> Option<Id> {
        self.iter().next_back()
    }

    /// Whether it is among them.
    #[must_use]
    pub fn has(self, id: Id) -> bool {
        self.iter().any(|one| one == id)
    }

    /// The first so many, and the rest.
    #[must_use]
    pub fn split(self, count: usize) -> (Self, Self) {
        (Self::of(self.iter().take(count)), Self::of(self.iter().skip(count)))
    }

    /// Those of which that is so.
    #[must_use]
    pub fn only(self, is_so: impl Fn(Id) -> bool) -> Self {
        Self::of(self.iter().filter(|id| is_so(*id)))
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
