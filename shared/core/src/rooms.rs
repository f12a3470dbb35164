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
    ports::{Bound, Memberships, Queues, Requested, RoomBindings, RoomPolicy, Unavailable},
    request::RequestError,
};

/// Rooms that one user is in at most.
const MAX_ROOMS: usize = 100;

/// How long we wait for a queue to be bound.
const FOR_A_QUEUE: Duration = Duration::from_secs(2);

/// How long we wait first; twice as long each time.
const FIRST_WAIT: Duration = Duration::from_millis(5);

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
    bind(deps, &session.user, room).await.map_err(RequestError::Broker)?;
    Ok(RoomReply::of(RoomOp::Join, Some(gid.clone()), kschat_protocol::Er::Ok))
}

/// Takes the session's user out of a room.
pub(crate) async fn leave(deps: &Deps, session: &Session, room: &RoomId, gid: &JsonId) -> Result<String, RequestError> {
    deps.bindings.unbind(&session.user, room).await.map_err(RequestError::Broker)?;
    deps.memberships.leave(&session.user, room).await.map_err(RequestError::Registry)?;
    Ok(RoomReply::of(RoomOp::Leave, Some(gid.clone()), kschat_protocol::Er::Ok))
}

/// The rooms of the session's user.
pub(crate) async fn list(deps: &Deps, session: &Session) -> Result<String, RequestError> {
    let rooms = deps.memberships.rooms(&session.user).await.map_err(RequestError::Registry)?;
    Ok(RoomReply::list(rooms))
}

/// Binds a user's queue to a room; has it made first if need be.
pub(crate) async fn bind(deps: &Deps, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
    let began = Instant::now();
    let mut wait = FIRST_WAIT;
    while deps.bindings.bind(user, room).await? == Bound::NoQueue {
        if began.elapsed() > FOR_A_QUEUE {
            return Err(Unavailable::new("consumer", "make a queue", "it does not answer"));
        }
        if deps.queues.request(user).await? == Requested::Asked {
            sleep(wait).await;
            wait *= 2;
        }
    }
    Ok(())
}

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
