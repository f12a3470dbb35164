//! Tokens: JWTs (RFC 7519) behind [`TokenVerifier`].
//!
//! The configuration determines the algorithm, never the token. As in the original Socket.IO guide, `nbf` is ignored
//! and the claim `data.id` names the user; both the claim and the keys can be configured.

mod key_set;
mod keys;
mod remote;
mod text;

use std::{str::FromStr, time::Duration};

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation, errors::ErrorKind};
use kschat_core::{
    Timestamp,
    ports::{Identity, TokenError, TokenVerifier},
};
use kschat_protocol::{JsonId, UserId, limits::MAX_ROOM_ID_BYTES};
use serde::Deserialize;
use serde_json::{Value, json};

use key_set::KeySet;
use keys::Keys;

/// Rooms, or patterns of rooms, that are read from a token at most.
const MAX_TOKEN_ROOMS: usize = 100;

/// The claim that names the user of a v1 token.
pub const V1_USER_CLAIM: &str = "data.id";

/// The signature algorithm of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureAlgorithm(Algorithm);

impl Default for SignatureAlgorithm {
    fn default() -> Self {
        Self(Algorithm::HS256)
    }
}

impl FromStr for SignatureAlgorithm {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        const KNOWN: &str = "must be one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, \
                             ES384, EdDSA";
        Algorithm::from_str(name).map(Self).map_err(|_| KNOWN)
    }
}

/// The source of the keys that verify tokens.
#[derive(Clone)]
pub enum KeySource {
    /// A secret shared with the issuer, for HS256, HS384 and HS512: its text, or its bytes as `base64:…`.
    Secret(String),
    /// The issuer's public key in PEM, for RS, PS, ES and EdDSA. Line breaks may be written as `\n`, and all of it in
    /// base64.
    Pem(String),
    /// The issuer's public keys as the JSON text of a JWK set (RFC 7517). Those with the token's `kid` are tried, or
    /// all that fit if there are none.
    Jwks(String),
    /// The URL of that set. It is fetched at first use, and again when keys change.
    JwksUrl(String),
}

/// The requirements of a token. Holds secrets, so it can't be printed.
#[derive(Clone)]
pub struct JwtSettings {
    /// The one accepted algorithm.
    pub algorithm: SignatureAlgorithm,
    /// The keys.
    pub keys: KeySource,
    /// The claim that names the user: a name, a path with dots, or a JSON pointer (RFC 6901).
    pub user_claim: String,
    /// The claim that lists the rooms which the user may join, by name or path; `None` if it is not read.
    pub rooms_claim: Option<String>,
    /// The required audience, if any.
    pub audience: Option<String>,
    /// The required issuer, if any.
    pub issuer: Option<String>,
    /// How many seconds after its expiry a token is accepted, for clocks that differ.
    pub leeway: u64,
    /// Whether a token without expiry is refused.
    pub require_exp: bool,
}

impl JwtSettings {
    /// v1 tokens: HS256, `data.id`, with an expiry.
    #[must_use]
    pub fn v1(secret: String) -> Self {
        Self {
            algorithm: SignatureAlgorithm::default(),
            keys: KeySource::Secret(secret),
            user_claim: V1_USER_CLAIM.to_owned(),
            rooms_claim: None,
            audience: None,
            issuer: None,
            leeway: 0,
            require_exp: true,
        }
    }
}

/// Verifies tokens with keys that were parsed once.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use kschat_adapters::jwt::{JwtSettings, JwtVerifier, sign_v1_token};
/// use kschat_core::{Clock, SystemClock, ports::{TokenError, TokenVerifier}};
/// use kschat_protocol::UserId;
///
/// let secret = "a secret of at least 32 characters";
/// let (alice, now) = (UserId::try_from("alice")?, SystemClock.now());
/// let token = sign_v1_token(secret, &alice, now, now.plus(Duration::from_secs(3600)))?;
///
/// let verifier = JwtVerifier::new(&JwtSettings::v1(secret.to_owned()))?;
/// assert_eq!(verifier.verify(&token).await?.user, alice);
/// assert_eq!(verifier.verify("not a token").await, Err(TokenError::Invalid));
/// # Ok(())
/// # }
/// ```
pub struct JwtVerifier {
    keys: Keys,
    validation: Validation,
    user_claim: String,
    rooms_claim: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
    #[serde(flatten)]
    all: serde_json::Map<String, Value>,
}

