//! Redis (or Valkey) behind [`ConnectionRegistry`], [`IdempotencyStore`], [`Backlogs`], [`RateLimits`],
//! [`Receipts`](kschat_core::ports::Receipts) and [`Presences`](kschat_core::ports::Presences).
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
//! | `ks:n:<connection>` | number | how many requests of the connection were counted within the present window |
//! | `ks:m:{<partition>}` | string | the mark that is gone when Redis has lost everything |
//!
//! No command touches two slots of a cluster, and every write may be repeated blindly: a command that was
//! under way when the connection broke is simply sent again on a new one.

mod presence;
mod receipts;
mod rooms;

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use kschat_core::{
    Partition, Partitions, Session, Timestamp,
    ports::{
        Backlogs, BoxError, Claim, Claimed, ConnectionRegistry, IdempotencyStore, RateLimits, Reachable, Unavailable,
    },
};
use kschat_protocol::{ConnectionId, MessageId, UserId, Version, dialect::Dialect};
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
        let connection = self.url.0.get_multiplexed_async_connection_with_config(&config).await?;
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

fn session_key(connection: &ConnectionId) -> String {
    format!("ks:c:{}", connection.as_str())
}

fn connections_key(user: &UserId) -> String {
    format!("ks:u:{{{}}}:c", user.as_str())
}

fn mark_key(partition: Partition) -> String {
    format!("ks:m:{{{partition}}}")
}

fn read_session(stored: &str) -> Result<Session, BoxError> {
    Session::try_from(serde_json::from_str::<StoredSession>(stored)?)
}

fn read_connection((connection, session): (String, String)) -> Option<Reachable> {
    let connection = readable(ConnectionId::try_from(connection))?;
    Some(Reachable { connection, session: readable(read_session(&session))? })
}

fn online_key(partition: Partition) -> String {
    format!("ks:on:{{{partition}}}")
}

fn backlogs_key(partition: Partition) -> String {
    format!("ks:q:{{{partition}}}")
}

fn rno_key(user: &UserId, rno: &str) -> String {
    format!("ks:i:{{{}}}:{rno}", user.as_str())
}

/// A [`Session`] as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredSession {
    user: String,
    version: u8,
    connected: u64,
    expires: Option<u64>,
    /// Left out for the raw one, as by those who knew no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dialect: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    rooms: Option<Vec<String>>,
}

impl From<&Session> for StoredSession {
    fn from(session: &Session) -> Self {
        Self {
            user: session.user.as_str().to_owned(),
            version: session.version.number(),
            connected: session.connected.millis(),
            expires: session.expires.map(Timestamp::millis),
            dialect: session.dialect.code(),
            rooms: session.rooms.clone(),
        }
    }
}

impl TryFrom<StoredSession> for Session {
    type Error = BoxError;

    fn try_from(stored: StoredSession) -> Result<Self, BoxError> {
        let dialect = match stored.dialect {
            Some(code) => Dialect::from_code(&code).ok_or("unknown dialect")?,
            None => Dialect::Raw,
        };
        Ok(Self {
            dialect,
            user: UserId::read_back(stored.user)?,
            version: Version::from_number(stored.version).ok_or("unknown version")?,
            connected: Timestamp::from_millis(stored.connected),
            expires: stored.expires.map(Timestamp::from_millis),
            rooms: stored.rooms,
        })
    }
}

/// A [`Claim`] as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredClaim {
    id: MessageId,
    time: u64,
    /// Hexadecimal, as JSON readers elsewhere may not know numbers of 128 bits.
    digest: String,
    done: bool,
}

impl StoredClaim {
    fn new(claim: &Claim, done: bool) -> Self {
        Self { id: claim.id.clone(), time: claim.time.millis(), digest: format!("{:032x}", claim.digest), done }
    }

