//! Posts to connections without the SDK's orchestrator, which costs more CPU time than all the rest of a post
//! ([decision 22](../../../docs/decisions/0022-posts-are-signed-without-the-orchestrator.md)).
//!
//! Credentials, signature and TLS are those of the SDK's own crates.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use aws_smithy_async::time::TimeSource;
use aws_smithy_runtime_api::client::identity::Identity;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Request, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, DATE},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kschat_core::ports::BoxError;
use kschat_protocol::ConnectionId;
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

use super::{CallbackUrl, EDGE_CONNECT_TIMEOUT, credentials::CredentialCache};
use crate::tls;

/// The name under which API Gateway checks signatures.
///
/// Source: AWS, "Use @connections commands in your backend service": requests are signed for `execute-api`.
const SIGNING_NAME: &str = "execute-api";

/// Bytes of an error response that are read, so that its connection can be used again.
const MAX_ERROR_BYTES: usize = 16 * 1024;

/// Bytes of an error response that are reported.
const MAX_SHOWN_ERROR_BYTES: usize = 200;

/// How long an unused connection is kept. The edge may close it sooner, and then the request goes over a new one.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);

/// A difference between the clocks that matters: the edge refuses signatures that are five minutes off.
///
/// Source: AWS, "Troubleshoot Signature Version 4 errors", on expired signatures.
const MIN_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// The answer to a post that the edge did not take.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostFailure {
    #[error("the edge answered {status} {kind}: {body}")]
    Refused { status: StatusCode, kind: String, body: String },
    #[error("the request could not be made or sent")]
    NotSent(#[source] BoxError),
}

/// Posts over kept connections.
#[derive(Debug)]
pub(super) struct Poster {
    stage: String,
    region: Option<String>,
    credentials: Option<CredentialCache>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    clock: EdgeClock,
}

/// The edge's time: this process's clock, corrected by what an error has told.
#[derive(Clone, Debug, Default)]
pub(super) struct EdgeClock {
    /// How far this process's clock is behind the edge's, in seconds.
    lag: Arc<AtomicI64>,
}

/// For the SDK, which does not correct a wrong clock by itself.
impl TimeSource for EdgeClock {
    fn now(&self) -> SystemTime {
        let (now, lag) = (SystemTime::now(), self.lag.load(Relaxed));
        let span = Duration::from_secs(lag.unsigned_abs());
        if lag < 0 { now - span } else { now + span }
    }
}

impl EdgeClock {
    /// Learns from a refusal whether this process's clock is wrong.
    fn learn(&self, headers: &HeaderMap, now: SystemTime) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let Some(there) = date.and_then(|date| OffsetDateTime::parse(date, &Rfc2822).ok()) else { return };
        let lag = there.unix_timestamp() - OffsetDateTime::from(now).unix_timestamp();
        if lag.abs_diff(self.lag.load(Relaxed)) >= MIN_CLOCK_SKEW.as_secs() {
            tracing::warn!(
                seconds = lag,
                "this machine's clock differs from the edge's; requests are signed for the edge's time"
            );
            self.lag.store(lag, Relaxed);
        }
    }
}

impl Poster {
    /// # Errors
    /// When the crypto provider supports no TLS version, which does not happen.
    pub(super) fn new(
        url: &CallbackUrl,
        region: Option<String>,
        credentials: Option<SharedCredentialsProvider>,
        clock: EdgeClock,
    ) -> Result<Self, rustls::Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(EDGE_CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls::client_config()?);
        // Not HTTP/2: its one connection for all posts would be kept however many of them time out.
        let connector = connector.https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_CONNECTION_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(connector);
        let credentials = credentials.map(CredentialCache::new);
        Ok(Self { stage: url.to_string(), region, credentials, client, clock })
    }

    /// Posts a frame to a connection, once.
    pub(super) async fn post(&self, connection: &ConnectionId, frame: &str) -> Result<(), PostFailure> {
        let request = self.signed(connection, frame).await.map_err(PostFailure::NotSent)?;
        let sent = self.client.request(request).await;
        let (head, body) = sent.map_err(|error| PostFailure::NotSent(tls::with_hint(error.into())))?.into_parts();
        // Read to the end, as else the connection can't be used again.
        let body = Limited::new(body, MAX_ERROR_BYTES).collect().await;
        if head.status.is_success() {
            return Ok(());
        }
        if matches!(head.status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) {
            self.clock.learn(&head.headers, SystemTime::now());
        }
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let shown = &body[..body.len().min(MAX_SHOWN_ERROR_BYTES)];
        let kind = head.headers.get("x-amzn-errortype").and_then(|kind| kind.to_str().ok());
        Err(PostFailure::Refused {
            status: head.status,
            kind: kind.unwrap_or_default().to_owned(),
            body: String::from_utf8_lossy(shown).into_owned(),
        })
    }

    async fn signed(&self, connection: &ConnectionId, frame: &str) -> Result<Request<Full<Bytes>>, BoxError> {
        let now = self.clock.now();
        let credentials = self.credentials.as_ref().ok_or("no AWS credentials are configured")?;
        let identity = credentials.get(now).await?;
        let region = self.region.as_deref().ok_or("no AWS region is configured: set AWS_REGION")?;
        signed_request(&self.stage, connection, frame, region, &identity, now)
    }
}

