//! Tokens as issuers sign them, with keys and claims as operators configure them.

#![expect(clippy::unwrap_used, reason = "an unmet expectation fails the test")]

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use kschat_adapters::jwt::{JwtSettings, JwtVerifier, KeySource, sign_v1_token};
use kschat_core::{
    Timestamp,
    ports::{Identity, TokenError, TokenVerifier},
};
use kschat_protocol::UserId;
use serde_json::{Value, json};

const SECRET: &str = "a secret that only the tests know";
const RSA_PUBLIC: &str = include_str!("keys/rsa.pub.pem");
const RSA_PRIVATE: &str = include_str!("keys/rsa.pem");

fn end() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 60
}

fn signed(algorithm: Algorithm, kid: Option<&str>, key: &EncodingKey, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, key).unwrap()
}

fn with_secret(bytes: &[u8], claims: &Value) -> String {
    signed(Algorithm::HS256, None, &EncodingKey::from_secret(bytes), claims)
}

fn of_seven() -> Value {
    json!({ "data": { "id": "7" }, "exp": end() })
}

fn settings(algorithm: &str, keys: KeySource) -> JwtSettings {
    JwtSettings { algorithm: algorithm.parse().unwrap(), keys, ..JwtSettings::v1(String::new()) }
}

async fn verify(settings: &JwtSettings, token: &str) -> Result<Identity, TokenError> {
    JwtVerifier::new(settings).unwrap().verify(token).await
}

/// The error of a process that is started with such keys.
fn refusal(algorithm: &str, keys: KeySource) -> String {
    JwtVerifier::new(&settings(algorithm, keys)).err().unwrap_or_else(|| "nothing".to_owned())
}

/// A new key pair.
fn pair() -> EncodingKey {
    EncodingKey::from_ed_der(Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap().as_ref())
}

/// The public key of a pair as its issuer publishes it.
fn jwk(pair: &EncodingKey, members: Value) -> Value {
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(pair, Algorithm::EdDSA).unwrap()).unwrap();
    let Value::Object(members) = members else { panic!("members") };
    jwk.as_object_mut().unwrap().extend(members);
    jwk
}

/// Whether a set of keys accepts a token that this pair has signed.
async fn lets_in(keys: &[Value], kid: Option<&str>, pair: &EncodingKey) -> bool {
    let settings = settings("EdDSA", KeySource::Jwks(json!({ "keys": keys }).to_string()));
    verify(&settings, &signed(Algorithm::EdDSA, kid, pair, &of_seven())).await.is_ok()
}

async fn user_named_by(claim: &str, claims: Value) -> Option<String> {
    let settings = JwtSettings { user_claim: claim.to_owned(), ..JwtSettings::v1(SECRET.to_owned()) };
    let identity = verify(&settings, &with_secret(SECRET.as_bytes(), &claims)).await;
    identity.ok().map(|identity| identity.user.as_str().to_owned())
}

#[tokio::test]
async fn claim_with_dots_in_its_name_is_found() {
    let url = "https://example.com/uid";
    let seven = Some("7".to_owned());
    assert_eq!(user_named_by(url, json!({ url: 7, "exp": end() })).await, seven);
    assert_eq!(user_named_by("/https:~1~1example.com~1uid", json!({ url: "7", "exp": end() })).await, seven);
    // An object under such a name.
    let nested = json!({ "https://example.com/claims": { "id": "7" }, "exp": end() });
    assert_eq!(user_named_by("https://example.com/claims.id", nested).await, seven);
    // The literal name is tried first, and a pointer says which of the two is meant.
    let both = || json!({ "data.id": "8", "data": { "id": "7" }, "exp": end() });
    assert_eq!(user_named_by("data.id", both()).await, Some("8".to_owned()));
    assert_eq!(user_named_by("/data/id", both()).await, seven);
    assert_eq!(user_named_by("/data.id", both()).await, Some("8".to_owned()));
    assert_eq!(user_named_by("data.uid", both()).await, None);
}

#[tokio::test]
async fn rooms_claim_lists_numbers_and_texts_under_any_name() {
    let name = "https://example.com/rooms";
    let settings = JwtSettings { rooms_claim: Some(name.to_owned()), ..JwtSettings::v1(SECRET.to_owned()) };
    let listed = json!([7, "8", "team.*", 1.5, null, ["9"]]);
    let token = with_secret(SECRET.as_bytes(), &json!({ "data": { "id": "7" }, "exp": end(), name: listed }));
    let rooms = verify(&settings, &token).await.unwrap().rooms.unwrap();
    assert_eq!(rooms, ["7", "8", "team.*"]);
}

