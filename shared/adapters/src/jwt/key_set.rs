//! Keys that verify signatures.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    VerificationAlgorithm,
};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, jwk::Jwk};
use serde::Deserialize;
use serde_json::Value;

use super::text::PublicKey;

/// Keys that one token is tried with at most: each costs a verification, which costs the sender of a token nothing.
const MAX_TRIED: usize = 32;

/// The bytes of the shortest RSA modulus.
///
/// Source: RFC 7518, section 3.3.
const MIN_MODULUS: usize = 256;

/// The DER overhead of such a key: two headers of four bytes, a zero, and an exponent of three bytes.
const DER_OVERHEAD: usize = 12;

pub(super) fn from_pem(text: &str, algorithm: Algorithm) -> Result<DecodingKey, String> {
    let pem = PublicKey::read(text)?.to_pem();
    let key = match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => DecodingKey::from_ec_pem(pem.as_bytes()),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(pem.as_bytes()),
        _ => DecodingKey::from_rsa_pem(pem.as_bytes()),
    };
    let key = key.ok().filter(|key| is_usable(key, algorithm));
    key.ok_or_else(|| format!("is no public key for {algorithm:?}, which needs {}", needed(algorithm)))
}

/// A hint for the operator.
fn needed(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::ES256 => "one of the curve P-256",
        Algorithm::ES384 => "one of the curve P-384",
        Algorithm::EdDSA => "one of the curve Ed25519",
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => "a secret",
        _ => "one of RSA with 2048 bits or more",
    }
}

/// Whether signatures can be verified with that key at all. With a key of another curve, or one that is too short,
/// every token would just seem invalid.
fn is_usable(key: &DecodingKey, algorithm: Algorithm) -> bool {
    let kind: &'static dyn VerificationAlgorithm = match algorithm {
        Algorithm::ES256 => &ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDSA => &ED25519,
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => return true,
        _ => &RSA_PKCS1_2048_8192_SHA256,
    };
    match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => {
            // The library parses a short RSA key, but verifies nothing with it.
            let is_long = key.family() != AlgorithmFamily::Rsa || bytes.len() >= MIN_MODULUS + DER_OVERHEAD;
            is_long && ParsedPublicKey::new(kind, bytes).is_ok()
        }
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.iter().skip_while(|byte| **byte == 0).count() >= MIN_MODULUS,
    }
}

/// Keys for the one algorithm, each with its `kid` if it has one.
pub(super) struct KeySet(Vec<(Option<String>, DecodingKey)>);

impl KeySet {
    pub(super) fn of(keys: Vec<DecodingKey>) -> Self {
        Self(keys.into_iter().map(|key| (None, key)).collect())
    }

    /// Parses a JWK set, or a single JWK. Unknown keys are skipped, as RFC 7517 demands in section 5.
    pub(super) fn parse(jwks: &[u8], algorithm: Algorithm) -> Result<Self, String> {
        // Some editors and servers write a byte order mark.
        let jwks = jwks.strip_prefix(b"\xef\xbb\xbf").unwrap_or(jwks);
        let set: Value = serde_json::from_slice(jwks).map_err(|error| format!("is not a JWK set: {error}"))?;
        let keys = match set.get("keys") {
            Some(Value::Array(keys)) => keys.as_slice(),
            None if set.get("kty").is_some() => std::slice::from_ref(&set),
            Some(_) | None => return Err("is not a JWK set: it has no list of `keys`".to_owned()),
        };
        let fitting: Vec<_> = keys.iter().filter_map(|jwk| verifying_key(jwk, algorithm)).collect();
        if fitting.is_empty() {
            let count = keys.len();
            return Err(format!(
                "has no key for {algorithm:?} among {count}: `kty`, `crv`, `alg`, `use` and `key_ops` must allow to \
                 verify with it"
            ));
        }
        Ok(Self(fitting))
    }

    /// Whether a key has that `kid`.
    pub(super) fn names(&self, kid: Option<&str>) -> bool {
        kid.is_some() && self.0.iter().any(|(name, _)| name.as_deref() == kid)
    }

    /// The keys to try for a token with that `kid`: those that have it, or all if none has. The `kid` is only a hint,
    /// and does not make a signature valid.
    ///
    /// Source: RFC 7515, section 4.1.4.
    pub(super) fn candidates(&self, kid: Option<&str>) -> impl Iterator<Item = &DecodingKey> {
        let is_named = self.names(kid);
        let fits = move |name: &Option<String>| !is_named || name.as_deref() == kid;
        self.0.iter().filter(move |(name, _)| fits(name)).map(|(_, key)| key).take(MAX_TRIED)
    }
}

/// The key in a JWK, if it may verify signatures of that algorithm.
fn verifying_key(jwk: &Value, algorithm: Algorithm) -> Option<(Option<String>, DecodingKey)> {
    if !may_verify(jwk, algorithm) {
        return None;
    }
    let name = member(jwk, "kid").and_then(Value::as_str).map(str::to_owned);
    let key = DecodingKey::from_jwk(&Jwk::deserialize(jwk).ok()?).ok()?;
    (key.family() == algorithm.family() && is_usable(&key, algorithm)).then_some((name, key))
}

/// Whether the publisher of a key permits it to verify signatures of that algorithm.
///
/// Source: RFC 7517, sections 4.2 to 4.4.
fn may_verify(jwk: &Value, algorithm: Algorithm) -> bool {
    let may_be_used = member(jwk, "use").is_none_or(|usage| usage == "sig");
    let verifies = |operations: &Value| operations.as_array().is_some_and(|all| all.iter().any(|one| one == "verify"));
    let may_operate = member(jwk, "key_ops").is_none_or(verifies);
    let fits = member(jwk, "alg").and_then(Value::as_str).is_none_or(|name| is_name_of(name, algorithm));
    may_be_used && may_operate && fits
}

fn member<'a>(jwk: &'a Value, name: &str) -> Option<&'a Value> {
    jwk.get(name).filter(|value| !value.is_null())
}

/// Source of the second name: RFC 9864, section 2.2.
fn is_name_of(name: &str, algorithm: Algorithm) -> bool {
    name.parse() == Ok(algorithm) || (name == "Ed25519" && algorithm == Algorithm::EdDSA)
}
