//! Strict parsing of service URLs, where client libraries ignore parts that they do not understand.
//!
//! No error repeats the input: any part of a URL may be a piece of its password, if that holds a character that should
//! have been encoded.

use url::Url;

/// Parses a URL with a host and without ignored parts.
///
/// # Errors
/// A sentence for the operator: `hint`, or what is wrong.
pub(crate) fn service_url(text: &str, schemes: &[&str], hint: &str) -> Result<Url, String> {
    const UNENCODED_HINT: &str = "is cut off in its password: `/`, `?` and `#` there must be written as %2F, %3F and \
                                  %23, and `@` as %40";
    let scheme = text.trim_start().split(':').next().unwrap_or_default();
    let is_known = schemes.iter().any(|known| known.eq_ignore_ascii_case(scheme));
    let rest = text.split_once("://").map(|(_, rest)| rest);
    let Some(rest) = rest.filter(|_| is_known) else { return Err(hint.to_owned()) };
    if rest.is_empty() || rest.starts_with(['/', '?', '#']) {
        return Err(format!("{hint}: it names no host"));
    }
    // The last one ends the password, wherever that begins.
    let after_credentials = rest.rsplit_once('@').map(|(credentials, _)| credentials);
    if after_credentials.is_some_and(|credentials| credentials.contains(['/', '?', '#'])) {
        return Err(UNENCODED_HINT.to_owned());
    }
    let url = Url::parse(text).map_err(|error| format!("{hint}: {error}"))?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(format!("{hint}: it names no host"));
    }
    if url.fragment().is_some() {
        return Err("ends in what follows a `#`, which means nothing here; in a password, write it as %23".to_owned());
    }
    Ok(url)
}

/// Checks that a query has only known parameters, each once.
///
/// # Errors
/// A sentence for the operator.
pub(crate) fn only_parameters(url: &Url, known: &[&str]) -> Result<(), String> {
    let names: Vec<_> = url.query_pairs().map(|(name, _)| name.into_owned()).collect();
    let is_known =
        |name: &String| known.contains(&name.as_str()) && names.iter().filter(|other| *other == name).count() == 1;
    if names.iter().all(is_known) {
        return Ok(());
    }
    let known = known.join("`, `");
    Err(format!("has parameters after its `?` that are not understood, or twice; there may be `{known}`"))
}
