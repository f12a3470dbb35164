//! The contract that every adapter of a port must pass, written once.
//!
//! A clause is a function over the port. `registry_contract!` and `broker_contract!` turn the clauses into one test
//! each, for what the given expression sets up. So memory and the real service pass the same clauses.

pub mod broker;
pub mod ownership;
pub mod registry;

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kschat_protocol::{ConnectionId, JsonId, Message, MessageId, ProtocolVersion, Status, UserId, dialect::Dialect};
use uuid::Uuid;

use crate::{
    Clock, Session, Timestamp,
    ports::{Admission, BoxError, ConnectionRegistry, CreateOutcome, PublishError, Unavailable},
};

/// A clock that stands still until it is set.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that shows that moment.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }

    /// Sets it.
    pub fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks a clause. If a busy service has missed a deadline, the clause is repeated, with users of its own.
///
/// # Panics
/// When the clause does not hold, or the service misses its deadlines every time.
pub async fn hold<E: Into<BoxError>>(clause: impl AsyncFn() -> Result<(), E>) {
    const ATTEMPTS: u32 = 5;
    for attempt in 1..=ATTEMPTS {
        let Err(error) = clause().await.map_err(Into::into) else { return };
        assert!(attempt < ATTEMPTS && is_missed_deadline(&error), "the service failed: {error:?}");
    }
}

fn is_missed_deadline(error: &BoxError) -> bool {
    let publish = error.downcast_ref::<PublishError>();
    error.is::<Unavailable>()
        || publish.is_some_and(|error| matches!(error, PublishError::Unavailable(_) | PublishError::Unconfirmed(_)))
}

/// A user that no other test uses.
#[must_use]
#[expect(clippy::expect_used, reason = "this text is a valid id")]
pub fn unique_user() -> UserId {
    UserId::try_from(format!("user \"{}\"", Uuid::now_v7())).expect("a valid user id")
}

/// A connection that no other test uses.
#[must_use]
#[expect(clippy::expect_used, reason = "this text is a valid id")]
pub fn unique_connection() -> ConnectionId {
    ConnectionId::try_from(format!("{}=", Uuid::now_v7())).expect("a valid connection id")
}

/// A message with that text.
#[must_use]
pub fn message(to: &UserId, text: &str) -> Message {
    Message {
        from: JsonId::Text("sender".to_owned()),
        to: JsonId::from(to),
        msg: text.to_owned(),
        status: Status::Accepted,
        time: 1,
        id: MessageId::from(Uuid::now_v7().to_string()),
        rno: None,
        trace: None,
        room: None,
        sender_connection: None,
    }
}

/// A session that began at `connected` and lasts for `span`.
#[must_use]
pub fn session(user: &UserId, connected: Timestamp, span: Duration) -> Session {
    let (user, expires) = (user.clone(), Some(connected.plus(span)));
    Session { user, version: ProtocolVersion::V2, connected, expires, dialect: Dialect::Raw, rooms: None, source: None }
}

/// The conditions under which a connection is always created.
#[must_use]
pub fn admission(now: Timestamp) -> Admission {
    Admission { replaced_user: None, limit: usize::MAX, rate: None, now }
}

/// Registers a connection without conditions.
///
/// # Errors
/// Errors of the port.
///
/// # Panics
/// If the connection is not created all the same.
pub async fn register(
    registry: &(impl ConnectionRegistry + ?Sized),
    connection: &ConnectionId,
    session: &Session,
) -> Result<(), Unavailable> {
    let created = registry.create(connection, session, &admission(session.connected)).await?;
    assert_eq!(created, CreateOutcome::Done);
    Ok(())
}
