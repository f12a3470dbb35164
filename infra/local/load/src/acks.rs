//! Received messages of a client: the ids it has shown, and what it has to acknowledge.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use kschat_client::{Ack, AckCursor, ClientFrame, Connection, ConnectionEnded, Messages};
use kschat_protocol::{JsonId, MessageId, MessageIdentity};
use tokio::time::Instant;

/// Messages per ack, as the protocol recommends.
const MAX_MESSAGES_PER_ACK: usize = 16;

/// Maximum delay of an ack for fewer messages.
const MAX_ACK_DELAY: Duration = Duration::from_secs(1);

/// Number of remembered message ids, the newest; more than can be in flight to one client. A later redelivery would
/// count as a duplicate.
const MAX_SEEN_IDS: usize = 32_768;

/// Hashes of the last shown messages' senders and ids; collisions among a few thousand are negligible.
#[derive(Default)]
pub(super) struct SeenIds {
    hasher: RandomState,
    ids: HashSet<u64>,
    order: VecDeque<u64>,
}

/// Batches acks.
pub(super) struct AckBatcher {
    cursor: AckCursor,
    unacked_count: usize,
    said: Instant,
    /// When redelivery was last requested.
    asked: Option<Instant>,
}

impl SeenIds {
    /// Adds a message of that sender; returns whether it was new.
    pub(super) fn insert(&mut self, sender: &JsonId, id: &MessageId) -> bool {
        let hash = self.hasher.hash_one(MessageIdentity::new(sender, id));
        if !self.ids.insert(hash) {
            return false;
        }
        self.order.push_back(hash);
        if self.order.len() > MAX_SEEN_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

impl AckBatcher {
    pub(super) fn new() -> Self {
        Self { cursor: AckCursor::default(), unacked_count: 0, said: Instant::now(), asked: None }
    }

    /// Whether the server may be waiting for an ack.
    pub(super) fn is_urgent(&self) -> bool {
        self.unacked_count >= MAX_MESSAGES_PER_ACK
    }

    /// Whether the messages follow those received so far.
    pub(super) fn follows(&self, messages: &Messages) -> bool {
        self.cursor.follows(messages)
    }

    /// Records the receipt of messages.
    pub(super) fn note_received(&mut self, messages: &Messages) {
        if self.cursor.advance(messages) {
            self.unacked_count += messages.items.len();
            self.asked = None;
        }
    }

    /// When the next ack is due: the first at once, later ones batched.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.unacked_count > 0).then(|| self.said + MAX_ACK_DELAY)
    }

    /// Acknowledges everything received.
    pub(super) async fn say(&mut self, socket: &mut Connection) -> Result<(), ConnectionEnded> {
        match self.cursor.ack() {
            Some(ack) => self.send(socket, ack).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, socket: &mut Connection, ack: Ack) -> Result<(), ConnectionEnded> {
        (self.unacked_count, self.said) = (0, Instant::now());
        socket.send(&ClientFrame::Ack(ack)).await
    }

    /// Requests redelivery of everything after the last received message, unless that was requested just now.
    pub(super) async fn request_redelivery(&mut self, socket: &mut Connection) -> Result<(), ConnectionEnded> {
        if self.asked.is_some_and(|asked| asked.elapsed() < MAX_ACK_DELAY) {
            return Ok(());
        }
        self.asked = Some(Instant::now());
        self.send(socket, self.cursor.redelivery_request()).await
    }
}

#[cfg(test)]
mod tests {
    use kschat_client::ReceivedMessage;
    use kschat_protocol::Position;

    use super::*;

    fn id(text: &str) -> MessageId {
        MessageId::from(text.to_owned())
    }

    #[test]
    fn seen_ids_evict_oldest() {
        let mut seen = SeenIds::default();
        let (one, other) = (JsonId::Text("7".to_owned()), JsonId::Text("8".to_owned()));
        assert!(seen.insert(&one, &id("a")) && !seen.insert(&JsonId::Number(7.into()), &id("a")));
        assert!(seen.insert(&other, &id("a")), "another user's");
        (0..MAX_SEEN_IDS).for_each(|n| assert!(seen.insert(&one, &id(&n.to_string()))));
        assert!(seen.ids.len() == MAX_SEEN_IDS && seen.order.len() == MAX_SEEN_IDS);
        assert!(seen.insert(&one, &id("a")), "the id is still stored");
    }

    #[test]
    fn one_ack_stands_for_many() {
        let mut acks = AckBatcher::new();
        assert!(acks.due().is_none());
        let messages = |first: u64, last: u64| {
            let item = |number| ReceivedMessage {
                sender: JsonId::Text("bob".to_owned()),
                id: id(&format!("m-{number}")),
                msg: String::new(),
            };
            let position = Some(Position { run: 1, number: last });
            Messages { previous: None, position, items: (first..=last).map(item).collect() }
        };
        acks.note_received(&messages(1, 1));
        assert!(acks.due().is_some() && !acks.is_urgent());
        acks.note_received(&messages(2, MAX_MESSAGES_PER_ACK as u64));
        assert!(acks.is_urgent());
        assert_eq!(acks.cursor.ack().and_then(|ack| ack.message), Some(id("m-16")));
    }
}
