//! Sessions in Redis: each change is one script.

use std::time::Duration;

use async_trait::async_trait;
use kschat_core::{
    Partition, Session, Timestamp,
    limits::{BLOCKED, CHECK_AGAIN, ENDED, KICK_AGAIN, KNOWN_RECIPIENTS, REFUSALS, REMEMBERED, Rate, SENDS_A_DAY},
    ports::{
        Admission, BoxError, Charge, Class, ConnectionRegistry, Created, Entered, Reachable, SenderShares, Unavailable,
        Updated, Verdict,
    },
};
use kschat_protocol::{ConnectionId, UserId, Version, dialect::Dialect};
use redis::Cmd;
use serde::{Deserialize, Serialize};

use super::{RedisRegistry, mark_key, millis, online_key, part, readable, scripts, to_json, undecodable};

/// How often a change is tried that finds the session as it should be, written in other words.
const TRIES: u32 = 3;

fn session_key(connection: &ConnectionId) -> String {
    format!("ks:c:{}", connection.as_str())
}

fn connections_key(user: &UserId) -> String {
    format!("ks:u:{{{}}}:c", part(user.as_str()))
}

fn share_keys(user: &UserId) -> [String; 2] {
    let recent = format!("ks:f:{{{}}}", part(user.as_str()));
    let before = format!("{recent}:before");
    [recent, before]
}

fn read_session(stored: &str) -> Result<Session, BoxError> {
    Session::try_from(serde_json::from_str::<StoredSession>(stored)?)
}

fn read_connection((connection, session): (String, String)) -> Option<Reachable> {
    let connection = readable(ConnectionId::try_from(connection))?;
    Some(Reachable { connection, session: readable(read_session(&session))? })
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
    #[serde(skip_serializing_if = "Option::is_none", default)]
    source: Option<String>,
    /// The user's partition, for the scripts. The release before did not write it.
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
            user: UserId::read_back(stored.user)?,
            version: Version::from_number(stored.version).ok_or("unknown version")?,
            connected: Timestamp::from_millis(stored.connected),
            expires: stored.expires.map(Timestamp::from_millis),
            rooms: stored.rooms,
            source: stored.source,
        })
    }
}

/// The burst and the interval in milliseconds, or nothing for no limit.
fn rate(rate: Option<Rate>) -> (u32, f64) {
    rate.map_or((0, 0.0), |rate| (rate.burst, rate.interval.as_secs_f64() * 1_000.0))
}

impl RedisRegistry {
    fn stored(&self, session: &Session) -> Result<String, Unavailable> {
        to_json(&StoredSession::new(session, self.partitions.of(&session.user)))
    }

    /// What every script that writes a session is told of it.
    fn written(&self, call: &mut Cmd, session: &Session, now: Timestamp) {
        call.arg(self.partitions.of(&session.user).to_string())
            .arg(session.reachable_until().millis())
            .arg(session.forgotten_at().millis())
            .arg(now.millis());
    }

    async fn swap(
        &self,
        connection: &ConnectionId,
        (old, new): (&str, &str),
        session: &Session,
    ) -> Result<Swapped, Unavailable> {
        let mut call = scripts::UPDATE.call();
        call.arg(connection.as_str()).arg(session.user.as_str()).arg(old).arg(new);
        self.written(&mut call, session, session.connected);
        let answer: (String, Option<String>) = self.run_one("change a session", call).await?;
        Ok(match answer {
            (outcome, None) if outcome == "done" => Swapped::Done,
            (_, Some(known)) => Swapped::Changed(known),
            _ => Swapped::Gone,
        })
    }
}

