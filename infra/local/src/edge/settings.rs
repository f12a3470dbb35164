//! How the edge behaves: the managed one's figures, each adjustable.

use std::time::Duration;

use super::{faults::Rule, routes::Routes};
use crate::loopback::Origins;

/// What a WebSocket frame may hold, in bytes.
///
/// Source: Amazon API Gateway quotas, "WebSocket frame size".
pub const MAX_FRAME: usize = 32 * 1024;

/// What a message may hold, however many frames it comes in, in bytes; also what may be pushed.
///
/// Source: Amazon API Gateway quotas, "Message payload size".
pub const MAX_MESSAGE: usize = 128 * 1024;

/// How many characters a URL may have.
///
/// Source: Amazon API Gateway quotas, "Length, in characters, of the URL for a WebSocket API".
pub const MAX_URL: usize = 4096;

/// What the edge of one stage does.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name of the stage: the WebSocket is at `/{stage}`.
    pub stage: String,
    /// Which function gets which frame.
    pub routes: Routes,
    /// A socket on which nothing was said for so long is closed.
    ///
    /// Source: Amazon API Gateway quotas, "Idle Connection Timeout".
    pub idle: Duration,
    /// A socket is closed at that age.
    ///
    /// Source: Amazon API Gateway quotas, "Connection duration for WebSocket API".
    pub lifetime: Duration,
    /// So many times faster do the two clocks above run.
    pub time_scale: f64,
    /// How long a function may take.
    ///
    /// Source: Amazon API Gateway quotas, "Integration timeout".
    pub integration_timeout: Duration,
    /// Larger frames close the socket with 1009.
    pub max_frame: usize,
    /// Larger messages close the socket with 1009.
    pub max_message: usize,
    /// Invocations under way at once; what is beyond waits. Lambda's own default is 1,000 an account.
    pub concurrency: usize,
    /// Whether a connection's frames wait for one another. The managed edge promises no order.
    pub in_order: bool,
    /// Whether a slash after the stage is refused.
    pub strict_path: bool,
    /// Whether pings keep a socket from being idle. No source says.
    pub ping_resets_idle: bool,
    /// With which code a socket is closed that is idle or too old. No source says.
    pub timeout_close_code: u16,
    /// Whether permessage-deflate is agreed to when a client offers it.
    pub compression: bool,
    /// New connections a second; more are answered 429. The managed edge has 500 an account.
    pub connect_rate: Option<u32>,
    /// Calls of the connections API a second; more are answered 429. The managed edge shares 10,000 requests a
    /// second of the account.
    pub post_rate: Option<u32>,
    /// From which pages browsers may come. The managed edge does not look.
    pub origins: Origins,
    /// What goes wrong on purpose from the start.
    pub faults: Vec<Rule>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stage: "dev".to_owned(),
            routes: Routes::kschat(),
            idle: Duration::from_secs(10 * 60),
            lifetime: Duration::from_secs(2 * 60 * 60),
            time_scale: 1.0,
            integration_timeout: Duration::from_secs(29),
            max_frame: MAX_FRAME,
            max_message: MAX_MESSAGE,
            concurrency: 1_000,
            in_order: false,
            strict_path: false,
            ping_resets_idle: false,
            timeout_close_code: 1001,
            compression: true,
            connect_rate: None,
            post_rate: None,
            origins: Origins::default(),
            faults: Vec::new(),
        }
    }
}

impl Settings {
    /// After which silence a socket is closed, by the edge's faster clock.
    pub(super) fn idle(&self) -> Duration {
        self.idle.div_f64(self.time_scale)
    }

    /// At which age a socket is closed, by the edge's faster clock.
    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime.div_f64(self.time_scale)
    }
}
