//! Sessions in Redis: each change is one script.

use std::time::Duration;

use async_trait::async_trait;
use kschat_core::{
    Partition, Session, Timestamp,
    ports::{
        Admission, BoxError, Charge, ChargeVerdict, ChargedSession, ConnectionRegistry, CreateOutcome, MessageCharge,
        RateClass, RegisteredConnection, SenderShares, Unavailable, UpdateOutcome,
    },
};
use kschat_protocol::{ConnectionId, ProtocolVersion, UserId, dialect::Dialect};
use redis::Cmd;
use serde::{Deserialize, Serialize};

use super::{
    RedisRegistry, epoch_marker_key, escape_key_part, millis, online_key, scripts, skip_unreadable, to_json,
    undecodable,
};

/// Attempts to change a session whose stored form differs while its value is as expected.
const SESSION_SWAP_MAX_ATTEMPTS: u32 = 3;

fn session_key(connection: &ConnectionId) -> String {
    format!("ks:c:{}", connection.as_str())
}

fn connections_key(user: &UserId) -> String {
    format!("ks:u:{{{}}}:c", escape_key_part(user.as_str()))
}

fn share_keys(user: &UserId) -> [String; 2] {
    let recent = format!("ks:f:{{{}}}", escape_key_part(user.as_str()));
    let before = format!("{recent}:before");
    [recent, before]
}

fn read_session(stored: &str) -> Result<Session, BoxError> {
    Session::try_from(serde_json::from_str::<StoredSession>(stored)?)
}

fn read_connection((connection, session): (String, String)) -> Option<RegisteredConnection> {
    let connection = skip_unreadable(ConnectionId::try_from(connection))?;
    Some(RegisteredConnection { connection, session: skip_unreadable(read_session(&session))? })
}

/// A [`Session`] as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredSession {
    user: String,
    version: u8,
    connected: u64,
    expires: Option<u64>,
    /// Left out for the raw dialect, as in releases that knew no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dialect: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    rooms: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    source: Option<String>,
    /// The user's partition, for the scripts. The previous release did not write it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    partition: Option<String>,
}

impl StoredSession {
    fn new(session: &Session, partition: Partition) -> Self {
        Self {
            user: session.user.as_str().to_owned(),
            version: session.version.number(),
            connected: session.connected.millis(),
            expires: session.expires.map(Timestamp::millis),
            dialect: session.dialect.code(),
            rooms: session.rooms.clone(),
            source: session.source.clone(),
            partition: Some(partition.to_string()),
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
            user: UserId::from_stored(stored.user)?,
            version: ProtocolVersion::from_number(stored.version).ok_or("unknown version")?,
            connected: Timestamp::from_millis(stored.connected),
            expires: stored.expires.map(Timestamp::from_millis),
            rooms: stored.rooms,
            source: stored.source,
        })
    }
}

impl RedisRegistry {
    fn encode_session(&self, session: &Session) -> Result<String, Unavailable> {
        to_json(&StoredSession::new(session, self.partitions.of(&session.user)))
    }

    /// Adds the session's arguments, which every script that writes a session needs.
    fn push_session_arguments(&self, call: &mut Cmd, session: &Session, now: Timestamp) {
        call.arg(self.partitions.of(&session.user).to_string())
            .arg(session.reachable_until().millis())
            .arg(session.retained_until().millis())
            .arg(now.millis());
    }

    async fn swap(
        &self,
        connection: &ConnectionId,
        (old, new): (&str, &str),
        session: &Session,
    ) -> Result<SwapOutcome, Unavailable> {
        let mut call = scripts::UPDATE.call();
        call.arg(connection.as_str()).arg(session.user.as_str()).arg(old).arg(new);
        self.push_session_arguments(&mut call, session, session.connected);
        let answer: (String, Option<String>) = self.run_one("update a session", call).await?;
        Ok(match answer {
            (outcome, None) if outcome == "done" => SwapOutcome::Done,
            (_, Some(known)) => SwapOutcome::Changed(known),
            _ => SwapOutcome::Gone,
        })
    }
}

enum SwapOutcome {
    Done,
    Changed(String),
    Gone,
}

