//! Frames for clients, before a dialect gives them their form on the wire.

use std::borrow::Cow;

use serde::Serialize;

use crate::{ErrorCode, JsonId, Position};

/// Text before the name of a raw frame.
const NAME_PREFIX: &str = r#"{"event":""#;

/// Serializes infallibly: our own types have text keys and finite numbers.
pub(crate) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A frame for a client: the name of an event, and its fields.
///
/// The fields are encoded once, however many connections get the frame. [`Dialect::encode`](crate::dialect::Dialect)
/// gives it the form of a connection.
///
/// ```
/// use kschat_protocol::{ErrorCode, ErrorFrame, ServerFrame, dialect::Dialect};
///
/// let frame = ServerFrame::from(ErrorFrame::new(ErrorCode::Malformed));
/// assert_eq!(frame.event(), "RESPERROR");
/// assert!(Dialect::Raw.encode(&frame).starts_with(r#"{"event":"RESPERROR","RC":1,"ER":6"#));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFrame {
    event: Cow<'static, str>,
    /// A JSON object.
    fields: String,
    callback: Callback,
}

/// What a frame means to the callbacks of Socket.IO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Callback {
    /// It goes to the callback of the client's request, if there is one.
    Reply,
    /// The result of a send: of that sender if the message is accepted.
    Send(Option<JsonId>),
    /// The client's callback acknowledges up to this position.
    Ack(Position),
}

impl ServerFrame {
    pub(crate) fn new<T: Serialize>(event: &'static str, fields: &T) -> Self {
        Self::with_callback(event, json(fields), Callback::Reply)
    }

    pub(crate) const fn with_callback(event: &'static str, fields: String, callback: Callback) -> Self {
        Self { event: Cow::Borrowed(event), fields, callback }
    }

    /// Name of the event, such as `RESPSEND`.
    #[must_use]
    pub fn event(&self) -> &str {
        &self.event
    }

    /// All other fields, as a JSON object.
    #[must_use]
    pub fn fields(&self) -> &str {
        &self.fields
    }

    pub(crate) const fn callback(&self) -> &Callback {
        &self.callback
    }

    /// The frame as raw clients receive it, and as functions hand it to a user's owner.
    #[must_use]
    pub fn to_text(&self) -> String {
        let fields = self.fields.strip_prefix('{').unwrap_or_default();
        let comma = if fields == "}" { "" } else { "," };
        format!(r#"{NAME_PREFIX}{}"{comma}{fields}"#, self.event)
    }

    /// Reads what [`Self::to_text`] has written; `None` for any other text.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let (event, fields) = text.strip_prefix(NAME_PREFIX)?.split_once('"')?;
        let fields = format!("{{{}", fields.strip_prefix(',').unwrap_or(fields));
        let callback = if event == "RESPSEND" { Callback::Send(None) } else { Callback::Reply };
        Some(Self { event: Cow::Owned(event.to_owned()), fields, callback })
    }
}

/// The fields that most frames have, around those of one kind.
///
/// `RC` is always 1, also on failure, as v1 clients expect: only `ER` tells.
#[derive(Serialize)]
pub(crate) struct Fields<T> {
    #[serde(rename = "RC")]
    rc: u8,
    #[serde(rename = "ER")]
    er: ErrorCode,
    #[serde(flatten)]
    rest: T,
    #[serde(rename = "ERMSG", skip_serializing_if = "Option::is_none")]
    ermsg: Option<&'static str>,
}

impl<T> Fields<T> {
    /// Fields with a sentence that describes a failure.
    pub(crate) fn explained(er: ErrorCode, rest: T) -> Self {
        Self { ermsg: (er != ErrorCode::Ok).then(|| er.text()), ..Self::bare(er, rest) }
    }

    /// Fields without that sentence.
    pub(crate) const fn bare(er: ErrorCode, rest: T) -> Self {
        Self { rc: 1, er, rest, ermsg: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_reads_back_from_its_text() {
        for text in [r#"{"event":"RESPX"}"#, r#"{"event":"RESPX","RC":1,"a":{"b":"}"}}"#] {
            let frame = ServerFrame::from_text(text).unwrap();
            assert_eq!((frame.event(), frame.to_text().as_str()), ("RESPX", text));
        }
        for other in ["", "{}", "odd", r#"{"RC":1,"event":"RESPX"}"#, r#"{"event":"RESPX"#] {
            assert_eq!(ServerFrame::from_text(other), None, "{other}");
        }
    }
}
