//! Adapters of real services for the ports of `kschat-core`.
//!
//! One vendor, one module; a vendor's type never leaves its module.
//!
//! | to find | look in |
//! |---|---|
//! | names of Redis keys | [`redis`] |
//! | how message ids are keyed | [`identity`] |
//! | names of queues and exchanges | [`rabbitmq`] |
//! | settings in the environment | [`config`] |
//! | which certificates outgoing connections trust | [`tls`] |
//! | outputs of metrics, log lines and traces | [`metrics`], [`log`], [`telemetry`] |

mod address;
#[cfg(feature = "api-gateway")]
pub mod api_gateway;
pub mod config;
mod http;
pub mod identity;
pub mod jwt;
pub mod log;
pub mod metrics;
#[cfg(feature = "otlp")]
mod otlp;
pub mod rabbitmq;
pub mod redis;
#[cfg(feature = "server")]
pub mod server;
pub mod signal;
pub mod telemetry;
pub mod tls;

/// Installs the TLS provider of this process. Call it first in `main`; a second call does nothing.
pub fn install_crypto_provider() {
    // An error only means that it is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
