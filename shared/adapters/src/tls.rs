//! The trust anchors of all outgoing TLS connections: to the broker, Redis, the edge, an issuer and a collector.
//!
//! Mozilla's list of public authorities is compiled in, as an image or a function may have no list at all. In addition,
//! the system's authorities are trusted or, instead, those of `SSL_CERT_FILE` and `SSL_CERT_DIR`, as in other programs.

use std::{error::Error, path::Path, sync::LazyLock};

use kschat_core::ports::BoxError;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};

/// The PEM label of certificates (RFC 7468).
const LABEL: &str = "CERTIFICATE";

/// Certificates of authorities, in the two forms that libraries need.
struct Roots {
    store: RootCertStore,
    pem: String,
}

/// Read once: reading them takes some milliseconds.
static ROOTS: LazyLock<Roots> = LazyLock::new(|| {
    let CertificateResult { certs, errors, .. } = load_native_certs();
    for error in errors {
        tracing::warn!(%error, "certificates that the system trusts can't be read");
    }
    Roots::of(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned().chain(certs))
});

impl Roots {
    /// Skips certificates that can't be parsed: systems have odd ones in their lists.
    fn of(certificates: impl Iterator<Item = CertificateDer<'static>>) -> Self {
        let mut store = RootCertStore::empty();
        let understood = certificates.filter(|certificate| store.add(certificate.clone()).is_ok());
        let pem: Vec<pem::Pem> = understood.map(|certificate| pem::Pem::new(LABEL, certificate.to_vec())).collect();
        Self { pem: pem::encode_many(&pem), store }
    }
}

/// The settings of a TLS client of this process.
///
/// # Errors
/// When the crypto provider supports no TLS version, which does not happen.
pub fn client_config() -> Result<ClientConfig, rustls::Error> {
    let provider = rustls::crypto::aws_lc_rs::default_provider().into();
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(ROOTS.store.clone()).with_no_client_auth())
}

/// All trusted authorities, in PEM.
pub(crate) fn roots_in_pem() -> &'static str {
    &ROOTS.pem
}

/// A certificate whose issuer is not trusted.
#[derive(Debug, thiserror::Error)]
#[error("its certificate is of an authority that is not trusted here: name that authority's in SSL_CERT_FILE")]
struct Distrusted(#[source] BoxError);

/// Adds a hint to an error, if it is about an untrusted certificate.
pub(crate) fn with_hint(error: BoxError) -> BoxError {
    if is_distrust(&*error) { Box::new(Distrusted(error)) } else { error }
}

/// Libraries wrap it in many ways, some of them as text.
///
/// Source: `rustls::CertificateError::UnknownIssuer`.
fn is_distrust(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.to_string().contains("UnknownIssuer") {
            return true;
        }
        next = error.source();
    }
    false
}

/// The problem with the certificate files, without their content.
pub(crate) fn problem_with(file: Option<&str>, folders: Option<&str>) -> Option<String> {
    let file = file.map(|file| load_certs_from_paths(Some(Path::new(file)), None));
    let folders = folders.into_iter().flat_map(std::env::split_paths);
    let folders = folders.map(|folder| load_certs_from_paths(None, Some(&folder)));
    let read: Vec<CertificateResult> = file.into_iter().chain(folders).collect();
    let error = read.iter().flat_map(|result| &result.errors).next();
    let none = || read.iter().all(|result| result.certs.is_empty()).then(|| "there is no certificate in it".to_owned());
    error.map(|error| format!("can't be read: {error}")).or_else(|| if read.is_empty() { None } else { none() })
}
