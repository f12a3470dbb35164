//! Limits of one user: rates, and shares of common resources.

use std::time::Duration;

/// A token bucket: up to [`Self::burst`] at once, and one more each [`Self::interval`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The maximum burst.
    pub burst: u32,
    /// The time until one more is allowed.
    pub interval: Duration,
}

impl Rate {
    /// Allows this many within each span, and up to `burst` at once. Every value is at least one.
    ///
    /// ```
    /// use std::time::Duration;
    /// use kschat_core::limits::Rate;
    ///
    /// let sends = Rate::new(50, Duration::from_secs(1), 200);
    /// assert_eq!(sends.interval, Duration::from_millis(20));
    /// ```
    #[must_use]
    pub fn new(count: u32, span: Duration, burst: u32) -> Self {
        Self { burst: burst.max(1), interval: span / count.max(1) }
    }

    /// Takes `cost` at `now`; `full_at` is what the last call returned. `Ok` holds the value to keep, `Err` the time to
    /// wait. Times are milliseconds since 1970. A cost above the burst would never fit, so it counts as the burst.
    ///
    /// Source of the method: the generic cell rate algorithm, ITU-T I.371, in its virtual scheduling form.
    pub(crate) fn take(self, full_at: Option<f64>, cost: u32, now: f64) -> Result<f64, Duration> {
        let interval = self.interval.as_secs_f64() * 1_000.0;
        let next = full_at.unwrap_or(now).max(now) + f64::from(cost.min(self.burst)) * interval;
        let wait = next - f64::from(self.burst) * interval - now;
        // The clock has whole milliseconds.
        if wait < 1.0 { Ok(next) } else { Err(Duration::from_millis(wait.ceil() as u64)) }
    }
}

/// The limits of one user. `None` lifts a limit.
///
/// ```
/// use std::time::Duration;
/// use kschat_core::limits::{Limits, Rate};
///
/// // Ten messages per second, and no limit of acks.
/// let sends = Some(Rate::new(10, Duration::from_secs(1), 20));
/// let limits = Limits { sends, acks: None, ..Limits::default() };
/// assert!(limits.requests.is_some() && Limits::OFF.requests.is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages sent over all connections of a user.
    pub sends: Option<Rate>,
    /// Acks.
    pub acks: Option<Rate>,
    /// All other frames of a user, each request by its weight.
    pub requests: Option<Rate>,
    /// Handshakes.
    pub connects: Option<Rate>,
    /// Recipients that a user has not written to lately: each may need a queue.
    pub new_recipients: Option<Rate>,
    /// How much of one user's backlog may come from one sender.
    pub share: Option<Share>,
}

impl Default for Limits {
    fn default() -> Self {
        let second = Duration::from_secs(1);
        Self {
            sends: Some(Rate::new(50, second, 200)),
            acks: Some(Rate::new(200, second, 1_000)),
            requests: Some(Rate::new(20, second, 300)),
            connects: Some(Rate::new(2, second, 120)),
            new_recipients: Some(Rate::new(100, Duration::from_secs(60 * 60), 100)),
            share: Some(Share::of_queue(25, 64 << 20, 100_000, Duration::from_secs(14 * 24 * 60 * 60))),
        }
    }
}

impl Limits {
    /// No limits, for example for a benchmark.
    pub const OFF: Self =
        Self { sends: None, acks: None, requests: None, connects: None, new_recipients: None, share: None };
}

/// One sender's share of one recipient's queue, in bytes. A small message counts as `min_message_bytes`, so that the
/// share bounds the number of messages too.
///
/// ```
/// use std::time::Duration;
/// use kschat_core::limits::Share;
///
/// // A quarter of a queue of 64 MiB and 100,000 messages.
/// let share = Share::of_queue(25, 64 << 20, 100_000, Duration::from_secs(60));
/// assert_eq!(share.bytes, 16 << 20);
/// assert_eq!(share.weight(2), 671, "a small message counts as the average one of a full queue");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Pending bytes of one sender for one recipient at most.
    pub bytes: u64,
    /// The minimum that a message counts, in bytes.
    pub min_message_bytes: u64,
    /// How long a message waits at most; after that it does not count.
    pub retention: Duration,
}

impl Share {
    /// This percentage of a queue with these maximum bytes and messages.
    #[must_use]
    pub fn of_queue(percent: u8, bytes: u64, messages: u32, retention: Duration) -> Self {
        let share = bytes.saturating_mul(percent.min(100).into()) / 100;
        Self { bytes: share.max(MIN_SHARE_BYTES), min_message_bytes: bytes / u64::from(messages.max(1)), retention }
    }

