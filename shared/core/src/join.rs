//! A client that is connected says where it listens, and maybe only now who it is.

use futures_util::future::try_join3;
use kschat_protocol::{ConnectionId, Handshake, UserId, dialect::Dialect};

use crate::{
    Session, Timestamp,
    connect::{ConnectError, Deps, MAX_DEVICES, admit},
};

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
    };
    deps.registry.register(connection, &session).await.map_err(ConnectError::Registry)?;
    deps.pokes.poke(&user).await.map_err(ConnectError::Broker)?;
    Ok(user)
}

/// Notes that a connection is ready to hear, in the dialect as it is by now, and tells its user's owner. Who has no
/// name yet gets one by the token.
///
/// # Errors
/// [`ConnectError`], and then the connection is as it was, or forgotten if only the owner could not be told.
pub async fn join(
    deps: &Deps,
    connection: &ConnectionId,
    session: &Session,
    dialect: Dialect,
    token: Option<String>,
) -> Result<(), ConnectError> {
    let now = deps.clock.now();
    if !session.user.is_nameless() {
        if session.is_expired(now) {
            return Err(crate::ports::TokenError::Expired.into());
        }
        let joined = Session { dialect, ..session.clone() };
        deps.registry.register(connection, &joined).await.map_err(ConnectError::Registry)?;
        return deps.pokes.poke(&joined.user).await.map_err(ConnectError::Broker);
    }
    let named = name(deps, session, dialect, token, now).await?;
    // Forgotten under the one name before it is known under the other: it stands in one place only.
    deps.registry.remove(&session.user, connection).await.map_err(ConnectError::Registry)?;
    deps.registry.register(connection, &named).await.map_err(ConnectError::Registry)?;
    let told = try_join3(
        deps.queues.enrol(&named.user),
        deps.pokes.poke(&named.user),
        // The lobby has one less to wait for.
        deps.pokes.poke(&session.user),
    );
    told.await.map(|_| ()).map_err(ConnectError::Broker)
}

async fn name(
    deps: &Deps,
    session: &Session,
    dialect: Dialect,
    token: Option<String>,
    now: Timestamp,
) -> Result<Session, ConnectError> {
    let handshake = Handshake { token, version: session.version, dialect, ..Handshake::default() };
    let named = Session { connected: session.connected, ..admit(deps, &handshake).await? };
    let devices = deps.registry.connections(&named.user, now).await.map_err(ConnectError::Registry)?;
    if devices.len() >= MAX_DEVICES {
        return Err(ConnectError::TooManyDevices);
    }
    Ok(named)
}
