//! A short list of message ids in one word: states must be small, as there are millions of them.

use std::fmt;

/// Id of a message, from 1.
pub type Id = u8;

const BITS: u32 = 4;

/// Up to eight ids, in order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Ids(u32);

impl Ids {
    /// The list of these ids.
    #[must_use]
    pub fn of(ids: impl IntoIterator<Item = Id>) -> Self {
        ids.into_iter().fold(Self::default(), Self::with)
    }

    /// Appends an id.
    #[must_use]
    pub fn with(self, id: Id) -> Self {
        debug_assert!(self.len() < 8 && (1..16).contains(&id));
        Self(self.0 | u32::from(id) << (BITS * self.len()))
    }

    /// Concatenates two lists.
    #[must_use]
    pub fn then(self, those: Self) -> Self {
        those.iter().fold(self, Self::with)
    }

    /// Iterates in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Id> {
        (0..self.len()).map(move |at| (self.0 >> (BITS * at) & 15) as Id)
    }

    /// Number of ids.
    #[must_use]
    pub fn len(self) -> u32 {
        (u32::BITS - self.0.leading_zeros()).div_ceil(BITS)
    }

    /// Whether the list is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The first id.
    #[must_use]
    pub fn first(self) -> Option<Id> {
        self.iter().next()
    }

    /// The last id.
    #[must_use]
    pub fn last(self) -> Option<Id> {
        self.iter().next_back()
    }

    /// Whether the list contains the id.
    #[must_use]
    pub fn has(self, id: Id) -> bool {
        self.iter().any(|one| one == id)
    }

    /// Splits off the first ids.
    #[must_use]
    pub fn split(self, count: usize) -> (Self, Self) {
        (Self::of(self.iter().take(count)), Self::of(self.iter().skip(count)))
    }

    /// The ids that satisfy a predicate.
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
