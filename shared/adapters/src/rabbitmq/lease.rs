//! The lease under which a process may consider itself the owner of its partitions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Detects that this process was stopped for longer than the broker waits.
///
/// After such a pause other processes own our partitions, while the buffered messages here look as fresh as ever.
#[derive(Debug)]
pub(super) struct Lease {
    start: Instant,
    heartbeat: Duration,
    last_renewal: AtomicU64,
    ended: AtomicBool,
}

impl Lease {
    /// A lease that is renewed for as long as this process runs without too long a pause.
    pub(super) fn start(heartbeat: Duration) -> Arc<Self> {
        let lease = Arc::new(Self::new(heartbeat));
        let beats = Arc::clone(&lease);
        tokio::spawn(async move {
            while beats.renew() {
                tokio::time::sleep(heartbeat / 8).await;
            }
        });
        lease
    }

    fn new(heartbeat: Duration) -> Self {
        let (last_renewal, ended) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { start: Instant::now(), heartbeat, last_renewal, ended }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn is_valid(&self) -> bool {
        let silence = self.elapsed().saturating_sub(self.last_renewal.load(Ordering::Acquire));
        !self.ended.load(Ordering::Acquire) && u128::from(silence) < self.heartbeat.as_millis()
    }

    /// Renews the lease; returns whether the process has run without too long a pause.
    fn renew(&self) -> bool {
        if !self.is_valid() {
            self.end();
            return false;
        }
        self.last_renewal.store(self.elapsed(), Ordering::Release);
        true
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lease_ends_after_pause_beyond_heartbeat() {
        let lease = Lease::new(Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(lease.is_valid() && lease.renew());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(lease.is_valid());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!lease.is_valid() && !lease.renew());
        assert!(!lease.renew(), "an ended lease stays ended");
    }
}