    /// How much a message counts whose text takes this many bytes as JSON.
    #[must_use]
    pub fn weight(&self, bytes: usize) -> u64 {
        u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(MESSAGE_ENVELOPE_BYTES).max(self.min_message_bytes)
    }

    /// The rate limit of a user's messages to rooms, and how much a message counts there. It is unknown how much waits
    /// for each member, so a message counts for as long as it may wait; the unit is [`Self::min_message_bytes`].
    #[must_use]
    pub fn in_rooms(&self, bytes: usize) -> (Rate, u32) {
        let units = |bytes: u64| u32::try_from(bytes.div_ceil(self.min_message_bytes.max(1))).unwrap_or(u32::MAX);
        let burst = units(self.bytes);
        (Rate::new(burst, self.retention, burst), units(self.weight(bytes)))
    }
}

/// How often a user may be refused until it is blocked for [`BLOCK_DURATION`]. A client that waits as long as asked is
/// refused once for each accepted frame, at the usual rate: so that many refusals are tolerated.
pub const REFUSAL_RATE: Rate = Rate { burst: 500, interval: Duration::from_millis(20) };

/// Messages of one user per day, while sends are limited at all: the record of each takes registry memory for a day.
pub const DAILY_SEND_RATE: Rate = Rate { burst: 100_000, interval: Duration::from_millis(864) };

/// The time until a user at the connection limit has its connections checked again.
pub const CONNECTION_CHECK_COOLDOWN: Duration = Duration::from_secs(5);

/// How long the recipients of a user are remembered.
pub const RECIPIENT_RETENTION: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How long a user is blocked who continued in spite of refusals: its connections are closed, and handshakes are
/// refused.
pub const BLOCK_DURATION: Duration = Duration::from_secs(60);

/// The interval between close requests to the owner of a blocked user: the first one may be lost.
pub const CLOSE_REQUEST_INTERVAL: Duration = Duration::from_secs(5);

/// Recipients of one user that are remembered at most; a forgotten one counts as new.
pub const MAX_KNOWN_RECIPIENTS: usize = 1_000;

/// How long ended connections are remembered: longer than the timeout of a function that may still create one.
pub const ENDED_CONNECTION_RETENTION: Duration = Duration::from_secs(120);

/// Maximum connections per user: each gets every push. The registry may count a few that have ended unnoticed.
pub(crate) const MAX_CONNECTIONS_PER_USER: usize = 100;

/// The delay before the first check of a queue that was created for a message, or may be out of the routing.
pub(crate) const NEW_BACKLOG_CHECK_DELAY: Duration = Duration::from_secs(60);

/// How long a user may have no connection before it counts as offline: most reconnect at once.
pub(crate) const OFFLINE_GRACE_PERIOD: Duration = Duration::from_secs(5);

/// The size of a queued message without its text: the ids of both users, and the field names.
const MESSAGE_ENVELOPE_BYTES: u64 = 400;

/// The smallest share: the largest message fits into it.
const MIN_SHARE_BYTES: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, interval: Duration::from_millis(100) };

    #[test]
    fn rate_allows_burst_then_one_each_interval() {
        let mut full_at = None;
        for _ in 0..3 {
            full_at = Some(RATE.take(full_at, 1, 1_000.0).unwrap());
        }
        assert_eq!(RATE.take(full_at, 1, 1_000.0), Err(Duration::from_millis(100)));
        assert_eq!(RATE.take(full_at, 1, 1_040.0), Err(Duration::from_millis(60)));
        let later = RATE.take(full_at, 1, 1_100.0).unwrap();
        assert!(RATE.take(Some(later), 1, 1_100.0).is_err());
    }

    #[test]
    fn rate_cost_above_burst_counts_as_burst() {
        let full_at = RATE.take(None, 1_000, 0.0).unwrap();
        assert_eq!(RATE.take(Some(full_at), 1, 0.0), Err(Duration::from_millis(100)));
    }

    #[test]
    fn idle_rate_allows_one_burst() {
        let mut full_at = Some(0.0);
        for _ in 0..3 {
            full_at = Some(RATE.take(full_at, 1, 1e12).unwrap());
        }
        assert!(RATE.take(full_at, 1, 1e12).is_err());
    }

    #[test]
    fn small_message_counts_as_minimum_share() {
        let share = Share::of_queue(25, 1_000_000, 1_000, Duration::from_secs(60));
        assert_eq!((share.bytes, share.min_message_bytes), (250_000, 1_000));
        assert_eq!((share.weight(3), share.weight(7_000)), (1_000, 7_400));
        assert!(Share::of_queue(1, 1, 1, Duration::from_secs(60)).bytes > share.weight(28 * 1_024));
    }
}
