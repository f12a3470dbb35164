//! The connections API of API Gateway behind [`ConnectionsApi`]: `PostToConnection`, `DeleteConnection` and
//! `GetConnection`.
//!
//! The AWS SDK handles what is rare, and finds the account's credentials and region. Posts are most of a consumer's
//! work, and go without its orchestrator.

mod credentials;
mod post;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_apigatewaymanagement::{
    Client,
    config::{Credentials, StalledStreamProtectionConfig},
    error::{DisplayErrorContext, SdkError},
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use kschat_core::ports::{BoxError, ConnectionsApi, PostError, Unavailable};
use kschat_protocol::ConnectionId;
use tokio::{sync::Semaphore, time::timeout};

use self::post::{EdgeClock, PostFailure, Poster};
use crate::{address::service_url, tls};

/// The timeout of one post. It delays the user's next messages, but no other user.
const EDGE_POST_TIMEOUT: Duration = Duration::from_secs(5);

const EDGE_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Posts in flight, of all users together: a slow edge makes the next ones wait here, and their messages in the broker.
const MAX_CONCURRENT_POSTS: usize = 1_024;

/// Connection checks in flight: pushes have priority at an edge that throttles.
const MAX_CONCURRENT_CONNECTION_CHECKS: usize = 32;

/// The address of the connections API: the callback URL of a stage, `https://{api}.execute-api.{region}.…/{stage}`.
///
/// ```
/// use kschat_adapters::api_gateway::CallbackUrl;
///
/// let shown_by_console = "https://abc.execute-api.eu-west-1.amazonaws.com/prod/@connections";
/// let url: CallbackUrl = shown_by_console.parse()?;
/// assert_eq!(url.to_string(), "https://abc.execute-api.eu-west-1.amazonaws.com/prod");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct CallbackUrl(String);

impl CallbackUrl {
    /// Whether it is an edge on a developer's machine, which checks no signature.
    fn is_plain(&self) -> bool {
        self.0.starts_with("http://")
    }
}

impl FromStr for CallbackUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const HINT: &str = "must be an http or https URL such as https://abc.execute-api.eu-west-1.amazonaws.com/prod";
        let stage = text.trim().trim_end_matches('/');
        // The console shows the address so, and the SDK adds that part itself.
        let stage = stage.strip_suffix("/@connections").unwrap_or(stage).trim_end_matches('/');
        if stage.contains('@') || stage.contains(char::is_whitespace) {
            return Err(format!("{HINT}, and no more than that"));
        }
        if service_url(stage, &["http", "https"], HINT)?.query().is_some() {
            return Err(format!("{HINT}, without a query"));
        }
        Ok(Self(stage.to_owned()))
    }
}

impl fmt::Display for CallbackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CallbackUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Pushes through `PostToConnection`.
#[derive(Clone, Debug)]
pub struct ApiGateway {
    client: Client,
    poster: Arc<Poster>,
    post_slots: Arc<Semaphore>,
    check_slots: Arc<Semaphore>,
}

impl ApiGateway {
    /// Uses the account's credentials, or fake ones for an edge on a developer's machine.
    ///
    /// # Errors
    /// When the crypto provider supports no TLS version, which does not happen.
    pub async fn new(url: &CallbackUrl) -> Result<Self, rustls::Error> {
        let clock = EdgeClock::default();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .endpoint_url(url.to_string())
            .time_source(clock.clone())
            // The caller retries: it knows what else could be done meanwhile.
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(
                TimeoutConfig::builder()
                    .operation_timeout(EDGE_POST_TIMEOUT)
                    .connect_timeout(EDGE_CONNECT_TIMEOUT)
                    .build(),
            );
        if url.is_plain() {
            let nobody = Credentials::new("local", "local", None, None, "local edge");
            loader = loader.region(Region::from_static("local")).credentials_provider(nobody);
        } else if let Some(context) = trusting_as_all_others_do() {
            let provider = Provider::Rustls(CryptoMode::AwsLc);
            loader = loader.http_client(Builder::new().tls_provider(provider).tls_context(context).build_https());
        }
        let config = loader.load().await;
        let region = config.region().map(ToString::to_string);
        Ok(Self {
            poster: Arc::new(Poster::new(url, region, config.credentials_provider(), clock)?),
            client: Client::new(&config),
            post_slots: Arc::new(Semaphore::new(MAX_CONCURRENT_POSTS)),
            check_slots: Arc::new(Semaphore::new(MAX_CONCURRENT_CONNECTION_CHECKS)),
        })
    }
}

/// The id of a connection that never existed, in the form of the edge.
const NOBODY: &str = "AAAAACADAgAAAAA=";

