//! Who may see what is for this machine only, and from which pages a browser may come.

use std::{fmt, net::IpAddr, net::SocketAddr, str::FromStr};

use axum::http::{
    HeaderMap,
    header::{HOST, ORIGIN},
};

/// What proxies and tunnels add to a request that they pass on, beside `X-Forwarded-…`.
const ADDED_ON_THE_WAY: [&str; 14] = [
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

/// How much of somebody else's origin is repeated.
const SHOWN: usize = 256;

/// Why a request is none of this machine's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLocal {
    /// It came from another machine, or by another name.
    Elsewhere,
    /// Something here has passed it on for somebody who may be anywhere.
    PassedOn,
}

impl fmt::Display for NotLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elsewhere => "for this machine only: open it by localhost or 127.0.0.1",
            Self::PassedOn => {
                "for this machine only, and this request came through a proxy or a tunnel: headers such as \
                 X-Forwarded-For, Forwarded or Via say so, and whoever is at its other end may be anybody. Open it \
                 directly, by localhost or 127.0.0.1"
            }
        })
    }
}

/// Refuses a request that did not come from this machine, or does not name it: a page elsewhere whose name was made to
/// point here does not. What a proxy or a tunnel hands over comes from this machine and is for somebody else.
///
/// # Errors
/// [`NotLocal`].
pub fn check_local(peer: SocketAddr, headers: &HeaderMap) -> Result<(), NotLocal> {
    if is_passed_on(headers) {
        return Err(NotLocal::PassedOn);
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // Who listens on IPv6 sees callers by IPv4 in its clothes.
    if peer.ip().to_canonical().is_loopback() && names_loopback(host) { Ok(()) } else { Err(NotLocal::Elsewhere) }
}

fn is_passed_on(headers: &HeaderMap) -> bool {
    headers.keys().map(|name| name.as_str()).any(|name| {
        // `X-Forwarded-For`, `-Host`, `-Proto`, `-Port`, `-Server` and more, as each proxy likes.
        name.starts_with("x-forwarded") || name.starts_with("x-original-forwarded") || ADDED_ON_THE_WAY.contains(&name)
    })
}

/// An origin as browsers write it, or `null`, or `*` for every one.
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

/// From which pages a browser may come: those of this machine, and those that are named.
///
/// A browser lets every page connect to every WebSocket, and says in `Origin` which one it was. Programs send none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<Origin>);

impl FromIterator<Origin> for Origins {
    fn from_iter<T: IntoIterator<Item = Origin>>(named: T) -> Self {
        Self(named.into_iter().collect())
    }
}

/// A page that may not come in.
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
    /// Refuses what a page elsewhere has sent.
    ///
    /// # Errors
    /// [`ForeignOrigin`].
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ForeignOrigin> {
        // There is one at most; of more than one, each has to be right.
        for origin in headers.get_all(ORIGIN) {
            let origin = String::from_utf8_lossy(origin.as_bytes());
            if !self.allows(&origin) {
                return Err(ForeignOrigin(origin.chars().take(SHOWN).collect()));
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
        let told = named.check(&from("https://evil.example")).unwrap_err().to_string();
        assert!(told.contains("--allow-origin 'https://evil.example'"), "{told}");
    }

    #[test]
    fn origin_that_no_browser_writes_is_told() {
        for text in ["", "app.example", "https://", "https://app.example/", "https://*.example", "https://a, https://b"]
        {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn request_passed_on_by_a_proxy_is_not_local() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 4711));
        let headers = HeaderMap::from_iter([(HOST, "localhost:3000".parse().unwrap())]);
        assert_eq!(check_local(peer, &headers), Ok(()));
        assert_eq!(check_local(([10, 0, 0, 7], 4711).into(), &headers), Err(NotLocal::Elsewhere));
        for name in ["x-forwarded-for", "X-Forwarded-Host", "x-forwarded-proto", "Forwarded", "Via", "x-real-ip"] {
            let mut headers = headers.clone();
            headers.insert(axum::http::HeaderName::from_str(name).unwrap(), "1.2.3.4".parse().unwrap());
            assert_eq!(check_local(peer, &headers), Err(NotLocal::PassedOn), "{name}");
        }
    }
}
