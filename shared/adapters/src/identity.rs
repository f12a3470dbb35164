//! The key for message ids, so that nobody can forge the id of another message.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::{
    digest::{SHA256, digest},
    error::Unspecified,
    hmac::{HMAC_SHA256, Key, sign},
    rand::SystemRandom,
};
use kschat_core::ports::MessageHash;

/// The minimum key length, the output length of the hash: a shorter key would be the easiest thing to guess.
///
/// Source: RFC 2104, section 3.
pub const MIN_MESSAGE_ID_KEY: usize = 32;

/// The deployment's key for message ids. Every process that handles sends must have the same.
#[derive(Clone)]
pub struct MessageIdKey(Arc<Key>);

impl MessageIdKey {
    /// A key that no other process has.
    ///
    /// # Errors
    /// When the operating system has no random numbers.
    pub fn random() -> Result<Self, String> {
        let drawn = Key::generate(HMAC_SHA256, &SystemRandom::new());
        drawn
            .map(|key| Self(Arc::new(key)))
            .map_err(|Unspecified| "the operating system has no random numbers".to_owned())
    }
}

impl FromStr for MessageIdKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.len() < MIN_MESSAGE_ID_KEY {
            return Err(format!("must be at least {MIN_MESSAGE_ID_KEY} bytes; {MESSAGE_ID_KEY_HINT}"));
        }
        Ok(Self(Arc::new(Key::new(HMAC_SHA256, text.as_bytes()))))
    }
}

/// How to create one.
pub(crate) const MESSAGE_ID_KEY_HINT: &str = "draw one with `openssl rand -hex 32`, the same for every process";

impl fmt::Debug for MessageIdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl MessageHash for MessageIdKey {
    fn digest(&self, text: &[u8]) -> [u8; 32] {
        bytes(digest(&SHA256, text).as_ref())
    }

    fn keyed_digest(&self, text: &[u8]) -> [u8; 32] {
        bytes(sign(&self.0, text).as_ref())
    }
}

/// Both hashes have 32.
fn bytes(hash: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(hash).for_each(|(byte, given)| *byte = *given);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: [u8; 32]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn hashes_match_published_test_vectors() {
        // RFC 4231, test case 6, and FIPS 180-2, appendix B.1.
        let key = MessageIdKey(Arc::new(Key::new(HMAC_SHA256, &[0xaa; 131])));
        assert_eq!(
            hex(key.keyed_digest(b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
        assert_eq!(hex(key.digest(b"abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn short_key_is_refused_and_key_never_printed() {
        let text = "0123456789abcdef0123456789abcdef";
        let key: MessageIdKey = text.parse().unwrap();
        assert_eq!(format!("{key:?}"), "***");
        assert_eq!(key.keyed_digest(b"x"), format!(" {text}\n").parse::<MessageIdKey>().unwrap().keyed_digest(b"x"));
        assert_ne!(key.keyed_digest(b"x"), MessageIdKey::random().unwrap().keyed_digest(b"x"));
        let refused = text[1..].parse::<MessageIdKey>().unwrap_err();
        assert!(refused.contains("openssl rand") && !refused.contains(&text[1..]), "{refused}");
    }
}
