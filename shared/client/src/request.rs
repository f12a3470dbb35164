//! How a client asks for a connection.

use kschat_protocol::{BEARER_PREFIX, SUBPROTOCOL};

use crate::codec::Codec;

/// A handshake: the URL, the subprotocols that it offers, and the dialect of the connection.
///
/// It contains a token, so it can't be printed.
///
/// ```
/// use kschat_client::ConnectRequest;
///
/// let request = ConnectRequest::v2("wss://chat.example.com/prod", "TOKEN");
/// assert_eq!(request.url(), "wss://chat.example.com/prod", "the token is not in the URL, which proxies log");
/// assert_eq!(request.subprotocols(), Some("kschat.v2, bearer.TOKEN"));
/// ```
#[derive(Clone)]
pub struct ConnectRequest {
    url: String,
    subprotocols: Option<String>,
    pub(crate) codec: Codec,
}

impl ConnectRequest {
    /// A v1 client of raw frames, with its token in the query.
    #[must_use]
    pub fn v1(url: &str, query: &str) -> Self {
        Self { url: format!("{url}?{query}"), subprotocols: None, codec: Codec::Raw }
    }

    /// A v2 client of raw frames, with its token among the subprotocols, as browsers send it.
    #[must_use]
    pub fn v2(url: &str, token: &str) -> Self {
        let subprotocols = format!("{SUBPROTOCOL}, {BEARER_PREFIX}{token}");
        Self { url: url.to_owned(), subprotocols: Some(subprotocols), codec: Codec::Raw }
    }

    /// A v2 client of Socket.IO 4.x, with its token in the query.
    #[must_use]
    pub fn socket_io(url: &str, token: &str) -> Self {
        let url = format!("{url}/?v=2&EIO=4&transport=websocket&token={token}");
        Self { url, subprotocols: None, codec: Codec::socket_io() }
    }

    /// The URL with its query.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Value of the header `Sec-WebSocket-Protocol`, if the client offers subprotocols.
    #[must_use]
    pub fn subprotocols(&self) -> Option<&str> {
        self.subprotocols.as_deref()
    }

    /// Whether the client acknowledges messages: every v2 client does.
    #[must_use]
    pub fn acknowledges(&self) -> bool {
        self.subprotocols.is_some() || self.codec != Codec::Raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_handshake_carries_token_its_way() {
        let v1 = ConnectRequest::v1("ws://h/dev", "token=T&ksId=a");
        assert_eq!((v1.url(), v1.subprotocols(), v1.acknowledges()), ("ws://h/dev?token=T&ksId=a", None, false));
        let v2 = ConnectRequest::v2("ws://h/dev", "T");
        assert_eq!((v2.url(), v2.subprotocols()), ("ws://h/dev", Some("kschat.v2, bearer.T")));
        assert!(v2.acknowledges());
        let socket_io = ConnectRequest::socket_io("ws://h/dev", "T");
        assert_eq!(socket_io.url(), "ws://h/dev/?v=2&EIO=4&transport=websocket&token=T");
        assert!(socket_io.acknowledges());
    }
}
