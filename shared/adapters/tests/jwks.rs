//! Keys that are fetched from an issuer's URL.

#![expect(clippy::unwrap_used, reason = "an unmet expectation fails the test")]

use std::{
    collections::HashMap,
    io::Write,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::Ed25519KeyPair;
use flate2::{Compression, write::GzEncoder};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use kschat_adapters::{
    install_crypto_provider,
    jwt::{JwtSettings, JwtVerifier, KeySource},
};
use kschat_core::ports::{TokenError, TokenVerifier};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
    time::{Instant, advance, pause, resume, sleep},
};

/// The published keys, and the number of requests.
#[derive(Clone, Default)]
struct Issuer {
    answer: Arc<Mutex<Vec<u8>>>,
    /// The responses before the keys, for a redirect.
    first: Arc<Mutex<Vec<Vec<u8>>>>,
    address: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    /// An issuer that listens on this machine, and a verifier with its keys.
    async fn start() -> (Self, JwtVerifier) {
        install_crypto_provider();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let issuer = Self::default();
        issuer.address.lock().unwrap().clone_from(&url);
        issuer.fails();
        let serving = issuer.clone();
        tokio::spawn(async move {
            let mut hanging = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                serving.asked.fetch_add(1, Ordering::Relaxed);
                let first = serving.first.lock().unwrap().pop();
                let answer = first.unwrap_or_else(|| serving.answer.lock().unwrap().clone());
                if answer.is_empty() {
                    hanging.push(stream);
                    continue;
                }
                let _ = stream.write_all(&answer).await;
            }
        });
        let settings = JwtSettings {
            algorithm: "EdDSA".parse().unwrap(),
            keys: KeySource::JwksUrl(url),
            ..JwtSettings::v1(String::new())
        };
        (issuer, JwtVerifier::new(&settings).unwrap())
    }

    fn answers(&self, status: &str, body: &str) {
        self.answers_with(status, "x-nothing: to see", body.as_bytes());
    }

    fn answers_with(&self, status: &str, header: &str, body: &[u8]) {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\n{header}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        *self.answer.lock().unwrap() = [head.as_bytes(), body].concat();
    }

    /// Redirects the next request, once for each call.
    fn redirects_first_to(&self, place: &str) {
        let head = format!("HTTP/1.1 302 Found\r\nlocation: {place}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        self.first.lock().unwrap().push(head.into_bytes());
    }

    fn fails(&self) {
        self.answers("503 Service Unavailable", "");
    }

    /// Accepts connections, and never responds.
    fn hangs(&self) {
        self.answer.lock().unwrap().clear();
    }

    /// Publishes the keys with these ids.
    fn publishes(&self, names: &[&str]) {
        self.answers("200 OK", &set(names));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn set(names: &[&str]) -> String {
    let publish = |name: &&str| {
        let mut jwk = Jwk::from_encoding_key(&key(name), Algorithm::EdDSA).unwrap();
        jwk.common.key_id = Some((*name).to_owned());
        jwk
    };
    json!({ "keys": names.iter().map(publish).collect::<Vec<_>>() }).to_string()
}

/// The key pair with that id, the same in every call.
fn key(name: &str) -> EncodingKey {
    static DRAWN: LazyLock<Mutex<HashMap<String, Vec<u8>>>> = LazyLock::new(Mutex::default);
    let draw = || Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap().as_ref().to_vec();
    EncodingKey::from_ed_der(DRAWN.lock().unwrap().entry(name.to_owned()).or_insert_with(draw))
}

fn token(kid: &str) -> String {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::EdDSA) };
    let exp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 60;
    jsonwebtoken::encode(&header, &json!({ "data": { "id": "7" }, "exp": exp }), &key(kid)).unwrap()
}

/// Advances the time without waiting.
async fn later(seconds: u64) {
    pause();
    advance(Duration::from_secs(seconds)).await;
    resume();
}

