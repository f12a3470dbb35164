//! How users' queues are made and removed.

use std::{num::NonZero, str::FromStr, time::Duration};

use kschat_core::ports::Retired;
use kschat_protocol::UserId;
use lapin::{Channel, Connection, ErrorKind, options::QueueDeleteOptions};
use tokio::{sync::Mutex, time::sleep};

use super::{
    NOT_FOUND, PRECONDITION_FAILED, QueueKind,
    topology::{adopt_user, declare_user, look_at, user_queue},
};

/// How often a declaration is tried that others on the same channel may have spoiled.
const TRIES: u32 = 3;

/// How long a quorum queue may take to count what was just given back to it: its nodes agree on that behind our back.
/// A wrong count costs little, as the queue stays in any case.
const SETTLE: Duration = Duration::from_millis(500);

/// How users' queues are, and for how long they keep what waits in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// The broker's type of queue.
    pub kind: QueueKind,
    /// How long a message waits for its receiver; then it is dead-lettered.
    pub retention: Duration,
    /// How many messages wait for one user at most; then senders are told that the queue is full.
    pub max_messages: NonZero<u32>,
    /// Whether the queue of a user who is away stays when it is empty: where strangers are refused, it is what tells a
    /// user from a stranger.
    pub keeps_empty: bool,
}

impl QueueSettings {
    /// The longest retention: the broker counts milliseconds in 32 bits, and a queue lives twice as long.
    ///
    /// Source: RabbitMQ, `rabbit_misc:check_expiry`.
    pub const MAX_RETENTION: Duration = Duration::from_secs(24 * 24 * 60 * 60);

    /// The shortest retention: who is away is looked after every half a minute.
    pub const MIN_RETENTION: Duration = Duration::from_secs(60);

    /// For how long the broker keeps a queue that nobody uses or looks at. Publishing is no use, so it is twice what
    /// the last message needs.
    pub(super) fn expiry(&self) -> Duration {
        self.retention * 2
    }
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            kind: QueueKind::Classic,
            retention: Duration::from_secs(14 * 24 * 60 * 60),
            max_messages: NonZero::new(100_000).unwrap_or(NonZero::<u32>::MIN),
            keeps_empty: false,
        }
    }
}

impl QueueKind {
    /// What the broker calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }
}

impl FromStr for QueueKind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "classic" => Ok(Self::Classic),
            "quorum" => Ok(Self::Quorum),
            _ => Err("must be `classic` or `quorum`"),
        }
    }
}

/// Declares and removes queues over a connection. A refusal closes its channel, so these have channels of their own.
#[derive(Debug, Default)]
pub(super) struct UserQueues {
    declares: Mutex<Option<Channel>>,
    /// One removal at a time: two on one channel would share a refusal.
    removals: Mutex<Option<Channel>>,
}

impl UserQueues {
    /// Makes sure that a user's queue is there. One that was made with other settings is taken as it is: it is made
    /// anew once it has been empty while its user was away.
    pub(super) async fn ensure(
        &self,
        connection: &Connection,
        user: &UserId,
        settings: &QueueSettings,
    ) -> Result<(), lapin::Error> {
        let mut tries = 1;
        loop {
            let channel = reopened(connection, &mut *self.declares.lock().await).await?;
            let Err(error) = declare_user(&channel, user, settings).await else { return Ok(()) };
            // The refusal may be our neighbour's: all that was under way on the channel hears it.
            let own = connection.create_channel().await?;
            match adopt_user(&own, user).await {
                Ok(()) => {
                    tracing::debug!("a queue with other settings is used as it is");
                    return own.close(200, "done".into()).await;
                }
                Err(missing) if code(&missing) == Some(NOT_FOUND) && tries < TRIES => tries += 1,
                Err(_) => return Err(error),
            }
        }
    }

    /// Removes a user's queue if nothing waits in it.
    pub(super) async fn retire(
        &self,
        connection: &Connection,
        user: &UserId,
        settings: &QueueSettings,
    ) -> Result<Retired, lapin::Error> {
        if settings.kind == QueueKind::Quorum {
            sleep(SETTLE).await;
        }
        let mut channel = self.removals.lock().await;
        let channel = reopened(connection, &mut channel).await?;
        let waiting = Ok(Retired::Waiting(settings.expiry()));
        match look_at(&channel, user_queue(user)).await {
            Ok((0, 0)) if settings.is_removable() => {}
            Ok((0, _)) => return Ok(Retired::Empty),
            Ok(_) => return waiting,
            Err(error) if code(&error) == Some(NOT_FOUND) => return Ok(Retired::Empty),
            Err(error) => return Err(error),
        }
        // Whatever has come meanwhile makes the broker refuse.
        let options = QueueDeleteOptions { if_unused: true, if_empty: true, ..QueueDeleteOptions::default() };
        match channel.queue_delete(user_queue(user), options).await {
            Ok(_) => Ok(Retired::Empty),
            Err(error) if code(&error) == Some(PRECONDITION_FAILED) => waiting,
            Err(error) => Err(error),
        }
    }
}

impl QueueSettings {
    /// Quorum queues know no conditional removal; a condition that we check ourselves could lose a message.
    ///
    /// Source: RabbitMQ, `rabbit_quorum_queue:delete`, which answers 540 to `if-empty` and `if-unused`.
    fn is_removable(&self) -> bool {
        self.kind == QueueKind::Classic && !self.keeps_empty
    }
}

/// The channel, or a new one in its place.
async fn reopened(connection: &Connection, channel: &mut Option<Channel>) -> Result<Channel, lapin::Error> {
    match channel {
        Some(open) if open.status().connected() => Ok(open.clone()),
        _ => Ok(channel.insert(connection.create_channel().await?).clone()),
    }
}

fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(refused) => Some(refused.get_id()),
        _ => None,
    }
}