#[async_trait]
impl ConnectionRegistry for RedisRegistry {
    async fn create(
        &self,
        connection: &ConnectionId,
        session: &Session,
        admission: &Admission,
    ) -> Result<CreateOutcome, Unavailable> {
        let (burst, interval) = scripts::bucket_arguments(admission.rate);
        let mut call = scripts::CREATE.call();
        call.arg(connection.as_str()).arg(session.user.as_str()).arg(self.encode_session(session)?);
        self.push_session_arguments(&mut call, session, admission.now);
        call.arg(admission.limit).arg(burst).arg(interval);
        let (before, partition) = match &admission.replaced_user {
            Some(user) => (user.as_str(), self.partitions.of(user).to_string()),
            None => ("", String::new()),
        };
        call.arg(before).arg(partition);
        let (outcome, wait): (String, Option<u64>) = self.run_one("register a connection", call).await?;
        match (outcome.as_str(), wait) {
            ("done", _) => Ok(CreateOutcome::Done),
            ("many", first) => Ok(CreateOutcome::LimitReached { check: first == Some(1) }),
            ("limited", Some(wait)) => Ok(CreateOutcome::Limited(Duration::from_millis(wait))),
            ("taken", _) => Ok(CreateOutcome::Taken),
            ("gone", _) => Ok(CreateOutcome::Gone),
            _ => Err(undecodable("an unknown outcome")),
        }
    }

    async fn update(
        &self,
        connection: &ConnectionId,
        old: &Session,
        new: &Session,
    ) -> Result<UpdateOutcome, Unavailable> {
        let (mut expected, stored) = (self.encode_session(old)?, self.encode_session(new)?);
        for _ in 0..SESSION_SWAP_MAX_ATTEMPTS {
            let known = match self.swap(connection, (&expected, &stored), new).await? {
                SwapOutcome::Done => return Ok(UpdateOutcome::Done),
                SwapOutcome::Gone => return Ok(UpdateOutcome::Gone),
                SwapOutcome::Changed(known) => known,
            };
            let session = read_session(&known).map_err(undecodable)?;
            if session != *old {
                return Ok(UpdateOutcome::Changed(session));
            }
            // Another release has written the same value in another form.
            expected = known;
        }
        Ok(UpdateOutcome::Changed(old.clone()))
    }

    async fn restore(
        &self,
        connection: &ConnectionId,
        session: &Session,
        limit: usize,
    ) -> Result<CreateOutcome, Unavailable> {
        let mut call = scripts::RESTORE.call();
        call.arg(connection.as_str()).arg(session.user.as_str()).arg(self.encode_session(session)?);
        self.push_session_arguments(&mut call, session, session.connected);
        call.arg(limit);
        let outcome: String = self.run_one("restore a session", call).await?;
        match outcome.as_str() {
            "done" => Ok(CreateOutcome::Done),
            "many" => Ok(CreateOutcome::LimitReached { check: false }),
            "gone" => Ok(CreateOutcome::Gone),
            _ => Err(undecodable("an unknown outcome")),
        }
    }

    async fn session(&self, connection: &ConnectionId) -> Result<Option<Session>, Unavailable> {
        let stored: Option<String> = self.run_one("read a session", Cmd::get(session_key(connection))).await?;
        stored.map(|stored| read_session(&stored).map_err(undecodable)).transpose()
    }

    async fn charge_session(
        &self,
        connection: &ConnectionId,
        charge: &Charge<'_>,
        now: Timestamp,
    ) -> Result<Option<ChargedSession>, Unavailable> {
        // The index of its bucket in the account of a user.
        let bucket = match charge.class {
            RateClass::Sends => 1,
            RateClass::Acks => 3,
            RateClass::Requests => 4,
        };
        let (burst, interval) = scripts::bucket_arguments(charge.rate);
        let mut call = scripts::CHARGE_SESSION.call();
        call.arg(connection.as_str()).arg(now.millis()).arg(bucket).arg(charge.cost).arg(burst).arg(interval);
        if let Some(message) = &charge.message {
            message_arguments(&mut call, message);
        }
        let found: Option<(String, String, u64, u8, u8)> = self.run_one("read a session", call).await?;
        let Some((stored, verdict, wait, others, should_disconnect)) = found else { return Ok(None) };
        let session = read_session(&stored).map_err(undecodable)?;
        let wait = Duration::from_millis(wait);
        let verdict = match verdict.as_str() {
            "granted" => ChargeVerdict::Granted,
            "limited" => ChargeVerdict::Limited(wait),
            "full" => ChargeVerdict::ShareFull,
            "blocked" => ChargeVerdict::Blocked { left: wait, should_disconnect: should_disconnect == 1 },
            _ => return Err(undecodable("an unknown verdict")),
        };
        Ok(Some(ChargedSession { session, has_other_devices: others == 1, verdict }))
    }

