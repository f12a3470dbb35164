//! A small HTTP client for rare requests: to a trace collector, or for an issuer's keys.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, body::Bytes, header::CONTENT_ENCODING};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use kschat_core::ports::BoxError;

use crate::tls;

/// Requests go over TLS, or plain on loopback. Each has a new connection: a kept one may have died during a freeze.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    max_response_bytes: usize,
}

impl Http {
    /// A client that accepts responses of at most that many bytes.
    pub(crate) fn new(max_response_bytes: usize) -> Result<Self, rustls::Error> {
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls::client_config()?);
        let connector = connector.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { client, max_response_bytes })
    }

    /// Follows no redirect. A gzip response is decompressed, as some servers compress for every client.
    pub(crate) async fn request(&self, request: Request<Bytes>) -> Result<Response<Bytes>, BoxError> {
        let (head, body) = self
            .client
            .request(request.map(Full::new))
            .await
            .map_err(|error| tls::with_hint(error.into()))?
            .into_parts();
        let body = Limited::new(body, self.max_response_bytes).collect().await?.to_bytes();
        let body = match head.headers.get(CONTENT_ENCODING).map(|encoding| encoding.as_bytes()) {
            None | Some(b"identity" | b"") => body,
            Some(b"gzip" | b"x-gzip") => self.unpack(&body)?,
            Some(_) => return Err("the answer is encoded in a way that nobody has asked for".into()),
        };
        Ok(Response::from_parts(head, body))
    }

    fn unpack(&self, packed: &[u8]) -> Result<Bytes, BoxError> {
        let mut unpacked = Vec::new();
        let limit = u64::try_from(self.max_response_bytes).unwrap_or(u64::MAX);
        MultiGzDecoder::new(packed).take(limit.saturating_add(1)).read_to_end(&mut unpacked)?;
        if unpacked.len() > self.max_response_bytes {
            return Err("the answer is too long once it is unpacked".into());
        }
        Ok(unpacked.into())
    }
}