/// `POST {stage}/@connections/{id}`, signed.
fn signed_request(
    stage: &str,
    connection: &ConnectionId,
    frame: &str,
    region: &str,
    identity: &Identity,
    now: SystemTime,
) -> Result<Request<Full<Bytes>>, BoxError> {
    const FRAME_TYPE: &str = "application/octet-stream";
    let id: String = url::form_urlencoded::byte_serialize(connection.as_str().as_bytes()).collect();
    let uri = format!("{stage}/@connections/{id}");
    let parameters = v4::SigningParams::builder()
        .identity(identity)
        .region(region)
        .name(SIGNING_NAME)
        .time(now)
        .settings(SigningSettings::default())
        .build()?
        .into();
    let headers = std::iter::once((CONTENT_TYPE.as_str(), FRAME_TYPE));
    let signable = SignableRequest::new("POST", uri.as_str(), headers, SignableBody::Bytes(frame.as_bytes()))?;
    let (instructions, _) = sign(signable, &parameters)?.into_parts();
    let body = Full::new(Bytes::copy_from_slice(frame.as_bytes()));
    let mut request = Request::post(&uri).header(CONTENT_TYPE, FRAME_TYPE).body(body)?;
    instructions.apply_to_request_http1x(&mut request);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;

    use super::*;

    const NOON: SystemTime = SystemTime::UNIX_EPOCH;

    fn connection() -> ConnectionId {
        ConnectionId::try_from("L0SM9cOFvHcCIhw=".to_owned()).unwrap()
    }

    /// The expected signature was computed by botocore 1.44.8 (`SigV4Auth`) for the same request.
    #[test]
    fn signature_equals_that_of_another_implementation() {
        let stage = "https://abc.execute-api.eu-west-1.amazonaws.com/prod";
        let credentials = Credentials::new(
            "AKIDEXAMPLE",
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            Some("token".to_owned()),
            None,
            "test",
        );
        let now = NOON + Duration::from_secs(1_764_500_000);
        let frame = r#"{"hi":"ü"}"#;
        let request = signed_request(stage, &connection(), frame, "eu-west-1", &credentials.into(), now).unwrap();
        assert_eq!(request.uri().path(), "/prod/@connections/L0SM9cOFvHcCIhw%3D");
        assert_eq!(request.headers()["x-amz-date"], "20251130T105320Z");
        assert_eq!(request.headers()["x-amz-security-token"], "token");
        assert_eq!(request.headers()["authorization"], GOLDEN);
    }

    const GOLDEN: &str = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20251130/eu-west-1/execute-api/aws4_request, \
        SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, \
        Signature=504b4de1202292399ccf38fe1a2dace671120e2d5fa62200ac1a56efed9463e8";

    #[test]
    fn clock_follows_edge_after_a_refusal() {
        let clock = EdgeClock::default();
        let date = |text: &str| HeaderMap::from_iter([(DATE, text.parse().unwrap())]);
        let now = NOON + Duration::from_secs(3_600);
        clock.learn(&date("Thu, 01 Jan 1970 01:00:30 GMT"), now);
        assert_eq!(clock.lag.load(Relaxed), 0, "that is the network");
        clock.learn(&date("Thu, 01 Jan 1970 00:50:00 GMT"), now);
        assert_eq!(clock.lag.load(Relaxed), -600);
        assert!(clock.now() < SystemTime::now() - Duration::from_secs(599));
        clock.learn(&date("nonsense"), now);
        assert_eq!(clock.lag.load(Relaxed), -600);
        clock.learn(&date("Thu, 01 Jan 1970 01:00:01 GMT"), now);
        assert!(clock.lag.load(Relaxed) < MIN_CLOCK_SKEW.as_secs() as i64, "the clock was set");
    }

    #[tokio::test]
    async fn missing_region_and_credentials_are_named() {
        let url: CallbackUrl = "https://abc/prod".parse().unwrap();
        let credentials = SharedCredentialsProvider::new(Credentials::new("AKID", "secret", None, None, "test"));
        for (region, credentials, named) in [(None, Some(credentials), "AWS_REGION"), (Some("eu"), None, "credentials")]
        {
            let poster = Poster::new(&url, region.map(str::to_owned), credentials, EdgeClock::default()).unwrap();
            let failure = poster.post(&connection(), "hi").await.unwrap_err();
            let PostFailure::NotSent(cause) = failure else { panic!("{failure}") };
            assert!(cause.to_string().contains(named), "{cause}");
        }
    }
}
