//! A TLS proxy with a certificate of a private authority.

use std::{path::PathBuf, sync::Arc};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// Path of the authority's certificate, for `SSL_CERT_FILE`.
#[must_use]
pub fn authority() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("harness/tls/authority.pem")
}

/// Accepts TLS for `localhost` on a free port, and forwards to that port of loopback.
///
/// # Panics
/// When no port is free.
pub async fn in_front_of(service: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let acceptor = TlsAcceptor::from(Arc::new(settings()));
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(pass(acceptor.clone(), near, service));
        }
    });
    port
}

fn settings() -> ServerConfig {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("tls/server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key.pem")).expect("a key");
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("the versions of TLS");
    builder.with_no_client_auth().with_single_cert(vec![certificate], key).expect("the key matches the certificate")
}

async fn pass(acceptor: TlsAcceptor, near: TcpStream, service: u16) {
    // A client that does not trust the authority aborts the handshake.
    let Ok(mut near) = acceptor.accept(near).await else { return };
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", service)).await else { return };
    let _ = copy_bidirectional(&mut near, &mut far).await;
}
