//! Those who are connected, and have not said yet who they are.
//!
//! They have no queue and hear no messages: they are greeted, and waited for.

use std::time::Duration;

use kschat_protocol::{ConnectionId, UserId, dialect::JOIN_WITHIN};
use tokio::time::Instant;

use crate::{
    audience::GRACE,
    backoff::Backoff,
    deliver::{Deps, End, Signals},
    ports::{PostError, Reachable},
};

/// Connections in the lobby of one process at most; one more is ended at once.
pub(crate) const PLACES: usize = 1_000;

/// Waits between tries to greet.
const GREET: Backoff = Backoff { base: Duration::from_millis(20), cap: Duration::from_secs(1) };

/// Greets the connection behind a nameless user, and ends it unless it has joined under a name in time.
pub(crate) async fn receive(deps: &Deps, nobody: &UserId, signals: &Signals) -> End {
    let place = deps.lobby.try_acquire();
    let (mut greeted, mut tries, seen) = (false, 0, Instant::now());
    loop {
        let now = deps.clock.now();
        let reachable = match deps.registry.connections(nobody, now).await {
            Ok(reachable) => reachable,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the lobby can't be looked into");
                return End::Stuck;
            }
        };
        let Some(Reachable { connection, session }) = reachable.into_iter().next() else { return End::Offline };
        let left = session.connected.plus(JOIN_WITHIN).millis().saturating_sub(now.millis());
        if left == 0 || place.is_err() {
            return turn_away(deps, nobody, &connection).await;
        }
        let mut wait = Duration::from_millis(left);
        if !greeted {
            match greet(deps, &connection, &session.dialect.greeting(&connection, deps.heartbeat)).await {
                Ok(()) => greeted = true,
                Err(PostError::Gone) if seen.elapsed() >= GRACE => return turn_away(deps, nobody, &connection).await,
                Err(_) => {
                    tries += 1;
                    wait = wait.min(GREET.wait(tries));
                }
            }
        }
        tokio::select! {
            () = signals.stop.cancelled() => return End::Stopped,
            () = signals.refresh.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn greet(deps: &Deps, connection: &ConnectionId, packets: &[String]) -> Result<(), PostError> {
    for packet in packets {
        deps.connections.post(connection, packet).await?;
    }
    Ok(())
}

async fn turn_away(deps: &Deps, nobody: &UserId, connection: &ConnectionId) -> End {
    tracing::info!("a connection that nobody has claimed is ended");
    if let Err(error) = deps.registry.remove(nobody, connection).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "an unclaimed connection stays registered for now");
    }
    if let Err(error) = deps.connections.close(connection).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "an unclaimed connection can't be closed");
    }
    End::Offline
}
