//! Who is there, and who wants to know, in Redis.

use std::time::Duration;

use async_trait::async_trait;
use kschat_core::{
    Timestamp,
    ports::{Presence, Presences, Seen, Unavailable},
};
use kschat_protocol::UserId;

use super::{RedisRegistry, millis, part, readable};

/// For how long it is remembered when a user was there last.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How many are told of one user at most.
const MAX_WATCHERS: u32 = 1_000;

const HERE: &str = "here";

/// For how long it is remembered what one try of [`CAME`] has answered: longer than all its tries take.
const ANSWERED: Duration = Duration::from_secs(10);

/// Notes that a user is here, and says what was noted before. A second try, whose first answer may be lost, says the same:
/// the first one has left its answer under the name of the call.
const CAME: &str = "local said = redis.call('GET', KEYS[2]) \
    if said then return said end \
    local before = redis.call('GET', KEYS[1]) or '' \
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) \
    redis.call('SET', KEYS[2], before, 'PX', ARGV[3]) \
    return before";

fn seen_key(user: &UserId) -> String {
    format!("ks:l:{{{}}}", part(user.as_str()))
}

fn watchers_key(user: &UserId) -> String {
    format!("ks:w:{{{}}}", part(user.as_str()))
}

fn read_seen(stored: Option<&str>) -> Seen {
    match stored {
        Some(HERE) => Seen::Here,
        Some(text) => text.parse().map_or(Seen::Never, |millis| Seen::Left(Timestamp::from_millis(millis))),
        None => Seen::Never,
    }
}

#[async_trait]
impl Presences for RedisRegistry {
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
            let spare = -i64::from(MAX_WATCHERS) - 1;
            pipeline.cmd("ZADD").arg(&key).arg(until.millis()).arg(watcher.as_str()).ignore();
            pipeline.cmd("ZREMRANGEBYSCORE").arg(&key).arg("-inf").arg(now.millis()).ignore();
            pipeline.cmd("ZREMRANGEBYRANK").arg(&key).arg(0).arg(spare).ignore();
            // Whoever asks last is told for longest.
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

    async fn came(&self, user: &UserId) -> Result<Seen, Unavailable> {
        let mut command = redis::cmd("EVAL");
        let call = format!("ks:lc:{{{}}}:{:016x}", part(user.as_str()), fastrand::u64(..));
        command.arg(CAME).arg(2).arg(seen_key(user)).arg(call);
        command.arg(HERE).arg(millis(REMEMBERED)).arg(millis(ANSWERED));
        let before: String = self.run_one("note who has come", command).await?;
        Ok(read_seen((!before.is_empty()).then_some(&before)))
    }

    async fn left(&self, user: &UserId, now: Timestamp) -> Result<(), Unavailable> {
        let mut command = redis::cmd("SET");
        command.arg(seen_key(user)).arg(now.millis()).arg("PX").arg(millis(REMEMBERED));
        self.run_one("note who has left", command).await
    }

    async fn watchers(&self, user: &UserId, now: Timestamp) -> Result<Vec<UserId>, Unavailable> {
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(watchers_key(user)).arg(format!("({}", now.millis())).arg("+inf");
        let found: Vec<String> = self.run_one("read who watches a user", command).await?;
        Ok(found.into_iter().filter_map(|id| readable(UserId::try_from(id))).collect())
    }
}
