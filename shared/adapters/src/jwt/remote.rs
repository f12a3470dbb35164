//! An issuer's keys, fetched from where it publishes them.
//!
//! They are fetched when the first token comes, kept, and fetched again when they are old or a token names a key that
//! is not among them: so an issuer may change its keys at any time, and a key that it has withdrawn is soon forgotten.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::{Request, StatusCode, Uri, body::Bytes};
use jsonwebtoken::{Algorithm, DecodingKey};
use kschat_core::ports::{BoxError, TokenError};
use tokio::time::{Instant, timeout};

use super::keys::KeySet;
use crate::http::Http;

/// How long a fetch may take: a handshake waits for it.
const FETCH: Duration = Duration::from_secs(3);

/// How old keys may be before they are fetched again: for so long a withdrawn key is believed at most.
const FRESH: Duration = Duration::from_secs(10 * 60);

/// How old keys may become while the issuer can't be reached.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// How soon a fetch follows the end of another at most, whatever keys tokens name, and whether or not that one failed.
const AGAIN: Duration = Duration::from_secs(30);

/// How soon a fetch follows the end of one that has failed, as long as no keys are known.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What an issuer may answer, in bytes.
const MAX_KEYS: usize = 256 * 1024;

/// Keys behind a URL.
pub(super) struct RemoteKeys {
    url: Uri,
    algorithm: Algorithm,
    http: Http,
    // A std mutex: no guard is held across an await.
    known: Mutex<Option<Known>>,
    /// One fetch at a time; when the last one ended.
    last: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct Known {
    keys: Arc<KeySet>,
    since: Instant,
}

impl RemoteKeys {
    pub(super) fn new(url: &str, algorithm: Algorithm) -> Result<Self, String> {
        let url = address(url)?;
        let http = Http::new(MAX_KEYS).map_err(|error| format!("can't be asked over TLS: {error}"))?;
        Ok(Self { url, algorithm, http, known: Mutex::default(), last: tokio::sync::Mutex::default() })
    }

    /// The key of that name, from what is known if it is fresh.
    pub(super) async fn get(&self, kid: &Option<String>) -> Result<DecodingKey, TokenError> {
        if let Some(key) = self.known(FRESH).and_then(|keys| keys.get(kid).cloned()) {
            return Ok(key);
        }
        self.refresh(kid).await;
        let keys = self.known(KEPT).ok_or(TokenError::NoKeys)?;
        keys.get(kid).cloned().ok_or(TokenError::Invalid)
    }

    fn knows(&self, kid: &Option<String>, age: Duration) -> bool {
        self.known(age).is_some_and(|keys| keys.get(kid).is_some())
    }

    fn known(&self, age: Duration) -> Option<Arc<KeySet>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        (known.since.elapsed() < age).then_some(known.keys)
    }

    /// Fetches the keys, unless somebody else has just brought that one, or has tried a moment ago.
    ///
    /// Whose key is believed anyway does not wait for somebody else's fetch: an issuer that hangs delays one of them.
    async fn refresh(&self, kid: &Option<String>) {
        let mut last = if self.knows(kid, KEPT) {
            let Ok(last) = self.last.try_lock() else { return };
            last
        } else {
            self.last.lock().await
        };
        let pause = if self.known(KEPT).is_some() { AGAIN } else { AFTER_FAILURE };
        let is_early = last.is_some_and(|ended| ended.elapsed() < pause);
        if is_early || self.knows(kid, FRESH) {
            return;
        }
        let began = Instant::now();
        let fetched = timeout(FETCH, self.fetch()).await.map_err(BoxError::from).flatten();
        // The end counts: a fetch may take longer than the pause.
        *last = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                let known = Known { keys: Arc::new(keys), since: began };
                *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
            }
            Err(error) => tracing::warn!(error = &*error, "the issuer's keys can't be fetched from JWT_JWKS_URL"),
        }
    }

    async fn fetch(&self) -> Result<KeySet, BoxError> {
        let request = Request::get(&self.url).header("accept", "application/json").body(Bytes::new())?;
        let response = self.http.request(request).await?;
        match response.status() {
            StatusCode::OK => {
                KeySet::parse(response.body(), self.algorithm).map_err(|error| format!("it {error}").into())
            }
            status => Err(format!("it answers {status}").into()),
        }
    }
}

/// Keys decide who is let in, so whoever stands between must not be able to change them.
fn address(url: &str) -> Result<Uri, String> {
    const WANTED: &str = "must be an https URL such as https://login.example.com/.well-known/jwks.json";
    let url: Uri = url.parse().map_err(|_| WANTED)?;
    let is_here = matches!(url.host(), Some("127.0.0.1" | "localhost" | "[::1]"));
    match url.scheme_str() {
        Some("https") if url.host().is_some() => Ok(url),
        Some("http") if is_here => Ok(url),
        _ => Err(WANTED.to_owned()),
    }
}
