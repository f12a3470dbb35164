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
    ports::{Retired, Unavailable},
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
            () = signals.wanted.notified() => {}
            () = signals.refresh.notified() => {}
            () = signals.stop.cancelled() => {}
        }
    };
    let mut called_back = called_back.boxed().shared();
    let retired = tokio::select! {
        biased;
        // Another one looks after it now.
        () = signals.stop.cancelled() => return,
        () = &mut called_back => deps.mailbox.ensure(user).await.map(|()| Retired::Kept),
        () = sleep(LINGER) => remove(deps, user, called_back.boxed()).await,
    };
    let look_in = |span| deps.backlogs.note(user, deps.clock.now().plus(span));
    let noted = match retired {
        Ok(Retired::Gone) => {
            let nothing_waits = async {
                match &deps.shares {
                    Some(shares) => shares.clear_shares(user).await,
                    None => Ok(()),
                }
            };
            try_join(deps.backlogs.clear(user), nothing_waits).await.map(|_| ())
        }
        Ok(Retired::Kept) => look_in(FIRST_LOOK).await,
        // Long before the broker gives the queue up.
        Ok(Retired::Waiting(safe) | Retired::Idle(safe)) => look_in(safe / 2).await,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a queue can't be looked at for now");
            look_in(FIRST_LOOK).await
        }
    };
    if let Err(error) = noted {
        tracing::warn!(error = &error as &dyn std::error::Error, "a backlog is not counted as it is");
    }
}

/// Removes the queue, unless its user is in a room: what is said there must not be lost.
async fn remove(deps: &Deps, user: &UserId, called_back: BoxFuture<'_, ()>) -> Result<Retired, Unavailable> {
    let is_in_room = match &deps.rooms {
        Some(memberships) => !memberships.rooms(user).await?.is_empty(),
        None => false,
    };
    if is_in_room { deps.mailbox.look(user).await } else { deps.mailbox.retire(user, called_back).await }
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
