//! Rooms: every member receives every message.
//!
//! The broker copies a message to all members of the room: each member's queue is bound to it, and stays bound while
//! its user is offline. So the queue of a member is not removed when it is empty.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kschat_protocol::{RoomId, UserId};
use tokio::time::{Instant, sleep};

use crate::{
    Session,
    backoff::Backoff,
    ports::{
        BindOutcome, QueueManager, QueueProvisioner, QueueRequestOutcome, RoomBindings, RoomMemberships, RoomPolicy,
        Unavailable, UserRooms,
    },
};

/// How long a join waits for the queue that it binds.
const ROOM_BINDING_QUEUE_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits between two attempts to bind it.
const ROOM_BINDING_BACKOFF: Backoff = Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(320) };

/// Attempts to reconcile a binding with memberships that change meanwhile. Only a user who joins and leaves a room all
/// the time exceeds it, at its own expense.
const MAX_BINDING_RECONCILIATIONS: u32 = 10;

const MEMBERSHIP_KEEPS_CHANGING: &str = "the membership changes too often";

/// The dependencies of rooms.
#[derive(Clone)]
pub struct Deps {
    /// Stores the members.
    pub memberships: Arc<dyn RoomMemberships>,
    /// Binds queues.
    pub bindings: Arc<dyn RoomBindings>,
    /// Creates missing queues.
    pub queues: Arc<dyn QueueProvisioner>,
    /// Decides who may join.
    pub policy: Arc<dyn RoomPolicy>,
}

/// Lets every user into every room.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAllRooms;

#[async_trait]
impl RoomPolicy for AllowAllRooms {
    async fn may_join(&self, _session: &Session, _room: &RoomId) -> Result<bool, Unavailable> {
        Ok(true)
    }
}

/// Lets a user into the rooms that its token lists: by id, or by prefix, as `team.*`.
///
/// ```
/// # use kschat_core::{Session, Timestamp};
/// # use kschat_protocol::{ProtocolVersion, UserId, dialect::Dialect};
/// # fn session(rooms: &[&str]) -> Session {
/// #     Session {
/// #         user: UserId::try_from("alice").unwrap(),
/// #         version: ProtocolVersion::V2,
/// #         connected: Timestamp::from_millis(0),
/// #         expires: None,
/// #         dialect: Dialect::Raw,
/// #         rooms: Some(rooms.iter().map(|room| (*room).to_owned()).collect()),
/// #         source: None,
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use kschat_core::{ports::RoomPolicy, rooms::RoomsListedInToken};
/// use kschat_protocol::RoomId;
///
/// let alice = session(&["news", "team.*"]);
/// assert!(RoomsListedInToken.may_join(&alice, &RoomId::try_from("team.red")?).await?);
/// assert!(!RoomsListedInToken.may_join(&alice, &RoomId::try_from("board")?).await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RoomsListedInToken;

#[async_trait]
impl RoomPolicy for RoomsListedInToken {
    async fn may_join(&self, session: &Session, room: &RoomId) -> Result<bool, Unavailable> {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => room.as_str().starts_with(start),
            None => room.as_str() == pattern,
        };
        Ok(session.rooms.iter().flatten().any(fits))
    }
}

/// Why a binding may not match the membership.
pub(crate) enum BindingError {
    /// The membership can't be read.
    Registry(Unavailable),
    /// The binding can't be changed.
    Broker(Unavailable),
}

/// Binds the queue of a member to a room; returns whether the user is still a member.
pub(crate) async fn ensure_bound(deps: &Deps, user: &UserId, room: &RoomId) -> Result<bool, BindingError> {
    reconcile_binding(deps, user, room, true).await
}

/// Reconciles the binding of a user's queue with the membership, which starts as given; returns the final membership.
///
/// The user's other devices and its owner may change both meanwhile. So every process reads the membership again after
/// changing the binding, and repeats until the two agree: the last one to reach the broker has seen them agree.
pub(crate) async fn reconcile_binding(
    deps: &Deps,
    user: &UserId,
    room: &RoomId,
    mut is_in: bool,
) -> Result<bool, BindingError> {
    for _ in 0..MAX_BINDING_RECONCILIATIONS {
        let changed = if is_in { bind_queue(deps, user, room).await } else { deps.bindings.unbind(user, room).await };
        changed.map_err(BindingError::Broker)?;
        let listed = deps.memberships.is_member(user, room).await.map_err(BindingError::Registry)?;
        if std::mem::replace(&mut is_in, listed) == listed {
            return Ok(is_in);
        }
    }
    Err(BindingError::Registry(Unavailable::new(
        "registry",
        "read a stable room membership",
        MEMBERSHIP_KEEPS_CHANGING,
    )))
}

/// Reconciles all bindings when an owner opens a user's queue, which may be new, or bound to rooms that the user has
/// left.
pub(crate) async fn reconcile_all_bindings(
    memberships: &dyn RoomMemberships,
    queue_manager: &dyn QueueManager,
    user: &UserId,
) -> Result<(), Unavailable> {
    let mut known = memberships.rooms_and_left(user).await?;
    for _ in 0..MAX_BINDING_RECONCILIATIONS {
        if known == UserRooms::default() {
            return Ok(());
        }
        if !known.rooms.is_empty() {
            queue_manager.bind_rooms(user, &known.rooms).await?;
        }
        if !known.left.is_empty() {
            queue_manager.unbind_rooms(user, &known.left).await?;
        }
        let listed = memberships.rooms_and_left(user).await?;
        let before = std::mem::replace(&mut known, listed);
        if before == known {
            return if known.left.is_empty() { Ok(()) } else { memberships.clear_left_rooms(user).await };
        }
    }
    Err(Unavailable::new("registry", "read a stable list of rooms", MEMBERSHIP_KEEPS_CHANGING))
}

/// Binds a user's queue to a room; requests the queue first if necessary.
async fn bind_queue(deps: &Deps, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
    let began = Instant::now();
    let mut looks = 0;
    while deps.bindings.bind(user, room).await? == BindOutcome::NoQueue {
        if began.elapsed() > ROOM_BINDING_QUEUE_TIMEOUT {
            return Err(Unavailable::new("consumer", "create a queue", "it did not respond in time"));
        }
        if deps.queues.request_queue(user, user).await? != QueueRequestOutcome::Created {
            sleep(ROOM_BINDING_BACKOFF.longest_wait(looks)).await;
            looks += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[tokio::test]
    async fn token_lists_rooms_by_id_or_prefix() {
        let session = |rooms: Option<&[&str]>| Session {
            user: UserId::try_from("alice").unwrap(),
            version: kschat_protocol::ProtocolVersion::V2,
            connected: Timestamp::from_millis(0),
            expires: None,
            dialect: kschat_protocol::dialect::Dialect::Raw,
            rooms: rooms.map(|rooms| rooms.iter().map(|room| (*room).to_owned()).collect()),
            source: None,
        };
        let may = async |rooms, room| {
            RoomsListedInToken.may_join(&session(rooms), &RoomId::try_from(room).unwrap()).await.unwrap()
        };
        let listed = Some(&["news", "team.*"][..]);
        assert!(may(listed, "news").await && may(listed, "team.7").await);
        assert!(!may(listed, "sales.2").await && !may(listed, "teams").await);
        assert!(!may(None, "news").await && !may(Some(&[]), "news").await && may(Some(&["*"]), "news").await);
    }
}
