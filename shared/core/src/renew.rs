//! A client brings a fresh token, before or shortly after the old one ends.

use kschat_protocol::{AuthReply, ConnectionId};

use crate::{
    Session, Timestamp,
    ports::TokenError,
    request::{Deps, RequestError},
};

/// Lets a session go on for as long as a fresh token of the same user is good; says until when, as a frame. A token that
/// ends sooner than the old one shortens nothing: the old one is still good.
pub(crate) async fn renew(
    deps: &Deps,
    connection: &ConnectionId,
    old: Session,
    token: &str,
) -> Result<String, RequestError> {
    let identity = deps.verifier.verify(token).await?;
    if identity.expires.is_some_and(|end| end <= deps.clock.now()) {
        return Err(TokenError::Expired.into());
    }
    if identity.user != old.user {
        return Err(RequestError::NotYou);
    }
    let expires = old.expires.zip(identity.expires).map(|(old, new)| old.max(new));
    let renewed = Session { expires, rooms: identity.rooms, ..old };
    deps.registry.register(connection, &renewed).await.map_err(RequestError::Registry)?;
    // The registry is written first: whoever is poked by this will find the new end there.
    deps.pokes.poke(&renewed.user).await.map_err(RequestError::Broker)?;
    Ok(AuthReply::accepted(identity.expires.map(Timestamp::millis)))
}
