//! Who may see what is for this machine only.

use std::net::{IpAddr, SocketAddr};

use axum::http::{
    HeaderMap,
    header::{HOST, ORIGIN},
};

/// Whether a request came from this machine and names it: a page elsewhere whose name was made to point here
/// does not.
#[must_use]
pub fn is_local(peer: SocketAddr, headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // Who listens on IPv6 sees callers by IPv4 in its clothes.
    peer.ip().to_canonical().is_loopback() && names_loopback(host)
}

/// Whether no page elsewhere has sent this request through a browser on this machine.
#[must_use]
pub fn is_own_page(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let origin = origin.to_str().unwrap_or_default();
    origin.split_once("://").is_some_and(|(_, host)| names_loopback(host))
}

fn names_loopback(host: &str) -> bool {
    let has_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let name = host.rsplit_once(':').filter(|(_, port)| has_port(port)).map_or(host, |(name, _)| name);
    name == "localhost" || name.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_loopback() {
        for host in ["localhost", "localhost:3000", "127.0.0.1:3000", "[::1]:3000", "127.1.2.3"] {
            assert!(names_loopback(host), "{host}");
        }
        for host in ["", "example.org", "localhost.example.org:3000", "127.0.0.1.example.org", "10.0.0.1:3000"] {
            assert!(!names_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_page_elsewhere_is_not_ours() {
        let from = |origin: &'static str| HeaderMap::from_iter([(ORIGIN, origin.parse().unwrap())]);
        assert!(is_own_page(&HeaderMap::new()) && is_own_page(&from("http://127.0.0.1:3000")));
        for origin in ["https://evil.example", "null", "http://localhost.evil.example"] {
            assert!(!is_own_page(&from(origin)), "{origin}");
        }
    }
}