impl ApiGateway {
    /// Checks whether pushes can succeed: the address, the stage and the permissions.
    ///
    /// # Errors
    /// [`Unavailable`] that says what an operator has to look at.
    pub async fn check(&self) -> Result<(), Unavailable> {
        let asked = self.client.get_connection().connection_id(NOBODY).send().await;
        // The answer for an unknown connection is an error.
        let Err(error) = asked else { return Ok(()) };
        let status = status(&error);
        if is_gone(status) {
            return Ok(());
        }
        let hint = match status {
            Some(403) => {
                "it is forbidden: is the stage in CALLBACK_URL the API's, and may this process \
                 execute-api:ManageConnections?"
            }
            Some(404) => {
                "there is no such API: CALLBACK_URL must be that of a stage, https://{api}.execute-api.…/{stage}"
            }
            _ => "it does not answer as a connections API does",
        };
        let error = tls::with_hint(DisplayErrorContext(error).to_string().into());
        Err(Unavailable::new("api gateway", "be asked for a connection", Unusable(hint, error)))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unusable(&'static str, #[source] BoxError);

/// The SDK's own client would trust only what the system trusts.
fn trusting_as_all_others_do() -> Option<TlsContext> {
    let store = TrustStore::empty().with_pem_certificate(tls::roots_in_pem());
    TlsContext::builder().with_trust_store(store).build().ok()
}

#[async_trait]
impl ConnectionsApi for ApiGateway {
    async fn post(&self, connection: &ConnectionId, frame: &str) -> Result<(), PostError> {
        // The semaphore is never closed, so a permit comes in the end.
        let _permit = self.post_slots.acquire().await;
        match timeout(EDGE_POST_TIMEOUT, self.poster.post(connection, frame)).await {
            Ok(posted) => posted.map_err(post_error),
            Err(late) => Err(PostError::Retryable(post_unavailable(late))),
        }
    }

    async fn close_connection(&self, connection: &ConnectionId) -> Result<(), Unavailable> {
        let close = self.client.delete_connection().connection_id(connection.as_str()).send().await;
        match close.map_err(|error| (status(&error), DisplayErrorContext(error).to_string())) {
            Ok(_) => Ok(()),
            Err((status, _)) if is_gone(status) => Ok(()),
            Err((_, error)) => Err(Unavailable::new("api gateway", "close a connection", error)),
        }
    }

    async fn is_open(&self, connection: &ConnectionId) -> Result<bool, Unavailable> {
        let _permit = self.check_slots.acquire().await;
        let found = self.client.get_connection().connection_id(connection.as_str()).send().await;
        match found.map_err(|error| (status(&error), DisplayErrorContext(error).to_string())) {
            Ok(_) => Ok(true),
            Err((status, _)) if is_gone(status) => Ok(false),
            Err((_, error)) => Err(Unavailable::new("api gateway", "look for a connection", error)),
        }
    }
}

/// The named exceptions map to statuses one to one; an edge that omits the name still has them.
fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// Whether the edge says that there is no such connection: 410, or 400 for an id that no connection could ever have.
fn is_gone(status: Option<u16>) -> bool {
    matches!(status, Some(410 | 400))
}

/// Decides who acts next: nobody (gone), the caller later (retryable), or an operator (rejected).
fn post_error(failure: PostFailure) -> PostError {
    let status = match &failure {
        PostFailure::Refused { status, .. } => Some(status.as_u16()),
        PostFailure::NotSent(_) => None,
    };
    if is_gone(status) {
        return PostError::Gone;
    }
    match status {
        Some(413) => PostError::Rejected(post_unavailable(failure)),
        // 403 is a wrong stage or a missing permission: a fault of the deployment, which must not cost messages.
        _ => PostError::Retryable(post_unavailable(failure)),
    }
}

fn post_unavailable(cause: impl Into<BoxError>) -> Unavailable {
    Unavailable::new("api gateway", "post to a connection", cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callback_url_requires_http() {
        let url: CallbackUrl = "https://abc.execute-api.eu-west-1.amazonaws.com/prod/".parse().unwrap();
        assert_eq!(url.to_string(), "https://abc.execute-api.eu-west-1.amazonaws.com/prod");
        assert!(!url.is_plain());
        for shown in ["https://abc/prod/@connections", "https://abc/prod/@connections/", " https://abc/prod\n"] {
            assert_eq!(shown.parse::<CallbackUrl>().unwrap().to_string(), "https://abc/prod", "{shown}");
        }
        let of_one = "https://abc/prod/@connections/L0SM9cOFvHcCIhw=";
        for wrong in
            ["", "abc", "wss://abc/prod", "https://", "https://a b", "https://abc/prod?x=1", "https:///prod", of_one]
        {
            assert!(wrong.parse::<CallbackUrl>().is_err(), "{wrong}");
        }
    }
}
