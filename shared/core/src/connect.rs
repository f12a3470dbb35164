//! A client connects.

use std::{sync::Arc, time::Duration};

use futures_util::future::try_join;
use kschat_protocol::{ConnectionId, Er, Handshake, UserId};
use tokio::time::sleep;

use crate::{
    Clock, Session, join,
    limits::Rate,
    ports::{
        Admission, ConnectionRegistry, Created, Pokes, Queues, Supervision, TokenError, TokenVerifier, Unavailable,
    },
};

/// Connections of one user at most: each gets every push. The registry may know a few that have ended without a sign.
pub(crate) const MAX_DEVICES: usize = 100;

/// When we look again whether there is room for a connection, after the user's owner was asked to check the others: one
/// of them may have ended without a sign.
const ROOM_CHECKS: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(150), Duration::from_millis(300), Duration::from_millis(500)];

/// What [`connect`] needs.
#[derive(Clone)]
pub struct Deps {
    /// Tells who it is.
    pub verifier: Arc<dyn TokenVerifier>,
    /// Remembers the connection.
    pub registry: Arc<dyn ConnectionRegistry>,
    /// Makes the user known, where strangers are refused.
    pub queues: Arc<dyn Queues>,
    /// Tells the user's owner.
    pub pokes: Arc<dyn Pokes>,
    /// Has connections checked that may have ended without a sign.
    pub supervision: Arc<dyn Supervision>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// How often a user may connect.
    pub rate: Option<Rate>,
    /// Whether a handshake without a token is refused, also of clients that could bring it later.
    pub requires_token: bool,
}

/// Why a handshake is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no token in it.
    #[error("the handshake carries no token")]
    NoToken,
    /// The token must not be believed.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// `ksId` names somebody else than the token.
    #[error("ksId is not the token's user")]
    NotYou,
    /// The user has as many connections as one may have.
    #[error("the user has too many connections")]
    TooManyDevices,
    /// The user connects too often, or is blocked.
    #[error("the user connects too often")]
    TooOften {
        /// How long it has to wait.
        retry: Duration,
    },
    /// The connection is another user's.
    #[error("the connection belongs to another user")]
    Taken,
    /// It has ended meanwhile.
    #[error("the connection has ended already")]
    Ended,
    /// The connection can't be remembered.
    #[error("the connection was not registered")]
    Registry(#[source] Unavailable),
    /// The user's queue or owner can't be reached.
    #[error("the user's queue is out of reach")]
    Broker(#[source] Unavailable),
}

impl ConnectError {
    /// The code for the client.
    #[must_use]
    pub const fn code(&self) -> Er {
        match self {
            Self::NoToken => Er::TokenInvalid,
            Self::Token(error) => error.code(),
            Self::NotYou | Self::Taken => Er::NotYou,
            Self::TooOften { .. } => Er::RateLimited,
            Self::Ended => Er::Forbidden,
            Self::TooManyDevices => Er::TooManyDevices,
            Self::Registry(_) => Er::RegistryUnavailable,
            Self::Broker(_) => Er::BrokerUnavailable,
        }
    }
}

/// Lets a client in, or says why not. Nothing is pushed here: the edge does not know the connection yet.
///
/// # Errors
/// [`ConnectError`], and then nothing of the connection is left behind if it could be helped.
pub async fn connect(deps: &Deps, connection: &ConnectionId, handshake: &Handshake) -> Result<UserId, ConnectError> {
    if handshake.token.is_none() && !deps.requires_token && handshake.dialect.may_name_its_user_later() {
        return join::wait_for_a_name(deps, connection, handshake).await;
    }
    let session = admit(deps, handshake).await?;
    register(deps, connection, &session, None).await?;
    // The registry is written first: whoever is poked by this will find the connection there.
    let ready = try_join(deps.queues.enrol(&session.user), deps.pokes.poke(&session.user)).await;
    if let Err(error) = ready {
        withdraw(deps, &session.user, connection).await;
        return Err(ConnectError::Broker(error));
    }
    Ok(session.user)
}

/// Registers a connection, in the place of a provisional user if there is one. Before a user is refused who has too many,
/// those that have ended without a sign make room.
pub(crate) async fn register(
    deps: &Deps,
    connection: &ConnectionId,
    session: &Session,
    instead_of: Option<&UserId>,
) -> Result<(), ConnectError> {
    match create(deps, connection, session, instead_of, deps.rate).await? {
        Room::Found => return Ok(()),
        // Somebody else waits for that already: a user who is full must not keep functions busy.
        Room::None { check: false } => return Err(ConnectError::TooManyDevices),
        Room::None { check: true } => {}
    }
    deps.supervision.check(&session.user).await.map_err(ConnectError::Broker)?;
    for wait in ROOM_CHECKS {
        sleep(wait).await;
        if let Room::Found = create(deps, connection, session, instead_of, None).await? {
            return Ok(());
        }
    }
    Err(ConnectError::TooManyDevices)
}

/// Whether there was room for a connection.
enum Room {
    Found,
    None {
        /// Whether the others are to be checked.
        check: bool,
    },
}

async fn create(
    deps: &Deps,
    connection: &ConnectionId,
    session: &Session,
    instead_of: Option<&UserId>,
    rate: Option<Rate>,
) -> Result<Room, ConnectError> {
    let admission = Admission { instead_of: instead_of.cloned(), limit: MAX_DEVICES, rate, now: deps.clock.now() };
    match deps.registry.create(connection, session, &admission).await.map_err(ConnectError::Registry)? {
        Created::Done => Ok(Room::Found),
        Created::TooMany { check } => Ok(Room::None { check }),
        Created::Limited(retry) => Err(ConnectError::TooOften { retry }),
        Created::Taken => Err(ConnectError::Taken),
        Created::Gone => Err(ConnectError::Ended),
    }
}

pub(crate) async fn admit(deps: &Deps, handshake: &Handshake) -> Result<Session, ConnectError> {
    let token = handshake.token.as_deref().ok_or(ConnectError::NoToken)?;
    let identity = deps.verifier.verify(token).await?;
    if handshake.claimed_user.as_deref().is_some_and(|claimed| claimed != identity.user.as_str()) {
        return Err(ConnectError::NotYou);
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

/// The handshake is going to fail, so no disconnect will ever come for it.
async fn withdraw(deps: &Deps, user: &UserId, connection: &ConnectionId) {
    if let Err(error) = deps.registry.remove(user, connection).await {
        tracing::warn!(%error, "a refused connection stays registered until it expires");
    }
}
