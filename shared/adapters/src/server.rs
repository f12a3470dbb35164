//! A small HTTP server with timeouts: a client that sends half a request does not hold it up.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::ConnectInfo,
    response::Response,
};
use hyper::{
    Request,
    body::{Body as _, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use kschat_core::ports::BoxError;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

/// The time for the head of a request, from the start of its connection or the end of the previous request.
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The time for the body of a request, however slowly it arrives.
const REQUEST_BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The delay after a failed accept, as happens while no more files can be opened.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Serves those routes, which learn the client's address by [`ConnectInfo`], until `stop`. Then requests in flight are
/// completed. Dropping the future aborts them.
pub async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    connections.spawn(connection(socket, peer, routes.clone(), stop.clone()));
                }
                Err(error) if is_connection_error(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "accepting a connection failed");
                    sleep(ACCEPT_RETRY_DELAY).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Whether an error concerns only one client, which has disconnected.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(socket: TcpStream, peer: SocketAddr, routes: Router, stop: CancellationToken) {
    // Responses are small: without this, the wait for more data could delay each by 40 ms.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "setting TCP_NODELAY failed; small frames may be delayed");
    }
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |request| answer(&routes, peer, request));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST_HEAD_TIMEOUT);
    let mut served = pin!(http.serve_connection(TokioIo::new(socket), service).with_upgrades());
    let done = tokio::select! {
        done = served.as_mut() => done,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

fn answer(
    routes: &TowerToHyperService<Router>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response, Infallible>> + use<> {
    let mut request =
        request.map(|body| if body.is_end_stream() { Body::empty() } else { Body::new(TimedBody::new(body)) });
    request.extensions_mut().insert(ConnectInfo(peer));
    routes.call(request)
}

/// A body that fails when it is not complete in time.
struct TimedBody {
    body: Incoming,
    deadline: Pin<Box<Sleep>>,
}

impl TimedBody {
    fn new(body: Incoming) -> Self {
        Self { body, deadline: Box::pin(sleep(REQUEST_BODY_TIMEOUT)) }
    }
}

impl hyper::body::Body for TimedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Some(Err("the request timed out".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
