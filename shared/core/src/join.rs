//! A client that is connected says where it listens, and maybe only now who it is.

use futures_util::future::try_join3;
use kschat_protocol::{ConnectionId, Handshake, UserId, dialect::Dialect};

use crate::{
    Session, Timestamp,
    connect::{ConnectError, Deps, admit, register},
    inbound::Caller,
    ports::{TokenError, Updated},
};

/// How often a session is looked at again that somebody else has changed meanwhile.
const TRIES: u32 = 5;

/// Lets a connection in whose client will bring its token later. It belongs to nobody, may do nothing, and is ended by
/// the owner of its provisional user unless the client joins in time.
pub(crate) async fn wait_for_a_name(
    deps: &Deps,
    connection: &ConnectionId,
    handshake: &Handshake,
) -> Result<UserId, ConnectError> {
    let user = UserId::nameless(connection);
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
    deps.pokes.poke(&user).await.map_err(ConnectError::Broker)?;
    Ok(user)
}

/// Notes that a connection is ready to hear, in the dialect as it is by now, and tells its user's owner. Who has no
/// name yet gets one by the token; who has one keeps it.
///
/// # Errors
/// [`ConnectError`], and then the connection is as it was, unless only the owner could not be told.
pub async fn join(deps: &Deps, caller: &Caller, dialect: Dialect, token: Option<String>) -> Result<(), ConnectError> {
    let Caller { connection, session, .. } = caller;
    if let Err(refused) = caller.check() {
        let retry = refused.retry().unwrap_or_default();
        return Err(ConnectError::TooOften { retry: std::time::Duration::from_millis(retry) });
    }
    let now = deps.clock.now();
    if !session.user.is_nameless() {
        return join_again(deps, connection, session, dialect, token).await;
    }
    let named = name(deps, session, dialect, token).await?;
    if named.is_expired(now) {
        return Err(TokenError::Expired.into());
    }
    register(deps, connection, &named, Some(&session.user)).await?;
    let told = try_join3(
        deps.queues.enrol(&named.user),
        deps.pokes.poke(&named.user),
        // The lobby has one less to wait for.
        deps.pokes.poke(&session.user),
    );
    told.await.map(|_| ()).map_err(ConnectError::Broker)
}

/// A connection belongs to one user: a token of another one is refused, one that is not good changes nothing.
async fn join_again(
    deps: &Deps,
    connection: &ConnectionId,
    session: &Session,
    dialect: Dialect,
    token: Option<String>,
) -> Result<(), ConnectError> {
    if let Some(token) = token
        && deps.verifier.verify(&token).await.is_ok_and(|identity| identity.user != session.user)
    {
        return Err(ConnectError::Taken);
    }
    let mut known = session.clone();
    for _ in 0..TRIES {
        if known.is_expired(deps.clock.now()) {
            return Err(TokenError::Expired.into());
        }
        let joined = Session { dialect: dialect.clone(), ..known.clone() };
        known = match deps.registry.update(connection, &known, &joined).await.map_err(ConnectError::Registry)? {
            Updated::Done => return deps.pokes.poke(&joined.user).await.map_err(ConnectError::Broker),
            Updated::Changed(current) if current.user == session.user => current,
            Updated::Changed(_) => return Err(ConnectError::Taken),
            Updated::Gone => return Err(ConnectError::Ended),
        };
    }
    Err(ConnectError::Ended)
}

/// The session under the name that the token gives.
async fn name(
    deps: &Deps,
    session: &Session,
    dialect: Dialect,
    token: Option<String>,
) -> Result<Session, ConnectError> {
    let handshake = Handshake { token, version: session.version, dialect, ..Handshake::default() };
    let connected: Timestamp = session.connected;
    Ok(Session { connected, ..admit(deps, &handshake).await? })
}
