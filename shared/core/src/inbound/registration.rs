//! Registers connections: authenticates them and limits their number.

use std::{sync::Arc, time::Duration};

use kschat_protocol::{ConnectionId, ErrorCode, Handshake, UserId};
use tokio::time::sleep;

use crate::{
    Clock, Session,
    limits::{MAX_CONNECTIONS_PER_USER, Rate},
    ports::{
        Admission, ConnectionRegistry, CreateOutcome, OwnerChannel, OwnerMessage, QueueProvisioner, TokenError,
        TokenVerifier, Unavailable,
    },
};

/// Delays between checks for free capacity, after the user's owner was asked to check the other connections: one of
/// them may have ended unnoticed.
const CONNECTION_LIMIT_RECHECK_DELAYS: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(300), Duration::from_millis(500)];

/// The dependencies of `connect` and `join`.
#[derive(Clone)]
pub struct Deps {
    /// Verifies tokens.
    pub verifier: Arc<dyn TokenVerifier>,
    /// Stores the connection.
    pub registry: Arc<dyn ConnectionRegistry>,
    /// Enrolls the user, where unknown recipients are rejected.
    pub queues: Arc<dyn QueueProvisioner>,
    /// Sends messages to the user's owner.
    pub owners: Arc<dyn OwnerChannel>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How often a user may connect.
    pub rate: Option<Rate>,
    /// Whether a handshake without a token is refused, even if the client could send it later.
    pub requires_token: bool,
}

/// Why a handshake is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It has no token.
    #[error("the handshake carries no token")]
    NoToken,
    /// The token is not valid.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// `ksId` differs from the user in the token.
    #[error("ksId does not match the token's user")]
    UserMismatch,
    /// The user has the maximum number of connections.
    #[error("the user has too many connections")]
    TooManyConnections,
    /// The user connects too often, or is blocked.
    #[error("the user's connect rate limit is exceeded")]
    RateLimited {
        /// How long the user has to wait.
        retry: Duration,
    },
    /// The connection belongs to another user.
    #[error("the connection belongs to another user")]
    OwnedByOtherUser,
    /// It has ended meanwhile.
    #[error("the connection has ended already")]
    Ended,
    /// The connection can't be stored.
    #[error("registering the connection failed")]
    Registry(#[source] Unavailable),
    /// The user's queue or owner can't be reached.
    #[error("the user's queue is unreachable")]
    Broker(#[source] Unavailable),
}

impl ConnectError {
    /// The error code for the client.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NoToken => ErrorCode::TokenInvalid,
            Self::Token(error) => error.code(),
            Self::UserMismatch | Self::OwnedByOtherUser => ErrorCode::UserMismatch,
            Self::RateLimited { .. } => ErrorCode::RateLimited,
            Self::Ended => ErrorCode::Forbidden,
            Self::TooManyConnections => ErrorCode::TooManyConnections,
            Self::Registry(_) => ErrorCode::RegistryUnavailable,
            Self::Broker(_) => ErrorCode::BrokerUnavailable,
        }
    }
}

/// Registers a connection, and replaces a provisional user if there is one. Before a user at the limit is refused,
/// connections that have ended unnoticed are removed.
pub(crate) async fn register(
    deps: &Deps,
    connection: &ConnectionId,
    session: &Session,
    replaced_user: Option<&UserId>,
) -> Result<(), ConnectError> {
    match create(deps, connection, session, replaced_user, deps.rate).await? {
        Attempt::Registered => return Ok(()),
        // Another handshake waits for the check already: a user at the limit must not keep functions busy.
        Attempt::LimitReached { check: false } => return Err(ConnectError::TooManyConnections),
        Attempt::LimitReached { check: true } => {}
    }
    deps.owners.send(&session.user, OwnerMessage::CheckConnections).await.map_err(ConnectError::Broker)?;
    for wait in CONNECTION_LIMIT_RECHECK_DELAYS {
        sleep(wait).await;
        if let Attempt::Registered = create(deps, connection, session, replaced_user, None).await? {
            return Ok(());
        }
    }
    Err(ConnectError::TooManyConnections)
}

/// What an attempt to register has come to.
enum Attempt {
    Registered,
    LimitReached {
        /// Whether the user's other connections should be checked.
        check: bool,
    },
}

async fn create(
    deps: &Deps,
    connection: &ConnectionId,
    session: &Session,
    replaced_user: Option<&UserId>,
    rate: Option<Rate>,
) -> Result<Attempt, ConnectError> {
    let admission = Admission {
        replaced_user: replaced_user.cloned(),
        limit: MAX_CONNECTIONS_PER_USER,
        rate,
        now: deps.clock.now(),
    };
    match deps.registry.create(connection, session, &admission).await.map_err(ConnectError::Registry)? {
        CreateOutcome::Done => Ok(Attempt::Registered),
        CreateOutcome::LimitReached { check } => Ok(Attempt::LimitReached { check }),
        CreateOutcome::Limited(retry) => Err(ConnectError::RateLimited { retry }),
        CreateOutcome::Taken => Err(ConnectError::OwnedByOtherUser),
        CreateOutcome::Gone => Err(ConnectError::Ended),
    }
}

pub(crate) async fn session_from_token(deps: &Deps, handshake: &Handshake) -> Result<Session, ConnectError> {
    let token = handshake.token.as_deref().ok_or(ConnectError::NoToken)?;
    let identity = deps.verifier.verify(token).await?;
    if handshake.claimed_user.as_deref().is_some_and(|claimed| claimed != identity.user.as_str()) {
        return Err(ConnectError::UserMismatch);
    }
    let session = Session {
        user: identity.user,
        version: handshake.version,
        connected: deps.clock.now(),
        expires: identity.expires,
        dialect: handshake.dialect.clone(),
        rooms: identity.rooms,
        source: None,
    };
    if session.is_expired(session.connected) {
        return Err(TokenError::Expired.into());
    }
    Ok(session)
}
