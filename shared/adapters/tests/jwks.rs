//! Keys that are fetched from where an issuer publishes them.

#![expect(clippy::unwrap_used, reason = "what is not as expected fails the test")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

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

/// What is published, and how often somebody has asked.
#[derive(Clone, Default)]
struct Issuer {
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    /// An issuer that listens on this machine, and somebody who believes its keys.
    async fn start() -> (Self, JwtVerifier) {
        install_crypto_provider();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let issuer = Self::default();
        issuer.fails();
        let serving = issuer.clone();
        tokio::spawn(async move {
            let mut hanging = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                serving.asked.fetch_add(1, Ordering::Relaxed);
                let answer = serving.answer.lock().unwrap().clone();
                if answer.is_empty() {
                    hanging.push(stream);
                    continue;
                }
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let settings = JwtSettings {
            algorithm: "EdDSA".parse().unwrap(),
            keys: KeySource::JwksUrl(url),
            ..JwtSettings::seed(String::new())
        };
        (issuer, JwtVerifier::new(&settings).unwrap())
    }

    fn answers(&self, status: &str, body: &str) {
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        *self.answer.lock().unwrap() = head + body;
    }

    fn fails(&self) {
        self.answers("503 Service Unavailable", "");
    }

    /// Takes connections, and never answers.
    fn hangs(&self) {
        self.answer.lock().unwrap().clear();
    }

    /// Publishes our key under these names.
    fn publishes(&self, names: &[&str]) {
        let keys: Vec<Jwk> = names
            .iter()
            .map(|name| {
                let mut jwk = Jwk::from_encoding_key(&key(), Algorithm::EdDSA).unwrap();
                jwk.common.key_id = Some((*name).to_owned());
                jwk
            })
            .collect();
        self.answers("200 OK", &json!({ "keys": keys }).to_string());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn key() -> EncodingKey {
    EncodingKey::from_ed_pem(include_bytes!("keys/ed.pem")).unwrap()
}

fn token(kid: &str) -> String {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::EdDSA) };
    let exp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 60;
    jsonwebtoken::encode(&header, &json!({ "data": { "id": "7" }, "exp": exp }), &key()).unwrap()
}

/// Lets time pass without waiting for it.
async fn later(seconds: u64) {
    pause();
    advance(Duration::from_secs(seconds)).await;
    resume();
}

#[tokio::test]
async fn keys_are_fetched_once_and_again_when_the_issuer_has_a_new_one() {
    let (issuer, verifier) = Issuer::start().await;
    issuer.publishes(&["old", "other"]);
    for _ in 0..3 {
        assert!(verifier.verify(&token("old")).await.is_ok());
    }
    assert_eq!(issuer.asked(), 1);

    issuer.publishes(&["new", "other"]);
    assert_eq!(verifier.verify(&token("new")).await, Err(TokenError::Invalid), "it has just been asked");
    later(31).await;
    assert!(verifier.verify(&token("new")).await.is_ok());
    assert_eq!(verifier.verify(&token("old")).await, Err(TokenError::Invalid), "it is withdrawn");
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn names_that_are_made_up_do_not_flood_the_issuer() {
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
async fn an_issuer_that_is_out_of_reach_is_no_fault_of_the_token() {
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

    // What is known is believed while the issuer can't be asked, but not for ever.
    issuer.fails();
    later(11 * 60).await;
    assert!(verifier.verify(&token("one")).await.is_ok());
    later(24 * 60 * 60).await;
    assert_eq!(verifier.verify(&token("one")).await, Err(TokenError::NoKeys));
}

/// Verifies tokens with a key of that name, all at once.
async fn verify_many(verifier: &Arc<JwtVerifier>, kid: &str) -> Vec<Result<(), TokenError>> {
    let mut verifying = JoinSet::new();
    for _ in 0..20 {
        let (verifier, token) = (verifier.clone(), token(kid));
        verifying.spawn(async move { verifier.verify(&token).await.map(|_| ()) });
    }
    verifying.join_all().await
}

#[tokio::test]
async fn an_issuer_that_hangs_delays_nobody_twice_whose_key_is_known() {
    let (issuer, verifier) = Issuer::start().await;
    let verifier = Arc::new(verifier);
    issuer.publishes(&["one"]);
    assert!(verifier.verify(&token("one")).await.is_ok());

    issuer.hangs();
    later(11 * 60).await;
    let began = Instant::now();
    // Whoever comes first waits for the issuer, and nobody else does.
    let first = tokio::spawn({
        let verifier = verifier.clone();
        async move { verifier.verify(&token("one")).await.map(|_| ()) }
    });
    while issuer.asked() < 2 {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(verify_many(&verifier, "one").await, vec![Ok(()); 20]);
    assert!(!first.is_finished(), "the others have waited for the first");
    assert_eq!(first.await.unwrap(), Ok(()));
    assert_eq!(verify_many(&verifier, "one").await, vec![Ok(()); 20]);
    assert_eq!(verify_many(&verifier, "made up").await, vec![Err(TokenError::Invalid); 20]);
    later(20).await;
    assert_eq!(verify_many(&verifier, "one").await, vec![Ok(()); 20]);
    assert_eq!(issuer.asked(), 2);
    assert!(began.elapsed() < Duration::from_secs(20 + 15), "twenty waits would be a minute");

    issuer.publishes(&["two"]);
    later(11).await;
    assert!(verifier.verify(&token("two")).await.is_ok());
    assert_eq!(verifier.verify(&token("one")).await, Err(TokenError::Invalid), "it is withdrawn");
}

#[tokio::test]
async fn an_issuer_that_hangs_from_the_start_is_waited_for_once() {
    let (issuer, verifier) = Issuer::start().await;
    issuer.hangs();
    assert_eq!(verify_many(&Arc::new(verifier), "one").await, vec![Err(TokenError::NoKeys); 20]);
    assert_eq!(issuer.asked(), 1);
}

#[test]
fn keys_come_over_tls_or_from_this_machine() {
    install_crypto_provider();
    let read = |url: &str| {
        let settings = JwtSettings {
            algorithm: "RS256".parse().unwrap(),
            keys: KeySource::JwksUrl(url.to_owned()),
            ..JwtSettings::seed(String::new())
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