#[tokio::test]
async fn unknown_key_id_fetches_keys_again() {
    let (issuer, verifier) = Issuer::start().await;
    issuer.publishes(&["old", "other"]);
    for _ in 0..3 {
        assert!(verifier.verify(&token("old")).await.is_ok());
    }
    assert_eq!(issuer.asked(), 1);

    issuer.publishes(&["new", "other"]);
    assert_eq!(verifier.verify(&token("new")).await, Err(TokenError::Invalid), "the issuer was asked just now");
    later(31).await;
    assert!(verifier.verify(&token("new")).await.is_ok());
    assert_eq!(verifier.verify(&token("old")).await, Err(TokenError::Invalid), "the key is withdrawn");
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn unknown_key_ids_do_not_flood_issuer() {
    let (issuer, verifier) = Issuer::start().await;
    issuer.publishes(&["one", "two"]);
    for number in 0..50 {
        let made_up = token(&format!("made up {number}"));
        assert_eq!(verifier.verify(&made_up).await, Err(TokenError::Invalid));
    }
    assert_eq!(issuer.asked(), 1);
    assert!(verifier.verify(&token("one")).await.is_ok());
}

#[tokio::test]
async fn unreachable_issuer_is_not_token_error() {
    let (issuer, verifier) = Issuer::start().await;
    let refused = ["<html>", r#"{"keys":[]}"#, &"x".repeat(300 * 1024)];
    assert_eq!(verifier.verify(&token("one")).await, Err(TokenError::NoKeys));
    for answer in refused {
        issuer.answers("200 OK", answer);
        later(2).await;
        assert_eq!(verifier.verify(&token("one")).await, Err(TokenError::NoKeys));
    }
    assert_eq!(issuer.asked(), 4);

    issuer.publishes(&["one"]);
    later(2).await;
    assert!(verifier.verify(&token("one")).await.is_ok());

    // Known keys are accepted while the issuer is unavailable, but not for ever.
    issuer.fails();
    later(11 * 60).await;
    assert!(verifier.verify(&token("one")).await.is_ok());
    later(24 * 60 * 60).await;
    assert_eq!(verifier.verify(&token("one")).await, Err(TokenError::NoKeys));
}

#[tokio::test]
async fn keys_behind_redirect_gzip_and_byte_order_mark_are_found() {
    let (issuer, verifier) = Issuer::start().await;
    let url = issuer.address.lock().unwrap().clone();
    for place in [&url, "/elsewhere", &url] {
        issuer.redirects_first_to(place);
    }
    issuer.publishes(&["one"]);
    assert!(verifier.verify(&token("one")).await.is_ok());
    assert_eq!(issuer.asked(), 4);

    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(format!("\u{feff}{}", set(&["two"])).as_bytes()).unwrap();
    issuer.answers_with("200 OK", "content-encoding: gzip", &packed.finish().unwrap());
    later(31).await;
    assert!(verifier.verify(&token("two")).await.is_ok());
}

#[tokio::test]
async fn redirect_or_packing_that_leads_nowhere_is_no_fault_of_the_token() {
    let (issuer, verifier) = Issuer::start().await;
    issuer.publishes(&["one"]);
    let url = issuer.address.lock().unwrap().clone();
    for places in [vec!["http://login.example.com/keys"], vec!["ftp://127.0.0.1/"], vec![url.as_str(); 4]] {
        places.into_iter().for_each(|place| issuer.redirects_first_to(place));
        assert_eq!(verifier.verify(&token("one")).await, Err(TokenError::NoKeys));
        later(2).await;
    }
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&[b' '; 300 * 1024]).unwrap();
    let answers: [(&str, &[u8]); 3] = [
        ("content-encoding: gzip", &bomb.finish().unwrap()),
        ("content-encoding: gzip", b"{}"),
        ("content-encoding: br", b"x"),
    ];
    for (header, body) in answers {
        issuer.answers_with("200 OK", header, body);
        assert_eq!(verifier.verify(&token("one")).await, Err(TokenError::NoKeys), "{header}");
        later(2).await;
    }
    assert_eq!(TokenError::NoKeys.code().http_status(), 503);
}

#[tokio::test]
async fn token_that_any_known_key_has_signed_asks_for_no_other() {
    let (issuer, verifier) = Issuer::start().await;
    issuer.publishes(&["one", "two"]);
    let misnamed = |name: &str| {
        let header = Header { kid: Some("other".to_owned()), ..Header::new(Algorithm::EdDSA) };
        let exp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 600;
        jsonwebtoken::encode(&header, &json!({ "data": { "id": "7" }, "exp": exp }), &key(name)).unwrap()
    };
    assert!(verifier.verify(&misnamed("one")).await.is_ok());
    later(60).await;
    assert!(verifier.verify(&misnamed("two")).await.is_ok());
    assert_eq!(issuer.asked(), 1);
    assert_eq!(verifier.verify(&misnamed("three")).await, Err(TokenError::Invalid));
    assert_eq!(issuer.asked(), 2);
}

/// Verifies tokens with a key of that id, all at once.
async fn verify_many(verifier: &Arc<JwtVerifier>, kid: &str) -> Vec<Result<(), TokenError>> {
    let mut verifying = JoinSet::new();
    for _ in 0..20 {
        let (verifier, token) = (verifier.clone(), token(kid));
        verifying.spawn(async move { verifier.verify(&token).await.map(|_| ()) });
    }
    verifying.join_all().await
}

#[tokio::test]
async fn hanging_issuer_does_not_delay_known_keys() {
    // On a busy machine the time in which the issuer is not asked again may be over too soon.
    for _ in 0..2 {
        if try_to_verify_with_hanging_issuer().await.is_ok() {
            return;
        }
    }
    assert_eq!(try_to_verify_with_hanging_issuer().await, Ok(()));
}

/// An error is what took too long.
async fn try_to_verify_with_hanging_issuer() -> Result<(), &'static str> {
    let (issuer, verifier) = Issuer::start().await;
    let verifier = Arc::new(verifier);
    issuer.publishes(&["one"]);
    assert!(verifier.verify(&token("one")).await.is_ok());

    issuer.hangs();
    later(11 * 60).await;
    let began = Instant::now();
    // Only the first one waits for the issuer.
    let first = tokio::spawn({
        let verifier = verifier.clone();
        async move { verifier.verify(&token("one")).await.map(|_| ()) }
    });
    while issuer.asked() < 2 {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(verify_many(&verifier, "one").await, vec![Ok(()); 20]);
    let is_delayed = first.is_finished();
    assert!(!is_delayed || began.elapsed() >= Duration::from_secs(3), "the others have waited for the first");
    if is_delayed {
        return Err("the first wait was over too soon");
    }
    assert_eq!(first.await.unwrap(), Ok(()));
    assert_eq!(verify_many(&verifier, "one").await, vec![Ok(()); 20]);
    assert_eq!(verify_many(&verifier, "made up").await, vec![Err(TokenError::Invalid); 20]);
    later(20).await;
    assert_eq!(verify_many(&verifier, "one").await, vec![Ok(()); 20]);
    // Three seconds of the first wait, and thirty without another one.
    if began.elapsed() >= Duration::from_secs(3 + 30) {
        return Err("twenty waits would be a minute");
    }
    assert_eq!(issuer.asked(), 2);

    issuer.publishes(&["two"]);
    later(11).await;
    assert!(verifier.verify(&token("two")).await.is_ok());
    assert_eq!(verifier.verify(&token("one")).await, Err(TokenError::Invalid), "the key is withdrawn");
    Ok(())
}

#[tokio::test]
async fn hanging_issuer_is_awaited_once() {
    let mut asked = 0;
    for _ in 0..3 {
        let (issuer, verifier) = Issuer::start().await;
        issuer.hangs();
        let began = Instant::now();
        assert_eq!(verify_many(&Arc::new(verifier), "one").await, vec![Err(TokenError::NoKeys); 20]);
        asked = issuer.asked();
        // A second after the three of the wait, the issuer may be asked again.
        if began.elapsed() < Duration::from_secs(3 + 1) {
            break;
        }
    }
    assert_eq!(asked, 1);
}

#[test]
fn jwks_url_requires_https_or_loopback() {
    install_crypto_provider();
    let read = |url: &str| {
        let settings = JwtSettings {
            algorithm: "RS256".parse().unwrap(),
            keys: KeySource::JwksUrl(url.to_owned()),
            ..JwtSettings::v1(String::new())
        };
        JwtVerifier::new(&settings).map(|_| ())
    };
    for url in ["https://login.example.com/keys", "http://127.0.0.1:8080/keys", "http://localhost/keys"] {
        assert_eq!(read(url), Ok(()), "{url}");
    }
    for url in ["http://login.example.com/keys", "login.example.com", "/keys", "ftp://127.0.0.1/keys", "https://", ""] {
        assert!(read(url).unwrap_err().contains("https URL"), "{url}");
    }
}
