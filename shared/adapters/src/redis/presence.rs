//! Presence and watchers in Redis.

use std::time::Duration;

use async_trait::async_trait;
use kschat_core::{
    Timestamp,
    ports::{LastSeen, Presence, PresenceStore, Unavailable},
};
use kschat_protocol::UserId;

use super::{RedisRegistry, escape_key_part, millis, skip_unreadable};

/// How long the last presence of a user is stored.
const LAST_SEEN_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Maximum watchers per user.
const MAX_WATCHERS_PER_USER: u32 = 1_000;

const ONLINE_VALUE: &str = "here";

/// How long the result of one call of [`MARK_ONLINE_SCRIPT`] is stored: longer than all its attempts take.
const CALL_RESULT_TTL: Duration = Duration::from_secs(10);

/// Records that a user is online, and returns what was recorded before. A second attempt, after a lost response,
/// returns the same: the first one has stored its result under the id of the call.
const MARK_ONLINE_SCRIPT: &str = "local said = redis.call('GET', KEYS[2]) \
    if said then return said end \
    local before = redis.call('GET', KEYS[1]) or '' \
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) \
    redis.call('SET', KEYS[2], before, 'PX', ARGV[3]) \
    return before";

fn seen_key(user: &UserId) -> String {
    format!("ks:l:{{{}}}", escape_key_part(user.as_str()))
}

fn watchers_key(user: &UserId) -> String {
    format!("ks:w:{{{}}}", escape_key_part(user.as_str()))
}

fn read_seen(stored: Option<&str>) -> LastSeen {
    match stored {
        Some(ONLINE_VALUE) => LastSeen::Online,
        Some(text) => {
            text.parse().map_or(LastSeen::Never, |millis| LastSeen::OfflineSince(Timestamp::from_millis(millis)))
        }
        None => LastSeen::Never,
    }
}

#[async_trait]
impl PresenceStore for RedisRegistry {
    async fn watch(
        &self,
        watcher: &UserId,
        users: &[UserId],
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<Presence>, Unavailable> {
        let mut pipeline = redis::pipe();
        for user in users {
            let key = watchers_key(user);
            let spare = -i64::from(MAX_WATCHERS_PER_USER) - 1;
            pipeline.cmd("ZADD").arg(&key).arg(until.millis()).arg(watcher.as_str()).ignore();
            pipeline.cmd("ZREMRANGEBYSCORE").arg(&key).arg("-inf").arg(now.millis()).ignore();
            pipeline.cmd("ZREMRANGEBYRANK").arg(&key).arg(0).arg(spare).ignore();
            // The latest watcher expires last, and the key with it.
            pipeline.cmd("PEXPIRE").arg(&key).arg(millis(until.since(now))).ignore();
            pipeline.cmd("ZSCORE").arg(self.online_key(user)).arg(user.as_str());
            pipeline.cmd("GET").arg(seen_key(user));
        }
        let found: Vec<Option<String>> = self.run("watch users", &pipeline).await?;
        let read = |pair: &[Option<String>]| {
            let until = pair[0].as_ref().and_then(|score| score.parse::<f64>().ok());
            let is_reachable = until.is_some_and(|until| until > now.millis() as f64);
            Presence { is_reachable, seen: read_seen(pair[1].as_deref()) }
        };
        Ok(found.chunks_exact(2).map(read).collect())
    }

    async fn mark_online(&self, user: &UserId) -> Result<LastSeen, Unavailable> {
        let mut command = redis::cmd("EVAL");
        let call = format!("ks:lc:{{{}}}:{:016x}", escape_key_part(user.as_str()), fastrand::u64(..));
        command.arg(MARK_ONLINE_SCRIPT).arg(2).arg(seen_key(user)).arg(call);
        command.arg(ONLINE_VALUE).arg(millis(LAST_SEEN_TTL)).arg(millis(CALL_RESULT_TTL));
        let before: String = self.run_one("record that a user is online", command).await?;
        Ok(read_seen((!before.is_empty()).then_some(&before)))
    }

    async fn mark_offline(&self, user: &UserId, now: Timestamp) -> Result<(), Unavailable> {
        let mut command = redis::cmd("SET");
        command.arg(seen_key(user)).arg(now.millis()).arg("PX").arg(millis(LAST_SEEN_TTL));
        self.run_one("record that a user went offline", command).await
    }

    async fn watchers(&self, user: &UserId, now: Timestamp) -> Result<Vec<UserId>, Unavailable> {
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(watchers_key(user)).arg(format!("({}", now.millis())).arg("+inf");
        let found: Vec<String> = self.run_one("read a user's watchers", command).await?;
        Ok(found.into_iter().filter_map(|id| skip_unreadable(UserId::try_from(id))).collect())
    }
}
