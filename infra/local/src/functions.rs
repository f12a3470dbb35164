//! Where the edge's events go.

use std::time::Duration;

use async_trait::async_trait;
use aws_lambda_events::encodings::Body;
use kschat_functions::{Event, Response, connect, disconnect, send};
use serde::Deserialize;
use serde_json::{Map, Value};

/// How long the managed edge waits for a function.
///
/// Source: Amazon API Gateway quotas, "Integration timeout" of WebSocket APIs.
pub const INTEGRATION_TIMEOUT: Duration = Duration::from_secs(29);

/// One of the functions, by the name of its binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Behind `$connect`.
    Connect,
    /// Behind `$disconnect`.
    Disconnect,
    /// Behind `send` and `$default`.
    Send,
}

impl Function {
    const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Disconnect => "disconnect",
            Self::Send => "send",
        }
    }
}

/// What a function answered, as far as the edge cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status with which a handshake is answered.
    pub status: u16,
    /// The subprotocol that the client may hear.
    pub subprotocol: Option<String>,
    /// The frame for the client, on a route with a route response.
    pub body: Option<String>,
}

/// A function did not answer as one should.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// It can't be reached.
    #[error("the function can't be reached")]
    Unreachable(#[source] reqwest::Error),
    /// It failed, or answered something else than a response.
    #[error("the function failed: {0}")]
    Failed(String),
    /// It took too long.
    #[error("the function took longer than {}", humantime::format_duration(INTEGRATION_TIMEOUT))]
    TimedOut,
}

/// Calls functions.
#[async_trait]
pub trait Functions: Send + Sync {
    /// Hands an event to a function; returns within [`INTEGRATION_TIMEOUT`].
    ///
    /// # Errors
    /// [`InvokeError`].
    async fn invoke(&self, function: Function, event: Value) -> Result<Reply, InvokeError>;
}

/// The handlers of `kschat-functions`, called in this process.
#[derive(Clone)]
pub struct InProcess {
    /// What `$connect` needs.
    pub connect: connect::Deps,
    /// What `$disconnect` needs.
    pub disconnect: disconnect::Deps,
    /// What `send` and `$default` need.
    pub send: send::Deps,
}

#[async_trait]
impl Functions for InProcess {
    async fn invoke(&self, function: Function, event: Value) -> Result<Reply, InvokeError> {
        let event: Event = serde_json::from_value(event).map_err(|error| InvokeError::Failed(error.to_string()))?;
        let answer = async {
            match function {
                Function::Connect => connect::handle(&self.connect, event).await,
                Function::Disconnect => disconnect::handle(&self.disconnect, event).await,
                Function::Send => send::handle(&self.send, event).await,
            }
        };
        let response = tokio::time::timeout(INTEGRATION_TIMEOUT, answer).await.map_err(|_| InvokeError::TimedOut)?;
        Ok(reply_of(response))
    }
}

fn reply_of(response: Response) -> Reply {
    let subprotocol = response.headers.get("sec-websocket-protocol").and_then(|value| value.to_str().ok());
    let subprotocol = subprotocol.map(str::to_owned);
    let body = match response.body {
        Some(Body::Text(text)) => Some(text),
        _ => None,
    };
    Reply { status: u16::try_from(response.status_code).unwrap_or(500), subprotocol, body }
}

/// Functions in other processes, behind the Invoke API as `cargo lambda watch` serves it.
#[derive(Clone, Debug)]
pub struct Remote {
    base: String,
    client: reqwest::Client,
}

impl Remote {
    /// Functions at `http://host:port`.
    #[must_use]
    pub fn new(base: &str) -> Self {
        Self { base: base.trim_end_matches('/').to_owned(), client: reqwest::Client::new() }
    }
}

#[async_trait]
impl Functions for Remote {
    async fn invoke(&self, function: Function, event: Value) -> Result<Reply, InvokeError> {
        let url = format!("{}/2015-03-31/functions/{}/invocations", self.base, function.name());
        let call = async {
            let answer = self.client.post(url).body(event.to_string()).send().await?;
            // Lambda itself answers 200 and names the error in a header; `cargo lambda watch` answers 500.
            let failed = !answer.status().is_success() || answer.headers().contains_key("x-amz-function-error");
            Ok((failed, answer.bytes().await?))
        };
        let answered = tokio::time::timeout(INTEGRATION_TIMEOUT, call).await.map_err(|_| InvokeError::TimedOut)?;
        let (failed, body) = answered.map_err(InvokeError::Unreachable)?;
        if failed {
            return Err(InvokeError::Failed(String::from_utf8_lossy(&body).into_owned()));
        }
        read_reply(&body)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    status_code: u16,
    #[serde(default)]
    headers: Map<String, Value>,
    body: Option<String>,
}

fn read_reply(body: &[u8]) -> Result<Reply, InvokeError> {
    let not_a_response = |error| InvokeError::Failed(format!("it answered no proxy response: {error}"));
    let payload: Payload = serde_json::from_slice(body).map_err(not_a_response)?;
    let is_subprotocol = |name: &str| name.eq_ignore_ascii_case("sec-websocket-protocol");
    let subprotocol =
        payload.headers.iter().find(|(name, _)| is_subprotocol(name)).and_then(|(_, value)| value.as_str());
    Ok(Reply { status: payload.status_code, subprotocol: subprotocol.map(str::to_owned), body: payload.body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_response_is_read_whatever_the_case_of_its_headers() {
        let reply = read_reply(br#"{"statusCode":200,"headers":{"Sec-WebSocket-Protocol":"kschat.v2"},"body":"hi"}"#);
        let expected = Reply { status: 200, subprotocol: Some("kschat.v2".to_owned()), body: Some("hi".to_owned()) };
        assert_eq!(reply.unwrap(), expected);
        assert!(read_reply(b"null").is_err());
    }
}
