//! Keeps which offline users have a backlog, and when to check it.

use async_trait::async_trait;
use kschat_core::{
    Partition, Timestamp,
    ports::{BacklogStore, Unavailable},
};
use kschat_protocol::UserId;
use redis::Cmd;

use super::{RedisRegistry, skip_unreadable};

fn backlogs_key(partition: Partition) -> String {
    format!("ks:q:{{{partition}}}")
}

#[async_trait]
impl BacklogStore for RedisRegistry {
    async fn schedule_check(&self, user: &UserId, look_at: Timestamp) -> Result<(), Unavailable> {
        let key = backlogs_key(self.partitions.of(user));
        self.run_one("record a backlog", Cmd::zadd(key, user.as_str(), look_at.millis())).await
    }

    async fn clear(&self, user: &UserId) -> Result<(), Unavailable> {
        let key = backlogs_key(self.partitions.of(user));
        self.run_one("clear a backlog", Cmd::zrem(key, user.as_str())).await
    }

    async fn due(&self, partition: Partition, now: Timestamp, limit: usize) -> Result<Vec<UserId>, Unavailable> {
        let limit = isize::try_from(limit).unwrap_or(isize::MAX);
        let command = Cmd::zrangebyscore_limit(backlogs_key(partition), "-inf", now.millis(), 0, limit);
        let found: Vec<String> = self.run_one("read which backlogs are due", command).await?;
        Ok(found.into_iter().filter_map(|id| skip_unreadable(UserId::from_stored(id))).collect())
    }

    async fn count(&self, partition: Partition) -> Result<u64, Unavailable> {
        self.run_one("count backlogs", Cmd::zcard(backlogs_key(partition))).await
    }
}
