//! Joins a Socket.IO connection to its namespace, and authenticates it if it has not done so before.

use futures_util::future::try_join3;
use kschat_protocol::{ConnectionId, Handshake, UserId, dialect::Dialect};

use crate::{
    Session, Timestamp,
    inbound::caller::{AuthError, Caller},
    inbound::registration::{ConnectError, Deps, register, session_from_token},
    ports::{OwnerMessage, TokenError, UpdateOutcome},
};

/// Attempts to change a session that others change at the same time.
const SESSION_JOIN_MAX_ATTEMPTS: u32 = 5;

/// Accepts a connection whose client sends its token later. It belongs to a provisional user and may do nothing. The
/// owner of that user closes it unless the client joins in time.
pub(crate) async fn connect_unauthenticated(
    deps: &Deps,
    connection: &ConnectionId,
    handshake: &Handshake,
) -> Result<UserId, ConnectError> {
    let user = UserId::provisional(connection);
    let session = Session {
        user: user.clone(),
        version: handshake.version,
        connected: deps.clock.now(),
        expires: None,
        dialect: handshake.dialect.clone(),
        rooms: None,
        source: handshake.source.clone(),
    };
    register(deps, connection, &session, None).await?;
    deps.owners.send(&user, OwnerMessage::Refresh).await.map_err(ConnectError::Broker)?;
    Ok(user)
}

/// Marks a connection as ready, in the dialect that is known by now, and notifies its user's owner. The token
/// authenticates a provisional user; an authenticated connection keeps its user.
///
/// # Errors
/// [`ConnectError`]; then the connection is unchanged, unless only the owner could not be reached.
pub async fn join_namespace(
    deps: &Deps,
    caller: &Caller,
    dialect: Dialect,
    token: Option<String>,
) -> Result<(), ConnectError> {
    let Caller { connection, session, .. } = caller;
    if let Err(AuthError::TooOften { retry }) = caller.check_limits() {
        return Err(ConnectError::RateLimited { retry });
    }
    let now = deps.clock.now();
    if !session.user.is_provisional() {
        return rejoin_namespace(deps, connection, session, dialect, token).await;
    }
    let named = authenticate_session(deps, session, dialect, token).await?;
    if named.is_expired(now) {
        return Err(TokenError::Expired.into());
    }
    register(deps, connection, &named, Some(&session.user)).await?;
    let notified = try_join3(
        deps.queues.enroll_user(&named.user),
        deps.owners.send(&named.user, OwnerMessage::Refresh),
        // The provisional user's owner no longer waits for it.
        deps.owners.send(&session.user, OwnerMessage::Refresh),
    );
    notified.await.map(|_| ()).map_err(ConnectError::Broker)
}

/// A connection belongs to one user: a token of another user is refused, an invalid one changes nothing.
async fn rejoin_namespace(
    deps: &Deps,
    connection: &ConnectionId,
    session: &Session,
    dialect: Dialect,
    token: Option<String>,
) -> Result<(), ConnectError> {
    if let Some(token) = token
        && deps.verifier.verify(&token).await.is_ok_and(|identity| identity.user != session.user)
    {
        return Err(ConnectError::OwnedByOtherUser);
    }
    let mut known = session.clone();
    for _ in 0..SESSION_JOIN_MAX_ATTEMPTS {
        if known.is_expired(deps.clock.now()) {
            return Err(TokenError::Expired.into());
        }
        let joined = Session { dialect: dialect.clone(), ..known.clone() };
        known = match deps.registry.update(connection, &known, &joined).await.map_err(ConnectError::Registry)? {
            UpdateOutcome::Done => {
                return deps.owners.send(&joined.user, OwnerMessage::Refresh).await.map_err(ConnectError::Broker);
            }
            UpdateOutcome::Changed(current) if current.user == session.user => current,
            UpdateOutcome::Changed(_) => return Err(ConnectError::OwnedByOtherUser),
            UpdateOutcome::Gone => return Err(ConnectError::Ended),
        };
    }
    Err(ConnectError::Ended)
}

/// The session of the user that the token names.
async fn authenticate_session(
    deps: &Deps,
    session: &Session,
    dialect: Dialect,
    token: Option<String>,
) -> Result<Session, ConnectError> {
    let handshake = Handshake { token, version: session.version, dialect, ..Handshake::default() };
    let connected: Timestamp = session.connected;
    Ok(Session { connected, ..session_from_token(deps, &handshake).await? })
}
