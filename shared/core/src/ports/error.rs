//! Errors of dependencies.

/// An error of a vendor's library.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A dependency that failed to do what it was asked, for now.
#[derive(Debug, thiserror::Error)]
#[error("{dependency} failed to {action}")]
pub struct Unavailable {
    /// The dependency: `redis`, `rabbitmq`, `api gateway`.
    pub dependency: &'static str,
    /// The action that failed.
    pub action: &'static str,
    /// The error of its library.
    #[source]
    pub source: BoxError,
}

impl Unavailable {
    /// A failure of `dependency` to `action`.
    pub fn new(dependency: &'static str, action: &'static str, source: impl Into<BoxError>) -> Self {
        Self { dependency, action, source: source.into() }
    }
}