impl JwtVerifier {
    /// Parses the keys.
    ///
    /// # Errors
    /// A sentence for the operator, when the keys can't be read or do not fit the algorithm.
    pub fn new(settings: &JwtSettings) -> Result<Self, String> {
        let algorithm = settings.algorithm.0;
        let mut validation = Validation::new(algorithm);
        validation.leeway = settings.leeway;
        validation.required_spec_claims.clear();
        if settings.require_exp {
            validation.required_spec_claims.insert("exp".to_owned());
        }
        validation.validate_aud = settings.audience.is_some();
        if let Some(audience) = &settings.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        if let Some(issuer) = &settings.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        let keys = Keys::new(&settings.keys, algorithm)?;
        let user_claim = settings.user_claim.clone();
        Ok(Self { keys, validation, user_claim, rooms_claim: settings.rooms_claim.clone() })
    }

    async fn claims(&self, token: &str) -> Result<Claims, TokenError> {
        let kid = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?.kid;
        let check = |keys: &KeySet| self.check(token, kid.as_deref(), keys);
        match &self.keys {
            Keys::Known(keys) => check(keys).unwrap_or(Err(TokenError::Invalid)),
            Keys::Remote(keys) => keys.check(kid.as_deref(), check).await,
        }
    }

    /// Verifies a token; `None` if none of these keys has signed it.
    fn check(&self, token: &str, kid: Option<&str>, keys: &KeySet) -> Option<Result<Claims, TokenError>> {
        let decode = |key| jsonwebtoken::decode::<Claims>(token, key, &self.validation);
        keys.candidates(kid).find_map(|key| match decode(key) {
            Ok(decoded) => Some(Ok(decoded.claims)),
            Err(error) if is_of_another_key(error.kind()) => None,
            Err(error) => Some(Err(refusal(error.kind()))),
        })
    }

    fn user(&self, claims: &Value) -> Option<UserId> {
        let claim = find(claims, &self.user_claim)?;
        UserId::try_from(&JsonId::deserialize(claim).ok()?).ok()
    }

    /// The rooms that the token lists; none if it lists none, or no ids. They are kept with the session.
    fn rooms(&self, claims: &Value) -> Option<Vec<String>> {
        let claim = self.rooms_claim.as_ref()?;
        let listed = find(claims, claim).and_then(Value::as_array).into_iter().flatten();
        let ids = listed.filter_map(|room| JsonId::deserialize(room).ok()).map(|room| room.to_string());
        Some(ids.filter(|room| room.len() <= MAX_ROOM_ID_BYTES).take(MAX_TOKEN_ROOMS).collect())
    }
}

/// The claim of that name, or at that path. A name may contain dots, as a URL does, so the longest name is tried first.
/// A leading slash marks a JSON pointer, which is unambiguous.
fn find<'a>(claims: &'a Value, claim: &str) -> Option<&'a Value> {
    if claim.starts_with('/') { claims.pointer(claim) } else { find_named(claims, claim) }
}

fn find_named<'a>(claims: &'a Value, claim: &str) -> Option<&'a Value> {
    let nested = |(dot, _)| claims.get(claim.get(..dot)?).and_then(|inner| find_named(inner, claim.get(dot + 1..)?));
    claims.get(claim).or_else(|| claim.rmatch_indices('.').find_map(nested))
}

#[async_trait]
impl TokenVerifier for JwtVerifier {
    async fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        let claims = self.claims(token).await?;
        let leeway = Duration::from_secs(self.validation.leeway);
        let expires = claims.exp.map(|seconds| Timestamp::from_millis(millis(seconds)).plus(leeway));
        let claims = Value::Object(claims.all);
        let user = self.user(&claims).ok_or(TokenError::Invalid)?;
        Ok(Identity { user, expires, rooms: self.rooms(&claims) })
    }
}

