//! What becomes of a connection whose token ends while it is open.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kschat_protocol::{ConnectionId, Control, Version};
use tokio::time::{Instant, sleep};

use super::{Courier, Deps};
use crate::{Session, backoff::Backoff, job};

/// How long a connection stays open after its token has ended: a client that brings a fresh one goes on.
const GRACE: Duration = Duration::from_secs(30);

/// The longest sleep until somebody's token ends: the clock may be set.
const NAP: Duration = Duration::from_secs(60 * 60);

/// Waits between tries to find out whether a connection is over, or to close it.
const AGAIN: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(30) };

/// The connections that are being seen off, each once.
pub(crate) type SeenOff = Arc<Mutex<HashSet<ConnectionId>>>;

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
            if session.is_expired(now)
                && let Some(farewell) = Farewell::begin(self.deps, connection, session)
            {
                job::spawn("see_off", farewell.see_off());
            }
        }
    }
}

/// A connection that is being seen off, for as long as that takes.
struct Farewell {
    deps: Deps,
    connection: ConnectionId,
    session: Session,
}

impl Farewell {
    /// Begins, unless somebody is at it.
    fn begin(deps: &Deps, connection: ConnectionId, session: Session) -> Option<Self> {
        let is_first = deps.seen_off.lock().unwrap_or_else(PoisonError::into_inner).insert(connection.clone());
        is_first.then(|| Self { deps: deps.clone(), connection, session })
    }

    /// Tells the client that its token has ended, and closes its connection unless it has brought a fresh one in time. By
    /// then nobody may serve the user any more. Should this process die meanwhile, the connection stays open and useless:
    /// nothing is pushed to it, and nothing is taken from it.
    async fn see_off(self) {
        if !self.is_over().await {
            return;
        }
        let frame = self.session.dialect.encode(&Control::EXPIRED.to_text()).into_owned();
        if self.session.version == Version::V2
            && let Err(error) = self.deps.connections.post(&self.connection, &frame).await
        {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a client does not hear that its token has ended"
            );
        }
        sleep(GRACE).await;
        for tries in 0.. {
            if !self.is_over().await {
                return;
            }
            let Err(error) = self.deps.connections.close(&self.connection).await else { return };
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a connection without a good token can't be closed for now"
            );
            if !self.rest(tries).await {
                return;
            }
        }
    }

    /// Whether the registry still knows the connection, and no better token of it. As long as nobody can tell, nobody is cut
    /// off, and it is asked again.
    async fn is_over(&self) -> bool {
        for tries in 0.. {
            match self.deps.registry.session(&self.connection).await {
                Ok(session) => return session.is_some_and(|session| session.is_expired(self.deps.clock.now())),
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "whether a connection has a good token is not known; asking again"
                ),
            }
            if !self.rest(tries).await {
                return false;
            }
        }
        false
    }

    /// Waits for the next try; says whether the connection may still be open then: the edge closes each in the end.
    async fn rest(&self, tries: u32) -> bool {
        sleep(AGAIN.wait(tries)).await;
        self.deps.clock.now() < self.session.forgotten_at()
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.deps.seen_off.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.connection);
    }
}
