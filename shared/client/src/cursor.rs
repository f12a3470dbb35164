//! Which messages a client has received in order.

use kschat_protocol::{MessageId, Position};

use crate::frame::{Ack, Messages};

/// The last message that a client has received in order. Acks are cumulative, so it is all that an ack needs.
#[derive(Clone, Debug, Default)]
pub struct AckCursor {
    last: Option<(MessageId, Position)>,
}

impl AckCursor {
    /// Whether the messages follow those received so far. If not, an earlier frame is missing: the client ignores this
    /// one and sends [`Self::redelivery_request`].
    #[must_use]
    pub fn follows(&self, messages: &Messages) -> bool {
        messages.previous.is_none_or(|previous| self.last.as_ref().is_some_and(|(_, here)| here.is_after(previous)))
    }

    /// Moves to the last of these messages; returns whether there is one.
    pub fn advance(&mut self, messages: &Messages) -> bool {
        let last = messages.items.last().map(|item| item.id.clone()).zip(messages.position);
        let has_moved = last.is_some();
        self.last = last.or(self.last.take());
        has_moved
    }

    /// Acknowledges everything received; `None` if nothing has been.
    #[must_use]
    pub fn ack(&self) -> Option<Ack> {
        let (message, position) = self.last.clone()?;
        Some(Ack { message: Some(message), position: Some(position), again: false })
    }

    /// Acknowledges everything received, and asks for everything after it.
    #[must_use]
    pub fn redelivery_request(&self) -> Ack {
        Ack { again: true, ..self.ack().unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use kschat_protocol::JsonId;

    use super::*;
    use crate::frame::{ClientFrame, ReceivedMessage};

    fn messages(previous: Option<u64>, position: u64) -> Messages {
        let place = |number| Position { run: 1, number };
        let id = format!("m-{position}").into();
        let item = ReceivedMessage { sender: JsonId::Text("bob".to_owned()), id, msg: "hi".to_owned() };
        Messages { previous: previous.map(place), position: Some(place(position)), items: vec![item] }
    }

    #[test]
    fn frame_after_gap_does_not_follow() {
        let mut cursor = AckCursor::default();
        assert!(!cursor.follows(&messages(Some(1), 2)));
        assert!(cursor.follows(&messages(None, 1)) && cursor.advance(&messages(None, 1)));
        assert!(cursor.follows(&messages(Some(1), 2)) && !cursor.follows(&messages(Some(2), 3)));
    }

    #[test]
    fn ack_names_last_message() {
        let mut cursor = AckCursor::default();
        assert_eq!(cursor.ack(), None);
        assert!(cursor.advance(&messages(None, 16)));
        let text = ClientFrame::Ack(cursor.ack().unwrap()).to_text();
        assert_eq!(text, r#"{"action":"ack","mId":"m-16","pos":"00000001.16"}"#);
        assert!(!cursor.advance(&Messages { previous: None, position: None, items: Vec::new() }));
        assert!(cursor.redelivery_request().again && cursor.redelivery_request().message.is_some());
    }
}
