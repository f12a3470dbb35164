//! Who says something: the one place where the session behind a frame is read.
//!
//! The session, the user's rates and whether the user has other devices come by one round trip. What follows gets a
//! [`Caller`], and needs not ask again.

use std::{sync::Arc, time::Duration};

use kschat_protocol::{ClientFrame, ConnectionId, Er, FrameError, Recipient, Request};

use crate::{
    Clock, Session,
    limits::Limits,
    ports::{Addressed, Charge, Class, ConnectionRegistry, Supervision, Unavailable, Verdict},
    request,
};

/// What [`enter`] needs.
#[derive(Clone)]
pub struct Deps {
    /// Knows who is behind a connection, and counts.
    pub registry: Arc<dyn ConnectionRegistry>,
    /// Has the connections of a blocked user closed.
    pub supervision: Arc<dyn Supervision>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// How much one user may do.
    pub limits: Limits,
}

/// Who says something.
#[derive(Clone, Debug)]
pub struct Caller {
    /// By which connection.
    pub connection: ConnectionId,
    /// What is known of it.
    pub session: Session,
    /// Whether the user has another connection of version 2. Only known of who sends a message.
    pub has_other_devices: bool,
    /// Whether it may be done.
    pub verdict: Verdict,
    /// As how much of its sender's share the message was counted.
    pub counted: u64,
}

/// Why nobody can be told to have said something.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// Nobody is known behind the connection.
    #[error("the connection has no session")]
    NoSession,
    /// Nobody can be looked up.
    #[error("the registry is out of reach")]
    Registry(#[source] Unavailable),
}

impl Limits {
    /// What a frame costs. What can't be understood costs as much as a request.
    #[must_use]
    pub fn charge<'a>(&self, frame: Option<&'a Result<ClientFrame, FrameError>>) -> Charge<'a> {
        let request = |cost| Charge { class: Class::Requests, cost, rate: self.requests, message: None };
        match frame {
            Some(Ok(ClientFrame::Send(send))) => {
                let (new_recipients, share) = (self.new_recipients, self.share);
                let to = match &send.recipient {
                    Recipient::User(user) => Some(user),
                    Recipient::Room(_) => None,
                };
                let message = Addressed { to, bytes: json_length(&send.msg), new_recipients, share };
                Charge { class: Class::Sends, cost: 1, rate: self.sends, message: Some(message) }
            }
            Some(Ok(ClientFrame::Ack(_))) => Charge { class: Class::Acks, cost: 1, rate: self.acks, message: None },
            // What is remembered of a pair takes as much as a queue does.
            Some(Ok(ClientFrame::Request(asked @ Request::Read { peer, .. }))) => {
                let (new_recipients, share) = (self.new_recipients, None);
                let message = Addressed { to: Some(peer), bytes: 0, new_recipients, share };
                Charge { message: Some(message), ..request(request::weight(asked)) }
            }
            Some(Ok(ClientFrame::Request(asked))) => request(request::weight(asked)),
            Some(Err(_)) | None => request(1),
        }
    }
}

/// How many bytes a text takes as JSON. A control character takes six, so whoever is charged by the letter could put six
/// times as much into a queue.
fn json_length(text: &str) -> usize {
    let length = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..32 => 6,
        _ => 1,
    };
    2 + text.bytes().map(length).sum::<usize>()
}

/// Finds out who is behind a connection, and counts what it says. A user who has gone on for long in spite of refusals has
/// its connections closed.
///
/// # Errors
/// [`EnterError`]: nobody is known, or nobody can be asked.
pub async fn enter(deps: &Deps, connection: &ConnectionId, charge: &Charge<'_>) -> Result<Caller, EnterError> {
    let entered = deps.registry.enter(connection, charge, deps.clock.now()).await.map_err(EnterError::Registry)?;
    let entered = entered.ok_or(EnterError::NoSession)?;
    if let Verdict::Blocked { kick: true, .. } = entered.verdict
        && let Err(error) = deps.supervision.close(&entered.session.user, None).await
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "a blocked user's connections are not closed for now");
    }
    let share = charge.message.as_ref().and_then(|message| Some(message.share?.weight(message.bytes)));
    let is_counted = entered.verdict == Verdict::Granted;
    Ok(Caller {
        counted: share.filter(|_| is_counted).unwrap_or_default(),
        connection: connection.clone(),
        session: entered.session,
        has_other_devices: entered.has_other_devices,
        verdict: entered.verdict,
    })
}

impl EnterError {
    /// The code for the client.
    #[must_use]
    pub const fn code(&self) -> Er {
        // The registry may have lost the session, and its user's owner is about to restore it.
        Er::RegistryUnavailable
    }
}

/// Why a user may not do what it asks for, although its token lets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It asks too often.
    #[error("the user asks too often")]
    TooOften {
        /// How long it has to wait.
        retry: Duration,
    },
    /// As much as may wait of one sender waits for the recipient.
    #[error("as much as may wait of one sender waits for the recipient")]
    ShareFull,
}

impl Refused {
    /// The code for the client.
    #[must_use]
    pub const fn code(self) -> Er {
        match self {
            Self::TooOften { .. } => Er::RateLimited,
            Self::ShareFull => Er::BacklogFull,
        }
    }

    /// In how many milliseconds the client may ask again, if that is known.
    #[must_use]
    pub fn retry(self) -> Option<u64> {
        match self {
            Self::TooOften { retry } => Some(u64::try_from(retry.as_millis()).unwrap_or(u64::MAX)),
            Self::ShareFull => None,
        }
    }
}

impl Caller {
    /// Whether the user may do what it asks for, as far as its rates go.
    ///
    /// # Errors
    /// [`Refused`].
    pub const fn check(&self) -> Result<(), Refused> {
        match self.verdict {
            Verdict::Granted => Ok(()),
            Verdict::Limited(retry) | Verdict::Blocked { left: retry, .. } => Err(Refused::TooOften { retry }),
            Verdict::ShareFull => Err(Refused::ShareFull),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_that_of_the_text_as_json() {
        for text in ["", "hello", "\"\\/\n\r\t\u{8}\u{c}", "\u{1}\u{1f}\u{7f}", "\u{fc}\u{2028}\u{1f600}"] {
            assert_eq!(json_length(text), serde_json::to_string(text).unwrap().len(), "{text:?}");
        }
    }
}