#[tokio::test]
async fn key_that_is_not_published_for_signatures_never_verifies() {
    let (signing, encrypting) = (pair(), pair());
    let set = |members: Value| vec![jwk(&signing, json!({ "kid": "a", "use": "sig" })), jwk(&encrypting, members)];
    let others = [
        json!({ "kid": "a", "use": "enc" }),
        json!({ "kid": "a", "use": "tls" }),
        json!({ "kid": "a", "key_ops": ["encrypt", "wrapKey"] }),
        json!({ "kid": "a", "key_ops": [] }),
        json!({ "kid": "a", "alg": "RS256" }),
        json!({ "kid": "a", "alg": "ECDH-ES" }),
        json!({ "kid": "a", "use": "enc", "key_ops": ["verify"] }),
    ];
    for members in others {
        for kid in [Some("a"), None] {
            assert!(lets_in(&set(members.clone()), kid, &signing).await, "{members} {kid:?}");
            assert!(!lets_in(&set(members.clone()), kid, &encrypting).await, "{members} {kid:?}");
        }
    }
    let fitting = [
        json!({ "use": null, "key_ops": ["sign", "verify"], "alg": "EdDSA" }),
        json!({ "use": "sig", "alg": "Ed25519" }),
        json!({ "alg": null, "key_ops": null, "kid": null }),
    ];
    for members in fitting {
        assert!(lets_in(&set(members.clone()), None, &encrypting).await, "{members}");
    }
}

#[tokio::test]
async fn every_key_that_fits_is_tried() {
    let (one, two, strange) = (pair(), pair(), pair());
    let without_kid = [jwk(&one, json!({})), jwk(&two, json!({}))];
    let named = [jwk(&one, json!({ "kid": "one" })), jwk(&two, json!({ "kid": "two" }))];
    let same = [jwk(&one, json!({ "kid": "one" })), jwk(&two, json!({ "kid": "one" }))];
    for pair in [&one, &two] {
        for kid in [None, Some("one"), Some("other")] {
            assert!(lets_in(&without_kid, kid, pair).await, "{kid:?}");
            assert!(lets_in(&same, kid, pair).await, "{kid:?}");
        }
        assert!(lets_in(&named, None, pair).await);
        assert!(lets_in(&named, Some("other"), pair).await);
    }
    assert!(lets_in(&named[..1], Some("other"), &one).await);
    // An existing `kid` restricts the keys.
    assert!(!lets_in(&named, Some("two"), &one).await);
    for keys in [&without_kid, &named, &same] {
        assert!(!lets_in(keys, None, &strange).await);
        assert!(!lets_in(keys, Some("one"), &strange).await);
    }
}

#[tokio::test]
async fn key_set_is_understood_in_spite_of_what_is_odd_in_it() {
    let one = pair();
    let token = signed(Algorithm::EdDSA, None, &one, &of_seven());
    let odd = json!([jwk(&one, json!({})), 7, {}, { "kty": "OKP" }, { "kty": "EC", "crv": "P-999" }, { "kid": 7 }]);
    let texts = [
        format!("\u{feff}{}", json!({ "keys": odd })),
        jwk(&one, json!({})).to_string(),
        json!({ "issuer": "us", "keys": odd }).to_string(),
    ];
    for text in texts {
        assert!(verify(&settings("EdDSA", KeySource::Jwks(text.clone())), &token).await.is_ok(), "{text}");
    }
    for text in ["[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[{"kty":"OKP"}]}"#] {
        assert_ne!(refusal("EdDSA", KeySource::Jwks(text.to_owned())), "nothing", "{text}");
    }
}

