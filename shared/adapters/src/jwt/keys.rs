//! Keys that signatures are checked with.

use std::collections::HashMap;

use jsonwebtoken::{Algorithm, DecodingKey, jwk::JwkSet};

use super::{KeySource, remote::RemoteKeys};

/// Where the key for a token is found.
pub(super) enum Keys {
    One(DecodingKey),
    Set(KeySet),
    Remote(Box<RemoteKeys>),
}

impl Keys {
    pub(super) fn new(source: &KeySource, algorithm: Algorithm) -> Result<Self, String> {
        let is_secret = matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512);
        match source {
            KeySource::Secret(secret) if is_secret => Ok(Self::One(DecodingKey::from_secret(secret.as_bytes()))),
            KeySource::Secret(_) => Err(format!("{algorithm:?} needs a public key, not a secret")),
            KeySource::Pem(_) | KeySource::JwksUrl(_) if is_secret => {
                Err(format!("{algorithm:?} needs a secret, not a public key"))
            }
            KeySource::Pem(pem) => from_pem(pem.as_bytes(), algorithm).map(Self::One),
            KeySource::Jwks(jwks) => KeySet::parse(jwks.as_bytes(), algorithm).map(Self::Set),
            KeySource::JwksUrl(url) => RemoteKeys::new(url, algorithm).map(|keys| Self::Remote(Box::new(keys))),
        }
    }
}

fn from_pem(pem: &[u8], algorithm: Algorithm) -> Result<DecodingKey, String> {
    let key = match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(pem),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(pem),
        _ => DecodingKey::from_rsa_pem(pem),
    };
    key.map_err(|error| format!("is not a public key in PEM for {algorithm:?}: {error}"))
}

/// The keys of a JWK set that fit the one algorithm.
pub(super) struct KeySet(HashMap<Option<String>, DecodingKey>);

impl KeySet {
    pub(super) fn parse(jwks: &[u8], algorithm: Algorithm) -> Result<Self, String> {
        let set: JwkSet = serde_json::from_slice(jwks).map_err(|error| format!("is not a JWK set: {error}"))?;
        let fits = |key: &DecodingKey| key.family() == algorithm.family();
        let parse = |jwk: &jsonwebtoken::jwk::Jwk| Some((jwk.common.key_id.clone(), DecodingKey::from_jwk(jwk).ok()?));
        let mut keys: HashMap<_, _> = set.keys.iter().filter_map(parse).filter(|(_, key)| fits(key)).collect();
        // With a single key there is nothing to pick: a token need not name it.
        if keys.len() == 1
            && let Some(only) = keys.values().next().cloned()
        {
            keys.insert(None, only);
        }
        if keys.is_empty() { Err(format!("has no key for {algorithm:?}")) } else { Ok(Self(keys)) }
    }

    /// The key of that name.
    pub(super) fn get(&self, kid: &Option<String>) -> Option<&DecodingKey> {
        self.0.get(kid)
    }
}
