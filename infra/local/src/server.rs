//! Listening on one port, until told to stop.

use std::{io, net::SocketAddr};

use axum::Router;
use kschat_adapters::server::serve;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// A running HTTP server.
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves those routes at that address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is taken, or not ours.
    pub async fn start(listen: SocketAddr, routes: Router) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, routes, stop.clone()));
        Ok(Self { address, stop, task })
    }

    /// An address by which this machine reaches it, also when it listens on all.
    #[must_use]
    pub fn reachable(&self) -> SocketAddr {
        let mut address = self.address;
        match address.ip() {
            std::net::IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(std::net::Ipv4Addr::LOCALHOST.into()),
            std::net::IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(std::net::Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        address
    }

    /// Takes no new requests from now on; those under way go on.
    pub fn close(&self) {
        self.stop.cancel();
    }

    /// Ends it. A connection that a client holds open does not hold it.
    pub fn end(self) {
        self.task.abort();
    }
}
