//! A small HTTP server that nobody can hold up: whoever sends half a request is not waited for for ever.

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

/// Until the head of a request is there, from the start of its connection or the end of the request before.
const HEAD: Duration = Duration::from_secs(10);

/// Until the rest of a request is there, however slowly it trickles in.
const BODY: Duration = Duration::from_secs(10);

/// Until connections are accepted again after that has failed, as it does while no more files can be opened.
const NO_ROOM: Duration = Duration::from_secs(1);

/// Serves those routes, which learn their caller by [`ConnectInfo`], until `stop`. Then requests under way are finished.
/// Dropped, it breaks off.
pub async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    connections.spawn(connection(socket, peer, routes.clone(), stop.clone()));
                }
                Err(error) if is_of_one(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted");
                    sleep(NO_ROOM).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Whether only one client is concerned, who has left again.
fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(socket: TcpStream, peer: SocketAddr, routes: Router, stop: CancellationToken) {
    // Answers are small and wait for nobody: held back for more to come, each could cost 40 ms.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "a socket may delay small frames");
    }
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |request| answer(&routes, peer, request));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut served = pin!(http.serve_connection(TokioIo::new(socket), service).with_upgrades());
    let done = tokio::select! {
        done = served.as_mut() => done,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection has ended early");
    }
}

fn answer(
    routes: &TowerToHyperService<Router>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response, Infallible>> + use<> {
    let mut request =
        request.map(|body| if body.is_end_stream() { Body::empty() } else { Body::new(Timely::new(body)) });
    request.extensions_mut().insert(ConnectInfo(peer));
    routes.call(request)
}

/// A body that fails when it is not complete in time.
struct Timely {
    body: Incoming,
    late: Pin<Box<Sleep>>,
}

impl Timely {
    fn new(body: Incoming) -> Self {
        Self { body, late: Box::pin(sleep(BODY)) }
    }
}

impl hyper::body::Body for Timely {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.late.as_mut().poll(cx));
        Poll::Ready(Some(Err("the request did not come in time".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
