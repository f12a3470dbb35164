//! Who is in which room, in Redis.

use async_trait::async_trait;
use kschat_core::ports::{Memberships, Unavailable};
use kschat_protocol::{RoomId, UserId};

use super::{RedisRegistry, millis, part, readable};

/// Adds a room unless there are too many; says whether it is among them. Once more it says the same.
const JOIN: &str = "if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then \
    if redis.call('SCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end \
    redis.call('SADD', KEYS[1], ARGV[1]) end \
    redis.call('PEXPIRE', KEYS[1], ARGV[3]) \
    return 1";

fn rooms_key(user: &UserId) -> String {
    format!("ks:g:{{{}}}", part(user.as_str()))
}

impl RedisRegistry {
    /// As long as the broker keeps a queue that nobody uses.
    fn membership(&self) -> u64 {
        millis(self.retention * 2)
    }
}

#[async_trait]
impl Memberships for RedisRegistry {
    async fn join(&self, user: &UserId, room: &RoomId, limit: usize) -> Result<bool, Unavailable> {
        let mut command = redis::cmd("EVAL");
        command.arg(JOIN).arg(1).arg(rooms_key(user)).arg(room.as_str()).arg(limit).arg(self.membership());
        self.run_one("join a room", command).await
    }

    async fn leave(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
        self.run_one("leave a room", redis::Cmd::srem(rooms_key(user), room.as_str())).await
    }

    async fn rooms(&self, user: &UserId) -> Result<Vec<RoomId>, Unavailable> {
        let key = rooms_key(user);
        let mut pipeline = redis::pipe();
        pipeline.smembers(&key).cmd("PEXPIRE").arg(&key).arg(self.membership()).ignore();
        let (found,): (Vec<String>,) = self.run("read a user's rooms", &pipeline).await?;
        let mut rooms: Vec<RoomId> = found.into_iter().filter_map(|id| readable(RoomId::try_from(id))).collect();
        rooms.sort();
        Ok(rooms)
    }

    async fn is_member(&self, user: &UserId, room: &RoomId) -> Result<bool, Unavailable> {
        self.run_one("look for a room", redis::Cmd::sismember(rooms_key(user), room.as_str())).await
    }
}
