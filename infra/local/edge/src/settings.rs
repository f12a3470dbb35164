//! Settings of the edge, with the managed edge's values as defaults.

use std::time::Duration;

use super::{faults::Rule, routes::Routes};
use crate::loopback::Origins;

/// Maximum bytes of a WebSocket frame.
///
/// Source: Amazon API Gateway quotas, "WebSocket frame size".
pub const MAX_FRAME_BYTES: usize = 32 * 1024;

/// Maximum bytes of a message, over all its frames, and of a push.
///
/// Source: Amazon API Gateway quotas, "Message payload size".
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;

/// Maximum characters of a URL.
///
/// Source: Amazon API Gateway quotas, "Length, in characters, of the URL for a WebSocket API".
pub const MAX_URL_LENGTH: usize = 4096;

/// Settings of one stage's edge.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the stage: the WebSocket is at `/{stage}`.
    pub stage: String,
    /// Routing of frames to functions.
    pub routes: Routes,
    /// Idle timeout of a socket.
    ///
    /// Source: Amazon API Gateway quotas, "Idle Connection Timeout".
    pub idle: Duration,
    /// Maximum age of a socket.
    ///
    /// Source: Amazon API Gateway quotas, "Connection duration for WebSocket API".
    pub lifetime: Duration,
    /// Speed-up of the two timeouts above.
    pub time_scale: f64,
    /// Timeout of a function.
    ///
    /// Source: Amazon API Gateway quotas, "Integration timeout".
    pub integration_timeout: Duration,
    /// Larger frames close the socket with 1009.
    pub max_frame: usize,
    /// Larger messages close the socket with 1009.
    pub max_message: usize,
    /// Maximum concurrent invocations; further ones wait. Lambda's own default is 1,000 per account.
    pub concurrency: usize,
    /// Whether a connection's frames are handled sequentially. The managed edge guarantees no order.
    pub in_order: bool,
    /// Whether a trailing slash after the stage is rejected.
    pub strict_path: bool,
    /// Whether pings reset the idle timeout. No source specifies it.
    pub ping_resets_idle: bool,
    /// Close code for a socket that is idle or too old. No source specifies it.
    pub timeout_close_code: u16,
    /// Whether a function may answer with a status code such as 200.0. No source specifies it.
    pub float_status: bool,
    /// Whether permessage-deflate is negotiated when a client offers it.
    pub compression: bool,
    /// New connections per second; more are answered 429. The managed edge allows 500 per account.
    pub connect_rate: Option<u32>,
    /// Calls of the connections API per second; more are answered 429. The managed edge shares 10,000 requests per
    /// second across the account.
    pub post_rate: Option<u32>,
    /// Allowed origins of browser pages. The managed edge does not check them.
    pub origins: Origins,
    /// Faults that are active from the start.
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
            max_frame: MAX_FRAME_BYTES,
            max_message: MAX_MESSAGE_BYTES,
            concurrency: 1_000,
            in_order: false,
            strict_path: false,
            ping_resets_idle: false,
            timeout_close_code: 1001,
            float_status: false,
            compression: true,
            connect_rate: None,
            post_rate: None,
            origins: Origins::default(),
            faults: Vec::new(),
        }
    }
}

impl Settings {
    /// The idle timeout, scaled by the edge's faster clock.
    pub(super) fn idle(&self) -> Duration {
        self.idle.div_f64(self.time_scale)
    }

    /// The maximum age, scaled by the edge's faster clock.
    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime.div_f64(self.time_scale)
    }
}
