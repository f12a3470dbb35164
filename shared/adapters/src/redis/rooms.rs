//! Room memberships in Redis.

use async_trait::async_trait;
use kschat_core::ports::{RoomMemberships, Unavailable, UserRooms};
use kschat_protocol::{RoomId, UserId};

use super::{RedisRegistry, escape_key_part, millis, skip_unreadable};

/// Left rooms of one user that are recorded at most; beyond that the oldest is dropped.
const MAX_LEFT_ROOMS_PER_USER: u32 = 100;

/// The minimum time for which a left room is recorded.
const LEFT_ROOM_RETENTION_SECONDS: u32 = 60;

/// Adds a room unless there are too many; returns whether it is a member. Idempotent.
const JOIN_SCRIPT: &str = "if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 then \
    if redis.call('SCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end \
    redis.call('SADD', KEYS[1], ARGV[1]) end \
    redis.call('ZREM', KEYS[2], ARGV[1]) \
    redis.call('PEXPIRE', KEYS[1], ARGV[3]) \
    return 1";

/// Removes a room, and records the time. Idempotent.
const LEAVE_SCRIPT: &str = "redis.call('SREM', KEYS[1], ARGV[1]) \
    redis.call('ZADD', KEYS[2], redis.call('TIME')[1], ARGV[1]) \
    redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber(ARGV[2])) \
    redis.call('PEXPIRE', KEYS[2], ARGV[3]) \
    return 1";

/// Drops rooms that were left long enough ago.
const FORGET_LEFT_SCRIPT: &str =
    "return redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1] - ARGV[1])";

fn rooms_key(user: &UserId) -> String {
    format!("ks:g:{{{}}}", escape_key_part(user.as_str()))
}

fn left_key(user: &UserId) -> String {
    format!("ks:gl:{{{}}}", escape_key_part(user.as_str()))
}

fn parse_sorted_rooms(found: Vec<String>) -> Vec<RoomId> {
    let mut rooms: Vec<RoomId> = found.into_iter().filter_map(|id| skip_unreadable(RoomId::try_from(id))).collect();
    rooms.sort();
    rooms
}

impl RedisRegistry {
    /// As long as the broker keeps an unused queue.
    fn membership_ttl_millis(&self) -> u64 {
        millis(self.retention * 2)
    }
}

#[async_trait]
impl RoomMemberships for RedisRegistry {
    async fn join(&self, user: &UserId, room: &RoomId, limit: usize) -> Result<bool, Unavailable> {
        let mut command = redis::cmd("EVAL");
        command.arg(JOIN_SCRIPT).arg(2).arg(rooms_key(user)).arg(left_key(user));
        command.arg(room.as_str()).arg(limit).arg(self.membership_ttl_millis());
        self.run_one("join a room", command).await
    }

    async fn leave(&self, user: &UserId, room: &RoomId) -> Result<(), Unavailable> {
        let mut command = redis::cmd("EVAL");
        command.arg(LEAVE_SCRIPT).arg(2).arg(rooms_key(user)).arg(left_key(user));
        command.arg(room.as_str()).arg(MAX_LEFT_ROOMS_PER_USER).arg(self.membership_ttl_millis());
        self.run_one("leave a room", command).await
    }

    async fn rooms_and_left(&self, user: &UserId) -> Result<UserRooms, Unavailable> {
        let key = rooms_key(user);
        let mut pipeline = redis::pipe();
        // At one moment: a room that is being joined or left is in one of the two.
        pipeline.atomic().smembers(&key).cmd("ZRANGE").arg(left_key(user)).arg(0).arg(-1);
        pipeline.cmd("PEXPIRE").arg(&key).arg(self.membership_ttl_millis()).ignore();
        let (rooms, left): (Vec<String>, Vec<String>) = self.run("read a user's rooms", &pipeline).await?;
        Ok(UserRooms { rooms: parse_sorted_rooms(rooms), left: parse_sorted_rooms(left) })
    }

    async fn clear_left_rooms(&self, user: &UserId) -> Result<(), Unavailable> {
        let mut command = redis::cmd("EVAL");
        command.arg(FORGET_LEFT_SCRIPT).arg(1).arg(left_key(user)).arg(LEFT_ROOM_RETENTION_SECONDS);
        self.run_one("clear left rooms", command).await
    }

    async fn rooms(&self, user: &UserId) -> Result<Vec<RoomId>, Unavailable> {
        let key = rooms_key(user);
        let mut pipeline = redis::pipe();
        pipeline.smembers(&key).cmd("PEXPIRE").arg(&key).arg(self.membership_ttl_millis()).ignore();
        let (found,): (Vec<String>,) = self.run("read a user's rooms", &pipeline).await?;
        Ok(parse_sorted_rooms(found))
    }

    async fn is_member(&self, user: &UserId, room: &RoomId) -> Result<bool, Unavailable> {
        self.run_one("check a room membership", redis::Cmd::sismember(rooms_key(user), room.as_str())).await
    }
}
