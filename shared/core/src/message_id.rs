//! Message ids.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use kschat_protocol::{MessageId, Recipient, UserId};
use uuid::{Builder, Uuid};

use crate::{Timestamp, ports::MessageHash};

/// Bits of the counter within a millisecond: those between the version and the variant of a UUIDv7 (RFC 9562, 6.2,
/// method 1).
const TICK_COUNTER_BITS: u32 = 12;

/// A clock that goes back by more was set; a smaller step comes from a concurrent thread.
const MAX_CLOCK_REGRESSION: Duration = Duration::from_secs(1);

/// A unique id.
pub(crate) fn random() -> MessageId {
    MessageId::from(Uuid::now_v7().to_string())
}

/// The content of a v2 send: everything that distinguishes it from another message.
#[derive(Clone, Copy)]
pub(crate) struct SendContent<'a> {
    pub(crate) sender: &'a UserId,
    pub(crate) recipient: &'a Recipient,
    pub(crate) rno: &'a str,
    pub(crate) msg: &'a str,
}

impl SendContent<'_> {
    /// A hash that distinguishes it from every other send, under every key.
    pub(crate) fn digest(&self, hash: &dyn MessageHash) -> [u8; 32] {
        let (kind, recipient) = match self.recipient {
            Recipient::User(user) => ("user", user.as_str()),
            Recipient::Room(room) => ("room", room.as_str()),
        };
        hash.digest(&length_prefixed(&["kschat send", self.sender.as_str(), kind, recipient, self.rno, self.msg]))
    }
}

/// Each part is preceded by its length, so that ("ab", "c") and ("a", "bc") differ.
fn length_prefixed(parts: &[&str]) -> Vec<u8> {
    let mut framed = Vec::new();
    for part in parts {
        framed.extend_from_slice(&(part.len() as u64).to_be_bytes());
        framed.extend_from_slice(part.as_bytes());
    }
    framed
}

/// The first half of a digest, which is enough to compare.
pub(crate) fn first_u128(digest: [u8; 32]) -> u128 {
    digest.iter().take(16).fold(0, |half, byte| half << 8 | u128::from(*byte))
}

/// An id whose head sorts: of two messages that one process accepts, the later one has the greater id. The rest is a
/// keyed hash of content, sender, recipient and `rno`. If the registry loses the claim between two attempts, the
/// receiver still recognizes them as one message ([`MessageId::dedup_key`]). Nobody without the key can give the same id to
/// a message of another sender or content.
pub(crate) fn for_send(digest: [u8; 32], hash: &dyn MessageHash, now: Timestamp) -> MessageId {
    let tick = next_tick(now).to_be_bytes();
    let [.., count_high, count_low] = tick;
    let [a, b, c, d, e, f, g, h] = keyed_tail(digest, hash);
    let below = [count_high, count_low, a, b, c, d, e, f, g, h];
    let millis = u64::from_be_bytes(tick) >> TICK_COUNTER_BITS;
    MessageId::from(Builder::from_unix_timestamp_millis(millis, &below).into_uuid().to_string())
}

/// The part of an id that depends on its send, apart from the two bits that are the same in every UUID.
fn keyed_tail(digest: [u8; 32], hash: &dyn MessageHash) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = hash.keyed_digest(&[b"kschat id", digest.as_slice()].concat());
    [a, b, c, d, e, f, g, h]
}

/// Milliseconds and a counter within them, increasing as long as the clock is not set back.
fn next_tick(now: Timestamp) -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let start = now.millis() << TICK_COUNTER_BITS;
    let after = |last: u64| {
        let ahead = u128::from(last.saturating_sub(start) >> TICK_COUNTER_BITS);
        if start > last || ahead > MAX_CLOCK_REGRESSION.as_millis() { start } else { last + 1 }
    };
    let before = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last)));
    after(before.unwrap_or_else(|last| last))
}

#[cfg(test)]
mod tests {
    use kschat_protocol::RoomId;

    use super::*;
    use crate::memory::MemoryHash;

    fn content<'a>(sender: &'a UserId, recipient: &'a Recipient, rno: &'a str, msg: &'a str) -> SendContent<'a> {
        SendContent { sender, recipient, rno, msg }
    }

    #[test]
    fn later_id_sorts_after_earlier() {
        let (alice, hash) = (UserId::try_from("alice").expect("an id"), MemoryHash::new());
        let bob = Recipient::User(UserId::try_from("bob").expect("an id"));
        let id = |rno: usize, now| for_send(content(&alice, &bob, &rno.to_string(), "hi").digest(&hash), &hash, now);
        let now = Timestamp::from_millis(1_700_000_000_000);
        let ids: Vec<_> = (0..5_000).map(|rno| id(rno, now)).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(ids[0].as_str().starts_with("018bcfe5-6800-7000-"), "{}", ids[0].as_str());
        let earlier = id(0, Timestamp::from_millis(1_600_000_000_000));
        assert!(earlier < ids[0], "a clock that was set back");
        assert_eq!(earlier.dedup_key(), ids[0].dedup_key());
    }

    #[test]
    fn send_id_depends_on_content_and_key() {
        let (user, room) = (|id: &str| UserId::try_from(id).expect("an id"), RoomId::try_from("bob").expect("an id"));
        let (alice, mallory) = (user("alice"), user("mallory"));
        let (bob, carol) = (Recipient::User(user("bob")), Recipient::User(user("carol")));
        let room = Recipient::Room(room);
        let (hash, other) = (MemoryHash::new(), MemoryHash::new());
        let contents = [
            content(&alice, &bob, "r", "hi"),
            content(&mallory, &bob, "r", "hi"),
            content(&alice, &carol, "r", "hi"),
            content(&alice, &room, "r", "hi"),
            content(&alice, &bob, "s", "hi"),
            content(&alice, &bob, "r", "ho"),
            content(&alice, &bob, "rh", "i"),
        ];
        // Other tests share the ticks.
        let tail = |content: &SendContent<'_>, hash: &MemoryHash| keyed_tail(content.digest(hash), hash);
        let mut tails: Vec<[u8; 8]> = contents.iter().map(|content| tail(content, &hash)).collect();
        tails.push(tail(&contents[0], &other));
        assert_eq!(tails[0], tail(&contents[0], &hash));
        let different: std::collections::HashSet<_> = tails.iter().collect();
        assert_eq!(different.len(), tails.len(), "{tails:?}");
    }
}
