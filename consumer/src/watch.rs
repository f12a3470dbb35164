//! Health checks of idle dependencies: a registry that dies at night, and an edge that never takes a push.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kschat_core::{backoff::Backoff, metrics, ports::Unavailable};
use tokio::time::sleep;

/// The interval between checks of the registry.
const REGISTRY_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Waits between attempts to reach the edge.
const EDGE_CHECK_BACKOFF: Backoff = Backoff { base: Duration::from_secs(5), cap: Duration::from_secs(60) };

/// Whether the last check of the registry succeeded.
#[derive(Clone, Debug)]
pub struct RegistryHealth(Arc<AtomicBool>);

impl Default for RegistryHealth {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl RegistryHealth {
    /// Returns the last result.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Checks the registry at intervals, and logs changes. Never returns.
    pub async fn watch<Asked: Future<Output = Result<(), Unavailable>>>(self, ask: impl Fn() -> Asked) {
        loop {
            self.note(ask().await);
            sleep(REGISTRY_CHECK_INTERVAL).await;
        }
    }

    fn note(&self, answer: Result<(), Unavailable>) {
        metrics::REGISTRY_UP.set(usize::from(answer.is_ok()));
        let was_up = self.0.swap(answer.is_ok(), Ordering::Relaxed);
        match answer {
            Err(error) if was_up => {
                tracing::error!(
                    error = &error as &dyn Error,
                    "the registry is out of reach: nobody can connect or send"
                );
            }
            Ok(()) if !was_up => tracing::info!("the registry answers again"),
            Ok(()) | Err(_) => {}
        }
    }
}

/// Checks the edge until it has answered once, and logs each failure until then.
pub async fn watch_edge<Asked: Future<Output = Result<(), Unavailable>>>(ask: impl Fn() -> Asked) {
    let mut failures = 0;
    while let Err(error) = ask().await {
        tracing::error!(error = &error as &dyn Error, "the connections API can't be used: no push arrives");
        sleep(EDGE_CHECK_BACKOFF.wait(failures)).await;
        failures += 1;
    }
    tracing::info!("the connections API answers");
}
