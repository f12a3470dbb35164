//! The consumer service: owns partitions, and serves their online users.
//!
//! [`run`] turns the changes that [`Ownership`] reports into one task per user, which runs [`delivery::serve`]. It is
//! level-triggered: a refresh only says that a user's connections should be read again, so a lost, late or repeated one
//! does no harm.

pub mod health;
mod supervisor;
pub mod watch;
pub mod wiring;

use std::time::Duration;

use kschat_core::{delivery, ports::Ownership};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use crate::supervisor::Supervisor;

/// How often all online users are read again: the longest effect of a lost refresh.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(60);

/// How often the queues of offline users that are due for a check are looked up.
const BACKLOG_SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// How long the last receipts may take during shutdown. Authors that can't be notified by then learn of it with the next
/// message.
const FINAL_RECEIPTS_TIMEOUT: Duration = Duration::from_millis(500);

/// How often the epoch markers in the registry are checked: the longest time for which no session may be known after a
/// data loss.
const EPOCH_MARKER_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Serves until `shutdown`; then completes posts in flight, requeues everything else, and leaves.
pub async fn run(deps: delivery::Deps, mut ownership: impl Ownership, shutdown: CancellationToken) {
    let batcher = deps.receipts.clone().map(|batcher| {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        (stop, tokio::spawn(async move { batcher.run(stopped).await }))
    });
    let mut supervisor = Supervisor::new(deps);
    let mut reconcile = every(RECONCILE_INTERVAL);
    let mut marker_check = every(EPOCH_MARKER_CHECK_INTERVAL);
    let mut sweep = every(BACKLOG_SWEEP_INTERVAL);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            event = ownership.next() => supervisor.handle_event(event),
            () = supervisor.handle_task_end() => {}
            _ = reconcile.tick() => supervisor.refresh_all_partitions(),
            _ = marker_check.tick() => supervisor.check_markers(),
            _ = sweep.tick() => supervisor.sweep_backlogs(),
        }
        for partition in supervisor.take_drained_partitions() {
            ownership.release(partition).await;
        }
    }
    ownership.stop_messages();
    supervisor.drain().await;
    if let Some((stop, batcher)) = batcher {
        stop.cancel();
        let _ = timeout(FINAL_RECEIPTS_TIMEOUT, batcher).await;
    }
    ownership.resign().await;
}

/// Ticks with this period, first after one.
fn every(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