    fn into_claimed(self) -> Result<Claimed, BoxError> {
        let digest = u128::from_str_radix(&self.digest, 16)?;
        let claim = Claim { id: self.id, time: Timestamp::from_millis(self.time), digest };
        Ok(if self.done { Claimed::Done(claim) } else { Claimed::Pending(claim) })
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<String, Unavailable> {
    serde_json::to_string(value).map_err(|error| Unavailable::new("redis", "encode a value", error))
}

fn undecodable(error: impl Into<BoxError>) -> Unavailable {
    Unavailable::new("redis", "hold a readable value", error)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl ConnectionRegistry for RedisRegistry {
    async fn register(&self, connection: &ConnectionId, session: &Session) -> Result<(), Unavailable> {
        let stored = to_json(&StoredSession::from(session))?;
        let now = session.connected.millis();
        let forgotten = i64::try_from(session.forgotten_at().millis()).unwrap_or(i64::MAX);
        let reachable = session.reachable_until().millis();
        let (connections, online) = (connections_key(&session.user), self.online_key(&session.user));
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("SET")
            .arg(session_key(connection))
            .arg(&stored)
            .arg("PXAT")
            .arg(forgotten)
            .ignore()
            .cmd("HSET")
            .arg(&connections)
            .arg(connection.as_str())
            .arg(&stored)
            .ignore()
            .cmd("PEXPIREAT")
            .arg(&connections)
            .arg(forgotten)
            .arg("GT")
            .ignore()
            // A key without an expiry is not less than any: `GT` alone would leave it without one.
            .cmd("PEXPIREAT")
            .arg(&connections)
            .arg(forgotten)
            .arg("NX")
            .ignore()
            .cmd("ZADD")
            .arg(&online)
            .arg("GT")
            .arg(reachable)
            .arg(session.user.as_str())
            .ignore()
            .cmd("ZREMRANGEBYSCORE")
            .arg(&online)
            .arg("-inf")
            .arg(now)
            .ignore();
        self.run("register a connection", &pipeline).await
    }

    async fn session(&self, connection: &ConnectionId) -> Result<Option<Session>, Unavailable> {
        let stored: Option<String> = self.run_one("read a session", Cmd::get(session_key(connection))).await?;
        stored.map(|stored| read_session(&stored).map_err(undecodable)).transpose()
    }

    async fn session_and_connections(
        &self,
        connection: &ConnectionId,
        user: &UserId,
        now: Timestamp,
    ) -> Result<(Option<Session>, Vec<Reachable>), Unavailable> {
        let mut pipeline = redis::pipe();
        pipeline.get(session_key(connection)).hgetall(connections_key(user));
        let (stored, found): (Option<String>, Vec<(String, String)>) = self.run("read a session", &pipeline).await?;
        let session = stored.map(|stored| read_session(&stored).map_err(undecodable)).transpose()?;
        let reachable = found.into_iter().filter_map(read_connection);
        Ok((session, reachable.filter(|one| one.session.reachable_until() > now).collect()))
    }

    async fn remove(&self, user: &UserId, connection: &ConnectionId) -> Result<(), Unavailable> {
        const ACTION: &str = "remove a connection";
        let connections = connections_key(user);
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("DEL")
            .arg(session_key(connection))
            .ignore()
            .cmd("HDEL")
            .arg(&connections)
            .arg(connection.as_str())
            .ignore()
            .cmd("HLEN")
            .arg(&connections);
        let (left,): (u64,) = self.run(ACTION, &pipeline).await?;
        if left > 0 {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZREM").arg(self.online_key(user)).arg(user.as_str()).ignore().cmd("HVALS").arg(&connections);
        let (come_back,): (Vec<String>,) = self.run(ACTION, &pipeline).await?;
        let sessions = come_back.iter().filter_map(|stored| readable(read_session(stored)));
        // Somebody may have connected between the two: then the user must be put back.
        if let Some(reachable) = sessions.map(|session| session.reachable_until()).max() {
            let mut command = redis::cmd("ZADD");
            command.arg(self.online_key(user)).arg("GT").arg(reachable.millis()).arg(user.as_str());
            let _: u64 = self.run_one(ACTION, command).await?;
        }
        Ok(())
    }

    async fn connections(&self, user: &UserId, now: Timestamp) -> Result<Vec<Reachable>, Unavailable> {
        let command = Cmd::hgetall(connections_key(user));
        let found: Vec<(String, String)> = self.run_one("read a user's connections", command).await?;
        let all: Vec<Reachable> = found.into_iter().filter_map(read_connection).collect();
        // Disconnects get lost now and then: what has surely ended makes room here.
        let (over, open): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.session.forgotten_at() <= now);
        if !over.is_empty() {
            let mut command = redis::cmd("HDEL");
            command.arg(connections_key(user));
            for one in &over {
                command.arg(one.connection.as_str());
            }
            let _: u64 = self.run_one("forget old connections", command).await?;
        }
        Ok(open.into_iter().filter(|one| one.session.reachable_until() > now).collect())
    }

    async fn online(&self, partition: Partition, now: Timestamp) -> Result<Vec<UserId>, Unavailable> {
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(online_key(partition)).arg(format!("({}", now.millis())).arg("+inf");
        let found: Vec<String> = self.run_one("read who is online", command).await?;
        Ok(found.into_iter().filter_map(|id| readable(UserId::read_back(id))).collect())
    }

    async fn mark(&self, partition: Partition) -> Result<bool, Unavailable> {
        let mut command = redis::cmd("SET");
        command.arg(mark_key(partition)).arg(1).arg("NX");
        let set: Option<String> = self.run_one("mark a partition", command).await?;
        Ok(set.is_none())
    }

    async fn is_marked(&self, partition: Partition) -> Result<bool, Unavailable> {
        self.run_one("look for a mark", Cmd::exists(mark_key(partition))).await
    }
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
impl RateLimits for RedisRegistry {
    async fn count_request(
        &self,
        connection: &ConnectionId,
        weight: u32,
        window: Duration,
    ) -> Result<u64, Unavailable> {
        let key = format!("ks:n:{}", connection.as_str());
        let mut pipeline = redis::pipe();
        pipeline.cmd("INCRBY").arg(&key).arg(weight).cmd("PEXPIRE").arg(&key).arg(millis(window)).arg("NX").ignore();
        let (count,): (u64,) = self.run("count a request", &pipeline).await?;
        Ok(count)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_was_written_before_there_were_dialects_is_a_raw_one() {
        let old = r#"{"user":"alice","version":1,"connected":7,"expires":null}"#;
        let session = read_session(old).unwrap();
        assert_eq!(session.dialect, Dialect::Raw);
        assert_eq!(serde_json::to_string(&StoredSession::from(&session)).unwrap(), old);
        let unknown = r#"{"user":"alice","version":1,"connected":7,"expires":null,"dialect":"9"}"#;
        assert!(read_session(unknown).is_err());
    }
}
