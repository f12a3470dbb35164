//! Clauses of [`Ownership`] and [`OwnerChannel`].

use std::{collections::BTreeSet, time::Duration};

use kschat_protocol::{AckFrame, EphemeralEvent, JsonId, Position, ServerFrame, UserId};

use super::{message, unique_connection, unique_user};
use crate::{
    Partition, Partitions,
    ports::{BoxError, OwnerChannel, OwnerMessage, Ownership, OwnershipEvent},
};

/// The result of a clause: an error of the port fails the test.
pub type Outcome = Result<(), BoxError>;

/// The time within which a change must be reported.
const OWNERSHIP_EVENT_TIMEOUT: Duration = Duration::from_secs(10);

/// A single member owns every partition once, and then gets each message for an owner as it was sent.
///
/// # Errors
/// Errors of the port.
pub async fn single_member_owns_all_and_receives_owner_messages(
    ownership: &mut impl Ownership,
    owners: &impl OwnerChannel,
    partitions: Partitions,
) -> Outcome {
    let mut owned: BTreeSet<Partition> = BTreeSet::new();
    while owned.len() < usize::from(partitions.count()) {
        match tokio::time::timeout(OWNERSHIP_EVENT_TIMEOUT, ownership.next()).await? {
            OwnershipEvent::Acquired(partition) => assert!(owned.insert(partition), "{partition} was acquired twice"),
            other => assert!(matches!(other, OwnershipEvent::Message(_, OwnerMessage::Refresh)), "{other:?}"),
        }
    }
    for user in [unique_user(), unique_user(), UserId::provisional(&unique_connection())] {
        for sent in messages(&user) {
            owners.send(&user, sent.clone()).await?;
            let received = tokio::time::timeout(OWNERSHIP_EVENT_TIMEOUT, ownership.next()).await?;
            assert_eq!(received, OwnershipEvent::Message(user.clone(), sent));
        }
    }
    Ok(())
}

/// Messages of each kind, with and without their optional parts.
#[must_use]
pub fn messages(user: &UserId) -> Vec<OwnerMessage> {
    let id = message(user, "").id;
    let position = Some(Position { run: 7, number: 9 });
    let acks = [
        AckFrame { message: Some(id.clone()), position: None, redelivery_requested: false },
        AckFrame { message: Some(id), position, redelivery_requested: true },
        AckFrame { message: None, position: None, redelivery_requested: true },
        AckFrame { message: None, position, redelivery_requested: false },
    ];
    let events = ["\"alice\"", "7"]
        .map(|from| EphemeralEvent::Typing { from: JsonId::Text(from.to_owned()), on: true })
        .map(OwnerMessage::Event);
    let connection = unique_connection();
    let reply = ServerFrame::from_text(r#"{"event":"RESPSEND","MSG":"Ünïcödé"}"#)
        .map(|frame| OwnerMessage::Reply { connection: connection.clone(), frame });
    let rest = [
        OwnerMessage::Refresh,
        OwnerMessage::Close { connection: None },
        OwnerMessage::Close { connection: Some(connection) },
        OwnerMessage::CheckConnections,
        OwnerMessage::QueueRequest { requester: Some(unique_user()) },
        OwnerMessage::QueueRequest { requester: None },
    ];
    acks.map(OwnerMessage::Ack).into_iter().chain(events).chain(reply).chain(rest).collect()
}