    async fn end_connection(&self, connection: &ConnectionId) -> Result<Option<UserId>, Unavailable> {
        let mut call = scripts::END_CONNECTION.call();
        call.arg(connection.as_str());
        let (user, is_whole): (String, u8) = self.run_one("end a connection", call).await?;
        if user.is_empty() {
            return Ok(None);
        }
        let user = UserId::from_stored(user).map_err(undecodable)?;
        if is_whole == 0 {
            self.remove(&user, connection).await?;
        }
        Ok(Some(user))
    }

    async fn remove(&self, user: &UserId, connection: &ConnectionId) -> Result<(), Unavailable> {
        let mut call = scripts::REMOVE.call();
        call.arg(connection.as_str()).arg(user.as_str()).arg(self.partitions.of(user).to_string());
        let _: u8 = self.run_one("remove a connection", call).await?;
        Ok(())
    }

    async fn connections(&self, user: &UserId, now: Timestamp) -> Result<Vec<RegisteredConnection>, Unavailable> {
        let command = Cmd::hgetall(connections_key(user));
        let found: Vec<(String, String)> = self.run_one("read a user's connections", command).await?;
        let all: Vec<RegisteredConnection> = found.into_iter().filter_map(read_connection).collect();
        // Disconnects are lost now and then: a connection that has certainly ended frees capacity here.
        let (over, open): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.session.retained_until() <= now);
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

    async fn online_users(&self, partition: Partition, now: Timestamp) -> Result<Vec<UserId>, Unavailable> {
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command.arg(online_key(partition)).arg(format!("({}", now.millis())).arg("+inf");
        let found: Vec<String> = self.run_one("read who is online", command).await?;
        Ok(found.into_iter().filter_map(|id| skip_unreadable(UserId::from_stored(id))).collect())
    }

    async fn set_epoch_marker(&self, partition: Partition) -> Result<bool, Unavailable> {
        let mut command = redis::cmd("SET");
        command.arg(epoch_marker_key(partition)).arg(1).arg("NX");
        let set: Option<String> = self.run_one("set an epoch marker", command).await?;
        Ok(set.is_none())
    }

    async fn has_epoch_marker(&self, partition: Partition) -> Result<bool, Unavailable> {
        self.run_one("check an epoch marker", Cmd::exists(epoch_marker_key(partition))).await
    }
}

/// Adds the arguments of a message.
fn message_arguments(call: &mut Cmd, message: &MessageCharge<'_>) {
    let (new_burst, new_interval) = scripts::bucket_arguments(message.new_recipients);
    let to = message.to.map_or("", UserId::as_str);
    let share = message.share;
    let weight = share.map_or(0, |share| share.weight(message.bytes));
    let (limit, retention) = share.map_or((0, Duration::ZERO), |share| (share.bytes, share.retention));
    let (room, cost) = share.map_or((None, 0), |share| {
        let (rate, cost) = share.in_rooms(message.bytes);
        (Some(rate), cost)
    });
    let (room_burst, room_interval) = scripts::bucket_arguments(room);
    call.arg(to).arg(new_burst).arg(new_interval);
    call.arg(weight).arg(limit).arg(millis(retention)).arg(room_burst).arg(room_interval).arg(cost);
}

#[async_trait]
impl SenderShares for RedisRegistry {
    async fn clear_shares(&self, user: &UserId) -> Result<(), Unavailable> {
        let keys = share_keys(user);
        let _: u64 = self.run_one("clear sender shares", Cmd::unlink(&keys[..])).await?;
        Ok(())
    }

    async fn release_share(&self, user: &UserId, sender: &UserId, weight: u64) -> Result<(), Unavailable> {
        let [recent, _] = share_keys(user);
        let mut call = scripts::RELEASE_SHARE.call();
        call.arg(recent).arg(sender.as_str()).arg(weight);
        let _: u8 = self.run_one("release a sender's share", call).await?;
        Ok(())
    }

    async fn rotate_shares(&self, user: &UserId) -> Result<(), Unavailable> {
        let mut call = scripts::ROTATE_SHARES.call();
        for key in share_keys(user) {
            call.arg(key);
        }
        let _: u8 = self.run_one("rotate sender shares", call).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_without_dialect_reads_as_raw() {
        let old = r#"{"user":"alice","version":1,"connected":7,"expires":null}"#;
        let session = read_session(old).unwrap();
        assert_eq!(session.dialect, Dialect::Raw);
        let partition = kschat_core::Partitions::default().of(&session.user);
        let now = serde_json::to_string(&StoredSession::new(&session, partition)).unwrap();
        assert_eq!(now, format!(r#"{},"partition":"{partition}"}}"#, old.trim_end_matches('}')));
        let unknown = r#"{"user":"alice","version":1,"connected":7,"expires":null,"dialect":"9"}"#;
        assert!(read_session(unknown).is_err());
    }
}
