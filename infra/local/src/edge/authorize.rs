//! What a Lambda authorizer says of a client that wants to connect.
//!
//! Source: Amazon API Gateway developer guide, "Control access to WebSocket APIs with AWS Lambda REQUEST
//! authorizers" and "Output from an API Gateway Lambda authorizer".

use serde_json::{Map, Value};

use super::{events::Client, routes::Authorizer};
use crate::functions::InvokeError;

/// A client that may not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// It did not say who it is: 401.
    Unauthorized,
    /// It may not: 403.
    Forbidden,
    /// The authorizer does not work: 500.
    Broken,
}

impl std::fmt::Display for Denied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unauthorized => "the authorizer says: Unauthorized",
            Self::Forbidden => "no statement of the policy allows it",
            Self::Broken => "the authorizer answered no policy with principalId, Statement and a flat context",
        })
    }
}

impl Denied {
    pub(super) const fn status(self) -> u16 {
        match self {
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::Broken => 500,
        }
    }
}

/// Whether the client has everything without which the authorizer is not asked.
pub(super) fn has_identity(authorizer: &Authorizer, client: &Client) -> bool {
    authorizer.identity.iter().all(|source| {
        let value = match source.split_once(['.']).and_then(|(_, rest)| rest.strip_prefix("request.")?.split_once('.'))
        {
            Some(("querystring", name)) => client.query(name),
            Some(("header", name)) => client.header(name),
            // Stage variables and context: what the edge itself provides.
            _ => Some("given"),
        };
        value.is_some_and(|value| !value.is_empty())
    })
}

/// Reads the authorizer's answer: what later events tell of the client, if it may connect.
pub(super) fn verdict(answer: Result<Value, InvokeError>, arn: &str) -> Result<Value, Denied> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(InvokeError::Failed(error)) if is_unauthorized(&error) => return Err(Denied::Unauthorized),
        Err(_) => return Err(Denied::Broken),
    };
    let principal = answer["principalId"].as_str().ok_or(Denied::Broken)?;
    let statements = match &answer["policyDocument"]["Statement"] {
        Value::Array(all) => all.as_slice(),
        one @ Value::Object(_) => std::slice::from_ref(one),
        _ => return Err(Denied::Broken),
    };
    let says = |effect: &str| statements.iter().any(|one| one["Effect"] == effect && names(&one["Resource"], arn));
    if says("Deny") || !says("Allow") {
        return Err(Denied::Forbidden);
    }
    let mut told = Map::new();
    told.insert("principalId".to_owned(), principal.into());
    for (name, value) in answer["context"].as_object().into_iter().flatten() {
        // Every value becomes text; what has parts is not allowed.
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Array(_) | Value::Object(_) => return Err(Denied::Broken),
            other => other.to_string(),
        };
        told.insert(name.clone(), text.into());
    }
    Ok(told.into())
}

/// The one error that is an answer.
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

/// Whether a pattern with `*` and `?` fits.
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
                // The last star takes one more.
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
    fn who_is_allowed_is_told_about_in_every_event() {
        for resource in [json!(ARN), json!("*"), json!(["no", "arn:aws:execute-api:*:local/dev/*"])] {
            let told = verdict(Ok(policy("Allow", resource)), ARN).unwrap();
            assert_eq!(told, json!({ "principalId": "me", "n": "1", "t": "x" }));
        }
    }

    #[test]
    fn who_is_not_allowed_gets_the_status_that_says_why() {
        assert_eq!(verdict(Ok(policy("Deny", "*")), ARN).unwrap_err().status(), 403);
        assert_eq!(verdict(Ok(policy("Allow", "arn:aws:execute-api:*/prod/*")), ARN).unwrap_err().status(), 403);
        assert_eq!(verdict(Ok(json!({})), ARN).unwrap_err().status(), 500);
        let thrown = InvokeError::Failed(r#"{"errorMessage":"Unauthorized"}"#.to_owned());
        assert_eq!(verdict(Err(thrown), ARN).unwrap_err().status(), 401);
        assert_eq!(verdict(Err(InvokeError::TimedOut), ARN).unwrap_err().status(), 500);
    }

    #[test]
    fn a_pattern_has_stars_and_question_marks() {
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
