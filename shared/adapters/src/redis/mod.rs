//! Redis (or Valkey) behind [`ConnectionRegistry`](kschat_core::ports::ConnectionRegistry),
//! [`IdempotencyStore`](kschat_core::ports::IdempotencyStore), [`BacklogStore`](kschat_core::ports::BacklogStore),
//! [`SenderShares`](kschat_core::ports::SenderShares),
//! [`ReceiptStore`](kschat_core::ports::ReceiptStore), [`PresenceStore`](kschat_core::ports::PresenceStore) and
//! [`RoomMemberships`](kschat_core::ports::RoomMemberships).
//!
//! | key | type | holds |
//! |---|---|---|
//! | `ks:c:<connection>` | string | the session, until the edge has surely closed the connection |
//! | `ks:u:{<user>}:c` | hash | the user's connections, each with its session |
//! | `ks:on:{<partition>}` | sorted set | the partition's users, by the time until which each can be reached |
//! | `ks:i:{<user>}:<rno>` | string | the claim of the first send with that `rno` |
//! | `ks:q:{<partition>}` | sorted set | the partition's offline users with a backlog, by the time of their queues' next check |
//! | `ks:r:{<author>}:<reader>` | hash | the last of the author's messages that the reader has received (`d`) and read (`r`) |
//! | `ks:l:{<user>}` | string | `here`, or when the user went offline, in milliseconds |
//! | `ks:lc:{<user>}:<call>` | string | what was recorded before the user came online, for a second attempt of the same call |
//! | `ks:w:{<user>}` | sorted set | the watchers of the user's presence, by their expiry |
//! | `ks:g:{<user>}` | set | the rooms that the user is in, for as long as the user's queue is kept |
//! | `ks:gl:{<user>}` | sorted set | the rooms that the user has left lately, by the second: their bindings may remain |
//! | `ks:z:<connection>` | string | the user of a connection that has ended lately |
//! | `ks:b:{<user>}` | string | the user's token buckets, and until when it is blocked: ten doubles, laid out in `scripts/account.lua` |
//! | `ks:x:{<user>}:checked` | string | the user's connections are being checked, as their limit is reached |
//! | `ks:k:{<user>}` | sorted set | the user's recipients, by the time of the first message |
//! | `ks:f:{<user>}` | hash | each sender's share of the user's queue, counted since the last rotation; `:before`, before that |
//! | `ks:o:<database>:{<partition>}` | channel | acks, events and replies for the partition's owner |
//! | `ks:m:{<partition>}` | string | the epoch marker, which is gone when Redis has lost its data |
//!
//! Free parts of a key are escaped, so that none can end the key early. Related changes happen in one step, by a script
//! that is loaded once per connection. A script touches keys of several slots, so Redis must not run as a cluster: that
//! is refused at connect ([decision 13](../../../docs/decisions/0013-sessions-change-in-one-step.md)). A command that was
//! in flight when the connection broke is simply sent again on a new one, so each is idempotent; of two that only
//! count, a repetition counts twice.

mod backlogs;
mod idempotency;
pub mod owner_signals;
mod presence;
mod receipts;
mod rooms;
mod scripts;
mod sessions;
mod url;

use std::{borrow::Cow, fmt, time::Duration};

use self::url::{Refused, has_code};
use kschat_core::{
    Partition, Partitions,
    ports::{BoxError, Unavailable},
};
use kschat_protocol::UserId;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, aio::MultiplexedConnection};
use serde::Serialize;
use tokio::{sync::Mutex, time::timeout};

pub use self::url::RedisUrl;
pub use owner_signals::{OwnerRoutes, SubscribedOwnership};

/// The timeout for a connection to Redis.
const REDIS_CONNECT_TIMEOUT: Duration = Duration::from_millis(800);

/// The timeout for a response of Redis.
const REDIS_RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The second attempt is on a new connection.
const REDIS_MAX_ATTEMPTS: u32 = 2;

/// The time for one call with all attempts.
const REDIS_OPERATION_TIMEOUT: Duration = Duration::from_secs(2);

/// How long receipts are stored after the last one of a pair, unless messages have another retention.
const DEFAULT_RECEIPT_RETENTION: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Stores in Redis what the functions and the consumer share: the [module](self) lists the keys.
///
/// One connection carries all commands at once. Nothing checks whether it is alive, as a frozen function could not
/// know: a command that fails or is late is sent again on a new one.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use kschat_adapters::redis::RedisRegistry;
/// use kschat_core::{Clock, Partitions, SystemClock, ports::ConnectionRegistry};
/// use kschat_protocol::UserId;
///
/// let url = "redis://127.0.0.1:6379".parse()?;
/// let registry = RedisRegistry::new(url, Partitions::default(), Duration::from_secs(24 * 60 * 60));
/// let connections = registry.connections(&UserId::try_from("alice")?, SystemClock.now()).await?;
/// println!("alice has {} connections", connections.len());
/// # Ok(())
/// # }
/// ```
pub struct RedisRegistry {
    url: RedisUrl,
    partitions: Partitions,
    rno_window: Duration,
    retention: Duration,
    connection: Mutex<SharedConnection>,
}

