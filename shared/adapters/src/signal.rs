//! Stop signals.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for the signal of an orchestrator (TERM) or a person (INT) to shut down.
///
/// # Errors
/// When installing the signal handlers failed; then only a kill ends the process.
pub async fn stop_requested() -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
