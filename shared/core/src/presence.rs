//! Who is there, and who wants to know.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use kschat_protocol::{JsonId, Notice, PeerPresence, PresenceReply, UserId};
use tokio::time::sleep;

use crate::{
    Clock, Session, Timestamp, job,
    ports::{ConnectionRegistry, Notices, Presence, Presences, Seen},
    request::{Deps, RequestError},
};

/// For how long who asks is told of changes.
const WATCHED: Duration = Duration::from_secs(10 * 60);

/// How long a user may be without any connection and not count as gone: most come back at once.
const ABSENCE: Duration = Duration::from_secs(5);

/// Watchers who are being told at once.
const FAN_OUT: usize = 16;

/// Says who of these is there, as a frame, and has the session's user told of changes for a while.
pub(crate) async fn presence(
    deps: &Deps,
    session: &Session,
    asked: &[(JsonId, UserId)],
) -> Result<String, RequestError> {
    let users: Vec<UserId> = asked.iter().map(|(_, user)| user.clone()).collect();
    let now = deps.clock.now();
    let known = deps.presences.watch(&session.user, &users, now, now.plus(WATCHED)).await;
    let known = known.map_err(RequestError::Registry)?;
    let list = asked.iter().zip(known).map(|((id, _), presence)| told(id.clone(), presence, now));
    Ok(PresenceReply::of(list.collect()))
}

fn told(user: JsonId, presence: Presence, now: Timestamp) -> PeerPresence {
    match presence {
        Presence { is_reachable: true, .. } => PeerPresence { user, on: true, last: None },
        Presence { seen: Seen::Left(then), .. } => {
            let on = now.since(then) < ABSENCE;
            PeerPresence { user, on, last: (!on).then(|| then.millis()) }
        }
        Presence { seen: Seen::Never | Seen::Here, .. } => PeerPresence { user, on: false, last: None },
    }
}

/// Tells those who watch a user that it has come or gone.
///
/// What it tells may be lost, or told twice when an owner hands over meanwhile: whoever shows it asks again now and then.
pub struct Crier {
    registry: Arc<dyn ConnectionRegistry>,
    presences: Arc<dyn Presences>,
    notices: Arc<dyn Notices>,
    clock: Arc<dyn Clock>,
}

impl Crier {
    /// One that looks and tells by these.
    #[must_use]
    pub fn new(
        registry: Arc<dyn ConnectionRegistry>,
        presences: Arc<dyn Presences>,
        notices: Arc<dyn Notices>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { registry, presences, notices, clock }
    }

    /// A user is being served from now on: that is news, unless another owner did so before, or the user was away for a
    /// moment only.
    pub(crate) async fn came(self: &Arc<Self>, user: &UserId) {
        let before = match self.presences.came(user).await {
            Ok(before) => before,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "nobody is told who has come");
                return;
            }
        };
        let is_news = match before {
            Seen::Here => false,
            Seen::Never => true,
            Seen::Left(then) => self.clock.now().since(then) >= ABSENCE,
        };
        if is_news {
            let (crier, user) = (Arc::clone(self), user.clone());
            job::spawn("presence", async move { crier.tell(&user, true, None).await });
        }
    }

    /// A user has no connection any more: that is news, if it stays so.
    pub(crate) async fn left(self: &Arc<Self>, user: &UserId) {
        let now = self.clock.now();
        if let Err(error) = self.presences.left(user, now).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "when a user has left is not known");
        }
        let (crier, user) = (Arc::clone(self), user.clone());
        job::spawn("presence", async move {
            sleep(ABSENCE).await;
            let connections = crier.registry.connections(&user, crier.clock.now()).await;
            if connections.is_ok_and(|connections| connections.is_empty()) {
                crier.tell(&user, false, Some(now.millis())).await;
            }
        });
    }

    async fn tell(&self, user: &UserId, on: bool, last: Option<u64>) {
        let watchers = self.presences.watchers(user, self.clock.now()).await.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "who watches a user can't be read");
            Vec::new()
        });
        let notice = Notice::Presence(PeerPresence { user: JsonId::from(user), on, last });
        let tell = async |watcher: UserId| {
            if let Err(error) = self.notices.notify(&watcher, &notice).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a watcher is not told");
            }
        };
        stream::iter(watchers).for_each_concurrent(FAN_OUT, tell).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_away_for_a_moment_is_still_there() {
        let now = Timestamp::from_millis(1_000_000);
        let on = |is_reachable, seen| {
            let told = told(JsonId::Text("bob".to_owned()), Presence { is_reachable, seen }, now);
            (told.on, told.last)
        };
        assert_eq!(on(true, Seen::Never), (true, None));
        assert_eq!(on(true, Seen::Left(Timestamp::from_millis(1))), (true, None));
        assert_eq!(on(false, Seen::Left(Timestamp::from_millis(996_000))), (true, None));
        assert_eq!(on(false, Seen::Left(Timestamp::from_millis(995_000))), (false, Some(995_000)));
        // Its owner died before it left.
        assert_eq!(on(false, Seen::Here), (false, None));
    }
}
