//! Any request to the local edge gets a response of its kind, and a foreign page gets nothing.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock},
};

use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Method, Request, StatusCode, header::ORIGIN},
};
use kschat_edge::{Edge, Settings, functions::Remote};
use tokio::runtime::Runtime;
use tower::ServiceExt;

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
}
/// No request of this target reaches a function.
static FUNCTIONS: LazyLock<Arc<Remote>> = LazyLock::new(|| Arc::new(Remote::new("http://127.0.0.1:9")));

/// Checks one input; panics if it violates a property.
pub fn check(data: &[u8]) {
    let Some(request) = request(data) else { return };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let is_foreign = request.headers().get(ORIGIN).is_some_and(|origin| !is_loopback(origin.as_bytes()));
    let edge = Edge::new(Settings::default(), FUNCTIONS.clone());
    let answer = RUNTIME.with(|runtime| runtime.block_on(edge.routes().oneshot(request))).expect("it can't fail");
    let status = answer.status();
    assert!(!status.is_server_error() || status == StatusCode::NOT_IMPLEMENTED, "{method} {path}: {status}");
    if path.starts_with("/_edge") {
        assert!(!is_foreign || !status.is_success(), "a foreign page was answered");
    } else {
        // There are no connections.
        assert!(status.is_client_error(), "{method} {path}: {status}");
    }
}

/// Parses a request from its first lines, an empty line and a body: method and target, then headers.
fn request(data: &[u8]) -> Option<Request<Body>> {
    let head_end = data.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = head_end.map_or((data, &b""[..]), |at| (&data[..at], &data[at + 2..]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut start = lines.next()?.splitn(2, |byte| *byte == b' ');
    let (method, target) = (Method::from_bytes(start.next()?).ok()?, start.next()?);
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..at], &line[at + 1..]);
    }
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 4711));
    request.extension(ConnectInfo(peer)).body(Body::from(body.to_vec())).ok()
}

/// Whether an origin may be this machine's: the exact rule is tested elsewhere.
fn is_loopback(origin: &[u8]) -> bool {
    let origin = String::from_utf8_lossy(origin);
    ["localhost", "127.", "[", "::1"].iter().any(|name| origin.contains(name))
}
