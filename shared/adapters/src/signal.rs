//! When to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for what an orchestrator (TERM) or a person (INT) sends to end a process in good order.
///
/// # Errors
/// When signals can't be listened to; then only a kill ends the process.
pub async fn stop_requested() -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
