//! Detects pauses of this process after which it may own nothing any more.

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
/// Whoever gives up the connection abandons the guard, to the same effect: nothing more is done over that connection.
#[derive(Debug)]
pub(super) struct PauseGuard {
    start: Instant,
    heartbeat: Duration,
    last_beat: AtomicU64,
    is_abandoned: AtomicBool,
}

impl PauseGuard {
    /// A guard that stays intact for as long as this process runs without too long a pause.
    pub(super) fn start(heartbeat: Duration) -> Arc<Self> {
        let guard = Arc::new(Self::new(heartbeat));
        let beating = Arc::clone(&guard);
        tokio::spawn(async move {
            while beating.beat() {
                tokio::time::sleep(heartbeat / 8).await;
            }
        });
        guard
    }

    fn new(heartbeat: Duration) -> Self {
        let (last_beat, is_abandoned) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { start: Instant::now(), heartbeat, last_beat, is_abandoned }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether there was neither too long a pause nor [`Self::abandon`].
    pub(super) fn is_intact(&self) -> bool {
        let silence = self.elapsed().saturating_sub(self.last_beat.load(Ordering::Acquire));
        !self.is_abandoned.load(Ordering::Acquire) && u128::from(silence) < self.heartbeat.as_millis()
    }

    /// Notes that the process runs; returns whether it has run without too long a pause.
    fn beat(&self) -> bool {
        if !self.is_intact() {
            self.abandon();
            return false;
        }
        self.last_beat.store(self.elapsed(), Ordering::Release);
        true
    }

    /// Ends it for good.
    pub(super) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pause_beyond_heartbeat_is_detected() {
        let guard = PauseGuard::new(Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(guard.is_intact() && guard.beat());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(guard.is_intact());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!guard.is_intact() && !guard.beat());
        assert!(!guard.beat(), "what was detected stays so");
    }
}
