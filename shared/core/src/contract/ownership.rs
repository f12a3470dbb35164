//! Clauses of [`Ownership`], [`Pokes`], [`Acks`], [`Notices`], [`Replies`] and [`Supervision`].

use std::{collections::BTreeSet, time::Duration};

use kschat_protocol::{AckFrame, JsonId, Notice, Position, UserId};

use super::{connection, message, somebody};
use crate::{
    Partition, Partitions,
    ports::{Acks, BoxError, Notices, Ownership, OwnershipEvent, Pokes, Replies, Supervision},
};

/// What a clause returns: the port's own failure fails the test.
pub type Outcome = Result<(), BoxError>;

/// How long a change may take to be told.
const SOON: Duration = Duration::from_secs(10);

/// Whoever is alone owns every partition once, and then hears every poke, ack, notice and reply.
///
/// # Errors
/// The port's own.
pub async fn the_only_member_owns_everything_and_hears_pokes_and_acks(
    ownership: &mut impl Ownership,
    teller: &(impl Pokes + Acks + Notices + Replies + Supervision),
    partitions: Partitions,
) -> Outcome {
    let mut owned: BTreeSet<Partition> = BTreeSet::new();
    while owned.len() < usize::from(partitions.count()) {
        match tokio::time::timeout(SOON, ownership.next()).await? {
            OwnershipEvent::Acquired(partition) => assert!(owned.insert(partition), "{partition} was told twice"),
            other => assert!(matches!(other, OwnershipEvent::Poked(_)), "{other:?}"),
        }
    }
    for user in [somebody(), somebody(), somebody()] {
        teller.poke(&user).await?;
        let heard = tokio::time::timeout(SOON, ownership.next()).await?;
        assert_eq!(heard, OwnershipEvent::Poked(user.clone()));
        let id = message(&user, "").id;
        for ack in [
            AckFrame { message: Some(id.clone()), position: None, again: false },
            AckFrame { message: Some(id), position: Some(Position { run: 7, number: 9 }), again: true },
            AckFrame { message: None, position: None, again: true },
            AckFrame { message: None, position: Some(Position { run: 7, number: 9 }), again: false },
        ] {
            teller.acked(&user, &ack).await?;
            let heard = tokio::time::timeout(SOON, ownership.next()).await?;
            assert_eq!(heard, OwnershipEvent::Acked(user.clone(), ack));
        }
        for from in [JsonId::Text("\"alice\"".to_owned()), JsonId::Text("7".to_owned())] {
            let notice = Notice::Typing { from, on: true };
            teller.notify(&user, &notice).await?;
            let heard = tokio::time::timeout(SOON, ownership.next()).await?;
            assert_eq!(heard, OwnershipEvent::Noticed(user.clone(), notice));
        }
        let (connection, frame) = (connection(), r#"{"event":"RESPSEND","MSG":"Ünïcödé"}"#);
        teller.reply(&user, &connection, frame).await?;
        let heard = tokio::time::timeout(SOON, ownership.next()).await?;
        assert_eq!(heard, OwnershipEvent::Replied(user.clone(), connection.clone(), frame.to_owned()));
        for named in [None, Some(connection)] {
            teller.close(&user, named.as_ref()).await?;
            let heard = tokio::time::timeout(SOON, ownership.next()).await?;
            assert_eq!(heard, OwnershipEvent::Closing(user.clone(), named));
        }
        teller.check(&user).await?;
        let heard = tokio::time::timeout(SOON, ownership.next()).await?;
        assert_eq!(heard, OwnershipEvent::Checking(user));
    }
    // Who has no name yet is spoken of by the connection.
    let nobody = UserId::nameless(&connection());
    teller.poke(&nobody).await?;
    assert_eq!(tokio::time::timeout(SOON, ownership.next()).await?, OwnershipEvent::Poked(nobody));
    Ok(())
}
