//! Redis (or Valkey) behind [`ConnectionRegistry`](kschat_core::ports::ConnectionRegistry), [`IdempotencyStore`],
//! [`Backlogs`], [`SenderShares`](kschat_core::ports::SenderShares), [`Receipts`](kschat_core::ports::Receipts) and
//! [`Presences`](kschat_core::ports::Presences).
//!
//! | key | type | holds |
//! |---|---|---|
//! | `ks:c:<connection>` | string | the session, until the edge has surely closed the connection |
//! | `ks:u:{<user>}:c` | hash | the user's connections, each with its session |
//! | `ks:on:{<partition>}` | sorted set | the partition's users, by the time until which each can be reached |
//! | `ks:i:{<user>}:<rno>` | string | what the first send with that `rno` settled |
//! | `ks:q:{<partition>}` | sorted set | the partition's users who are away and for whom messages wait, by the time at which their queues must be looked at |
//! | `ks:r:{<author>}:<reader>` | hash | the last of the author's messages that the reader has got (`d`) and read (`r`) |
//! | `ks:l:{<user>}` | string | `here`, or when the user left, in milliseconds |
//! | `ks:lc:{<user>}:<call>` | string | what was noted before the user came, for a second try of the same call |
//! | `ks:w:{<user>}` | sorted set | who is told when the user comes and goes, by the time until which |
//! | `ks:g:{<user>}` | set | the rooms that the user is in, for as long as the user's queue is kept |
//! | `ks:gl:{<user>}` | sorted set | the rooms that the user has left lately, by the second: their bindings may be left over |
//! | `ks:z:<connection>` | string | the user of a connection that has ended lately |
//! | `ks:b:{<user>}:s`, `:a`, `:r`, `:c`, `:n`, `:g`, `:x` | number | when a bucket of the user is full again: sends, acks, requests, handshakes, new recipients, what is said in rooms, refusals |
//! | `ks:x:{<user>}` | string | the user is blocked; with `:told`, its owner was told to close its connections |
//! | `ks:k:{<user>}` | sorted set | to whom the user has written, by the time of the first message |
//! | `ks:f:{<user>}` | hash | how much of each sender may wait for the user, counted since the last rotation; `:before`, before that |
//! | `ks:m:{<partition>}` | string | the mark that is gone when Redis has lost everything |
//!
//! In a key the free parts are escaped, so that none can end before its end. What belongs together changes in one step, by
//! a script that is loaded once a connection. A script touches keys of several slots, so Redis must not run as a cluster:
//! that is refused when a connection is made ([decision 13](../../docs/decisions/0013-sessions-change-in-one-step.md)).
//! A command that was under way when the connection broke is simply sent again on a new one, so each may be repeated; of
//! two that only count, a repetition counts twice.

mod presence;
mod receipts;
mod rooms;
mod scripts;
mod sessions;

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use kschat_core::{
    Partition, Partitions, Timestamp,
    ports::{Backlogs, BoxError, Claim, Claimed, IdempotencyStore, Unavailable},
};
use kschat_protocol::{MessageId, UserId};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ExistenceCheck, FromRedisValue, IntoConnectionInfo, Pipeline, SetExpiry,
    SetOptions, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, time::timeout};

/// How long Redis may take to accept a connection.
const CONNECT: Duration = Duration::from_millis(800);

/// How long Redis may take to answer.
const ANSWER: Duration = Duration::from_millis(500);

/// The second try is on a new connection.
const TRIES: u32 = 2;

/// From the call to its answer, whatever happens.
const DEADLINE: Duration = Duration::from_secs(2);

/// For how long receipts are remembered after the last one of a pair, unless messages are kept for another span.
const RETENTION: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Where Redis is. Cannot be printed with its password.
#[derive(Clone)]
pub struct RedisUrl(Client);

impl FromStr for RedisUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| "must be a Redis URL such as rediss://:password@host:6379/0".to_owned();
        let info = text.into_connection_info().map_err(wrong)?;
        // Commands are small and somebody waits for each.
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Client::open(info).map(Self).map_err(wrong)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis://***@{}", self.0.get_connection_info().addr())
    }
}

