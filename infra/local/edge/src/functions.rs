//! Function backends of the edge.

use async_trait::async_trait;
use reqwest::redirect::Policy;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Value};

pub use crate::events::MessageEvent;

/// Maximum bytes of a function's response.
///
/// Source: AWS Lambda quotas, "Invocation payload".
const MAX_FUNCTION_RESPONSE_BYTES: usize = 6 * 1024 * 1024;

/// A function's proxy response. One with any other field is none: the managed edge treats it as a failure.
///
/// Sources: Amazon API Gateway developer guide, "Output format of a Lambda function for proxy integration"; for the
/// other fields, middyjs/middy issue 1219 (a `ConnectionId` beside `statusCode` got the client an error frame).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reply {
    /// Status of the handshake.
    #[serde(rename = "statusCode", deserialize_with = "status_code")]
    pub status: u16,
    #[serde(default)]
    headers: Option<Map<String, Value>>,
    #[serde(default)]
    multi_value_headers: Option<Map<String, Value>>,
    /// Frame for the client, on a route with a route response.
    #[serde(default)]
    pub body: Option<String>,
    #[serde(default, rename = "isBase64Encoded")]
    _is_base64_encoded: Option<bool>,
}

fn status_code<'de, D: Deserializer<'de>>(status: D) -> Result<u16, D::Error> {
    let status = Value::deserialize(status)?;
    let problem = || D::Error::custom(format!("statusCode is {status}, not a whole number from 100 to 599"));
    status_of(&status).ok_or_else(problem)
}

/// A status code, given as a number or as its digits.
///
/// Source for the digits: localstack pull request 11199, which quotes API Gateway accepting `{"statusCode": "201"}`.
pub(crate) fn status_of(status: &Value) -> Option<u16> {
    let number = match status {
        Value::Number(number) => number.as_u64()?,
        Value::String(digits) => digits.parse().ok()?,
        _ => return None,
    };
    u16::try_from(number).ok().filter(|number| (100..600).contains(number))
}

impl Reply {
    /// A response with that status and body.
    #[must_use]
    pub const fn new(status: u16, body: Option<String>) -> Self {
        Self { status, headers: None, multi_value_headers: None, body, _is_base64_encoded: None }
    }

    /// Parses a proxy response.
    ///
    /// # Errors
    /// [`InvokeError::Failed`] if it is invalid.
    pub fn read(answer: Value) -> Result<Self, InvokeError> {
        let not_a_response = |error| InvokeError::Failed(format!("its response is not a proxy response: {error}"));
        serde_json::from_value(answer).map_err(not_a_response)
    }

    /// The subprotocol for the handshake response.
    #[must_use]
    pub fn subprotocol(&self) -> Option<&str> {
        self.multi_value_headers.iter().chain(&self.headers).flatten().find_map(|(name, value)| {
            let value = value.as_array().map_or(Some(value), |values| values.first());
            value?.as_str().filter(|_| name.eq_ignore_ascii_case("sec-websocket-protocol"))
        })
    }
}

/// A failed invocation.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// The function is unreachable.
    #[error("the function is unreachable")]
    Unreachable(#[source] reqwest::Error),
    /// It failed, or its response is invalid.
    #[error("the function failed: {0}")]
    Failed(String),
    /// It timed out.
    #[error("the function took longer than the integration timeout")]
    TimedOut,
}

/// Invokes functions.
#[async_trait]
pub trait Functions: Send + Sync {
    /// Invokes the function of that name with an event; returns its response.
    ///
    /// # Errors
    /// [`InvokeError`].
    async fn invoke(&self, function: &str, event: Value) -> Result<Value, InvokeError>;

    /// Invokes the function of that name with a client's frame; returns its response. A backend in this process needs
    /// no JSON for that.
    ///
    /// # Errors
    /// [`InvokeError`].
    async fn handle_message(&self, function: &str, event: &MessageEvent) -> Result<Reply, InvokeError> {
        Reply::read(self.invoke(function, event.to_json()).await?)
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
        // A function's endpoint is never behind a proxy, and never redirects.
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
                if body.len() > MAX_FUNCTION_RESPONSE_BYTES {
                    break;
                }
            }
            Ok((failed, body))
        };
        let (failed, body) = call.await.map_err(InvokeError::Unreachable)?;
        if body.len() > MAX_FUNCTION_RESPONSE_BYTES {
            return Err(InvokeError::Failed(format!("it answered more than {MAX_FUNCTION_RESPONSE_BYTES} bytes")));
        }
        if failed {
            return Err(InvokeError::Failed(String::from_utf8_lossy(&body).into_owned()));
        }
        serde_json::from_slice(&body).map_err(|error| InvokeError::Failed(format!("its response is not JSON: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn proxy_response_headers_are_case_insensitive() {
        let reply = json!({ "statusCode": 200, "headers": { "Sec-WebSocket-Protocol": "kschat.v2" }, "body": "hi" });
        let reply = Reply::read(reply).unwrap();
        assert_eq!((reply.status, reply.subprotocol(), reply.body.as_deref()), (200, Some("kschat.v2"), Some("hi")));
        let several = json!({ "statusCode": "101", "multiValueHeaders": { "sec-websocket-protocol": ["kschat.v2"] } });
        let several = Reply::read(several).unwrap();
        assert_eq!((several.status, several.subprotocol()), (101, Some("kschat.v2")));
        let bare = Reply::read(json!({ "statusCode": 200, "headers": null, "body": null })).unwrap();
        assert_eq!((bare.subprotocol(), &bare.body), (None, &None));
    }

    #[test]
    fn answer_that_is_no_proxy_response_is_a_failure() {
        for wrong in [
            json!(null),
            json!({}),
            json!("hi"),
            json!({ "statusCode": 200, "body": {} }),
            json!({ "statusCode": 200, "ConnectionId": "L0SM9cOFvHcCIhw=" }),
            json!({ "statusCode": 200, "Body": "hi" }),
            json!({ "errorMessage": "failed" }),
            json!({ "statusCode": "OK" }),
            json!({ "statusCode": 200.5 }),
            json!({ "statusCode": 200.0 }),
            json!({ "statusCode": 7 }),
            json!({ "statusCode": null }),
        ] {
            assert!(Reply::read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
