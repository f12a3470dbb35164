//! The ids of messages.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use kschat_protocol::{MessageId, UserId};
use uuid::{Builder, Uuid};

use crate::{Timestamp, hash::stable};

/// Bits of the count of ids within a millisecond: those between the version and the variant of a UUIDv7 (RFC 9562, 6.2,
/// method 1).
const COUNT: u32 = 12;

/// A clock that goes back by more was set; by less, another thread has only been faster.
const SET_BACK: Duration = Duration::from_secs(1);

/// An id that no other message has.
pub(crate) fn fresh() -> MessageId {
    MessageId::from(Uuid::now_v7().to_string())
}

/// An id whose head sorts: of what one process accepts, the later has the greater one. The rest follows from the `rno`: should
/// the registry lose what it knows of a send between two tries, the receiver still knows them as one
/// ([`MessageId::send`]).
pub(crate) fn for_send(user: &UserId, rno: &str, now: Timestamp) -> MessageId {
    // Knuth's multiplier, from the golden ratio: what is taken from the upper end depends on every bit.
    const MIX: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let tick = next_tick(now).to_be_bytes();
    let mixed = stable(&[user.as_str().as_bytes(), rno.as_bytes()]).wrapping_mul(MIX).to_be_bytes();
    let [.., count_high, count_low] = tick;
    let [rest @ .., _, _, _, _, _, _, _, _] = mixed;
    let [a, b, c, d, e, f, g, h] = rest;
    let below = [count_high, count_low, a, b, c, d, e, f, g, h];
    let millis = u64::from_be_bytes(tick) >> COUNT;
    MessageId::from(Builder::from_unix_timestamp_millis(millis, &below).into_uuid().to_string())
}

/// Milliseconds and a count within them, greater each time as long as the clock is not set back.
fn next_tick(now: Timestamp) -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let start = now.millis() << COUNT;
    let after = |last: u64| {
        let ahead = u128::from(last.saturating_sub(start) >> COUNT);
        if start > last || ahead > SET_BACK.as_millis() { start } else { last + 1 }
    };
    let before = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last)));
    after(before.unwrap_or_else(|last| last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_ids_are_greater_even_within_a_millisecond() {
        let alice = UserId::try_from("alice".to_owned()).expect("an id");
        let now = Timestamp::from_millis(1_700_000_000_000);
        let ids: Vec<_> = (0..5_000).map(|rno| for_send(&alice, &rno.to_string(), now)).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(ids[0].as_str().starts_with("018bcfe5-6800-7000-"), "{}", ids[0].as_str());
        let earlier = for_send(&alice, "0", Timestamp::from_millis(1_600_000_000_000));
        assert!(earlier < ids[0], "a clock that was set back");
        assert_eq!(earlier.send(), ids[0].send());
    }
}