/// Whether another key may still have signed that token.
fn is_of_another_key(error: &ErrorKind) -> bool {
    use ErrorKind::{InvalidEcdsaKey, InvalidEddsaKey, InvalidKeyFormat, InvalidRsaKey, InvalidSignature};
    matches!(error, InvalidSignature | InvalidKeyFormat | InvalidRsaKey(_) | InvalidEcdsaKey | InvalidEddsaKey)
}

fn refusal(error: &ErrorKind) -> TokenError {
    match error {
        ErrorKind::ExpiredSignature => TokenError::Expired,
        _ => TokenError::Invalid,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates at both ends")]
fn millis(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}

/// Checks that a secret is unambiguous as it is.
///
/// # Errors
/// A sentence for the operator, without the secret.
pub fn check_secret(secret: &str) -> Result<(), String> {
    text::secret_bytes(secret).map(drop)
}

/// Signs a v1 token, valid from `now` until `expires`; for a developer's machine.
///
/// # Errors
/// A sentence for the developer, when the secret can't sign.
pub fn sign_v1_token(secret: &str, user: &UserId, now: Timestamp, expires: Timestamp) -> Result<String, String> {
    let claims = json!({
        "data": { "id": user.as_str() },
        "iat": now.millis() / 1000,
        "exp": expires.millis() / 1000,
    });
    let key = EncodingKey::from_secret(&text::secret_bytes(secret)?);
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a secret that only the tests know";

    fn now() -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    }

    fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
        jsonwebtoken::encode(&Header::new(algorithm), claims, key).unwrap()
    }

    fn hs256(claims: &Value) -> String {
        sign(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
    }

    fn v1() -> JwtVerifier {
        JwtVerifier::new(&JwtSettings::v1(SECRET.to_owned())).unwrap()
    }

    #[tokio::test]
    async fn v1_token_names_user_as_number_or_text() {
        for id in [json!(12345), json!("12345")] {
            let end = now() + 60;
            let identity = v1().verify(&hs256(&json!({ "data": { "id": id }, "exp": end }))).await.unwrap();
            assert_eq!(identity.user.as_str(), "12345");
            assert_eq!(identity.expires, Some(Timestamp::from_millis(end * 1000)));
        }
    }

    #[tokio::test]
    async fn invalid_tokens_are_refused() {
        let good = json!({ "data": { "id": "7" }, "exp": now() + 60 });
        let token = hs256(&good);
        let (head, signature) = token.rsplit_once('.').unwrap();
        let none = "eyJhbGciOiJub25lIn0";
        let body = head.split_once('.').unwrap().1;
        let other = sign(Algorithm::HS256, &EncodingKey::from_secret(b"another secret"), &good);
        let hs512 = sign(Algorithm::HS512, &EncodingKey::from_secret(SECRET.as_bytes()), &good);
        let forged = [
            String::new(),
            "x".to_owned(),
            format!("{head}."),
            format!("{none}.{body}."),
            format!("{none}.{body}.{signature}"),
            other,
            hs512,
            hs256(&json!({ "exp": now() + 60 })),
            hs256(&json!({ "data": { "id": "" }, "exp": now() + 60 })),
            hs256(&json!({ "data": { "id": { "$ne": 1 } }, "exp": now() + 60 })),
            hs256(&json!({ "data": { "id": "7" } })),
        ];
        for token in forged {
            assert_eq!(v1().verify(&token).await, Err(TokenError::Invalid), "{token}");
        }
        let over = hs256(&json!({ "data": { "id": "7" }, "exp": now() - 1 }));
        assert_eq!(v1().verify(&over).await, Err(TokenError::Expired));
    }

    #[tokio::test]
    async fn not_before_claim_is_ignored() {
        let token = hs256(&json!({ "data": { "id": "7" }, "nbf": now() + 3600, "exp": now() + 7200 }));
        assert!(v1().verify(&token).await.is_ok());
    }

    #[tokio::test]
    async fn configured_audience_issuer_and_claim_are_checked() {
        let settings = JwtSettings {
            user_claim: "sub".to_owned(),
            rooms_claim: Some("data.rooms".to_owned()),
            audience: Some("chat".to_owned()),
            issuer: Some("us".to_owned()),
            ..JwtSettings::v1(SECRET.to_owned())
        };
        let verifier = JwtVerifier::new(&settings).unwrap();
        let token = |aud: &str, iss: &str| hs256(&json!({ "sub": "7", "aud": aud, "iss": iss, "exp": now() + 60 }));
        assert!(verifier.verify(&token("chat", "us")).await.is_ok());
        let listing = json!({
            "sub": "7", "aud": "chat", "iss": "us", "exp": now() + 60, "data": { "rooms": ["news", 7, "team.*"] },
        });
        let rooms = async |token: &str| verifier.verify(token).await.unwrap().rooms;
        assert_eq!(rooms(&hs256(&listing)).await, Some(["news", "7", "team.*"].map(str::to_owned).to_vec()));
        assert_eq!(rooms(&token("chat", "us")).await, Some(vec![]));
        assert!(verifier.verify(&token("shop", "us")).await.is_err());
        assert!(verifier.verify(&token("chat", "them")).await.is_err());
        assert!(verifier.verify(&hs256(&json!({ "sub": "7", "exp": now() + 60 }))).await.is_err());
    }

    #[tokio::test]
    async fn public_key_verifies_only_its_algorithm() {
        let claims = json!({ "data": { "id": "7" }, "exp": now() + 60 });
        let cases = [
            (Algorithm::RS256, include_str!("../../tests/keys/rsa.pem"), include_str!("../../tests/keys/rsa.pub.pem")),
            (Algorithm::ES256, include_str!("../../tests/keys/ec.pem"), include_str!("../../tests/keys/ec.pub.pem")),
            (Algorithm::EdDSA, include_str!("../../tests/keys/ed.pem"), include_str!("../../tests/keys/ed.pub.pem")),
        ];
        let read = |algorithm, private: &str| match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(private.as_bytes()).unwrap(),
            Algorithm::ES256 => EncodingKey::from_ec_pem(private.as_bytes()).unwrap(),
            _ => EncodingKey::from_ed_pem(private.as_bytes()).unwrap(),
        };
        for (algorithm, private, public) in cases {
            let settings = JwtSettings {
                algorithm: SignatureAlgorithm(algorithm),
                keys: KeySource::Pem(public.to_owned()),
                ..JwtSettings::v1(SECRET.to_owned())
            };
            let verifier = JwtVerifier::new(&settings).unwrap();
            let token = sign(algorithm, &read(algorithm, private), &claims);
            assert!(verifier.verify(&token).await.is_ok(), "{algorithm:?}");
            assert!(verifier.verify(&hs256(&claims)).await.is_err(), "{algorithm:?}");
            // The classic confusion: the public key used as a secret.
            let confused = sign(Algorithm::HS256, &EncodingKey::from_secret(public.as_bytes()), &claims);
            assert!(verifier.verify(&confused).await.is_err(), "{algorithm:?}");
        }
    }

    #[test]
    fn mismatched_key_is_refused_at_start() {
        let with = |algorithm, keys| JwtSettings {
            algorithm: SignatureAlgorithm(algorithm),
            keys,
            ..JwtSettings::v1(String::new())
        };
        let refused = [
            with(Algorithm::RS256, KeySource::Secret("s".to_owned())),
            with(Algorithm::HS256, KeySource::Pem("p".to_owned())),
            with(Algorithm::ES256, KeySource::Pem("p".to_owned())),
            with(Algorithm::ES256, KeySource::Jwks("{".to_owned())),
            with(Algorithm::ES256, KeySource::Jwks(r#"{"keys":[]}"#.to_owned())),
        ];
        for settings in refused {
            assert!(JwtVerifier::new(&settings).is_err());
        }
    }

    #[tokio::test]
    async fn signed_token_verifies() {
        let (user, now) = (UserId::try_from("alice").unwrap(), Timestamp::from_millis(now() * 1000));
        let end = now.plus(std::time::Duration::from_secs(60));
        let token = sign_v1_token(SECRET, &user, now, end).unwrap();
        assert_eq!(v1().verify(&token).await, Ok(Identity { user, expires: Some(end), rooms: None }));
    }
}
