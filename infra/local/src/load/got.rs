//! What a client has got: the ids that it has shown, and what it has to acknowledge.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use kschat_protocol::{Identity, JsonId, MessageId, Position};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{device::Ended, line::Line};

/// So many messages are acknowledged at once, as the protocol asks for.
const ACK_AT_ONCE: usize = 16;

/// Fewer than those are acknowledged not sooner than so long after the last ack.
const ACK_WITHIN: Duration = Duration::from_secs(1);

/// Message ids that are remembered, the newest; more than can be under way to one client. What comes again still later
/// would count as shown twice.
const MAX_SEEN: usize = 32_768;

/// Senders and ids of the messages that were shown last, as hashes: two of a few thousand that are alike would be a wonder.
#[derive(Default)]
pub(super) struct Seen {
    hasher: RandomState,
    ids: HashSet<u64>,
    order: VecDeque<u64>,
}

/// What is to be acknowledged.
pub(super) struct Acks {
    /// The last message that we have got in order, and where it stood.
    last: Option<(String, Position)>,
    unsaid: usize,
    said: Instant,
    /// When we last asked for what is missing.
    asked: Option<Instant>,
}

impl Seen {
    /// Puts a message of that sender in; says whether it was not there.
    pub(super) fn insert(&mut self, sender: &JsonId, id: &str) -> bool {
        let id = MessageId::from(id.to_owned());
        let hash = self.hasher.hash_one(Identity::new(sender, &id));
        if !self.ids.insert(hash) {
            return false;
        }
        self.order.push_back(hash);
        if self.order.len() > MAX_SEEN
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

impl Acks {
    pub(super) fn new() -> Self {
        Self { last: None, unsaid: 0, said: Instant::now(), asked: None }
    }

    /// Whether the server may be waiting for an ack.
    pub(super) fn is_urgent(&self) -> bool {
        self.unsaid >= ACK_AT_ONCE
    }

    /// Whether what stood at that place has come.
    pub(super) fn has_come_to(&self, place: Position) -> bool {
        self.last.as_ref().is_some_and(|(_, here)| here.is_beyond(place))
    }

    /// Notes that so many messages have come, the last of which is that one.
    pub(super) fn got(&mut self, last: &str, place: Position, count: usize) {
        self.last = Some((last.to_owned(), place));
        self.unsaid += count;
        self.asked = None;
    }

    /// When what came is to be acknowledged: the first at once, the next ones together.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.unsaid > 0).then(|| self.said + ACK_WITHIN)
    }

    /// Acknowledges all that has come.
    pub(super) async fn say(&mut self, socket: &mut Line) -> Result<(), Ended> {
        (self.unsaid, self.said) = (0, Instant::now());
        socket.say(&self.frame()).await
    }

    fn frame(&self) -> Value {
        match &self.last {
            Some((message, place)) => json!({ "action": "ack", "mId": message, "pos": place }),
            None => json!({ "action": "ack" }),
        }
    }

    /// Asks for everything after the last message that has come, unless that was asked for just now.
    pub(super) async fn ask_again(&mut self, socket: &mut Line) -> Result<(), Ended> {
        if self.asked.is_some_and(|asked| asked.elapsed() < ACK_WITHIN) {
            return Ok(());
        }
        (self.unsaid, self.said, self.asked) = (0, Instant::now(), Some(Instant::now()));
        let mut ack = self.frame();
        ack["again"] = json!(true);
        socket.say(&ack).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_known_until_many_newer_ones_have_come() {
        let mut seen = Seen::default();
        let (one, other) = (JsonId::Text("7".to_owned()), JsonId::Text("8".to_owned()));
        assert!(seen.insert(&one, "a") && !seen.insert(&JsonId::Number(7.into()), "a"));
        assert!(seen.insert(&other, "a"), "another user's");
        (0..MAX_SEEN).for_each(|n| assert!(seen.insert(&one, &n.to_string())));
        assert!(seen.ids.len() == MAX_SEEN && seen.order.len() == MAX_SEEN);
        assert!(seen.insert(&one, "a"), "it was not forgotten");
    }

    #[test]
    fn one_ack_stands_for_many() {
        let mut acks = Acks::new();
        assert!(acks.due().is_none());
        let place = |number| Position { run: 1, number };
        acks.got("m-1", place(1), 1);
        assert!(acks.due().is_some() && !acks.is_urgent());
        acks.got("m-16", place(16), ACK_AT_ONCE - 1);
        assert!(acks.is_urgent() && acks.has_come_to(place(16)) && !acks.has_come_to(place(17)));
        assert_eq!(acks.frame(), json!({ "action": "ack", "mId": "m-16", "pos": "00000001.16" }));
    }
}
