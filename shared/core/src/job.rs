//! Work that goes on by itself, and must not go down in silence.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::task::JoinHandle;

use crate::metrics;

/// A piece of work has panicked: there is a mistake in it. Nothing that it has held is held any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

/// Does some work, and survives its panic: that is logged and counted under the name of the job, and whoever has asked for
/// the work decides what becomes of it. What the panic says is on standard error already, and may hold a user's id.
///
/// # Errors
/// [`Panicked`].
pub async fn guard<T>(name: &'static str, work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|_| {
        metrics::PANICS.add_to(name);
        tracing::error!(job = name, "a job has panicked");
        Panicked
    })
}

/// Does some work in a task of its own, likewise.
pub fn spawn(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        // It is logged and counted, and nobody waits for this.
        let _ = guard(name, work).await;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_ends_the_job_alone() {
        assert_eq!(guard("test", async { 7 }).await, Ok(7));
        assert_eq!(guard("test", async { panic!("on purpose") }).await, Err::<(), _>(Panicked));
        spawn("test", async { panic!("on purpose") }).await.unwrap();
    }
}
