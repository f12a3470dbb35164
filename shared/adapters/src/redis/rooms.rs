//! Who is in which room, in Redis.

use async_trait::async_trait;
use kschat_core::ports::{Memberships, RoomsOfUser, Unavailable};
use kschat_protocol::{RoomId, UserId};

use super::{RedisRegistry, millis, part, readable};

/// Rooms that a user has left and that are remembered as such; then the one that was left first is forgotten.
const MAX_LEFT: u32 = 100;

/// How long it is remembered at least that a user has left a room.
const LEFT_SECONDS: u32 = 60;

/// Adds a room unless there are too many; says whether it is among them. Once more it says the same.
const JOIN: &str = "if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then \
    if redis.call('SCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end \
    redis.call('SADD', KEYS[1], ARGV[1]) end \
    redis.call('ZREM', KEYS[2], ARGV[1]) \
    redis.call('PEXPIRE', KEYS[1], ARGV[3]) \
    return 1";

/// Takes a room out, and remembers since when it is. Once more it does the same.
const LEAVE: &str = "redis.call('SREM', KEYS[1], ARGV[1]) \
    redis.call('ZADD', KEYS[2], redis.call('TIME')[1], ARGV[1]) \
    redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber(ARGV[2])) \
    redis.call('PEXPIRE', KEYS[2], ARGV[3]) \
    return 1";

/// Forgets what was left long enough ago.
const FORGET: &str = "return redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1] - ARGV[1])";

fn rooms_key(user: &UserId) -> String {
    format!("ks:g:{{{}}}", part(user.as_str()))
}

fn left_key(user: &UserId) -> String {
    format!("ks:gl:{{{}}}", part(user.as_str()))
}

fn sorted(found: Vec<String>) -> Vec<RoomId> {
    let mut rooms: Vec<RoomId> = found.into_iter().filter_map(|id| readable(RoomId::try_from(id))).collect();
    rooms.sort();
    rooms
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
        command.arg(JOIN).arg(2).arg(rooms_key(user)).arg(left_key(user));
        command.arg(room.as_str()).arg(limit).arg(self.membership());
        self.run_one("join a room", command).await
    }

    async fn leave(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
        let mut command = redis::cmd("EVAL");
        command.arg(LEAVE).arg(2).arg(rooms_key(user)).arg(left_key(user));
        command.arg(room.as_str()).arg(MAX_LEFT).arg(self.membership());
        self.run_one("leave a room", command).await
    }

    async fn rooms_and_left(&self, user: &UserId) -> Result<RoomsOfUser, Unavailable> {
        let key = rooms_key(user);
        let mut pipeline = redis::pipe();
        // At one moment: a room that is being joined or left is in one of the two.
        pipeline.atomic().smembers(&key).cmd("ZRANGE").arg(left_key(user)).arg(0).arg(-1);
        pipeline.cmd("PEXPIRE").arg(&key).arg(self.membership()).ignore();
        let (rooms, left): (Vec<String>, Vec<String>) = self.run("read a user's rooms", &pipeline).await?;
        Ok(RoomsOfUser { rooms: sorted(rooms), left: sorted(left) })
    }

    async fn forget_left(&self, user: &UserId) -> Result<(), Unavailable> {
        let mut command = redis::cmd("EVAL");
        command.arg(FORGET).arg(1).arg(left_key(user)).arg(LEFT_SECONDS);
        self.run_one("forget which rooms were left", command).await
    }

    async fn rooms(&self, user: &UserId) -> Result<Vec<RoomId>, Unavailable> {
        let key = rooms_key(user);
        let mut pipeline = redis::pipe();
        pipeline.smembers(&key).cmd("PEXPIRE").arg(&key).arg(self.membership()).ignore();
        let (found,): (Vec<String>,) = self.run("read a user's rooms", &pipeline).await?;
        Ok(sorted(found))
    }

    async fn is_member(&self, user: &UserId, room: &RoomId) -> Result<bool, Unavailable> {
        self.run_one("look for a room", redis::Cmd::sismember(rooms_key(user), room.as_str())).await
    }
}
