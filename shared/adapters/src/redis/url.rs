//! The address of Redis, and what its refusals mean.

use std::{fmt, str::FromStr};

use kschat_core::ports::BoxError;
use redis::{Client, ConnectionAddr, IntoConnectionInfo, TlsCertificates, io::tcp::TcpSettings};

use crate::{
    address::{only_parameters, service_url},
    tls,
};

/// The URL of Redis. Cannot be printed with its password.
///
/// ```
/// use kschat_adapters::redis::RedisUrl;
///
/// let url: RedisUrl = "rediss://:secret@cache.internal:6379/0".parse()?;
/// assert_eq!(format!("{url:?}"), "rediss://***@cache.internal:6379");
/// assert!("http://cache.internal".parse::<RedisUrl>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone)]
pub struct RedisUrl(Client);

impl FromStr for RedisUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const HINT: &str = "must be a Redis URL such as rediss://:password@host:6379/0";
        let wrong = |_| HINT.to_owned();
        if !text.contains("unix:") {
            only_parameters(&service_url(text, &["redis", "rediss", "valkey", "valkeys"], HINT)?, &["protocol"])?;
        }
        let info = text.into_connection_info().map_err(wrong)?;
        // Commands are small, and a caller waits for each.
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let client = if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            let trusted = TlsCertificates { client_tls: None, root_cert: Some(tls::roots_in_pem().into()) };
            Client::build_with_tls(info, trusted)
        } else {
            Client::open(info)
        };
        client.map(Self).map_err(wrong)
    }
}

impl RedisUrl {
    pub(super) fn client(&self) -> &Client {
        &self.0
    }

    /// The Redis user: the default one if the URL names none.
    fn user(&self) -> &str {
        self.0.get_connection_info().redis_settings().username().unwrap_or("default")
    }

    /// Adds a hint for the operator, where Redis refuses the connection.
    ///
    /// Source: Redis, "Security" and "ACL", error codes.
    pub(super) fn explain(&self, error: redis::RedisError) -> BoxError {
        let user = self.user();
        let is = |code: &str| has_code(&error, code);
        let refused = if is("NOAUTH") {
            "Redis wants a password, and REDIS_URL has none: write it as redis://:password@host:6379".to_owned()
        } else if is("WRONGPASS") || error.kind() == redis::ErrorKind::AuthenticationFailed {
            format!("Redis refuses user `{user}`: are the name and the password right?")
        } else if is("NOPERM") {
            format!("Redis does not let user `{user}` do that: are its permissions right?")
        } else {
            return tls::with_hint(error.into());
        };
        Box::new(Refused(refused))
    }
}

/// Whether Redis has answered with that error code. For a pipeline the code is only in the text.
pub(super) fn has_code(error: &redis::RedisError, code: &str) -> bool {
    error.code() == Some(code) || error.to_string().contains(&format!("\"{code}\""))
}

/// Redis is reachable, but refuses the connection.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(String);

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.0.get_connection_info().addr();
        let scheme = if matches!(address, ConnectionAddr::TcpTls { .. }) { "rediss" } else { "redis" };
        write!(f, "{scheme}://***@{address}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_with_what_is_not_understood_is_refused_without_its_password() {
        for url in [
            "redis://[::1]:6379",
            "rediss://me:p%2Fw@redis/3",
            "valkey://:pw@redis?protocol=resp3",
            "unix:///tmp/redis",
        ] {
            let shown = url.parse::<RedisUrl>().map(|url| format!("{url:?}"));
            assert!(shown.as_ref().is_ok_and(|shown| !shown.contains("pw")), "{url}: {shown:?}");
        }
        let refused = [
            ("redis://:hunter/2@redis", "%2F"),
            ("redis://:hunter@2/x@redis", "%40"),
            ("redis://:hunter#2@redis", "%23"),
            ("rediss://:hunter@redis/#insecure", "means nothing"),
            ("redis://:hunter@redis?db=3", "protocol"),
            ("redis://:hunter@redis/three", "Redis URL"),
            ("redis://:hunter@redis:x", "port"),
            ("redis://", "host"),
            ("http://:hunter@redis", "Redis URL"),
            ("redis:6379", "Redis URL"),
        ];
        for (url, hint) in refused {
            let error = url.parse::<RedisUrl>().err().unwrap_or_else(|| "nothing".to_owned());
            assert!(error.contains(hint) && !error.contains("hunter"), "{url}: {error}");
        }
    }
}
