//! Waits between retries.

use std::time::Duration;

/// Exponential backoff with full jitter: clients that failed together do not retry together.
///
/// ```
/// use std::time::Duration;
/// use kschat_core::backoff::Backoff;
///
/// let backoff = Backoff { base: Duration::from_millis(50), cap: Duration::from_secs(5) };
/// assert!(backoff.wait(0) <= Duration::from_millis(50));
/// assert!(backoff.wait(30) <= Duration::from_secs(5));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub base: Duration,
    /// The longest possible wait.
    pub cap: Duration,
}

impl Backoff {
    /// The wait after attempt number `attempt`, counted from 0: up to `base * 2^attempt`, at most `cap`.
    #[must_use]
    pub fn wait(&self, attempt: u32) -> Duration {
        self.longest_wait(attempt).mul_f64(fastrand::f64())
    }

    /// The longest that [`Self::wait`] can be: for a caller whom others do not wait with.
    #[must_use]
    pub fn longest_wait(&self, attempt: u32) -> Duration {
        self.base.saturating_mul(1 << attempt.min(20)).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_cap() {
        let backoff = Backoff { base: Duration::from_millis(50), cap: Duration::from_secs(5) };
        let ceilings = [0, 1, 2, 7, 99].map(|attempt| backoff.longest_wait(attempt).as_millis());
        assert_eq!(ceilings, [50, 100, 200, 5000, 5000]);
        assert!((0..1000).all(|attempt| backoff.wait(attempt) <= backoff.cap));
    }
}
