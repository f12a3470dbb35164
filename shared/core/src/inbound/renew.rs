//! Renews tokens, before or shortly after the old one expires.

use kschat_protocol::{AuthReply, ServerFrame};

use crate::{
    Session, Timestamp,
    inbound::caller::Caller,
    inbound::context::{Deps, RequestError},
    ports::{Identity, OwnerMessage, TokenError, UpdateOutcome},
};

/// Attempts to change a session that others change at the same time.
const SESSION_RENEWAL_MAX_ATTEMPTS: u32 = 5;

/// Extends a session by a new token of the same user; returns its new expiry. The expiry and the rooms of a
/// session come from the one token that expires last: a token that expires sooner changes nothing.
pub(crate) async fn renew(deps: &Deps, caller: &Caller, token: &str) -> Result<ServerFrame, RequestError> {
    let identity = deps.verifier.verify(token).await?;
    if identity.expires.is_some_and(|end| end <= deps.clock.now()) {
        return Err(TokenError::Expired.into());
    }
    if identity.user != caller.session.user {
        return Err(RequestError::NotYou);
    }
    let mut session = caller.session.clone();
    for _ in 0..SESSION_RENEWAL_MAX_ATTEMPTS {
        if !lasts_longer(&identity, &session) {
            return Ok(accepted_reply(&session));
        }
        let renewed = Session { expires: identity.expires, rooms: identity.rooms.clone(), ..session.clone() };
        let updated = deps.registry.update(&caller.connection, &session, &renewed).await;
        session = match updated.map_err(RequestError::Registry)? {
            UpdateOutcome::Done => {
                // The registry is written first, so that an owner that gets the refresh finds the new expiry there.
                deps.owners.send(&renewed.user, OwnerMessage::Refresh).await.map_err(RequestError::Broker)?;
                return Ok(accepted_reply(&renewed));
            }
            UpdateOutcome::Changed(current) if current.user == identity.user => current,
            UpdateOutcome::Changed(_) => return Err(RequestError::NotYou),
            UpdateOutcome::Gone => return Err(RequestError::NoSession),
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

fn accepted_reply(session: &Session) -> ServerFrame {
    AuthReply::accepted(session.expires.map(Timestamp::millis))
}
