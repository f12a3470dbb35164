//! Access checks: requests of this machine only, and allowed origins of browser pages.

use std::{fmt, net::IpAddr, net::SocketAddr, str::FromStr};

use axum::http::{
    HeaderMap,
    header::{HOST, ORIGIN},
};

/// Headers that proxies and tunnels add, besides `X-Forwarded-…`.
const PROXY_HEADERS: [&str; 14] = [
    "forwarded",
    "via",
    "cdn-loop",
    "cf-connecting-ip",
    "cf-ray",
    "client-ip",
    "fly-client-ip",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-original-host",
    "x-real-ip",
    "x-tunnel-id",
];

/// Maximum characters of a foreign origin in messages.
const MAX_SHOWN_ORIGIN_CHARACTERS: usize = 256;

/// Reason for which a request is not local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLocal {
    /// It came from another machine, or names another host.
    RemotePeer,
    /// A local proxy forwarded it, possibly for a remote client.
    Proxied,
}

impl fmt::Display for NotLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RemotePeer => "available from this machine only: use localhost or 127.0.0.1",
            Self::Proxied => {
                "for this machine only, and this request came through a proxy or a tunnel: headers such as \
                 X-Forwarded-For, Forwarded or Via say so, and whoever is at its other end may be anybody. Open it \
                 directly, by localhost or 127.0.0.1"
            }
        })
    }
}

/// Rejects a request that did not come from this machine, or does not name it. That excludes DNS rebinding by remote
/// pages, and requests that a local proxy or tunnel forwards.
///
/// # Errors
/// [`NotLocal`].
pub fn check_local(peer: SocketAddr, headers: &HeaderMap) -> Result<(), NotLocal> {
    if is_proxied(headers) {
        return Err(NotLocal::Proxied);
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // A socket on IPv6 sees IPv4 peers as mapped addresses.
    if peer.ip().to_canonical().is_loopback() && names_loopback(host) { Ok(()) } else { Err(NotLocal::RemotePeer) }
}

fn is_proxied(headers: &HeaderMap) -> bool {
    headers.keys().map(|name| name.as_str()).any(|name| {
        // `X-Forwarded-For`, `-Host`, `-Proto`, `-Port`, `-Server` and more, depending on the proxy.
        name.starts_with("x-forwarded") || name.starts_with("x-original-forwarded") || PROXY_HEADERS.contains(&name)
    })
}

/// An origin as browsers send it, or `null`, or `*` for every one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.to_ascii_lowercase();
        let is_scheme = |scheme: &str| {
            let mut bytes = scheme.bytes();
            let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic());
            first && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        };
        let is_host = |host: &str| {
            !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@*,\"\\".contains(&byte))
        };
        let is_origin = text.split_once("://").is_some_and(|(scheme, host)| is_scheme(scheme) && is_host(host));
        if is_origin || text == "null" || text == "*" {
            return Ok(Self(text));
        }
        Err(
            "must be an origin as browsers write it, without a path, such as https://app.example; or `null`, or `*` for all",
        )
    }
}

/// Allowed origins of browser pages: those of this machine, and those listed.
///
/// A browser lets every page connect to every WebSocket, and sends its `Origin`. Programs send none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<Origin>);

impl FromIterator<Origin> for Origins {
    fn from_iter<T: IntoIterator<Item = Origin>>(named: T) -> Self {
        Self(named.into_iter().collect())
    }
}

/// The origin is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignOrigin(String);

impl fmt::Display for ForeignOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(origin) = self;
        write!(
            f,
            "Pages of `{origin}` may not connect here, as this edge knows only those of this machine. If it is yours, start \
             it with --allow-origin '{origin}'."
        )
    }
}

impl Origins {
    /// Rejects a request of a page with a foreign origin.
    ///
    /// # Errors
    /// [`ForeignOrigin`].
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ForeignOrigin> {
        // There is at most one; if there are several, all must be allowed.
        for origin in headers.get_all(ORIGIN) {
            let origin = String::from_utf8_lossy(origin.as_bytes());
            if !self.allows(&origin) {
                return Err(ForeignOrigin(origin.chars().take(MAX_SHOWN_ORIGIN_CHARACTERS).collect()));
            }
        }
        Ok(())
    }

    fn allows(&self, origin: &str) -> bool {
        let is_named = self.0.iter().any(|Origin(named)| named == "*" || named.eq_ignore_ascii_case(origin));
        is_named || origin.split_once("://").is_some_and(|(_, host)| names_loopback(host))
    }
}

fn names_loopback(host: &str) -> bool {
    let has_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let name = host.rsplit_once(':').filter(|(_, port)| has_port(port)).map_or(host, |(name, _)| name);
    let is_name = name.eq_ignore_ascii_case("localhost");
    is_name || name.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
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

    fn from(origin: &str) -> HeaderMap {
        HeaderMap::from_iter([(ORIGIN, origin.parse().unwrap())])
    }

    #[test]
    fn a_page_elsewhere_is_not_ours() {
        let is_own_page = |headers: &HeaderMap| Origins::default().check(headers).is_ok();
        assert!(is_own_page(&HeaderMap::new()) && is_own_page(&from("http://127.0.0.1:3000")));
        for origin in ["https://evil.example", "null", "http://localhost.evil.example"] {
            assert!(!is_own_page(&from(origin)), "{origin}");
        }
    }

    #[test]
    fn origins_named_are_allowed_beside_loopback() {
        let named: Origins =
            ["https://App.example", "null"].map(|origin| origin.parse().unwrap()).into_iter().collect();
        for origin in ["https://app.example", "null", "http://localhost:5173", "https://[::1]"] {
            assert_eq!(named.check(&from(origin)), Ok(()), "{origin}");
        }
        for origin in ["http://app.example", "https://app.example:8443", "https://app.example.evil.example", "", "*"] {
            assert!(named.check(&from(origin)).is_err(), "{origin}");
        }
        let mut two = from("https://app.example");
        two.append(ORIGIN, "https://evil.example".parse().unwrap());
        assert!(named.check(&two).is_err());
        let all: Origins = [Origin::from_str("*").unwrap()].into_iter().collect();
        assert_eq!(all.check(&from("https://evil.example")), Ok(()));
        let error = named.check(&from("https://evil.example")).unwrap_err().to_string();
        assert!(error.contains("--allow-origin 'https://evil.example'"), "{error}");
    }

    #[test]
    fn invalid_origin_is_reported() {
        for text in ["", "app.example", "https://", "https://app.example/", "https://*.example", "https://a, https://b"]
        {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn proxied_request_is_not_local() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 4711));
        let headers = HeaderMap::from_iter([(HOST, "localhost:3000".parse().unwrap())]);
        assert_eq!(check_local(peer, &headers), Ok(()));
        assert_eq!(check_local(([10, 0, 0, 7], 4711).into(), &headers), Err(NotLocal::RemotePeer));
        for name in ["x-forwarded-for", "X-Forwarded-Host", "x-forwarded-proto", "Forwarded", "Via", "x-real-ip"] {
            let mut headers = headers.clone();
            headers.insert(axum::http::HeaderName::from_str(name).unwrap(), "1.2.3.4".parse().unwrap());
            assert_eq!(check_local(peer, &headers), Err(NotLocal::Proxied), "{name}");
        }
    }
}
