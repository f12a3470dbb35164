//! Hashes that distinguish messages.

/// Hashes that distinguish messages.
pub trait MessageHash: Send + Sync {
    /// A collision-resistant hash, the same in every deployment: SHA-256.
    fn digest(&self, text: &[u8]) -> [u8; 32];

    /// A hash that can't be computed without the deployment's key: HMAC-SHA-256.
    fn keyed_digest(&self, text: &[u8]) -> [u8; 32];
}
