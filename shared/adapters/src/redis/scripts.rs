//! Scripts that Redis runs as one step each. They are loaded when a connection is made, and called by their hashes.

use std::sync::LazyLock;

use redis::{Cmd, ErrorKind, RedisError, Script, aio::MultiplexedConnection};

macro_rules! script {
    ($file:literal) => {
        LazyLock::new(|| Loaded::new(concat!(include_str!("scripts/common.lua"), "\n", include_str!($file))))
    };
}

pub(super) static CREATE: LazyLock<Loaded> = script!("scripts/create.lua");
pub(super) static UPDATE: LazyLock<Loaded> = script!("scripts/update.lua");
pub(super) static RESTORE: LazyLock<Loaded> = script!("scripts/restore.lua");
pub(super) static ENTER: LazyLock<Loaded> = script!("scripts/enter.lua");
pub(super) static END: LazyLock<Loaded> = script!("scripts/end.lua");
pub(super) static REMOVE: LazyLock<Loaded> = script!("scripts/remove.lua");
pub(super) static ROTATE: LazyLock<Loaded> = script!("scripts/rotate.lua");
pub(super) static GIVE_BACK: LazyLock<Loaded> = script!("scripts/give_back.lua");

/// A script, and the hash by which Redis knows it.
pub(super) struct Loaded {
    text: &'static str,
    hash: String,
}

impl Loaded {
    fn new(text: &'static str) -> Self {
        Self { text, hash: Script::new(text).get_hash().to_owned() }
    }

    /// A call without any arguments yet. It names no keys beforehand, as only a cluster needs that.
    pub(super) fn call(&self) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.hash).arg(0);
        call
    }
}

/// Loads all of them, unless this Redis can't run them.
pub(super) async fn load(connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("INFO").arg("cluster");
    for script in [&CREATE, &UPDATE, &RESTORE, &ENTER, &END, &REMOVE, &ROTATE, &GIVE_BACK] {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(script.text).ignore();
    }
    let (cluster,): (String,) = pipeline.query_async(connection).await?;
    if cluster.contains("cluster_enabled:1") {
        return Err((
            ErrorKind::InvalidClientConfig,
            "this Redis runs as a cluster, where a session can't change in one step: use one with cluster mode disabled",
        )
            .into());
    }
    Ok(())
}
