//! Keeps the account's credentials, and renews them before they expire.

use std::{
    sync::{PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::identity::Identity;
use kschat_core::ports::BoxError;
use tokio::{sync::Mutex, time::timeout};

/// Credentials are renewed this long before they expire: a request takes a while, and clocks differ.
const CREDENTIALS_RENEWAL_MARGIN: Duration = Duration::from_secs(60);

/// The timeout of one renewal.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(4);

/// The pause after a failed renewal, while the present credentials are still valid.
const CREDENTIALS_RETRY_DELAY: Duration = Duration::from_secs(5);

/// The present credentials.
#[derive(Debug)]
pub(super) struct CredentialCache {
    provider: SharedCredentialsProvider,
    // A std lock: no guard is held across an await.
    present: RwLock<Option<Present>>,
    /// Held by whoever renews, so that the others wait for the result.
    renewing: Mutex<()>,
}

#[derive(Clone, Debug)]
struct Present {
    identity: Identity,
    /// When to renew; never if they do not expire.
    renew_at: Option<SystemTime>,
}

impl CredentialCache {
    pub(super) fn new(provider: SharedCredentialsProvider) -> Self {
        Self { provider, present: RwLock::default(), renewing: Mutex::default() }
    }

    /// Returns credentials that are valid at that time.
    ///
    /// # Errors
    /// When there are none, and new ones can't be had.
    pub(super) async fn get(&self, now: SystemTime) -> Result<Identity, BoxError> {
        if let Some(identity) = self.fresh(now) {
            return Ok(identity);
        }
        let _turn = match (self.renewing.try_lock(), self.still_valid(now)) {
            (Ok(turn), _) => turn,
            // Somebody else renews them; the present ones will do.
            (Err(_), Some(identity)) => return Ok(identity),
            (Err(_), None) => self.renewing.lock().await,
        };
        if let Some(identity) = self.fresh(now) {
            return Ok(identity);
        }
        let error: BoxError = match timeout(CREDENTIALS_TIMEOUT, self.provider.provide_credentials()).await {
            Ok(Ok(credentials)) => {
                let identity = Identity::from(credentials);
                let renew_at = identity.expiration().map(|end| end - CREDENTIALS_RENEWAL_MARGIN);
                self.set(Present { identity: identity.clone(), renew_at });
                return Ok(identity);
            }
            Ok(Err(error)) => error.into(),
            Err(late) => late.into(),
        };
        let Some(identity) = self.still_valid(now) else { return Err(error) };
        tracing::warn!(error = &*error as &dyn std::error::Error, "renewing the AWS credentials failed; retrying");
        let retry_at = now + CREDENTIALS_RETRY_DELAY;
        let renew_at = identity.expiration().map_or(retry_at, |end| retry_at.min(end));
        self.set(Present { identity: identity.clone(), renew_at: Some(renew_at) });
        Ok(identity)
    }

    fn fresh(&self, now: SystemTime) -> Option<Identity> {
        let present = self.present()?;
        present.renew_at.is_none_or(|at| now < at).then_some(present.identity)
    }

    fn still_valid(&self, now: SystemTime) -> Option<Identity> {
        self.present()
            .map(|present| present.identity)
            .filter(|identity| identity.expiration().is_some_and(|end| now < end))
    }

    fn present(&self) -> Option<Present> {
        self.present.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, present: Present) {
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Some(present);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use aws_credential_types::{
        Credentials,
        provider::{error::CredentialsError, future},
    };

    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    /// Each call has the next key, valid until ten minutes after its number of minutes; calls from `fails_from` on fail.
    #[derive(Clone, Debug)]
    struct Provider {
        calls: Arc<AtomicUsize>,
        fails_from: usize,
    }

    impl ProvideCredentials for Provider {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let call = self.calls.fetch_add(1, Relaxed);
            future::ProvideCredentials::ready(if call < self.fails_from {
                let end = START + minutes(10 * (call as u64 + 1));
                Ok(Credentials::new(format!("key-{call}"), "secret", None, Some(end), "test"))
            } else {
                Err(CredentialsError::provider_error("it is down"))
            })
        }
    }

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    fn cache(fails_from: usize) -> (CredentialCache, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let provider = Provider { calls: Arc::clone(&calls), fails_from };
        (CredentialCache::new(SharedCredentialsProvider::new(provider)), calls)
    }

    async fn key(cache: &CredentialCache, now: SystemTime) -> Option<String> {
        let identity = cache.get(now).await.ok()?;
        identity.data::<Credentials>().map(|credentials| credentials.access_key_id().to_owned())
    }

    #[tokio::test]
    async fn credentials_are_renewed_once_before_they_expire() {
        let (cache, calls) = cache(usize::MAX);
        let both = tokio::join!(key(&cache, START), key(&cache, START));
        assert_eq!(both, (Some("key-0".to_owned()), Some("key-0".to_owned())));
        assert_eq!(key(&cache, START + minutes(8)).await.as_deref(), Some("key-0"));
        let late = START + minutes(10) - Duration::from_secs(30);
        assert_eq!(key(&cache, late).await.as_deref(), Some("key-1"));
        let turn = cache.renewing.lock().await;
        let late = START + minutes(20) - Duration::from_secs(30);
        assert_eq!(key(&cache, late).await.as_deref(), Some("key-1"), "somebody renews, and it is still valid");
        drop(turn);
        assert_eq!(calls.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn failed_renewal_keeps_valid_credentials() {
        let (cache, calls) = cache(1);
        assert!(key(&cache, START).await.is_some());
        let late = START + minutes(10) - Duration::from_secs(30);
        assert_eq!(key(&cache, late).await.as_deref(), Some("key-0"));
        assert_eq!(key(&cache, late + Duration::from_secs(1)).await.as_deref(), Some("key-0"));
        assert_eq!(calls.load(Relaxed), 2, "it is not asked for each request");
        assert!(key(&cache, START + minutes(10) - Duration::from_secs(1)).await.is_some());
        assert_eq!(key(&cache, START + minutes(10)).await, None, "they have expired");
    }
}
