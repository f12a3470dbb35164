//! A set of mostly consecutive numbers: one bit for each beyond the first missing one.

use std::collections::VecDeque;

const BITS: u64 = u64::BITS as u64;

/// A set of numbers.
#[derive(Default)]
pub(super) struct NumberSet {
    /// All numbers below are present; a multiple of [`BITS`].
    below: u64,
    /// One bit for each number from there on.
    words: VecDeque<u64>,
}

impl NumberSet {
    /// Adds a number; returns whether it was new.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let Some((word, bit)) = self.place(number) else { return false };
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        while self.words.front() == Some(&u64::MAX) {
            self.words.pop_front();
            self.below += BITS;
        }
        is_new
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        let Some((word, bit)) = self.place(number) else { return true };
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Word and bit of a number; `None` if it is below all words.
    fn place(&self, number: u64) -> Option<(usize, u64)> {
        let offset = number.checked_sub(self.below)?;
        // The offset always fits into memory.
        Some((usize::try_from(offset / BITS).ok()?, 1 << (offset % BITS)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn it_is_a_set_whatever_the_order() {
        let (mut numbers, mut set) = (NumberSet::default(), HashSet::new());
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..5_000 {
            let number = random.u64(..2_000);
            assert_eq!(numbers.insert(number), set.insert(number));
        }
        assert!((0..2_100).all(|number| numbers.contains(number) == set.contains(&number)));
    }

    #[test]
    fn number_set_without_gaps_uses_one_word() {
        let mut numbers = NumberSet::default();
        assert!((0..1_000_000).all(|number| numbers.insert(number)));
        assert!(numbers.words.len() <= 1 && !numbers.insert(77));
    }

    #[test]
    fn number_set_gap_costs_one_bit_each() {
        let mut numbers = NumberSet::default();
        assert!((1..100_000).all(|number| numbers.insert(number)));
        assert!(numbers.words.len() * size_of::<u64>() <= 100_000 / 8 + 8);
        assert!(numbers.insert(0) && numbers.words.len() <= 1);
    }
}