#[derive(Default)]
struct SharedConnection {
    connection: Option<MultiplexedConnection>,
    /// Distinguishes one connection from the next.
    generation: u64,
}

impl RedisRegistry {
    /// Uses the Redis at `url`, connecting at the first command, and remembers an `rno` for `window`.
    #[must_use]
    pub fn new(url: RedisUrl, partitions: Partitions, window: Duration) -> Self {
        Self { url, partitions, rno_window: window, retention: DEFAULT_RECEIPT_RETENTION, connection: Mutex::default() }
    }

    /// Stores receipts for as long as messages are kept.
    #[must_use]
    pub fn keeping_receipts_for(self, retention: Duration) -> Self {
        Self { retention, ..self }
    }

    /// Checks whether Redis is available.
    ///
    /// # Errors
    /// [`Unavailable`] when it is not.
    pub async fn check(&self) -> Result<(), Unavailable> {
        self.run_one("answer", redis::cmd("PING")).await
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, u64), redis::RedisError> {
        let mut shared = self.connection.lock().await;
        if let Some(connection) = &shared.connection {
            return Ok((connection.clone(), shared.generation));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(REDIS_CONNECT_TIMEOUT))
            .set_response_timeout(Some(REDIS_RESPONSE_TIMEOUT));
        let mut connection = self.url.client().get_multiplexed_async_connection_with_config(&config).await?;
        scripts::load(&mut connection).await?;
        shared.generation += 1;
        shared.connection = Some(connection.clone());
        Ok((connection, shared.generation))
    }

    /// Drops a failed connection, unless a new one has replaced it.
    async fn drop_connection(&self, generation: u64) {
        let mut shared = self.connection.lock().await;
        if shared.generation == generation {
            shared.connection = None;
        }
    }

    async fn run<T: FromRedisValue>(&self, action: &'static str, pipeline: &Pipeline) -> Result<T, Unavailable> {
        // A caller that waits for another one's connection has this deadline, too.
        let tried = timeout(REDIS_OPERATION_TIMEOUT, self.attempt(pipeline)).await.map_err(BoxError::from);
        let done = tried.and_then(|done| done.map_err(|error| self.url.explain(error)));
        done.map_err(|error| Unavailable::new("redis", action, error))
    }

    async fn attempt<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, redis::RedisError> {
        let mut tries = 1;
        loop {
            let (mut connection, generation) = self.connection().await?;
            match pipeline.query_async(&mut connection).await {
                Ok(value) => return Ok(value),
                // The connection is fine.
                Err(error) if has_code(&error, "NOPERM") => return Err(error),
                Err(error) => {
                    self.drop_connection(generation).await;
                    if tries == REDIS_MAX_ATTEMPTS {
                        return Err(error);
                    }
                }
            }
            tries += 1;
        }
    }

    async fn run_one<T: FromRedisValue>(&self, action: &'static str, command: Cmd) -> Result<T, Unavailable> {
        let mut pipeline = redis::pipe();
        pipeline.add_command(command);
        let (value,): (T,) = self.run(action, &pipeline).await?;
        Ok(value)
    }

    fn online_key(&self, user: &UserId) -> String {
        online_key(self.partitions.of(user))
    }
}

fn epoch_marker_key(partition: Partition) -> String {
    format!("ks:m:{{{partition}}}")
}

fn online_key(partition: Partition) -> String {
    format!("ks:on:{{{partition}}}")
}

/// Escapes a free part of a key, so that it can't end the key early: otherwise user `a}:b` with the `rno` `c` would be
/// user `a` with the `rno` `b}:c`. The scripts do the same.
fn escape_key_part(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '{', '}']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace('%', "%25").replace('{', "%7B").replace('}', "%7D"))
}

fn to_json<T: Serialize>(value: &T) -> Result<String, Unavailable> {
    serde_json::to_string(value).map_err(|error| Unavailable::new("redis", "encode a value", error))
}

/// Whether waiting can't help: this Redis refuses us, or lacks a feature.
#[must_use]
pub fn is_final(error: &Unavailable) -> bool {
    let cause = error.source.downcast_ref::<redis::RedisError>();
    let is_unfit = cause.is_some_and(|error| error.kind() == redis::ErrorKind::InvalidClientConfig);
    is_unfit || error.source.is::<Refused>()
}

fn undecodable(error: impl Into<BoxError>) -> Unavailable {
    Unavailable::new("redis", "decode a value", error)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Skips foreign entries: an unreadable one must not hide the others.
fn skip_unreadable<T>(entry: Result<T, impl fmt::Display>) -> Option<T> {
    entry.map_err(|error| tracing::warn!(%error, "skipping an unreadable registry entry")).ok()
}
