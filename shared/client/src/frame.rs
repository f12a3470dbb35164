//! Frames in typed form, from a client's point of view.

use std::time::Duration;

use kschat_protocol::{JsonId, MessageId, Position};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A frame that a client sends.
///
/// ```
/// use kschat_client::{ClientFrame, SendRequest};
///
/// let send = SendRequest {
///     sender: "alice".to_owned(),
///     recipient: "bob".to_owned(),
///     msg: "hi".to_owned(),
///     rno: "alice-1".to_owned(),
///     time: 0,
/// };
/// let text = ClientFrame::Send(send).to_text();
/// assert_eq!(text, r#"{"action":"send","uId":"alice","pId":"bob","msg":"hi","rno":"alice-1","time":0}"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum ClientFrame {
    /// Sends a message.
    Send(SendRequest),
    /// Acknowledges messages.
    Ack(Ack),
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SendRequest {
    /// The sender.
    #[serde(rename = "uId")]
    pub sender: String,
    /// The recipient.
    #[serde(rename = "pId")]
    pub recipient: String,
    /// The text.
    pub msg: String,
    /// Idempotency key: a retry has the same.
    pub rno: String,
    /// Time of the client, in milliseconds since 1970.
    pub time: u64,
}

/// Acknowledges everything up to a message. The server accepts one without a message only if it asks for redelivery.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ack {
    /// The last message received in order.
    #[serde(rename = "mId", skip_serializing_if = "Option::is_none")]
    pub message: Option<MessageId>,
    /// The position of that message.
    #[serde(rename = "pos", skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Whether everything after it is to be redelivered.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

impl ClientFrame {
    /// The frame as raw clients send it.
    #[must_use]
    pub fn to_text(&self) -> String {
        // Serializing strings and numbers never fails.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A frame that a client receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame {
    /// `RESPSEND`.
    SendReply(SendReply),
    /// `RESPRECEIVER`.
    Messages(Messages),
    /// The managed edge's own error frame: the function failed, so the request may or may not have had an effect.
    EdgeError,
    /// Any other frame.
    Other,
}

/// The reply to a send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendReply {
    /// The idempotency key of the send.
    pub rno: Option<JsonId>,
    /// The code `ER`; 0 is success.
    pub code: u64,
    /// How long to wait before a retry, if the rate limit is exceeded.
    pub retry: Duration,
}

/// Messages to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Messages {
    /// Position of the message before the first one, if that message is unacknowledged.
    pub previous: Option<Position>,
    /// Position of the last message.
    pub position: Option<Position>,
    /// The messages, in order.
    pub items: Vec<ReceivedMessage>,
}

/// One message of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// The sender.
    pub sender: JsonId,
    /// Id of the message.
    pub id: MessageId,
    /// The text.
    pub msg: String,
}

/// Code of a reply that has none: an internal error.
const MISSING_CODE: u64 = 1;

impl ServerFrame {
    /// Reads a frame. Fields that are missing or have the wrong type count as empty.
    #[must_use]
    pub fn read(frame: &Value) -> Self {
        match frame["event"].as_str() {
            Some("RESPSEND") => Self::SendReply(SendReply {
                rno: JsonId::deserialize(&frame["RANDOMNO"]).ok(),
                code: frame["ER"].as_u64().unwrap_or(MISSING_CODE),
                retry: Duration::from_millis(frame["RETRY"].as_u64().unwrap_or_default()),
            }),
            Some("RESPRECEIVER") => Self::Messages(Messages {
                previous: position(&frame["PREV"]),
                position: position(&frame["POS"]),
                items: frame["MSG"].as_array().into_iter().flatten().map(ReceivedMessage::read).collect(),
            }),
            None if frame["message"].is_string() => Self::EdgeError,
            _ => Self::Other,
        }
    }
}

fn position(field: &Value) -> Option<Position> {
    field.as_str()?.parse().ok()
}

impl ReceivedMessage {
    fn read(item: &Value) -> Self {
        let text = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
        let sender = JsonId::deserialize(&item["uId"]).unwrap_or(JsonId::Text(String::new()));
        Self { sender, id: text("mId").into(), msg: text("msg") }
    }
}

#[cfg(test)]
mod tests {
    use kschat_protocol::{self as protocol, ReceiverFrame};
    use serde_json::json;

    use super::*;

    #[test]
    fn server_parses_every_client_frame() {
        let send = SendRequest {
            sender: "alice".to_owned(),
            recipient: "bob".to_owned(),
            msg: "hi".to_owned(),
            rno: "alice-1".to_owned(),
            time: 1,
        };
        let parsed = protocol::ClientFrame::parse(&ClientFrame::Send(send).to_text());
        assert!(matches!(parsed, Ok(protocol::ClientFrame::Send(_))), "{parsed:?}");
        for ack in [
            Ack { again: true, ..Ack::default() },
            Ack {
                message: Some("m-1".to_owned().into()),
                position: Some(Position { run: 1, number: 1 }),
                again: false,
            },
        ] {
            let parsed = protocol::ClientFrame::parse(&ClientFrame::Ack(ack).to_text());
            assert!(matches!(parsed, Ok(protocol::ClientFrame::Ack(_))), "{parsed:?}");
        }
    }

    #[test]
    fn receiver_frame_is_read_back() {
        let message = protocol::Message::from_slice(br#"{"uId":7,"pId":"bob","msg":"hi","mId":"m-1"}"#).unwrap();
        let (previous, last) = (Position { run: 1, number: 4 }, Position { run: 1, number: 5 });
        let mut frame = ReceiverFrame::after(Some(previous));
        assert!(frame.push(&message, false));
        let frame = serde_json::from_str(&frame.finish(last).to_text()).unwrap();
        let items = vec![ReceivedMessage { sender: JsonId::Number(7.into()), id: message.id, msg: "hi".to_owned() }];
        let expected = Messages { previous: Some(previous), position: Some(last), items };
        assert_eq!(ServerFrame::read(&frame), ServerFrame::Messages(expected));
    }

    #[test]
    fn reply_and_edge_error_are_told_apart() {
        let reply = json!({ "event": "RESPSEND", "RC": 1, "ER": 9, "RANDOMNO": "r", "RETRY": 1500 });
        let ServerFrame::SendReply(reply) = ServerFrame::read(&reply) else { panic!("{reply}") };
        assert_eq!(reply.rno, Some(JsonId::Text("r".to_owned())));
        assert_eq!((reply.code, reply.retry), (9, Duration::from_millis(1500)));
        let failed = json!({ "message": "Internal server error", "connectionId": "c=", "requestId": "r=" });
        assert_eq!(ServerFrame::read(&failed), ServerFrame::EdgeError);
        assert_eq!(ServerFrame::read(&json!({ "event": "RESPPONG" })), ServerFrame::Other);
    }
}