#[tokio::test]
async fn public_key_is_understood_as_people_paste_it() {
    let token =
        signed(Algorithm::RS256, None, &EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap(), &of_seven());
    let body: String = RSA_PUBLIC.lines().filter(|line| !line.starts_with('-')).collect();
    let pasted = [
        RSA_PUBLIC.to_owned(),
        RSA_PUBLIC.replace('\n', "\\n"),
        RSA_PUBLIC.replace('\n', "\\r\\n"),
        RSA_PUBLIC.replace('\n', "\r\n"),
        RSA_PUBLIC.replace('\n', " "),
        RSA_PUBLIC.trim().replace('\n', ""),
        format!("\"{}\"", RSA_PUBLIC.trim().replace('\n', "\\n")),
        format!("  {RSA_PUBLIC}\n\n"),
        STANDARD.encode(RSA_PUBLIC),
        URL_SAFE_NO_PAD.encode(RSA_PUBLIC),
        body,
        include_str!("keys/rsa.cert.pem").to_owned(),
    ];
    for text in pasted {
        let verified = verify(&settings("RS256", KeySource::Pem(text.clone())), &token).await;
        assert!(verified.is_ok(), "{text}");
    }
}

#[test]
fn key_that_can_verify_nothing_is_refused_with_a_hint() {
    let ec = include_str!("keys/ec.pub.pem");
    let refused = [
        ("RS256", RSA_PRIVATE.to_owned(), "private key"),
        ("RS256", STANDARD.encode(RSA_PRIVATE), "private key"),
        ("RS256", RSA_PRIVATE.replace('\n', "\\n"), "openssl pkey"),
        ("ES256", include_str!("keys/ec.pem").to_owned(), "private key"),
        ("RS256", ec.to_owned(), "RSA"),
        ("ES384", ec.to_owned(), "P-384"),
        ("ES256", RSA_PUBLIC.to_owned(), "P-256"),
        ("RS256", include_str!("keys/rsa1024.pub.pem").to_owned(), "2048 bits"),
        ("RS256", format!("{RSA_PUBLIC}{RSA_PUBLIC}"), "JWT_JWKS"),
        ("RS256", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQAB me@here".to_owned(), "ssh-keygen"),
        ("RS256", "/etc/keys/public.pem".to_owned(), "path"),
        ("RS256", "hunter2".to_owned(), "PEM"),
        ("HS256", RSA_PUBLIC.to_owned(), "JWT_ALGORITHM"),
    ];
    for (algorithm, text, hint) in refused {
        let error = refusal(algorithm, KeySource::Pem(text.clone()));
        assert!(error.contains(hint), "{text}: {error}");
        assert!(!error.contains("MII") && !error.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn secret_in_base64_is_the_bytes_that_it_encodes() {
    let bytes: Vec<u8> = (0_u8..48).map(|byte| byte.wrapping_mul(37) ^ 0xf3).collect();
    let (plain, url) = (STANDARD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes));
    for text in [&plain, &url] {
        let given = JwtSettings::v1(text.clone());
        assert!(verify(&given, &with_secret(&bytes, &of_seven())).await.is_ok(), "{text}");
        assert!(verify(&given, &with_secret(text.as_bytes(), &of_seven())).await.is_ok(), "{text}");
    }
    let marked = JwtSettings::v1(format!("base64:{plain}"));
    assert!(verify(&marked, &with_secret(&bytes, &of_seven())).await.is_ok());
    assert!(verify(&marked, &with_secret(plain.as_bytes(), &of_seven())).await.is_err());
    let now = Timestamp::from_millis((end() - 60) * 1000);
    let user = UserId::try_from("7").unwrap();
    let secret = format!("base64:{plain}");
    let ours = sign_v1_token(&secret, &user, now, now.plus(std::time::Duration::from_secs(60))).unwrap();
    assert!(verify(&marked, &ours).await.is_ok());
    // So few bytes could be anything.
    let short = JwtSettings::v1("c2hvcnQ=".to_owned());
    assert!(verify(&short, &with_secret(b"short", &of_seven())).await.is_err());
}

#[test]
fn secret_that_nobody_can_mean_is_refused_with_a_hint() {
    let refused = [
        ("hunter2\n", "line break"),
        ("hunter2\r\n", "line break"),
        (" hunter2", "white space"),
        ("hunter2\t", "white space"),
        ("\"hunter2\"", "quotes"),
        ("base64:hunter2!", "base64"),
        ("-----BEGIN PUBLIC KEY-----hunter2", "JWT_PUBLIC_KEY"),
    ];
    for (secret, hint) in refused {
        let error = refusal("HS256", KeySource::Secret(secret.to_owned()));
        assert!(error.contains(hint) && !error.contains("hunter2"), "{secret:?}: {error}");
    }
    assert!(refusal("RS256", KeySource::Secret("hunter2".to_owned())).contains("JWT_PUBLIC_KEY"));
}
