//! Handles presence requests.

use std::time::Duration;

use kschat_protocol::{JsonId, PeerPresence, PresenceReply, ServerFrame, UserId};

use super::context::{Deps, RequestError};
use crate::{
    Session, Timestamp,
    limits::OFFLINE_GRACE_PERIOD,
    ports::{LastSeen, Presence},
};

/// How long a watcher receives presence events after its request.
const PRESENCE_WATCH_TTL: Duration = Duration::from_secs(10 * 60);

/// Returns the presence of these users and subscribes the session's user to changes for a while.
pub(crate) async fn presence(
    deps: &Deps,
    session: &Session,
    asked: &[(JsonId, UserId)],
) -> Result<ServerFrame, RequestError> {
    let users: Vec<UserId> = asked.iter().map(|(_, user)| user.clone()).collect();
    let now = deps.clock.now();
    let known = deps.presences.watch(&session.user, &users, now, now.plus(PRESENCE_WATCH_TTL)).await;
    let known = known.map_err(RequestError::Registry)?;
    let list = asked.iter().zip(known).map(|((id, _), presence)| peer_presence(id.clone(), presence, now));
    Ok(PresenceReply::of(list.collect()))
}

fn peer_presence(user: JsonId, presence: Presence, now: Timestamp) -> PeerPresence {
    match presence {
        Presence { is_reachable: true, .. } => PeerPresence { user, on: true, last: None },
        Presence { seen: LastSeen::OfflineSince(then), .. } => {
            let on = now.since(then) < OFFLINE_GRACE_PERIOD;
            PeerPresence { user, on, last: (!on).then(|| then.millis()) }
        }
        Presence { seen: LastSeen::Never | LastSeen::Online, .. } => PeerPresence { user, on: false, last: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brief_absence_still_counts_as_online() {
        let now = Timestamp::from_millis(1_000_000);
        let on = |is_reachable, seen| {
            let presence = peer_presence(JsonId::Text("bob".to_owned()), Presence { is_reachable, seen }, now);
            (presence.on, presence.last)
        };
        assert_eq!(on(true, LastSeen::Never), (true, None));
        assert_eq!(on(true, LastSeen::OfflineSince(Timestamp::from_millis(1))), (true, None));
        assert_eq!(on(false, LastSeen::OfflineSince(Timestamp::from_millis(996_000))), (true, None));
        assert_eq!(on(false, LastSeen::OfflineSince(Timestamp::from_millis(995_000))), (false, Some(995_000)));
        // The owner died before it recorded the departure.
        assert_eq!(on(false, LastSeen::Online), (false, None));
    }
}