enum Swapped {
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
    ) -> Result<Created, Unavailable> {
        let (burst, interval) = rate(admission.rate);
        let mut call = scripts::CREATE.call();
        call.arg(connection.as_str()).arg(session.user.as_str()).arg(self.stored(session)?);
        self.written(&mut call, session, admission.now);
        call.arg(admission.limit).arg(burst).arg(interval);
        let (before, partition) = match &admission.instead_of {
            Some(user) => (user.as_str(), self.partitions.of(user).to_string()),
            None => ("", String::new()),
        };
        call.arg(before).arg(partition).arg(millis(Session::REMEMBERED)).arg(millis(CHECK_AGAIN));
        let (outcome, wait): (String, Option<u64>) = self.run_one("register a connection", call).await?;
        match (outcome.as_str(), wait) {
            ("done", _) => Ok(Created::Done),
            ("many", first) => Ok(Created::TooMany { check: first == Some(1) }),
            ("limited", Some(wait)) => Ok(Created::Limited(Duration::from_millis(wait))),
            ("taken", _) => Ok(Created::Taken),
            ("gone", _) => Ok(Created::Gone),
            _ => Err(undecodable("an unknown outcome")),
        }
    }

    async fn update(&self, connection: &ConnectionId, old: &Session, new: &Session) -> Result<Updated, Unavailable> {
        let (mut expected, stored) = (self.stored(old)?, self.stored(new)?);
        for _ in 0..TRIES {
            let known = match self.swap(connection, (&expected, &stored), new).await? {
                Swapped::Done => return Ok(Updated::Done),
                Swapped::Gone => return Ok(Updated::Gone),
                Swapped::Changed(known) => known,
            };
            let session = read_session(&known).map_err(undecodable)?;
            if session != *old {
                return Ok(Updated::Changed(session));
            }
            // Another release has written the same in other words.
            expected = known;
        }
        Ok(Updated::Changed(old.clone()))
    }

    async fn restore(
        &self,
        connection: &ConnectionId,
        session: &Session,
        limit: usize,
    ) -> Result<Created, Unavailable> {
        let mut call = scripts::RESTORE.call();
        call.arg(connection.as_str()).arg(session.user.as_str()).arg(self.stored(session)?);
        self.written(&mut call, session, session.connected);
        call.arg(limit);
        let outcome: String = self.run_one("restore a session", call).await?;
        match outcome.as_str() {
            "done" => Ok(Created::Done),
            "many" => Ok(Created::TooMany { check: false }),
            "gone" => Ok(Created::Gone),
            _ => Err(undecodable("an unknown outcome")),
        }
    }

    async fn session(&self, connection: &ConnectionId) -> Result<Option<Session>, Unavailable> {
        let stored: Option<String> = self.run_one("read a session", Cmd::get(session_key(connection))).await?;
        stored.map(|stored| read_session(&stored).map_err(undecodable)).transpose()
    }

    async fn enter(
        &self,
        connection: &ConnectionId,
        charge: &Charge<'_>,
        now: Timestamp,
    ) -> Result<Option<Entered>, Unavailable> {
        let class = match charge.class {
            Class::Sends => ":s",
            Class::Acks => ":a",
            Class::Requests => ":r",
        };
        let (burst, interval) = rate(charge.rate);
        let (refusals, refusals_interval) = rate(Some(REFUSALS));
        let mut call = scripts::ENTER.call();
        call.arg(connection.as_str()).arg(now.millis()).arg(class).arg(charge.cost).arg(burst).arg(interval);
        call.arg(refusals)
            .arg(refusals_interval)
            .arg(millis(BLOCKED))
            .arg(millis(KICK_AGAIN))
            .arg(millis(Session::REMEMBERED));
        message_arguments(&mut call, charge);
        let (day_burst, day_interval) = rate(Some(SENDS_A_DAY));
        call.arg(millis(REMEMBERED)).arg(day_burst).arg(day_interval);
        let found: Option<(String, String, u64, u8, u8)> = self.run_one("read a session", call).await?;
        let Some((stored, verdict, wait, others, kick)) = found else { return Ok(None) };
        let session = read_session(&stored).map_err(undecodable)?;
        let wait = Duration::from_millis(wait);
        let verdict = match verdict.as_str() {
            "granted" => Verdict::Granted,
            "limited" => Verdict::Limited(wait),
            "full" => Verdict::ShareFull,
            "blocked" => Verdict::Blocked { left: wait, kick: kick == 1 },
            _ => return Err(undecodable("an unknown verdict")),
        };
        Ok(Some(Entered { session, has_other_devices: others == 1, verdict }))
    }

    async fn end(&self, connection: &ConnectionId) -> Result<Option<UserId>, Unavailable> {
        let mut call = scripts::END.call();
        call.arg(connection.as_str()).arg(millis(ENDED));
        let (user, is_whole): (String, u8) = self.run_one("end a connection", call).await?;
        if user.is_empty() {
            return Ok(None);
        }
        let user = UserId::read_back(user).map_err(undecodable)?;
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

/// What is counted of a message.
fn message_arguments(call: &mut Cmd, charge: &Charge<'_>) {
    let Some(message) = &charge.message else {
        for _ in 0..11 {
            call.arg("");
        }
        return;
    };
    let (new_burst, new_interval) = rate(message.new_recipients);
    let to = message.to.map_or("", UserId::as_str);
    let share = message.share;
    let weight = share.map_or(0, |share| share.weight(message.bytes));
    let (limit, retention) = share.map_or((0, Duration::ZERO), |share| (share.bytes, share.retention));
    let (room, cost) = share.map_or((None, 0), |share| {
        let (rate, cost) = share.in_rooms(message.bytes);
        (Some(rate), cost)
    });
    let (room_burst, room_interval) = rate(room);
    call.arg("message").arg(to).arg(new_burst).arg(new_interval).arg(KNOWN_RECIPIENTS);
    call.arg(weight).arg(limit).arg(millis(retention)).arg(room_burst).arg(room_interval).arg(cost);
}

#[async_trait]
impl SenderShares for RedisRegistry {
    async fn clear_shares(&self, user: &UserId) -> Result<(), Unavailable> {
        let keys = share_keys(user);
        let _: u64 = self.run_one("clear what waits of senders", Cmd::unlink(&keys[..])).await?;
        Ok(())
    }

    async fn give_back(&self, user: &UserId, sender: &UserId, weight: u64) -> Result<(), Unavailable> {
        let [recent, _] = share_keys(user);
        let mut call = scripts::GIVE_BACK.call();
        call.arg(recent).arg(sender.as_str()).arg(weight);
        let _: u8 = self.run_one("give a sender's share back", call).await?;
        Ok(())
    }

    async fn rotate_shares(&self, user: &UserId) -> Result<(), Unavailable> {
        let mut call = scripts::ROTATE.call();
        for key in share_keys(user) {
            call.arg(key);
        }
        let _: u8 = self.run_one("count anew what waits of senders", call).await?;
        Ok(())
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
        let partition = kschat_core::Partitions::default().of(&session.user);
        let now = serde_json::to_string(&StoredSession::new(&session, partition)).unwrap();
        assert_eq!(now, format!(r#"{},"partition":"{partition}"}}"#, old.trim_end_matches('}')));
        let unknown = r#"{"user":"alice","version":1,"connected":7,"expires":null,"dialect":"9"}"#;
        assert!(read_session(unknown).is_err());
    }
}
