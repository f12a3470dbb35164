//! Sources of the keys that verify signatures.

use jsonwebtoken::Algorithm;

use super::{
    KeySource,
    key_set::{KeySet, from_pem},
    remote::RemoteKeys,
    text::secret_keys,
};

/// The source of the keys.
pub(super) enum Keys {
    Known(KeySet),
    Remote(Box<RemoteKeys>),
}

impl Keys {
    pub(super) fn new(source: &KeySource, algorithm: Algorithm) -> Result<Self, String> {
        match source {
            KeySource::Secret(secret) if is_symmetric(algorithm) => {
                secret_keys(secret).map(KeySet::of).map(Self::Known)
            }
            KeySource::Secret(_) => Err(format!(
                "{algorithm:?} needs a public key, not a secret: set JWT_PUBLIC_KEY, JWT_JWKS or JWT_JWKS_URL, or another \
                 JWT_ALGORITHM"
            )),
            KeySource::Pem(_) | KeySource::JwksUrl(_) if is_symmetric(algorithm) => Err(format!(
                "{algorithm:?} needs a secret, not a public key: set JWT_ALGORITHM to what the tokens are signed with, \
                 such as RS256, ES256 or EdDSA"
            )),
            KeySource::Pem(text) => from_pem(text, algorithm).map(|key| Self::Known(KeySet::of(vec![key]))),
            KeySource::Jwks(jwks) => KeySet::parse(jwks.as_bytes(), algorithm).map(Self::Known),
            KeySource::JwksUrl(url) => RemoteKeys::new(url, algorithm).map(|keys| Self::Remote(Box::new(keys))),
        }
    }
}

fn is_symmetric(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}
