//! An HTTP server on one port.

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
    /// Serves those routes at that address; port 0 selects a free port.
    ///
    /// # Errors
    /// When the address is in use or not available.
    pub async fn start(listen: SocketAddr, routes: Router) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, routes, stop.clone()));
        Ok(Self { address, stop, task })
    }

    /// A local address of the server, also when it listens on all addresses.
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

    /// Accepts no new requests from now on; those in flight continue.
    pub fn close(&self) {
        self.stop.cancel();
    }

    /// Stops the server, without waiting for clients to close their connections.
    pub fn stop(self) {
        self.task.abort();
    }
}
