//! A hash that is stable across processes, machines and releases.

/// FNV-1a with 128 bits.
///
/// Source: IETF draft-eastlake-fnv, "The FNV Non-Cryptographic Hash Algorithm": offset basis and prime.
pub(crate) fn stable_hash(parts: &[&[u8]]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let step = |hash: u128, byte: &u8| (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
    // The length goes in first, so that ("ab", "c") and ("a", "bc") differ.
    parts.iter().fold(OFFSET, |hash, part| {
        let length = (part.len() as u64).to_be_bytes();
        length.iter().chain(*part).fold(hash, step)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_hash_never_changes() {
        assert_eq!(stable_hash(&[]), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(stable_hash(&[b"alice"]), stable_hash(&[b"alice"]));
        assert_ne!(stable_hash(&[b"ab", b"c"]), stable_hash(&[b"a", b"bc"]));
    }
}
