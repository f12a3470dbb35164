//! Parses keys as people paste them into a setting: with `\n` for line breaks, in base64, in quotes, or the wrong key
//! of a pair.
//!
//! Unambiguous input is accepted. Other input is refused with a hint, as otherwise every token would just seem invalid.
//! No error repeats the input.

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use jsonwebtoken::DecodingKey;

/// The prefix of a secret whose bytes are given in base64.
const BASE64: &str = "base64:";

/// The minimum length in bytes of a secret that is guessed behind a text without that prefix.
///
/// Source: RFC 7518, section 3.2.
const MIN_DECODED: usize = 32;

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";

/// The keys that a secret may stand for. One is its text. The other is the decoded bytes, if it is base64 of enough
/// bytes: many issuers show a secret so and sign with its bytes.
pub(super) fn secret_keys(text: &str) -> Result<Vec<DecodingKey>, String> {
    let mut keys = vec![DecodingKey::from_secret(&secret_bytes(text)?)];
    let decoded = decode(text).filter(|bytes| bytes.len() >= MIN_DECODED);
    keys.extend(decoded.map(|bytes| DecodingKey::from_secret(&bytes)));
    Ok(keys)
}

/// The primary bytes of a secret.
pub(super) fn secret_bytes(text: &str) -> Result<Vec<u8>, String> {
    if let Some(encoded) = text.trim().strip_prefix(BASE64) {
        return decode(encoded).ok_or_else(|| format!("what follows `{BASE64}` is not base64"));
    }
    let hint = format!("remove it, or give the secret's bytes as `{BASE64}…` if it belongs to them");
    if text.contains(BEGIN) {
        return Err("is a key in PEM and no secret: set JWT_PUBLIC_KEY, and JWT_ALGORITHM to what tokens are signed \
                    with"
            .to_owned());
    }
    if text.ends_with(['\n', '\r']) {
        return Err(format!("ends in a line break, with which no token would be good: {hint}"));
    }
    if text.trim() != text {
        return Err(format!("begins or ends in white space, with which no token would be good: {hint}"));
    }
    if unquoted(text) != text {
        return Err("is in quotes, with which no token would be good: remove them, or give the secret's bytes as \
                    `base64:…` if they belong to them"
            .to_owned());
    }
    Ok(text.as_bytes().to_vec())
}

/// Decodes base64 in either alphabet, with or without padding, on one line or several.
fn decode(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text: String = text.split_whitespace().collect();
    let decode = |alphabet| GeneralPurpose::new(alphabet, config).decode(&text).ok();
    decode(&STANDARD).or_else(|| decode(&URL_SAFE)).filter(|bytes| !bytes.is_empty())
}

fn unquoted(text: &str) -> &str {
    let inside = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    inside('"').or_else(|| inside('\'')).unwrap_or(text)
}

/// A public key, or a certificate that holds one.
pub(super) struct PublicKey {
    label: String,
    body: String,
}

impl PublicKey {
    /// Parses PEM, however its line breaks are written; base64 of PEM; or the bare base64 body of PEM, as some issuers
    /// show it.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        const HINT: &str = "is not a public key in PEM: paste all of it, from `-----BEGIN PUBLIC KEY-----` on, with \
                            line breaks or with `\\n` in their place; it may be encoded in base64. A path is not read";
        let text = unquoted(text.trim()).replace("\\r", "").replace("\\n", "\n");
        if text.trim_start().starts_with("ssh-") {
            return Err("is a key of OpenSSH: `ssh-keygen -e -m PKCS8 -f key.pub` writes it as PEM".to_owned());
        }
        if text.contains(BEGIN) {
            return Self::read_pem(&text).ok_or(HINT.to_owned())?;
        }
        let decoded = decode(&text).ok_or(HINT)?;
        // An ASN.1 sequence, with which every key begins.
        if decoded.first() == Some(&0x30) {
            return Ok(Self { label: "PUBLIC KEY".to_owned(), body: text.split_whitespace().collect() });
        }
        let pem = String::from_utf8(decoded).map_err(|_| HINT)?;
        Self::read_pem(&pem).ok_or(HINT.to_owned())?
    }

    /// `None` for text that is no PEM; an error for the wrong kind of PEM.
    fn read_pem(text: &str) -> Option<Result<Self, String>> {
        if text.matches(BEGIN).count() > 1 {
            let several = "holds several keys or certificates: give one, or all of them as a JWK set in JWT_JWKS";
            return Some(Err(several.to_owned()));
        }
        let (label, rest) = text.split_once(BEGIN)?.1.split_once(DASHES)?;
        let (body, _) = rest.split_once(DASHES)?;
        if label.contains("PRIVATE KEY") {
            let private = "is a private key, which nobody but the issuer should have: give the public one, which \
                           `openssl pkey -in private.pem -pubout` prints";
            return Some(Err(private.to_owned()));
        }
        Some(Ok(Self { label: label.to_owned(), body: body.split_whitespace().collect() }))
    }

    pub(super) fn to_pem(&self) -> String {
        let Self { label, body } = self;
        format!("{BEGIN}{label}{DASHES}\n{body}\n-----END {label}{DASHES}\n")
    }
}
