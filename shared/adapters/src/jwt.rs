//! Tokens: JWTs (RFC 7519) behind [`TokenVerifier`].
//!
//! The algorithm is what the configuration says, never what the token says. As in the seed, `nbf` is ignored
//! and the user is named by the claim `data.id`; both the claim and the keys can be configured.

mod keys;
mod remote;

use std::{str::FromStr, time::Duration};

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use kschat_core::{
    Timestamp,
    ports::{Identity, TokenError, TokenVerifier},
};
use kschat_protocol::{JsonId, UserId, limits::MAX_ROOM_ID};
use serde::Deserialize;
use serde_json::{Value, json};

use keys::Keys;

/// Rooms, or patterns of rooms, that a token may list; more are not looked at.
const MAX_LISTED: usize = 100;

/// The claim in which the seed names the user.
pub const SEED_CLAIM: &str = "data.id";

/// How tokens are signed.
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

/// With what a token's signature is checked.
#[derive(Clone)]
pub enum KeySource {
    /// A secret shared with the issuer, for HS256, HS384 and HS512.
    Secret(String),
    /// The issuer's public key in PEM, for RS, PS, ES and EdDSA.
    Pem(String),
    /// The issuer's public keys as the JSON text of a JWK set (RFC 7517), picked by the token's `kid`.
    Jwks(String),
    /// Where the issuer publishes that set. It is fetched when it is needed first, and again when keys change.
    JwksUrl(String),
}

/// What a token must be like. Holds secrets, so it can't be printed.
#[derive(Clone)]
pub struct JwtSettings {
    /// The one algorithm that is accepted.
    pub algorithm: SignatureAlgorithm,
    /// The keys.
    pub keys: KeySource,
    /// The path of the claim that names the user, by dots.
    pub user_claim: String,
    /// The path of the claim that lists the rooms which the user may join, if that is looked at.
    pub rooms_claim: Option<String>,
    /// Whom the token must be for, if that matters.
    pub audience: Option<String>,
    /// Who must have issued it, if that matters.
    pub issuer: Option<String>,
    /// For how many seconds a token is believed after its end, for clocks that differ.
    pub leeway: u64,
    /// Whether a token without an end is refused.
    pub require_exp: bool,
}

impl JwtSettings {
    /// The seed's tokens: HS256, `data.id`, with an end.
    #[must_use]
    pub fn seed(secret: String) -> Self {
        Self {
            algorithm: SignatureAlgorithm::default(),
            keys: KeySource::Secret(secret),
            user_claim: SEED_CLAIM.to_owned(),
            rooms_claim: None,
            audience: None,
            issuer: None,
            leeway: 0,
            require_exp: true,
        }
    }
}

/// Checks tokens against keys that were parsed once.
pub struct JwtVerifier {
    keys: Keys,
    validation: Validation,
    user_claim: Vec<String>,
    rooms_claim: Option<Vec<String>>,
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
        let path = |claim: &String| claim.split('.').map(str::to_owned).collect();
        let (user_claim, rooms_claim) = (path(&settings.user_claim), settings.rooms_claim.as_ref().map(path));
        Ok(Self { keys, validation, user_claim, rooms_claim })
    }

    async fn key(&self, token: &str) -> Result<DecodingKey, TokenError> {
        let named = || jsonwebtoken::decode_header(token).map(|header| header.kid).map_err(|_| TokenError::Invalid);
        match &self.keys {
            Keys::One(key) => Ok(key.clone()),
            Keys::Set(keys) => keys.get(&named()?).cloned().ok_or(TokenError::Invalid),
            Keys::Remote(keys) => keys.get(&named()?).await,
        }
    }

    fn user(&self, claims: &Value) -> Option<UserId> {
        let claim = find(claims, &self.user_claim)?;
        let id: JsonId = serde_json::from_value(claim.clone()).ok()?;
        UserId::try_from(&id).ok()
    }

    /// The rooms that the token lists; none if it lists none, or no texts. They are kept with the session.
    fn rooms(&self, claims: &Value) -> Option<Vec<String>> {
        let path = self.rooms_claim.as_ref()?;
        let listed = find(claims, path).and_then(Value::as_array).into_iter().flatten();
        let texts = listed.filter_map(Value::as_str).filter(|room| room.len() <= MAX_ROOM_ID);
        Some(texts.take(MAX_LISTED).map(str::to_owned).collect())
    }
}

fn find<'a>(claims: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(claims, |value, name| value.get(name))
}

#[async_trait]
impl TokenVerifier for JwtVerifier {
    async fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        let key = self.key(token).await?;
        let decoded = jsonwebtoken::decode::<Claims>(token, &key, &self.validation);
        let claims = decoded.map_err(|error| refusal(error.kind()))?.claims;
        let leeway = Duration::from_secs(self.validation.leeway);
        let expires = claims.exp.map(|seconds| Timestamp::from_millis(millis(seconds)).plus(leeway));
        let claims = Value::Object(claims.all);
        let user = self.user(&claims).ok_or(TokenError::Invalid)?;
        Ok(Identity { user, expires, rooms: self.rooms(&claims) })
    }
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

