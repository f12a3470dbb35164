//! Background jobs whose panics are reported.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::task::JoinHandle;

use crate::metrics;

/// A job has panicked because of a bug. Everything it held was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Panicked;

/// Runs a job and survives its panic, which is logged and counted under the job's name; the caller decides what happens
/// next. The panic message is on standard error already, and may hold a user's id.
///
/// ```
/// use kschat_core::job::{Panicked, catch_panic};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// assert_eq!(catch_panic("sum", async { 1 + 1 }).await, Ok(2));
/// assert_eq!(catch_panic("bug", async { panic!("a bug") }).await, Err::<(), _>(Panicked));
/// # }
/// ```
///
/// # Errors
/// [`Panicked`].
pub async fn catch_panic<T>(name: &'static str, work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|_| {
        metrics::PANICS.add_to(name);
        tracing::error!(job = name, "a job panicked");
        Panicked
    })
}

/// Runs a job in a task of its own; a panic is logged and counted.
pub fn spawn(name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        // The panic is logged and counted, and nobody awaits this task.
        let _ = catch_panic(name, work).await;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_ends_only_its_job() {
        assert_eq!(catch_panic("test", async { 7 }).await, Ok(7));
        assert_eq!(catch_panic("test", async { panic!("on purpose") }).await, Err::<(), _>(Panicked));
        spawn("test", async { panic!("on purpose") }).await.unwrap();
    }
}
