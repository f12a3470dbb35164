//! Lua scripts that Redis runs as one step each. They are loaded at connect, and called by their hashes.

use std::sync::LazyLock;

use kschat_core::{
    Session,
    limits::{
        BLOCK_DURATION, CLOSE_REQUEST_INTERVAL, CONNECTION_CHECK_COOLDOWN, DAILY_SEND_RATE, ENDED_CONNECTION_RETENTION,
        MAX_KNOWN_RECIPIENTS, RECIPIENT_RETENTION, REFUSAL_RATE, Rate,
    },
};
use redis::{Cmd, ErrorKind, RedisError, Script, aio::MultiplexedConnection};

use super::millis;

macro_rules! script {
    ($($file:literal),+) => {
        LazyLock::new(|| LoadedScript::new(concat!($(include_str!(concat!("scripts/", $file)), "\n"),+)))
    };
}

pub(super) static CREATE: LazyLock<LoadedScript> = script!("keys.lua", "account.lua", "sessions.lua", "create.lua");
pub(super) static UPDATE: LazyLock<LoadedScript> = script!("keys.lua", "sessions.lua", "update.lua");
pub(super) static RESTORE: LazyLock<LoadedScript> = script!("keys.lua", "sessions.lua", "restore.lua");
pub(super) static CHARGE_SESSION: LazyLock<LoadedScript> = script!("keys.lua", "account.lua", "charge_session.lua");
pub(super) static END_CONNECTION: LazyLock<LoadedScript> = script!("keys.lua", "sessions.lua", "end_connection.lua");
pub(super) static REMOVE: LazyLock<LoadedScript> = script!("keys.lua", "sessions.lua", "remove.lua");
pub(super) static ROTATE_SHARES: LazyLock<LoadedScript> = script!("rotate_shares.lua");
pub(super) static RELEASE_SHARE: LazyLock<LoadedScript> = script!("release_share.lua");

/// A script, and its hash in Redis.
pub(super) struct LoadedScript {
    text: String,
    hash: String,
}

impl LoadedScript {
    fn new(body: &str) -> Self {
        let text = format!("{}\n{body}", constants());
        Self { hash: Script::new(&text).get_hash().to_owned(), text }
    }

    /// A call without arguments. It declares no keys, as only a cluster needs that.
    pub(super) fn call(&self) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.hash).arg(0);
        call
    }
}

/// The bounds that are the same in each call, as constants of the scripts. Spans are milliseconds.
fn constants() -> String {
    let spans = [
        ("SESSION_LIFETIME", Session::SESSION_RETENTION),
        ("RECIPIENTS_KEPT", RECIPIENT_RETENTION),
        ("BLOCKED_FOR", BLOCK_DURATION),
        ("KICK_AGAIN", CLOSE_REQUEST_INTERVAL),
        ("CHECK_AGAIN", CONNECTION_CHECK_COOLDOWN),
        ("ENDED_KEPT", ENDED_CONNECTION_RETENTION),
    ];
    let mut all = vec![format!("KNOWN_RECIPIENTS = {MAX_KNOWN_RECIPIENTS}")];
    all.extend(spans.map(|(name, span)| format!("{name} = {}", millis(span))));
    for (name, rate) in [("DAY", DAILY_SEND_RATE), ("REFUSALS", REFUSAL_RATE)] {
        let (burst, interval) = bucket_arguments(Some(rate));
        all.push(format!("{name}_BURST = {burst}"));
        all.push(format!("{name}_INTERVAL = {interval}"));
    }
    all.iter().map(|one| format!("local {one}\n")).collect()
}

/// The burst and the interval in milliseconds, or zeros for no limit.
pub(super) fn bucket_arguments(rate: Option<Rate>) -> (u32, f64) {
    rate.map_or((0, 0.0), |rate| (rate.burst, rate.interval.as_secs_f64() * 1_000.0))
}

/// The oldest version with all features of the scripts and commands.
const OLDEST: u16 = 7;

/// The missing feature of this Redis, if there is one, according to its own report.
///
/// Source: Redis, "INFO". Valkey also reports the version of Redis that it is compatible with.
fn misfit(server: &str, cluster: &str) -> Option<String> {
    if cluster.contains("cluster_enabled:1") {
        let hint = "this Redis runs as a cluster, where a session can't change in one step: use one with cluster mode \
                    disabled";
        return Some(hint.to_owned());
    }
    let version = server.lines().find_map(|line| line.strip_prefix("redis_version:"))?.trim();
    let major: u16 = version.split('.').next()?.parse().ok()?;
    // A compatible server may count in its own way; only what is certainly too old is refused.
    (major < OLDEST).then(|| {
        format!("this Redis is of version {version}: one of {OLDEST}.0 or newer is needed, or Valkey in any version")
    })
}

/// Loads all of them, unless this Redis can't run them.
pub(super) async fn load(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    let mut asking = redis::pipe();
    asking.cmd("INFO").arg("server").cmd("INFO").arg("cluster");
    let (server, cluster): (String, String) = asking.query_async(connection).await?;
    if let Some(misfit) = misfit(&server, &cluster) {
        return Err((ErrorKind::InvalidClientConfig, "this Redis can't be used", misfit).into());
    }
    let mut pipeline = redis::pipe();
    for script in
        [&CREATE, &UPDATE, &RESTORE, &CHARGE_SESSION, &END_CONNECTION, &REMOVE, &ROTATE_SHARES, &RELEASE_SHARE]
    {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(&script.text).ignore();
    }
    pipeline.query_async(connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_that_is_too_old_or_a_cluster_is_told_with_what_is_needed() {
        let alone = "# Cluster\r\ncluster_enabled:0\r\n";
        let server = |version: &str| format!("# Server\r\nredis_version:{version}\r\nredis_mode:standalone\r\n");
        for version in ["7.0.15", "7.2.4", "8.4.0", "255.255.255", "unstable"] {
            assert_eq!(misfit(&server(version), alone), None, "{version}");
        }
        assert_eq!(misfit("# Server\r\n", ""), None);
        for version in ["6.2.14", "5.0.7", "2.8.24"] {
            let problem = misfit(&server(version), alone).unwrap();
            assert!(problem.contains(version) && problem.contains("7.0 or newer"), "{problem}");
        }
        assert!(misfit(&server("7.2.4"), "cluster_enabled:1\r\n").unwrap().contains("cluster mode disabled"));
    }
}
