//! Rate limiting.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// A token bucket that refills at this rate per second and holds one second's worth.
///
/// Source: Amazon API Gateway developer guide, "Throttle requests": it is a token bucket.
pub(super) struct Rate(Option<Bucket>);

struct Bucket {
    per_second: f64,
    // A std mutex: no guard is held across an await.
    state: Mutex<(Instant, f64)>,
}

impl Rate {
    pub(super) fn new(per_second: Option<u32>) -> Self {
        Self(per_second.map(|per_second| {
            let per_second = f64::from(per_second);
            Bucket { per_second, state: Mutex::new((Instant::now(), per_second)) }
        }))
    }

    /// Takes a token; returns whether there was one.
    pub(super) fn allows(&self) -> bool {
        let Some(bucket) = &self.0 else { return true };
        let mut state = bucket.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let filled = (state.1 + (now - state.0).as_secs_f64() * bucket.per_second).min(bucket.per_second);
        let allowed = filled >= 1.0;
        *state = (now, if allowed { filled - 1.0 } else { filled });
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rate_limiter_allows_burst_then_rate() {
        let rate = Rate::new(Some(10));
        let allowed = || (0..100).filter(|_| rate.allows()).count();
        assert_eq!(allowed(), 10);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(allowed(), 5);
        assert!(Rate::new(None).allows());
    }
}
