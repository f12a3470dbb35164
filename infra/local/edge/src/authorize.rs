//! Evaluates a Lambda authorizer's response for a connecting client.
//!
//! Source: Amazon API Gateway developer guide, "Control access to WebSocket APIs with AWS Lambda REQUEST
//! authorizers" and "Output from an API Gateway Lambda authorizer".

use serde_json::{Map, Value};

use super::{events::Client, routes::Authorizer};
use crate::functions::InvokeError;

/// Reason for which a client may not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthorizationError {
    /// The client is not authenticated: 401.
    Unauthorized,
    /// The policy denies it: 403.
    Forbidden,
    /// The authorizer failed: 500.
    AuthorizerFailed,
}

impl std::fmt::Display for AuthorizationError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unauthorized => "the authorizer returned Unauthorized",
            Self::Forbidden => "no policy statement allows the request",
            Self::AuthorizerFailed => {
                "the authorizer's response has no policy with principalId, Statement and a flat context"
            }
        })
    }
}

impl AuthorizationError {
    pub(super) const fn status(self) -> u16 {
        match self {
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::AuthorizerFailed => 500,
        }
    }
}

/// Whether the client has the whole identity source; otherwise the authorizer is not invoked.
pub(super) fn has_identity(authorizer: &Authorizer, client: &Client) -> bool {
    authorizer.identity.iter().all(|source| {
        let value = match source.split_once(['.']).and_then(|(_, rest)| rest.strip_prefix("request.")?.split_once('.'))
        {
            Some(("querystring", name)) => client.query(name),
            Some(("header", name)) => client.header(name),
            // Stage variables and context: the edge itself provides them.
            _ => Some("given"),
        };
        value.is_some_and(|value| !value.is_empty())
    })
}

/// Evaluates the authorizer's response: the context for later events, if the client may connect.
pub(super) fn verdict(answer: Result<Value, InvokeError>, arn: &str) -> Result<Value, AuthorizationError> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(InvokeError::Failed(error)) if is_unauthorized(&error) => return Err(AuthorizationError::Unauthorized),
        Err(_) => return Err(AuthorizationError::AuthorizerFailed),
    };
    let principal = answer["principalId"].as_str().ok_or(AuthorizationError::AuthorizerFailed)?;
    let statements = match &answer["policyDocument"]["Statement"] {
        Value::Array(all) => all.as_slice(),
        one @ Value::Object(_) => std::slice::from_ref(one),
        _ => return Err(AuthorizationError::AuthorizerFailed),
    };
    let says = |effect: &str| statements.iter().any(|one| one["Effect"] == effect && names(&one["Resource"], arn));
    if says("Deny") || !says("Allow") {
        return Err(AuthorizationError::Forbidden);
    }
    let mut context = Map::new();
    context.insert("principalId".to_owned(), principal.into());
    for (name, value) in answer["context"].as_object().into_iter().flatten() {
        // Every value becomes text; objects and arrays are rejected.
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Array(_) | Value::Object(_) => return Err(AuthorizationError::AuthorizerFailed),
            other => other.to_string(),
        };
        context.insert(name.clone(), text.into());
    }
    Ok(context.into())
}

/// The only error that counts as a response.
fn is_unauthorized(error: &str) -> bool {
    serde_json::from_str::<Value>(error).is_ok_and(|error| error["errorMessage"] == "Unauthorized")
}

fn names(resource: &Value, arn: &str) -> bool {
    match resource {
        Value::String(pattern) => matches(pattern.as_bytes(), arn.as_bytes()),
        Value::Array(all) => all.iter().any(|one| names(one, arn)),
        _ => false,
    }
}

/// Whether a text matches a pattern with `*` and `?`.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut pos, mut star) = (0, 0, None);
    while pos < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, pos));
                at += 1;
            }
            Some(c) if *c == b'?' || *c == text[pos] => (at, pos) = (at + 1, pos + 1),
            _ => match star {
                // The last star matches one more character.
                Some((star_at, taken)) => {
                    star = Some((star_at, taken + 1));
                    (at, pos) = (star_at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ARN: &str = "arn:aws:execute-api:us-east-1:000000000000:local/dev/$connect";

    fn policy(effect: &str, resource: impl Into<Value>) -> Value {
        let statement = json!({ "Action": "execute-api:Invoke", "Effect": effect, "Resource": resource.into() });
        json!({ "principalId": "me", "policyDocument": { "Statement": [statement] }, "context": { "n": 1, "t": "x" } })
    }

    #[test]
    fn authorizer_context_is_added_to_every_event() {
        for resource in [json!(ARN), json!("*"), json!(["no", "arn:aws:execute-api:*:local/dev/*"])] {
            let context = verdict(Ok(policy("Allow", resource)), ARN).unwrap();
            assert_eq!(context, json!({ "principalId": "me", "n": "1", "t": "x" }));
        }
    }

    #[test]
    fn authorizer_denial_maps_to_status() {
        assert_eq!(verdict(Ok(policy("Deny", "*")), ARN).unwrap_err().status(), 403);
        assert_eq!(verdict(Ok(policy("Allow", "arn:aws:execute-api:*/prod/*")), ARN).unwrap_err().status(), 403);
        assert_eq!(verdict(Ok(json!({})), ARN).unwrap_err().status(), 500);
        let thrown = InvokeError::Failed(r#"{"errorMessage":"Unauthorized"}"#.to_owned());
        assert_eq!(verdict(Err(thrown), ARN).unwrap_err().status(), 401);
        assert_eq!(verdict(Err(InvokeError::TimedOut), ARN).unwrap_err().status(), 500);
    }

    #[test]
    fn arn_pattern_supports_wildcards() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a?c", "abc", true),
            ("a*b", "abc", false),
            ("", "a", false),
            ("*a*b", "xaxbxb", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }
}