/// Remembers connections and `rno`s in Redis.
///
/// One connection carries all commands at once. Nothing asks whether it is alive, as a function that was
/// frozen could not know: what fails, or does not come in time, is sent again on a new one.
pub struct RedisRegistry {
    url: RedisUrl,
    partitions: Partitions,
    window: Duration,
    retention: Duration,
    connection: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    connection: Option<MultiplexedConnection>,
    /// Tells one connection from the next.
    generation: u64,
}

impl RedisRegistry {
    /// Uses the Redis at `url`, once there is something to ask, and remembers an `rno` for `window`.
    #[must_use]
    pub fn new(url: RedisUrl, partitions: Partitions, window: Duration) -> Self {
        Self { url, partitions, window, retention: RETENTION, connection: Mutex::default() }
    }

    /// The same, but receipts are remembered for as long as messages are kept.
    #[must_use]
    pub fn keeping_receipts_for(self, retention: Duration) -> Self {
        Self { retention, ..self }
    }

    /// Asks whether Redis is there.
    ///
    /// # Errors
    /// [`Unavailable`] when it is not.
    pub async fn check(&self) -> Result<(), Unavailable> {
        self.run_one("answer", redis::cmd("PING")).await
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, u64), redis::RedisError> {
        let mut link = self.connection.lock().await;
        if let Some(connection) = &link.connection {
            return Ok((connection.clone(), link.generation));
        }
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
        let mut connection = self.url.0.get_multiplexed_async_connection_with_config(&config).await?;
        scripts::load(&mut connection).await?;
        link.generation += 1;
        link.connection = Some(connection.clone());
        Ok((connection, link.generation))
    }

    /// Forgets a connection that failed, unless somebody has put a new one in its place.
    async fn drop_connection(&self, generation: u64) {
        let mut link = self.connection.lock().await;
        if link.generation == generation {
            link.connection = None;
        }
    }

    async fn run<T: FromRedisValue>(&self, action: &'static str, pipeline: &Pipeline) -> Result<T, Unavailable> {
        // Whoever waits for a connection that another one is making has this deadline, too.
        let tried = timeout(DEADLINE, self.attempt(pipeline)).await.map_err(BoxError::from);
        let done = tried.and_then(|done| done.map_err(BoxError::from));
        done.map_err(|error| Unavailable::new("redis", action, error))
    }