/// Signs a token as the seed's issuer does, good from `now` until `expires`; for a developer's machine.
///
/// # Errors
/// A sentence for the developer, when the secret can't sign.
pub fn sign_seed_token(secret: &str, user: &UserId, now: Timestamp, expires: Timestamp) -> Result<String, String> {
    let claims = json!({
        "data": { "id": user.as_str() },
        "iat": now.millis() / 1000,
        "exp": expires.millis() / 1000,
    });
    let key = EncodingKey::from_secret(secret.as_bytes());
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

    fn seed() -> JwtVerifier {
        JwtVerifier::new(&JwtSettings::seed(SECRET.to_owned())).unwrap()
    }

    #[tokio::test]
    async fn the_seeds_token_names_its_user_as_number_or_text() {
        for id in [json!(12345), json!("12345")] {
            let end = now() + 60;
            let identity = seed().verify(&hs256(&json!({ "data": { "id": id }, "exp": end }))).await.unwrap();
            assert_eq!(identity.user.as_str(), "12345");
            assert_eq!(identity.expires, Some(Timestamp::from_millis(end * 1000)));
        }
    }

    #[tokio::test]
    async fn what_must_not_be_believed_is_not() {
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
            assert_eq!(seed().verify(&token).await, Err(TokenError::Invalid), "{token}");
        }
        let over = hs256(&json!({ "data": { "id": "7" }, "exp": now() - 1 }));
        assert_eq!(seed().verify(&over).await, Err(TokenError::Expired));
    }

    #[tokio::test]
    async fn a_token_of_tomorrow_is_good_today_as_in_the_seed() {
        let token = hs256(&json!({ "data": { "id": "7" }, "nbf": now() + 3600, "exp": now() + 7200 }));
        assert!(seed().verify(&token).await.is_ok());
    }

    #[tokio::test]
    async fn audience_issuer_and_claim_are_as_configured() {
        let settings = JwtSettings {
            user_claim: "sub".to_owned(),
            rooms_claim: Some("data.rooms".to_owned()),
            audience: Some("chat".to_owned()),
            issuer: Some("us".to_owned()),
            ..JwtSettings::seed(SECRET.to_owned())
        };
        let verifier = JwtVerifier::new(&settings).unwrap();
        let token = |aud: &str, iss: &str| hs256(&json!({ "sub": "7", "aud": aud, "iss": iss, "exp": now() + 60 }));
        assert!(verifier.verify(&token("chat", "us")).await.is_ok());
        let listing = json!({
            "sub": "7", "aud": "chat", "iss": "us", "exp": now() + 60, "data": { "rooms": ["lobby", 7, "team.*"] },
        });
        let rooms = async |token: &str| verifier.verify(token).await.unwrap().rooms;
        assert_eq!(rooms(&hs256(&listing)).await, Some(vec!["lobby".to_owned(), "team.*".to_owned()]));
        assert_eq!(rooms(&token("chat", "us")).await, Some(vec![]));
        assert!(verifier.verify(&token("shop", "us")).await.is_err());
        assert!(verifier.verify(&token("chat", "them")).await.is_err());
        assert!(verifier.verify(&hs256(&json!({ "sub": "7", "exp": now() + 60 }))).await.is_err());
    }

    #[tokio::test]
    async fn public_keys_verify_for_their_own_algorithm_only() {
        let claims = json!({ "data": { "id": "7" }, "exp": now() + 60 });
        let cases = [
            (Algorithm::RS256, include_str!("../tests/keys/rsa.pem"), include_str!("../tests/keys/rsa.pub.pem")),
            (Algorithm::ES256, include_str!("../tests/keys/ec.pem"), include_str!("../tests/keys/ec.pub.pem")),
            (Algorithm::EdDSA, include_str!("../tests/keys/ed.pem"), include_str!("../tests/keys/ed.pub.pem")),
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
                ..JwtSettings::seed(SECRET.to_owned())
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

    #[tokio::test]
    async fn a_key_set_is_searched_by_key_id() {
        let claims = json!({ "data": { "id": "7" }, "exp": now() + 60 });
        let private = EncodingKey::from_ed_pem(include_bytes!("../tests/keys/ed.pem")).unwrap();
        let mut jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&private, Algorithm::EdDSA).unwrap();
        jwk.common.key_id = Some("one".to_owned());
        let rsa = EncodingKey::from_rsa_pem(include_bytes!("../tests/keys/rsa.pem")).unwrap();
        let mut other = jsonwebtoken::jwk::Jwk::from_encoding_key(&rsa, Algorithm::RS256).unwrap();
        other.common.key_id = Some("two".to_owned());
        let settings = JwtSettings {
            algorithm: SignatureAlgorithm(Algorithm::EdDSA),
            keys: KeySource::Jwks(json!({ "keys": [jwk, other] }).to_string()),
            ..JwtSettings::seed(String::new())
        };
        let verifier = JwtVerifier::new(&settings).unwrap();
        let token = |kid: Option<&str>| {
            let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
            jsonwebtoken::encode(&header, &claims, &private).unwrap()
        };
        assert!(verifier.verify(&token(Some("one"))).await.is_ok());
        assert!(verifier.verify(&token(None)).await.is_ok());
        assert!(verifier.verify(&token(Some("two"))).await.is_err());
    }

    #[test]
    fn keys_that_do_not_fit_are_refused_at_start() {
        let with = |algorithm, keys| JwtSettings {
            algorithm: SignatureAlgorithm(algorithm),
            keys,
            ..JwtSettings::seed(String::new())
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
    async fn a_signed_token_verifies() {
        let (user, now) = (UserId::try_from("alice").unwrap(), Timestamp::from_millis(now() * 1000));
        let end = now.plus(std::time::Duration::from_secs(60));
        let token = sign_seed_token(SECRET, &user, now, end).unwrap();
        assert_eq!(seed().verify(&token).await, Ok(Identity { user, expires: Some(end), rooms: None }));
    }
}
