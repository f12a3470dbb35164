//! Rooms: what one says, all hear.
//!
//! The broker hands a message to everybody who is in the room: each one's queue is bound to it, and stays so while its user is
//! away. So the queue of somebody who is in a room is not removed when it is empty.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kschat_protocol::{JsonId, RoomId, RoomOp, RoomReply, UserId};
use tokio::time::{Instant, sleep};

use crate::{
    Session,
    ports::{Bound, Mailbox, Memberships, Queues, Requested, RoomBindings, RoomPolicy, RoomsOfUser, Unavailable},
    request::RequestError,
};

/// Rooms that one user is in at most.
const MAX_ROOMS: usize = 100;

/// How long we wait for a queue to be bound.
const FOR_A_QUEUE: Duration = Duration::from_secs(2);

/// How long we wait first; twice as long each time.
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// How often a binding is brought in line with the list that has changed meanwhile. Only who joins and leaves a room all
/// the time comes so far, and then it is that user's own matter.
const TURNS: u32 = 10;

const RESTLESS: &str = "the user joins and leaves all the time";

/// What rooms need.
#[derive(Clone)]
pub struct Deps {
    /// Remembers who is in which.
    pub memberships: Arc<dyn Memberships>,
    /// Binds queues.
    pub bindings: Arc<dyn RoomBindings>,
    /// Has a queue made that is not there yet.
    pub queues: Arc<dyn Queues>,
    /// Decides who may join.
    pub policy: Arc<dyn RoomPolicy>,
}

/// Lets everybody into every room.
#[derive(Clone, Copy, Debug, Default)]
pub struct Everybody;

#[async_trait]
impl RoomPolicy for Everybody {
    async fn may_join(&self, _session: &Session, _room: &RoomId) -> Result<bool, Unavailable> {
        Ok(true)
    }
}

/// Lets a user into the rooms that its token lists: by their ids, or by how these begin, as `team.*`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListedInToken;

#[async_trait]
impl RoomPolicy for ListedInToken {
    async fn may_join(&self, session: &Session, room: &RoomId) -> Result<bool, Unavailable> {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => room.as_str().starts_with(start),
            None => room.as_str() == pattern,
        };
        Ok(session.rooms.iter().flatten().any(fits))
    }
}

/// Puts the session's user into a room.
pub(crate) async fn join(deps: &Deps, session: &Session, room: &RoomId, gid: &JsonId) -> Result<String, RequestError> {
    if !deps.policy.may_join(session, room).await.map_err(RequestError::Registry)? {
        return Err(RequestError::Forbidden);
    }
    // The registry is written first: an owner who finds it there does not remove the queue.
    if !deps.memberships.join(&session.user, room, MAX_ROOMS).await.map_err(RequestError::Registry)? {
        return Err(RequestError::TooManyRooms);
    }
    bind(deps, &session.user, room).await?;
    Ok(RoomReply::of(RoomOp::Join, Some(gid.clone()), kschat_protocol::Er::Ok))
}

/// Takes the session's user out of a room. The list comes first here, too: whoever binds looks at it once more afterwards.
/// Should this process die before the queue is unbound, nobody has heard that the user has left: a client tries again, and
/// the owner unbinds what was left when it opens the queue next.
pub(crate) async fn leave(deps: &Deps, session: &Session, room: &RoomId, gid: &JsonId) -> Result<String, RequestError> {
    deps.memberships.leave(&session.user, room).await.map_err(RequestError::Registry)?;
    settle(deps, &session.user, room, false).await?;
    Ok(RoomReply::of(RoomOp::Leave, Some(gid.clone()), kschat_protocol::Er::Ok))
}

/// The rooms of the session's user.
pub(crate) async fn list(deps: &Deps, session: &Session) -> Result<String, RequestError> {
    let rooms = deps.memberships.rooms(&session.user).await.map_err(RequestError::Registry)?;
    Ok(RoomReply::list(rooms))
}

/// Why a binding may not be as the list says.
pub(crate) enum Unsettled {
    /// The list can't be read.
    Registry(Unavailable),
    /// The binding can't be changed.
    Broker(Unavailable),
}

