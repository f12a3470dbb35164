//! An issuer's published keys, fetched from their URL.
//!
//! They are fetched for the first token, cached, and fetched again when they are old or a token names an unknown key.
//! So an issuer may change its keys at any time, and a withdrawn key is soon dropped.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::{Request, Response, StatusCode, Uri, body::Bytes, header::LOCATION};
use jsonwebtoken::Algorithm;
use kschat_core::ports::{BoxError, TokenError};
use tokio::time::{Instant, timeout};

use super::key_set::KeySet;
use crate::http::Http;

/// The timeout of a fetch: a handshake waits for it.
const JWKS_FETCH_TIMEOUT: Duration = Duration::from_secs(3);

/// The age at which keys are fetched again: a withdrawn key is accepted for this long at most.
const JWKS_MAX_AGE: Duration = Duration::from_secs(10 * 60);

/// The maximum age of keys while the issuer is unavailable.
const JWKS_MAX_STALE_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// The minimum time from the end of a fetch to the next one, whatever keys tokens name, and whether or not it failed.
const JWKS_MIN_FETCH_INTERVAL: Duration = Duration::from_secs(30);

/// The minimum time from the end of a failed fetch to the next one, while no keys are known.
const JWKS_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Redirects that a fetch follows at most.
const MAX_REDIRECTS: usize = 3;

/// The maximum size of an issuer's response after decompression, in bytes.
const MAX_JWKS_RESPONSE_BYTES: usize = 256 * 1024;

/// Keys behind a URL.
pub(super) struct RemoteKeys {
    url: Uri,
    algorithm: Algorithm,
    http: Http,
    // A std mutex: no guard is held across an await.
    cache: Mutex<Option<CachedKeys>>,
    /// One fetch at a time; when the last one ended.
    last_fetch_ended: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct CachedKeys {
    keys: Arc<KeySet>,
    since: Instant,
}

impl RemoteKeys {
    pub(super) fn new(url: &str, algorithm: Algorithm) -> Result<Self, String> {
        let url = parse_jwks_url(url)?;
        let http =
            Http::new(MAX_JWKS_RESPONSE_BYTES).map_err(|error| format!("cannot be fetched over TLS: {error}"))?;
        Ok(Self { url, algorithm, http, cache: Mutex::default(), last_fetch_ended: tokio::sync::Mutex::default() })
    }

    /// Verifies a token with that `kid` with the cached keys if they are fresh, and with newly fetched ones if none of
    /// those has signed it. `check` returns `None` if none of the keys has.
    pub(super) async fn check<T>(
        &self,
        kid: Option<&str>,
        check: impl Fn(&KeySet) -> Option<Result<T, TokenError>> + Sync,
    ) -> Result<T, TokenError> {
        if let Some(keys) = self.known(JWKS_MAX_AGE) {
            let checked = check(&keys);
            if checked.is_some() || keys.names(kid) {
                return checked.unwrap_or(Err(TokenError::Invalid));
            }
        }
        self.refresh(|keys| keys.names(kid) || check(keys).is_some()).await;
        let keys = self.known(JWKS_MAX_STALE_AGE).ok_or(TokenError::NoKeys)?;
        check(&keys).unwrap_or(Err(TokenError::Invalid))
    }

    fn known(&self, age: Duration) -> Option<Arc<KeySet>> {
        let known = self.cache.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        (known.since.elapsed() < age).then_some(known.keys)
    }

    /// Fetches the keys, unless another task has just fetched sufficient ones, or tried a moment ago.
    ///
    /// A token that cached keys verify does not wait for another task's fetch: a hanging issuer delays one of them.
    async fn refresh(&self, are_enough: impl Fn(&KeySet) -> bool) {
        let knows = |age| self.known(age).is_some_and(|keys| are_enough(&keys));
        let mut last = if knows(JWKS_MAX_STALE_AGE) {
            let Ok(last) = self.last_fetch_ended.try_lock() else { return };
            last
        } else {
            self.last_fetch_ended.lock().await
        };
        let pause = if self.known(JWKS_MAX_STALE_AGE).is_some() { JWKS_MIN_FETCH_INTERVAL } else { JWKS_RETRY_DELAY };
        let is_early = last.is_some_and(|ended| ended.elapsed() < pause);
        if is_early || knows(JWKS_MAX_AGE) {
            return;
        }
        let began = Instant::now();
        let fetched = timeout(JWKS_FETCH_TIMEOUT, self.fetch()).await.map_err(BoxError::from).flatten();
        // Counted from the end: a fetch may take longer than the interval.
        *last = Some(Instant::now());
        match fetched {
            Ok(keys) => {
                let known = CachedKeys { keys: Arc::new(keys), since: began };
                *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
            }
            Err(error) => tracing::warn!(error = &*error, "fetching the issuer's keys from JWT_JWKS_URL failed"),
        }
    }

    async fn fetch(&self) -> Result<KeySet, BoxError> {
        let mut url = self.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let request = Request::get(&url).header("accept", "application/json").body(Bytes::new())?;
            let response = self.http.request(request).await?;
            match response.status() {
                StatusCode::OK => {
                    return KeySet::parse(response.body(), self.algorithm)
                        .map_err(|error| format!("it {error}").into());
                }
                status if status.is_redirection() => url = target(&response, &url)?,
                status => return Err(format!("the server returned {status}").into()),
            }
        }
        Err(format!("it redirects more than {MAX_REDIRECTS} times").into())
    }
}

/// The target of a redirect, which must be as secure as the configured URL.
fn target<T>(response: &Response<T>, from: &Uri) -> Result<Uri, BoxError> {
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let location = location.ok_or_else(|| format!("it answers {} and no address", response.status()))?;
    let (scheme, authority) =
        (from.scheme_str().unwrap_or_default(), from.authority().map_or("", |host| host.as_str()));
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        location.to_owned()
    };
    Ok(parse_jwks_url(&absolute).map_err(|_| "it redirects to what is no https URL")?)
}

/// Keys decide who is authenticated, so nobody in between may be able to change them.
fn parse_jwks_url(url: &str) -> Result<Uri, String> {
    const HTTPS_URL_HINT: &str = "must be an https URL such as https://login.example.com/.well-known/jwks.json";
    let url: Uri = url.parse().map_err(|_| HTTPS_URL_HINT)?;
    let is_here = matches!(url.host(), Some("127.0.0.1" | "localhost" | "[::1]"));
    match url.scheme_str() {
        Some("https") if url.host().is_some() => Ok(url),
        Some("http") if is_here => Ok(url),
        _ => Err(HTTPS_URL_HINT.to_owned()),
    }
}
