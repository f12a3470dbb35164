//! What becomes of a connection whose token ends while it is open.

use std::time::Duration;

use kschat_protocol::{ConnectionId, Control, Version};
use tokio::time::{Instant, sleep};

use super::{Courier, Deps};
use crate::Session;

/// How long a connection stays open after its token has ended: a client that brings a fresh one goes on.
const GRACE: Duration = Duration::from_secs(30);

/// The longest sleep until somebody's token ends: the clock may be set.
const NAP: Duration = Duration::from_secs(60 * 60);

impl Courier<'_> {
    /// When the next token ends, or a little earlier.
    pub(super) fn next_expiry(&self) -> Instant {
        let left = self.audience.next_expiry().map(|end| end.since(self.deps.clock.now()));
        Instant::now() + left.unwrap_or(NAP).min(NAP)
    }

    /// Pushes nothing more to those whose tokens have ended.
    pub(super) fn drop_expired(&mut self) {
        let now = self.deps.clock.now();
        for (connection, session) in self.audience.take_expired(now) {
            if session.is_expired(now) {
                tokio::spawn(see_off(self.deps.clone(), connection, session));
            }
        }
    }
}

/// Tells the client that its token has ended, and closes its connection unless it has brought a fresh one in time. By then
/// nobody may serve the user any more. Should this process die meanwhile, the connection stays open and useless: nothing
/// is pushed to it, and nothing is taken from it.
async fn see_off(deps: Deps, connection: ConnectionId, session: Session) {
    if !is_over(&deps, &connection).await {
        return;
    }
    if session.version == Version::V2
        && let Err(error) =
            deps.connections.post(&connection, &session.dialect.encode(&Control::EXPIRED.to_text())).await
    {
        tracing::debug!(error = &error as &dyn std::error::Error, "a client does not hear that its token has ended");
    }
    sleep(GRACE).await;
    if is_over(&deps, &connection).await
        && let Err(error) = deps.connections.close(&connection).await
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "a connection without a good token can't be closed");
    }
}

/// Whether the registry still knows the connection, and no better token of it.
async fn is_over(deps: &Deps, connection: &ConnectionId) -> bool {
    // As long as nobody can tell, nobody is cut off.
    let session = deps.registry.session(connection).await.ok().flatten();
    session.is_some_and(|session| session.is_expired(deps.clock.now()))
}