impl From<Unsettled> for RequestError {
    fn from(error: Unsettled) -> Self {
        match error {
            Unsettled::Registry(error) => Self::Registry(error),
            Unsettled::Broker(error) => Self::Broker(error),
        }
    }
}

/// Binds the queue of a user who is in a room to it; says whether the user still is.
pub(crate) async fn bind(deps: &Deps, user: &UserId, room: &RoomId) -> Result<bool, Unsettled> {
    settle(deps, user, room, true).await
}

/// Brings the binding in line with the list, which says that the user is in the room, or is not; says how it ended.
///
/// Others may change both meanwhile: the user's other devices, and its owner. So everybody looks at the list again after
/// having changed the binding, and goes on until the two agree: whoever comes last to the broker has seen them agree.
async fn settle(deps: &Deps, user: &UserId, room: &RoomId, mut is_in: bool) -> Result<bool, Unsettled> {
    for _ in 0..TURNS {
        let changed = if is_in { bind_queue(deps, user, room).await } else { deps.bindings.unbind(user, room).await };
        changed.map_err(Unsettled::Broker)?;
        let listed = deps.memberships.is_member(user, room).await.map_err(Unsettled::Registry)?;
        if std::mem::replace(&mut is_in, listed) == listed {
            return Ok(is_in);
        }
    }
    Err(Unsettled::Registry(Unavailable::new("registry", "say whether a user is in a room", RESTLESS)))
}

/// What the owner of a user does when it opens the user's queue, which may have been made anew, or be bound to rooms that
/// the user has left.
pub(crate) async fn settle_all(
    memberships: &dyn Memberships,
    mailbox: &dyn Mailbox,
    user: &UserId,
) -> Result<(), Unavailable> {
    let mut known = memberships.rooms_and_left(user).await?;
    for _ in 0..TURNS {
        if known == RoomsOfUser::default() {
            return Ok(());
        }
        if !known.rooms.is_empty() {
            mailbox.bind_rooms(user, &known.rooms).await?;
        }
        if !known.left.is_empty() {
            mailbox.unbind_rooms(user, &known.left).await?;
        }
        let listed = memberships.rooms_and_left(user).await?;
        let before = std::mem::replace(&mut known, listed);
        if before == known {
            return if known.left.is_empty() { Ok(()) } else { memberships.forget_left(user).await };
        }
    }
    Err(Unavailable::new("registry", "say which rooms a user is in", RESTLESS))
}

/// Binds a user's queue to a room; has it made first if need be.
async fn bind_queue(deps: &Deps, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
    let began = Instant::now();
    let mut wait = FIRST_WAIT;
    while deps.bindings.bind(user, room).await? == Bound::NoQueue {
        if began.elapsed() > FOR_A_QUEUE {
            return Err(Unavailable::new("consumer", "make a queue", "it does not answer"));
        }
        if deps.queues.request(user, user).await? == Requested::Asked {
            sleep(wait).await;
            wait *= 2;
        }
    }
    Ok(())
}

#[cfg(test)]
mod races;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[tokio::test]
    async fn a_token_lists_rooms_by_their_ids_or_by_how_they_begin() {
        let session = |rooms: Option<&[&str]>| Session {
            user: UserId::try_from("alice").unwrap(),
            version: kschat_protocol::Version::V2,
            connected: Timestamp::from_millis(0),
            expires: None,
            dialect: kschat_protocol::dialect::Dialect::Raw,
            rooms: rooms.map(|rooms| rooms.iter().map(|room| (*room).to_owned()).collect()),
            source: None,
        };
        let may = async |rooms, room| {
            ListedInToken.may_join(&session(rooms), &RoomId::try_from(room).unwrap()).await.unwrap()
        };
        let listed = Some(&["lobby", "team.*"][..]);
        assert!(may(listed, "lobby").await && may(listed, "team.7").await);
        assert!(!may(listed, "lobby.2").await && !may(listed, "teams").await);
        assert!(!may(None, "lobby").await && !may(Some(&[]), "lobby").await && may(Some(&["*"]), "lobby").await);
    }
}
