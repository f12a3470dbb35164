//! The connections API of API Gateway behind [`ConnectionsApi`]: `PostToConnection`, `DeleteConnection` and `GetConnection`.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_apigatewaymanagement::{
    Client,
    config::{Credentials, StalledStreamProtectionConfig},
    error::{DisplayErrorContext, SdkError},
    operation::post_to_connection::PostToConnectionError,
    primitives::Blob,
};
use kschat_core::ports::{ConnectionsApi, PostError, Unavailable};
use kschat_protocol::ConnectionId;
use tokio::sync::Semaphore;

/// How long one post may take: a consumer's other users wait for nobody, but a message waits for this.
const POST: Duration = Duration::from_secs(5);

const CONNECT: Duration = Duration::from_secs(2);

/// Posts under way at once, of all users together: a slow edge makes the next ones wait here, and their messages in the
/// broker.
const POSTS: usize = 1_024;

/// Questions under way whether a connection is open: pushes go first at an edge that is throttled.
const CHECKS: usize = 32;

/// Where the connections API is: the callback URL of a stage, `https://{api}.execute-api.{region}.…/{stage}`.
#[derive(Clone, PartialEq, Eq)]
pub struct CallbackUrl(String);

impl CallbackUrl {
    /// An edge on a developer's machine, which checks no signature.
    fn is_plain(&self) -> bool {
        self.0.starts_with("http://")
    }
}

impl FromStr for CallbackUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        match rest {
            Some(rest) if !rest.is_empty() && !rest.contains(char::is_whitespace) => {
                Ok(Self(text.trim_end_matches('/').to_owned()))
            }
            _ => {
                Err("must be an http or https URL such as https://abc.execute-api.eu-west-1.amazonaws.com/prod".into())
            }
        }
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
    posts: Arc<Semaphore>,
    checks: Arc<Semaphore>,
}

impl ApiGateway {
    /// Uses the account's credentials, or made-up ones for an edge on a developer's machine.
    pub async fn new(url: &CallbackUrl) -> Self {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .endpoint_url(url.to_string())
            // Waits between tries are the caller's: it knows what else could be done meanwhile.
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(TimeoutConfig::builder().operation_timeout(POST).connect_timeout(CONNECT).build());
        if url.is_plain() {
            let nobody = Credentials::new("local", "local", None, None, "local edge");
            loader = loader.region(Region::from_static("local")).credentials_provider(nobody);
        }
        Self {
            client: Client::new(&loader.load().await),
            posts: Arc::new(Semaphore::new(POSTS)),
            checks: Arc::new(Semaphore::new(CHECKS)),
        }
    }
}

#[async_trait]
impl ConnectionsApi for ApiGateway {
    async fn post(&self, connection: &ConnectionId, frame: &str) -> Result<(), PostError> {
        // It is never closed, so there always is a permit in the end.
        let _permit = self.posts.acquire().await;
        let post = self.client.post_to_connection().connection_id(connection.as_str()).data(Blob::new(frame));
        post.send().await.map(drop).map_err(|error| post_error(&error))
    }

    async fn close(&self, connection: &ConnectionId) -> Result<(), Unavailable> {
        let close = self.client.delete_connection().connection_id(connection.as_str()).send().await;
        match close.map_err(|error| (status(&error), DisplayErrorContext(error).to_string())) {
            Ok(_) | Err((Some(410 | 400), _)) => Ok(()),
            Err((_, error)) => Err(Unavailable::new("api gateway", "close a connection", error)),
        }
    }

    async fn is_open(&self, connection: &ConnectionId) -> Result<bool, Unavailable> {
        let _permit = self.checks.acquire().await;
        let found = self.client.get_connection().connection_id(connection.as_str()).send().await;
        match found.map_err(|error| (status(&error), DisplayErrorContext(error).to_string())) {
            Ok(_) => Ok(true),
            Err((Some(410 | 400), _)) => Ok(false),
            Err((_, error)) => Err(Unavailable::new("api gateway", "look for a connection", error)),
        }
    }
}

/// The named exceptions map to statuses one to one; an edge that forgets the name still has them.
fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// Who acts next? Nobody (gone), we later (retryable), an operator (refused).
fn post_error(error: &SdkError<PostToConnectionError>) -> PostError {
    let report = Unavailable::new("api gateway", "post to a connection", DisplayErrorContext(error).to_string());
    match status(error) {
        // 400 says that no connection could ever have that id.
        Some(410 | 400) => PostError::Gone,
        Some(413) => PostError::Refused(report),
        // 403 is a wrong stage or a missing permission: a deployment's fault, which must not cost messages.
        _ => PostError::Retryable(report),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_url_is_one_of_http() {
        let url: CallbackUrl = "https://abc.execute-api.eu-west-1.amazonaws.com/prod/".parse().unwrap();
        assert_eq!(url.to_string(), "https://abc.execute-api.eu-west-1.amazonaws.com/prod");
        assert!(!url.is_plain());
        for wrong in ["", "abc", "wss://abc/prod", "https://", "https://a b"] {
            assert!(wrong.parse::<CallbackUrl>().is_err(), "{wrong}");
        }
    }
}
