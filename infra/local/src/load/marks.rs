//! A set of numbers that mostly come one after the other: one bit for each beyond the first that is missing.

use std::collections::VecDeque;

const BITS: u64 = u64::BITS as u64;

/// Which numbers of a row are there.
#[derive(Default)]
pub(super) struct Marks {
    /// All numbers below are there; a multiple of [`BITS`].
    below: u64,
    /// One bit for each number from there on.
    words: VecDeque<u64>,
}

impl Marks {
    /// Puts a number in; says whether it was not there.
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

    /// The word and the bit of a number; none if it is below all words.
    fn place(&self, number: u64) -> Option<(usize, u64)> {
        let offset = number.checked_sub(self.below)?;
        // A row is far shorter than memory is large.
        Some((usize::try_from(offset / BITS).ok()?, 1 << (offset % BITS)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn it_is_a_set_whatever_the_order() {
        let (mut marks, mut set) = (Marks::default(), HashSet::new());
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..5_000 {
            let number = random.u64(..2_000);
            assert_eq!(marks.insert(number), set.insert(number));
        }
        assert!((0..2_100).all(|number| marks.contains(number) == set.contains(&number)));
    }

    #[test]
    fn a_row_without_gaps_takes_one_word() {
        let mut marks = Marks::default();
        assert!((0..1_000_000).all(|number| marks.insert(number)));
        assert!(marks.words.len() <= 1 && !marks.insert(77));
    }

    #[test]
    fn one_that_is_missing_costs_a_bit_for_each_later_one() {
        let mut marks = Marks::default();
        assert!((1..100_000).all(|number| marks.insert(number)));
        assert!(marks.words.len() * size_of::<u64>() <= 100_000 / 8 + 8);
        assert!(marks.insert(0) && marks.words.len() <= 1);
    }
}
