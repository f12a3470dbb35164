//! Where the edge's events go.

use async_trait::async_trait;
use kschat_functions::{Event, connect, disconnect, send};
use reqwest::redirect::Policy;
use serde::Deserialize;
use serde_json::{Map, Value};

/// What a function may answer, in bytes.
///
/// Source: AWS Lambda quotas, "Invocation payload".
const MAX_ANSWER: usize = 6 * 1024 * 1024;

/// What a function answered, as far as the edge cares.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// The status with which a handshake is answered.
    #[serde(rename = "statusCode")]
    pub status: u16,
    #[serde(default)]
    headers: Option<Map<String, Value>>,
    /// The frame for the client, on a route with a route response.
    #[serde(default)]
    pub body: Option<String>,
}

impl Reply {
    /// Reads a proxy response.
    ///
    /// # Errors
    /// [`InvokeError::Failed`] if it is none.
    pub fn read(answer: Value) -> Result<Self, InvokeError> {
        let not_a_response = |error| InvokeError::Failed(format!("it answered no proxy response: {error}"));
        serde_json::from_value(answer).map_err(not_a_response)
    }

    /// The subprotocol that the client may hear.
    #[must_use]
    pub fn subprotocol(&self) -> Option<&str> {
        let is_subprotocol = |name: &str| name.eq_ignore_ascii_case("sec-websocket-protocol");
        self.headers.as_ref()?.iter().find(|(name, _)| is_subprotocol(name))?.1.as_str()
    }
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
    #[error("the function took longer than the integration timeout")]
    TimedOut,
}

/// Calls functions.
#[async_trait]
pub trait Functions: Send + Sync {
    /// Hands an event to the function of that name; returns what it answers.
    ///
    /// # Errors
    /// [`InvokeError`].
    async fn invoke(&self, function: &str, event: Value) -> Result<Value, InvokeError>;
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
    async fn invoke(&self, function: &str, event: Value) -> Result<Value, InvokeError> {
        let failed = |error: serde_json::Error| InvokeError::Failed(error.to_string());
        let event: Event = serde_json::from_value(event).map_err(failed)?;
        let response = match function {
            "connect" => connect::handle(&self.connect, event).await,
            "disconnect" => disconnect::handle(&self.disconnect, event).await,
            "send" => send::handle(&self.send, event).await,
            other => {
                return Err(InvokeError::Failed(format!("there is no `{other}`, only connect, disconnect and send")));
            }
        };
        serde_json::to_value(response).map_err(failed)
    }
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
        // Neither is a function's endpoint behind a proxy, nor does it send us elsewhere.
        let client = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build().unwrap_or_default();
        Self { base: base.trim_end_matches('/').to_owned(), client }
    }
}

#[async_trait]
impl Functions for Remote {
    async fn invoke(&self, function: &str, event: Value) -> Result<Value, InvokeError> {
        let url = format!("{}/2015-03-31/functions/{function}/invocations", self.base);
        let call = async {
            let mut answer = self.client.post(url).body(event.to_string()).send().await?;
            // Lambda itself answers 200 and names the error in a header; `cargo lambda watch` answers 500.
            let failed = !answer.status().is_success() || answer.headers().contains_key("x-amz-function-error");
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await? {
                body.extend_from_slice(&chunk);
                if body.len() > MAX_ANSWER {
                    break;
                }
            }
            Ok((failed, body))
        };
        let (failed, body) = call.await.map_err(InvokeError::Unreachable)?;
        if body.len() > MAX_ANSWER {
            return Err(InvokeError::Failed(format!("it answered more than {MAX_ANSWER} bytes")));
        }
        if failed {
            return Err(InvokeError::Failed(String::from_utf8_lossy(&body).into_owned()));
        }
        serde_json::from_slice(&body).map_err(|error| InvokeError::Failed(format!("it answered no JSON: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_proxy_response_is_read_whatever_the_case_of_its_headers() {
        let reply = json!({ "statusCode": 200, "headers": { "Sec-WebSocket-Protocol": "kschat.v2" }, "body": "hi" });
        let reply = Reply::read(reply).unwrap();
        assert_eq!((reply.status, reply.subprotocol(), reply.body.as_deref()), (200, Some("kschat.v2"), Some("hi")));
        let bare = Reply::read(json!({ "statusCode": 200, "headers": null, "body": null })).unwrap();
        assert_eq!((bare.subprotocol(), &bare.body), (None, &None));
        for wrong in [json!(null), json!({}), json!("hi"), json!({ "statusCode": 200, "body": {} })] {
            assert!(Reply::read(wrong).is_err());
        }
    }
}
