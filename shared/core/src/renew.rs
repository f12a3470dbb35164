//! A client brings a fresh token, before or shortly after the old one ends.

use kschat_protocol::AuthReply;

use crate::{
    Session, Timestamp,
    inbound::Caller,
    ports::{Identity, TokenError, Updated},
    request::{Deps, RequestError},
};

/// How often a session is looked at again that somebody else has changed meanwhile.
const TRIES: u32 = 5;

/// Lets a session go on for as long as a fresh token of the same user is good; says until when the session is good now, as
/// a frame. The end of a session and its rooms come from one token, the one that ends last: a token that ends sooner
/// changes nothing.
pub(crate) async fn renew(deps: &Deps, caller: &Caller, token: &str) -> Result<String, RequestError> {
    let identity = deps.verifier.verify(token).await?;
    if identity.expires.is_some_and(|end| end <= deps.clock.now()) {
        return Err(TokenError::Expired.into());
    }
    if identity.user != caller.session.user {
        return Err(RequestError::NotYou);
    }
    let mut session = caller.session.clone();
    for _ in 0..TRIES {
        if !lasts_longer(&identity, &session) {
            return Ok(accepted(&session));
        }
        let renewed = Session { expires: identity.expires, rooms: identity.rooms.clone(), ..session.clone() };
        let updated = deps.registry.update(&caller.connection, &session, &renewed).await;
        session = match updated.map_err(RequestError::Registry)? {
            Updated::Done => {
                // The registry is written first: whoever is poked by this will find the new end there.
                deps.pokes.poke(&renewed.user).await.map_err(RequestError::Broker)?;
                return Ok(accepted(&renewed));
            }
            Updated::Changed(current) if current.user == identity.user => current,
            Updated::Changed(_) => return Err(RequestError::NotYou),
            Updated::Gone => return Err(RequestError::NoSession),
        };
    }
    Err(RequestError::NoSession)
}

fn lasts_longer(token: &Identity, session: &Session) -> bool {
    match (token.expires, session.expires) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(new), Some(old)) => new >= old,
    }
}

fn accepted(session: &Session) -> String {
    AuthReply::accepted(session.expires.map(Timestamp::millis))
}
