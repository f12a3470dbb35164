//! Opens the connections of a run.

use std::sync::Arc;

use kschat_adapters::tls::client_config;
use kschat_client::{ConnectRequest, Connection, OpenError};
use rustls::ClientConfig;

/// Dialect of the clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Dialect {
    /// Raw frames.
    #[default]
    Raw,
    /// Socket.IO as clients 4.x use it: each frame is an event, and every second send has a callback.
    Socketio,
}

/// Opens connections of v2 clients.
#[derive(Clone)]
pub(super) struct Connector {
    url: String,
    dialect: Dialect,
    tls: Arc<ClientConfig>,
}

impl Connector {
    /// A connector that trusts the common roots.
    pub(super) fn new(url: &str, dialect: Dialect) -> Result<Self, String> {
        let tls = client_config().map_err(|error| format!("no client can connect to {url}: {error}"))?;
        Ok(Self { url: url.to_owned(), dialect, tls: Arc::new(tls) })
    }

    pub(super) async fn open(&self, token: &str) -> Result<Connection, OpenError> {
        let request = match self.dialect {
            Dialect::Raw => ConnectRequest::v2(&self.url, token),
            Dialect::Socketio => ConnectRequest::socket_io(&self.url, token),
        };
        Connection::open(&request, Arc::clone(&self.tls)).await
    }
}

/// Describes an error, with what to check.
pub(super) fn explain(error: &OpenError) -> String {
    match error {
        OpenError::Refused(401) => {
            "the token is refused (401): is the secret that of the functions (--jwt-secret or JWT_SECRET), and do they \
             read users from the claim data.id?"
                .to_owned()
        }
        OpenError::Refused(403 | 404) => format!("{error}: is the stage at the end of the URL right?"),
        OpenError::Redirected(_) => format!("{error}: give its target"),
        OpenError::Tls(cause) => format!("{error} (wss:// or ws://? SSL_CERT_FILE?): {cause}"),
        other => other.to_string(),
    }
}
