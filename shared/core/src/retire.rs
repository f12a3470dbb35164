//! What becomes of a queue when its user is away.
//!
//! A queue is needed only while its user is online or messages wait in it. So an empty one is removed when the user
//! goes, and the next message for the user, or the user's return, makes it anew. One in which messages wait is
//! looked at now and then: that keeps the broker from giving it up together with them, and finds out when the last
//! message has grown too old.

use kschat_protocol::UserId;

use crate::{
    Partition,
    deliver::Deps,
    ports::{Retired, Unavailable},
};

/// How many queues of one partition are looked at in one go.
const AT_ONCE: usize = 256;

/// Removes the queue of a user who is away, or notes when it must be looked at. Only the user's owner may do this, and
/// not while it serves the user.
pub async fn retire(deps: &Deps, user: &UserId) {
    let done = match deps.mailbox.retire(user).await {
        Ok(Retired::Empty) => deps.backlogs.clear(user).await,
        // Long before the broker gives the queue up.
        Ok(Retired::Waiting(safe)) => deps.backlogs.note(user, deps.clock.now().plus(safe / 2)).await,
        Err(error) => Err(error),
    };
    if let Err(error) = done {
        tracing::warn!(error = &error as &dyn std::error::Error, "a queue can't be looked at for now");
    }
}

/// The users of a partition whose queues must be looked at by now: a bounded number of them, and the rest next time.
///
/// # Errors
/// [`Unavailable`] when nobody could be asked.
pub async fn due(deps: &Deps, partition: Partition) -> Result<Vec<UserId>, Unavailable> {
    deps.backlogs.due(partition, deps.clock.now(), AT_ONCE).await
}
