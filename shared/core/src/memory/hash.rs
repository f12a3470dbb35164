//! Hashes without a cryptographic library.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};

use crate::ports::MessageHash;

/// Four 64-bit hashes under a key that ends with the process: enough for tests, and not against attackers.
#[derive(Clone, Debug, Default)]
pub struct MemoryHash(RandomState);

impl MemoryHash {
    /// Draws a key.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

fn four_hashes(hasher: impl Fn() -> DefaultHasher, text: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    for (number, part) in hash.chunks_mut(8).enumerate() {
        let mut hasher = hasher();
        (number, text).hash(&mut hasher);
        part.copy_from_slice(&hasher.finish().to_be_bytes());
    }
    hash
}

impl MessageHash for MemoryHash {
    fn digest(&self, text: &[u8]) -> [u8; 32] {
        four_hashes(DefaultHasher::new, text)
    }

    fn keyed_digest(&self, text: &[u8]) -> [u8; 32] {
        four_hashes(|| self.0.build_hasher(), text)
    }
}
