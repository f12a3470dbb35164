//! How much one user may do: rates, and shares of what others share.

use std::time::Duration;

/// A token bucket: up to [`Self::burst`] at once, and one more each [`Self::interval`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many may come at once.
    pub burst: u32,
    /// How long until one more may come.
    pub interval: Duration,
}

impl Rate {
    /// So many within each span, and up to `burst` at once. Nothing is less than one.
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

    /// Whether `cost` more may come at `now`, if `full_at` is what this said last; `Ok` with what to keep, `Err` with how
    /// long to wait. Times are milliseconds since 1970. What costs more than the burst never fits, so it counts as the
    /// burst.
    ///
    /// Source of the method: the generic cell rate algorithm, ITU-T I.371, in its virtual scheduling form.
    pub(crate) fn take(self, full_at: Option<f64>, cost: u32, now: f64) -> Result<f64, Duration> {
        let interval = self.interval.as_secs_f64() * 1_000.0;
        let next = full_at.unwrap_or(now).max(now) + f64::from(cost.min(self.burst)) * interval;
        let wait = next - f64::from(self.burst) * interval - now;
        // A clock counts whole milliseconds.
        if wait < 1.0 { Ok(next) } else { Err(Duration::from_millis(wait.ceil() as u64)) }
    }
}

/// What one user may cause. `None` lifts a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages that a user sends, by all its connections.
    pub sends: Option<Rate>,
    /// Acks.
    pub acks: Option<Rate>,
    /// Everything else that a user says, each request by its weight.
    pub requests: Option<Rate>,
    /// Handshakes.
    pub connects: Option<Rate>,
    /// Recipients to whom a user has not written lately: each may need a queue.
    pub new_recipients: Option<Rate>,
    /// How much of what waits for one user may come from one sender.
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
    /// No limit at all, as for a benchmark.
    pub const OFF: Self =
        Self { sends: None, acks: None, requests: None, connects: None, new_recipients: None, share: None };
}

/// One sender's share of what may wait for one recipient, in bytes. A small message counts as `least`, so that the number
/// of messages is shared as their bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Bytes of one sender that wait for one recipient at most.
    pub bytes: u64,
    /// As how many bytes a message counts at least.
    pub least: u64,
    /// How long a message waits at most; then it does not count any more.
    pub retention: Duration,
}

impl Share {
    /// So many hundredths of a queue that holds so many bytes and messages.
    #[must_use]
    pub fn of_queue(percent: u8, bytes: u64, messages: u32, retention: Duration) -> Self {
        let share = bytes.saturating_mul(percent.min(100).into()) / 100;
        Self { bytes: share.max(LEAST_SHARE), least: bytes / u64::from(messages.max(1)), retention }
    }

    /// As how much a message counts whose text takes so many bytes as JSON.
    #[must_use]
    pub fn weight(&self, bytes: usize) -> u64 {
        u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(ENVELOPE).max(self.least)
    }

    /// The bucket from which a user speaks in rooms, and as how much a message counts there. Nobody knows how much of it
    /// waits for each member, so what is said counts for as long as it may wait; the unit is [`Self::least`].
    #[must_use]
    pub fn in_rooms(&self, bytes: usize) -> (Rate, u32) {
        let units = |bytes: u64| u32::try_from(bytes.div_ceil(self.least.max(1))).unwrap_or(u32::MAX);
        let burst = units(self.bytes);
        (Rate::new(burst, self.retention, burst), units(self.weight(bytes)))
    }
}

/// How often a user may be refused until it is blocked for [`BLOCKED`]. Whoever waits as told is refused once for each time
/// that it is not, by the usual rate: so it may be refused as often as that.
pub const REFUSALS: Rate = Rate { burst: 500, interval: Duration::from_millis(20) };

/// Messages of one user within a day, as long as sends are limited at all: what is remembered of each for a day takes
/// memory of the registry.
pub const SENDS_A_DAY: Rate = Rate { burst: 100_000, interval: Duration::from_millis(864) };

/// How long until a user's connections are checked again, as there is no room for one more.
pub const CHECK_AGAIN: Duration = Duration::from_secs(5);

/// For how long it is remembered to whom a user has written.
pub const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How long a user is blocked who went on in spite of refusals: its connections are closed, and handshakes are refused.
pub const BLOCKED: Duration = Duration::from_secs(60);

/// How long until the owner of a blocked user is told once more to close its connections: the first word may get lost.
pub const KICK_AGAIN: Duration = Duration::from_secs(5);

/// How many of the recipients to whom a user has written are remembered; one who was forgotten counts as new.
pub const KNOWN_RECIPIENTS: usize = 1_000;

/// For how long it is remembered that a connection has ended: longer than a function that wants to create it may take.
pub const ENDED: Duration = Duration::from_secs(120);

/// What a message takes in a queue beside its text: ids in both directions, and the names of the fields.
const ENVELOPE: u64 = 400;

/// The smallest share: the largest message fits into it.
const LEAST_SHARE: u64 = 64 << 10;

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
    fn rate_after_long_rest_allows_burst_and_no_more() {
        let mut full_at = Some(0.0);
        for _ in 0..3 {
            full_at = Some(RATE.take(full_at, 1, 1e12).unwrap());
        }
        assert!(RATE.take(full_at, 1, 1e12).is_err());
    }

    #[test]
    fn share_counts_small_messages_as_a_part_of_the_number() {
        let share = Share::of_queue(25, 1_000_000, 1_000, Duration::from_secs(60));
        assert_eq!((share.bytes, share.least), (250_000, 1_000));
        assert_eq!((share.weight(3), share.weight(7_000)), (1_000, 7_400));
        assert!(Share::of_queue(1, 1, 1, Duration::from_secs(60)).bytes > share.weight(28 * 1_024));
    }
}
