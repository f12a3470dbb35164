//! The real things behind the ports of `kschat-core`.
//!
//! One vendor, one module; a vendor's type never leaves its module.
//!
//! | to find | look in |
//! |---|---|
//! | how Redis keys are named | [`redis`] |
//! | how messages are told apart | [`identity`] |
//! | how queues and exchanges are named | [`rabbitmq`] |
//! | which setting the environment holds | [`config`] |
//! | where metrics, log lines and traces go | [`metrics`], [`log`], [`telemetry`] |

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

/// Chooses the one TLS provider of this process. Call it first in `main`; a second call does nothing.
pub fn install_crypto_provider() {
    // An error only says that it is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
