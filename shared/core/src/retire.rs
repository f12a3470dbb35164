//! What becomes of a queue when its user is away.
//!
//! A queue is needed only while its user is online or messages wait in it. So an empty one is removed some time after
//! the user has gone, and made anew when the user returns or a sender asks for it. One that stays is looked at now and
//! then: that keeps the broker from giving it up together with what waits in it, and finds out when the last message has
//! grown too old. An empty one stays if its user is in a room, and nobody is told of what comes into it: so it is looked at
//! just as if messages waited.

use std::time::Duration;

use futures_util::{
    FutureExt,
    future::{BoxFuture, try_join},
};
use kschat_protocol::UserId;
use tokio::time::sleep;

use crate::{
    Partition,
    deliver::{Deps, Signals},
    ports::{Retired, RoomsOfUser, Unavailable},
    rooms,
};

/// How long a user is away until the queue goes: most come back at once, as from a reload of the page.
///
/// It is also longer than a sender works on one message. A sender makes the queue itself when nobody owns the user, and
/// must be done by the time at which whoever has become the owner since then could remove it.
const LINGER: Duration = Duration::from_secs(10);

/// How many queues of one partition are looked at in one go.
const AT_ONCE: usize = 256;

/// When a queue is looked at that was made for a message, or may be out of the routing.
pub(crate) const FIRST_LOOK: Duration = Duration::from_secs(60);

/// Removes the queue of a user who is away, or notes when it must be looked at. Ends early when the user returns, a sender
/// asks for the queue, or the partition goes. Only the user's owner may do this, and not while it serves the user.
pub(crate) async fn retire(deps: &Deps, user: &UserId, signals: &Signals) {
    let called_back = async {
        tokio::select! {
            () = signals.wanted.arrived() => {}
            () = signals.refresh.notified() => {}
            () = signals.stop.cancelled() => {}
        }
    };
    let mut called_back = called_back.boxed().shared();
    let is_called_back = tokio::select! {
        biased;
        // Another one looks after it now.
        () = signals.stop.cancelled() => return,
        () = &mut called_back => true,
        () = sleep(LINGER) => false,
    };
    // What has begun is brought to its end, also when the partition goes: a removal that was given up on the way might be
    // done by the broker after the next owner has made the queue.
    let retired = if is_called_back {
        match make(deps, user, signals).await {
            Some(made) => made,
            None => return,
        }
    } else {
        remove(deps, user, called_back.boxed()).await
    };
    let look_in = |span| deps.backlogs.note(user, deps.clock.now().plus(span));
    let noted = match retired {
        Ok(Retired::Gone) => try_join(deps.backlogs.clear(user), nothing_waits(deps, user)).await.map(|_| ()),
        Ok(Retired::Kept) => look_in(FIRST_LOOK).await,
        Ok(Retired::Idle(safe)) => try_join(look_in(safe / 2), nothing_waits(deps, user)).await.map(|_| ()),
        // Long before the broker gives the queue up.
        Ok(Retired::Waiting(safe)) => look_in(safe / 2).await,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a queue can't be looked at for now");
            look_in(FIRST_LOOK).await
        }
    };
    if let Err(error) = noted {
        tracing::warn!(error = &error as &dyn std::error::Error, "a backlog is not counted as it is");
    }
}

/// Nothing of any sender waits in the queue.
async fn nothing_waits(deps: &Deps, user: &UserId) -> Result<(), Unavailable> {
    match &deps.shares {
        Some(shares) => shares.clear_shares(user).await,
        None => Ok(()),
    }
}

/// Has the queue made, for a sender when it is the sender's turn; `None` when the user is to be looked at again before
/// that, or by another owner.
async fn make(deps: &Deps, user: &UserId, signals: &Signals) -> Option<Result<Retired, Unavailable>> {
    let _turn = match signals.wanted.asker() {
        None => None,
        Some(asker) => tokio::select! {
            biased;
            () = signals.stop.cancelled() => return None,
            // The user has come: that is nobody else's turn.
            () = signals.refresh.notified() => return None,
            turn = deps.requests.turn(asker) => match turn {
                Some(turn) => Some(turn),
                // If there is one, it is looked at.
                None => return Some(Ok(Retired::Kept)),
            },
        },
    };
    Some(deps.mailbox.ensure(user).await.map(|()| Retired::Kept))
}

/// Removes the queue, unless its user is in a room: what is said there must not be lost.
async fn remove(deps: &Deps, user: &UserId, called_back: BoxFuture<'_, ()>) -> Result<Retired, Unavailable> {
    let Some(memberships) = deps.rooms.as_deref() else { return deps.mailbox.retire(user, called_back).await };
    let RoomsOfUser { rooms, left } = memberships.rooms_and_left(user).await?;
    let state = if rooms.is_empty() { None } else { Some(deps.mailbox.look(user).await?) };
    if !left.is_empty() && state != Some(Retired::Gone) {
        // Otherwise what is said there would keep the queue.
        rooms::settle_all(memberships, &*deps.mailbox, user).await?;
    }
    if let Some(state) = state {
        return Ok(state);
    }
    let retired = deps.mailbox.retire(user, called_back).await?;
    if retired != Retired::Gone || memberships.rooms(user).await?.is_empty() {
        return Ok(retired);
    }
    // Who has come and joined a room at that very moment has bound the queue that has gone.
    deps.mailbox.ensure(user).await?;
    rooms::settle_all(memberships, &*deps.mailbox, user).await?;
    Ok(Retired::Kept)
}

/// How many users of these partitions are away and keep their queues.
///
/// # Errors
/// [`Unavailable`] when nobody could be asked.
pub async fn count(deps: &Deps, partitions: impl IntoIterator<Item = Partition>) -> Result<u64, Unavailable> {
    let mut count = 0;
    for partition in partitions {
        count += deps.backlogs.count(partition).await?;
    }
    Ok(count)
}

/// The users of a partition whose queues must be looked at by now: a bounded number of them, and the rest next time.
///
/// # Errors
/// [`Unavailable`] when nobody could be asked.
pub async fn due(deps: &Deps, partition: Partition) -> Result<Vec<UserId>, Unavailable> {
    deps.backlogs.due(partition, deps.clock.now(), AT_ONCE).await
}
