//! Warns and closes connections whose tokens have expired.

use std::{sync::PoisonError, time::Duration};

use kschat_protocol::{ConnectionId, Control, ProtocolVersion};
use tokio::time::sleep;

use super::deps::Deps;
use crate::{Session, backoff::Backoff};

/// How long a connection stays open after its token has expired, so that its client can renew it.
const TOKEN_RENEWAL_GRACE_PERIOD: Duration = Duration::from_secs(30);

/// Waits between attempts to check whether a connection is still expired, or to close it.
const EXPIRED_CONNECTION_RETRY_BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(30) };

/// A connection that is being warned and closed, while that takes place.
pub(super) struct ExpiredConnection {
    deps: Deps,
    connection: ConnectionId,
    session: Session,
}

impl ExpiredConnection {
    /// `None` if a task handles this connection already.
    pub(super) fn begin(deps: &Deps, connection: ConnectionId, session: Session) -> Option<Self> {
        let is_first =
            deps.expiring_connections.lock().unwrap_or_else(PoisonError::into_inner).insert(connection.clone());
        is_first.then(|| Self { deps: deps.clone(), connection, session })
    }

    /// Warns the client that its token has expired, and closes the connection unless the client renews the token in
    /// time. By then the user may have no delivery task. If this process dies meanwhile, the connection stays open but
    /// unusable: nothing is pushed to it, and nothing is accepted from it.
    pub(super) async fn warn_and_close(self) {
        if !self.is_still_expired().await {
            return;
        }
        let frame = self.session.dialect.encode(&Control::EXPIRED.into());
        if self.session.version == ProtocolVersion::V2
            && let Err(error) = self.deps.edge.post(&self.connection, &frame).await
        {
            tracing::debug!(error = &error as &dyn std::error::Error, "notifying a client of its expired token failed");
        }
        sleep(TOKEN_RENEWAL_GRACE_PERIOD).await;
        for tries in 0.. {
            if !self.is_still_expired().await {
                return;
            }
            let Err(error) = self.deps.edge.close_connection(&self.connection).await else { return };
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "closing a connection with an expired token failed; retrying"
            );
            if !self.wait_before_retry(tries).await {
                return;
            }
        }
    }

    /// Whether the registry still has the connection without a newer token. While the registry is unavailable, the
    /// connection stays open and the check is repeated.
    async fn is_still_expired(&self) -> bool {
        for tries in 0.. {
            match self.deps.registry.session(&self.connection).await {
                Ok(session) => return session.is_some_and(|session| session.is_expired(self.deps.clock.now())),
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "checking a connection's token expiry failed; retrying"
                ),
            }
            if !self.wait_before_retry(tries).await {
                return false;
            }
        }
        false
    }

    /// Waits for the next attempt; returns whether the connection may still be open then. The edge closes each in the
    /// end.
    async fn wait_before_retry(&self, tries: u32) -> bool {
        sleep(EXPIRED_CONNECTION_RETRY_BACKOFF.wait(tries)).await;
        self.deps.clock.now() < self.session.retained_until()
    }
}

impl Drop for ExpiredConnection {
    fn drop(&mut self) {
        self.deps.expiring_connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.connection);
    }
}