    async fn attempt<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, redis::RedisError> {
        let mut tries = 1;
        loop {
            let (mut connection, generation) = self.connection().await?;
            match pipeline.query_async(&mut connection).await {
                Ok(value) => return Ok(value),
                Err(error) => {
                    self.drop_connection(generation).await;
                    if tries == TRIES {
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

fn mark_key(partition: Partition) -> String {
    format!("ks:m:{{{partition}}}")
}

fn online_key(partition: Partition) -> String {
    format!("ks:on:{{{partition}}}")
}

fn backlogs_key(partition: Partition) -> String {
    format!("ks:q:{{{partition}}}")
}

fn rno_key(user: &UserId, rno: &str) -> String {
    format!("ks:i:{{{}}}:{rno}", part(user.as_str()))
}

/// A free part of a key, escaped so that it can't end before its end: without that, user `a}:b` with the `rno` `c` would be
/// user `a` with the `rno` `b}:c`. The scripts do the same.
fn part(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '{', '}']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace('%', "%25").replace('{', "%7B").replace('}', "%7D"))
}

/// A [`Claim`] as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredClaim {
    id: MessageId,
    time: u64,
    /// Hexadecimal, as JSON readers elsewhere may not know numbers of 128 bits.
    digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    done: bool,
}

impl StoredClaim {
    fn new(claim: &Claim, done: bool) -> Self {
        let (id, time) = (claim.id.clone(), claim.time.millis());
        let content = claim.content.map(|content| format!("{content:032x}"));
        Self { id, time, digest: format!("{:032x}", claim.digest), content, done }
    }

    fn into_claimed(self) -> Result<Claimed, BoxError> {
        let digest = u128::from_str_radix(&self.digest, 16)?;
        let content = self.content.map(|content| u128::from_str_radix(&content, 16)).transpose()?;
        let claim = Claim { id: self.id, time: Timestamp::from_millis(self.time), digest, content };
        Ok(if self.done { Claimed::Done(claim) } else { Claimed::Pending(claim) })
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<String, Unavailable> {
    serde_json::to_string(value).map_err(|error| Unavailable::new("redis", "encode a value", error))
}

/// Whether that is how a Redis was answered that runs as a cluster: no waiting mends it.
#[must_use]
pub fn is_cluster(error: &Unavailable) -> bool {
    let cause = error.source.downcast_ref::<redis::RedisError>();
    cause.is_some_and(|error| error.kind() == redis::ErrorKind::InvalidClientConfig)
}

fn undecodable(error: impl Into<BoxError>) -> Unavailable {
    Unavailable::new("redis", "hold a readable value", error)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Somebody else may have written there: one odd entry must not hide the others.
fn readable<T>(entry: Result<T, impl fmt::Display>) -> Option<T> {
    entry.map_err(|error| tracing::warn!(%error, "an entry of the registry is passed over")).ok()
}

#[async_trait]
impl IdempotencyStore for RedisRegistry {
    async fn claim(&self, user: &UserId, rno: &str, claim: &Claim) -> Result<Claimed, Unavailable> {
        const ACTION: &str = "claim an rno";
        let stored = to_json(&StoredClaim::new(claim, false))?;
        let options = SetOptions::default()
            .conditional_set(ExistenceCheck::NX)
            .with_expiration(SetExpiry::PX(millis(self.window)));
        let key = rno_key(user, rno);
        let mut pipeline = redis::pipe();
        pipeline.set_options(&key, stored, options).ignore().get(&key);
        let (found,): (String,) = self.run(ACTION, &pipeline).await?;
        let found: StoredClaim = serde_json::from_str(&found).map_err(undecodable)?;
        // Our own claim may have been written by a first try whose answer was lost.
        if found.id == claim.id && !found.done {
            return Ok(Claimed::First);
        }
        found.into_claimed().map_err(undecodable)
    }

    async fn settle(&self, user: &UserId, rno: &str, claim: &Claim) -> Result<(), Unavailable> {
        let stored = to_json(&StoredClaim::new(claim, true))?;
        let options = SetOptions::default().with_expiration(SetExpiry::PX(millis(self.window)));
        self.run_one("settle an rno", Cmd::set_options(rno_key(user, rno), stored, options)).await
    }
}

#[async_trait]
impl Backlogs for RedisRegistry {
    async fn note(&self, user: &UserId, look_at: Timestamp) -> Result<(), Unavailable> {
        let key = backlogs_key(self.partitions.of(user));
        self.run_one("note a backlog", Cmd::zadd(key, user.as_str(), look_at.millis())).await
    }

    async fn clear(&self, user: &UserId) -> Result<(), Unavailable> {
        let key = backlogs_key(self.partitions.of(user));
        self.run_one("clear a backlog", Cmd::zrem(key, user.as_str())).await
    }

    async fn due(&self, partition: Partition, now: Timestamp, limit: usize) -> Result<Vec<UserId>, Unavailable> {
        let limit = isize::try_from(limit).unwrap_or(isize::MAX);
        let command = Cmd::zrangebyscore_limit(backlogs_key(partition), "-inf", now.millis(), 0, limit);
        let found: Vec<String> = self.run_one("read which backlogs are due", command).await?;
        Ok(found.into_iter().filter_map(|id| readable(UserId::read_back(id))).collect())
    }

    async fn count(&self, partition: Partition) -> Result<u64, Unavailable> {
        self.run_one("count backlogs", Cmd::zcard(backlogs_key(partition))).await
    }
}
