//! A small HTTP client for what is asked now and then: a collector of traces, an issuer's keys.

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, body::Bytes};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use kschat_core::ports::BoxError;

/// Asks over TLS, or without it beside us. Each request has a connection of its own: one that was kept may have died
/// with a freeze.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    max_answer: usize,
}

impl Http {
    /// A client that takes answers of at most so many bytes.
    pub(crate) fn new(max_answer: usize) -> Result<Self, rustls::Error> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let connector = HttpsConnectorBuilder::new().with_provider_and_webpki_roots(provider)?;
        let connector = connector.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { client, max_answer })
    }

    /// Follows no redirect.
    pub(crate) async fn request(&self, request: Request<Bytes>) -> Result<Response<Bytes>, BoxError> {
        let (head, body) = self.client.request(request.map(Full::new)).await?.into_parts();
        let body = Limited::new(body, self.max_answer).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}
