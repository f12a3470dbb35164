//! Clauses of [`ConnectionRegistry`], [`IdempotencyStore`] and [`Backlogs`].

use std::time::Duration;

use kschat_protocol::{ConnectionId, MessageId, RoomId, UserId, Version, dialect::Dialect};

use super::{connection, session, somebody};
use crate::{
    Clock, Partitions, Session, SystemClock, Timestamp,
    ports::{
        Backlogs, Claim, Claimed, ConnectionRegistry, IdempotencyStore, Marks, Memberships, Presence, Presences,
        RateLimits, Reachable, Receipt, Receipts, RoomsOfUser, Seen, Stage, Unavailable,
    },
};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// What a clause returns: the port's own failure fails the test.
pub type Outcome = Result<(), Unavailable>;

async fn devices_of(
    registry: &impl ConnectionRegistry,
    user: &UserId,
    now: Timestamp,
) -> Result<Vec<ConnectionId>, Unavailable> {
    let mut found: Vec<_> = registry.connections(user, now).await?.into_iter().map(|found| found.connection).collect();
    found.sort();
    Ok(found)
}

/// A session reads back as it was registered, and an unknown connection has none.
///
/// # Errors
/// The port's own.
pub async fn a_session_reads_back(registry: &impl ConnectionRegistry) -> Outcome {
    let (id, now) = (connection(), SystemClock.now());
    assert_eq!(registry.session(&id).await?, None);
    let session = session(&somebody(), now, HOUR);
    registry.register(&id, &session).await?;
    registry.register(&id, &session).await?;
    assert_eq!(registry.session(&id).await?, Some(session));
    Ok(())
}

/// All devices of a user are found, and nobody else's.
///
/// # Errors
/// The port's own.
pub async fn every_device_is_found(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, other, now) = (somebody(), somebody(), SystemClock.now());
    let mut devices = vec![connection(), connection(), connection()];
    for id in &devices {
        registry.register(id, &session(&user, now, HOUR)).await?;
    }
    registry.register(&connection(), &session(&other, now, HOUR)).await?;
    devices.sort();
    assert_eq!(devices_of(registry, &user, now).await?, devices);
    Ok(())
}

/// A removed connection is gone, and removing it again is no error.
///
/// # Errors
/// The port's own.
pub async fn a_removed_connection_is_forgotten(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (somebody(), SystemClock.now());
    let (stays, goes) = (connection(), connection());
    for id in [&stays, &goes] {
        registry.register(id, &session(&user, now, HOUR)).await?;
    }
    registry.remove(&user, &goes).await?;
    registry.remove(&user, &goes).await?;
    assert_eq!(registry.session(&goes).await?, None);
    assert_eq!(devices_of(registry, &user, now).await?, [stays]);
    Ok(())
}

/// Nobody is reachable beyond the end of a token, but who was behind the connection is still known.
///
/// # Errors
/// The port's own.
pub async fn nobody_outlives_a_token(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (somebody(), SystemClock.now());
    let partition = Partitions::default().of(&user);
    let id = connection();
    registry.register(&id, &session(&user, now, HOUR)).await?;
    let (before, after) = (now.plus(HOUR - Duration::from_secs(1)), now.plus(HOUR + Duration::from_secs(1)));
    let reachable = Reachable { connection: id.clone(), session: session(&user, now, HOUR) };
    assert_eq!(registry.connections(&user, before).await?, [reachable]);
    let other = connection();
    let (known, both) = registry.session_and_connections(&other, &user, before).await?;
    assert_eq!((known, both.len()), (None, 1));
    let (known, both) = registry.session_and_connections(&id, &user, after).await?;
    assert!(known.is_some() && both.is_empty());
    assert!(registry.online(partition, before).await?.contains(&user));
    assert!(registry.connections(&user, after).await?.is_empty());
    assert!(!registry.online(partition, after).await?.contains(&user));
    assert!(registry.session(&id).await?.is_some());
    Ok(())
}

/// A connection whose user is not known yet is found by its provisional one.
///
/// # Errors
/// The port's own.
pub async fn a_connection_without_a_name_is_found_by_its_provisional_one(
    registry: &impl ConnectionRegistry,
) -> Outcome {
    let (connection, now) = (connection(), SystemClock.now());
    let partitions = Partitions::default();
    let nobody = UserId::nameless(&connection);
    registry.register(&connection, &session(&nobody, now, HOUR)).await?;
    assert!(registry.online(partitions.of(&nobody), now).await?.contains(&nobody));
    let found = registry.connections(&nobody, now).await?;
    assert_eq!(
        found.into_iter().map(|one| (one.connection, one.session.user)).collect::<Vec<_>>(),
        [(connection, nobody)]
    );
    Ok(())
}

/// A connection is found with all that its handshake has told.
///
/// # Errors
/// The port's own.
pub async fn a_connection_is_found_with_its_session(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (somebody(), SystemClock.now());
    let joined = || Dialect::from_code("4/kschat").unwrap_or_default();
    for (version, expires, dialect) in
        [(Version::Seed, Some(now.plus(HOUR)), Dialect::Raw), (Version::V2, None, joined())]
    {
        let (connection, session) = (connection(), Session { version, expires, dialect, ..session(&user, now, HOUR) });
        registry.register(&connection, &session).await?;
        let id = connection.clone();
        assert_eq!(registry.connections(&user, now).await?, [Reachable { connection, session }]);
        registry.remove(&user, &id).await?;
        assert!(registry.connections(&user, now).await?.is_empty());
    }
    Ok(())
}

/// Who marks first is told so; the mark is seen by everybody.
///
/// # Errors
/// The port's own.
pub async fn a_mark_stays_until_everything_is_lost(registry: &impl ConnectionRegistry) -> Outcome {
    let mut partitions = Partitions::default().all();
    for partition in partitions.by_ref().take(2) {
        // Another clause may have been here.
        registry.mark(partition).await?;
        assert!(registry.mark(partition).await? && registry.is_marked(partition).await?);
    }
    Ok(())
}

/// A user is online from the first connection to the last, in its own partition only.
///
/// # Errors
/// The port's own.
pub async fn online_is_from_the_first_connection_to_the_last(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (somebody(), SystemClock.now());
    let partitions = Partitions::default();
    let (first, second) = (connection(), connection());
    registry.register(&first, &session(&user, now, HOUR)).await?;
    registry.register(&second, &session(&user, now, HOUR)).await?;
    registry.remove(&user, &first).await?;
    for partition in partitions.all() {
        let there = registry.online(partition, now).await?.contains(&user);
        assert_eq!(there, partition == partitions.of(&user), "partition {partition}");
    }
    registry.remove(&user, &second).await?;
    assert!(!registry.online(partitions.of(&user), now).await?.contains(&user));
    Ok(())
}

/// The first claim of an `rno` stands; it is pending until it is settled; users don't share them.
///
/// # Errors
/// The port's own.
pub async fn the_first_claim_stands(store: &impl IdempotencyStore) -> Outcome {
    let (user, other, now) = (somebody(), somebody(), SystemClock.now());
    let claim = |id: &str, digest| Claim { id: MessageId::from(id.to_owned()), time: now, digest };
    let (first, second) = (claim("m-1", u128::MAX), claim("m-2", 2));
    assert_eq!(store.claim(&user, "r", &first).await?, Claimed::First);
    assert_eq!(store.claim(&user, "r", &second).await?, Claimed::Pending(first.clone()));
    store.settle(&user, "r", &first).await?;
    assert_eq!(store.claim(&user, "r", &second).await?, Claimed::Done(first));
    assert_eq!(store.claim(&user, "s", &second).await?, Claimed::First);
    assert_eq!(store.claim(&other, "r", &second).await?, Claimed::First);
    Ok(())
}

/// Requests are counted by connection and weight, and anew once the window has passed.
///
/// # Errors
/// The port's own.
pub async fn requests_are_counted_by_connection_and_window(
    registry: &(impl RateLimits + ConnectionRegistry),
) -> Outcome {
    let window = Duration::from_millis(300);
    let (one, two, now) = (connection(), connection(), SystemClock.now());
    for id in [&one, &two] {
        registry.register(id, &session(&somebody(), now, HOUR)).await?;
    }
    for (weight, count) in [(1, 1), (1, 2), (11, 13), (1, 14)] {
        assert_eq!(registry.count_request(&one, weight, window).await?, count);
    }
    assert_eq!(registry.count_request(&two, 1, window).await?, 1);
    tokio::time::sleep(window * 2).await;
    assert_eq!(registry.count_request(&one, 1, window).await?, 1);
    Ok(())
}

/// Marks are kept for each pair and stage, never move back, and come in the order in which they were asked for.
///
/// # Errors
/// The port's own.
pub async fn a_receipt_moves_its_mark_forward_only(receipts: &impl Receipts) -> Outcome {
    let (author, one, two) = (somebody(), somebody(), somebody());
    let id = |id: &str| MessageId::from(id.to_owned());
    let receipt = |reader: &UserId, stage, message: &str| {
        let (author, reader) = (author.clone(), reader.clone());
        Receipt { author, reader, stage, message: id(message) }
    };
    let noted = [receipt(&one, Stage::Delivered, "m-5"), receipt(&two, Stage::Delivered, "m-2")];
    receipts.note_receipts(&noted).await?;
    receipts.note_receipts(&[receipt(&one, Stage::Read, "m-4")]).await?;
    receipts.note_receipts(&[receipt(&one, Stage::Read, "m-3"), receipt(&one, Stage::Delivered, "m-6")]).await?;
    let marks = receipts.marks(&author, &[two.clone(), somebody(), one.clone()]).await?;
    let first = Marks { delivered: Some(id("m-2")), read: None };
    let last = Marks { delivered: Some(id("m-6")), read: Some(id("m-4")) };
    assert_eq!(marks, [first, Marks::default(), last]);
    assert_eq!(receipts.marks(&one, &[author]).await?, [Marks::default()], "they are not the other's");
    Ok(())
}

/// Who watches a user is known until its time ends; who is there is known from the first connection to the last, and when
/// the last one ended.
///
/// # Errors
/// The port's own.
pub async fn who_is_watched_by_whom_is_known_for_a_while(presences: &(impl Presences + ConnectionRegistry)) -> Outcome {
    let (user, other, now) = (somebody(), somebody(), SystemClock.now());
    let (one, two) = (somebody(), somebody());
    let (soon, later) = (now.plus(HOUR / 2), now.plus(HOUR));
    let asked = [user.clone(), other.clone()];
    let unknown = Presence { is_reachable: false, seen: Seen::Never };
    assert_eq!(presences.watch(&one, &asked, now, soon).await?, [unknown, unknown]);
    assert_eq!(presences.came(&user).await?, Seen::Never);
    assert_eq!(presences.came(&user).await?, Seen::Here);
    let id = connection();
    presences.register(&id, &session(&user, now, HOUR)).await?;
    let here = Presence { is_reachable: true, seen: Seen::Here };
    assert_eq!(presences.watch(&two, &asked[..1], now, later).await?, [here]);
    let watchers = async |user: &UserId, now| {
        let mut watchers = presences.watchers(user, now).await?;
        watchers.sort();
        Ok::<_, Unavailable>(watchers)
    };
    let mut both = [one.clone(), two.clone()];
    both.sort();
    assert_eq!(watchers(&user, now).await?, both);
    assert_eq!(watchers(&other, now).await?, [one]);
    assert_eq!(watchers(&user, soon.plus(Duration::from_secs(1))).await?, std::slice::from_ref(&two));
    assert!(watchers(&two, now).await?.is_empty());
    presences.remove(&user, &id).await?;
    presences.left(&user, now).await?;
    let gone = Presence { is_reachable: false, seen: Seen::Left(now) };
    assert_eq!(presences.watch(&two, &asked[..1], now, later).await?, [gone]);
    assert_eq!(presences.came(&user).await?, Seen::Left(now));
    Ok(())
}

/// A room that was left is remembered as such: its binding may be left over. That ends when the user joins it again, and
/// not a moment after the user has left, as a try to bind it may be under way.
///
/// # Errors
/// The port's own.
pub async fn left_room_is_remembered_until_joined_again(memberships: &impl Memberships) -> Outcome {
    let user = somebody();
    let rooms = ["one", "two"].map(RoomId::try_from);
    let [Ok(one), Ok(two)] = rooms else { unreachable!("valid ids") };
    assert_eq!(memberships.rooms_and_left(&user).await?, RoomsOfUser::default());
    assert!(memberships.join(&user, &one, 2).await? && memberships.join(&user, &two, 2).await?);
    for _ in 0..2 {
        memberships.leave(&user, &one).await?;
    }
    memberships.forget_left(&user).await?;
    let known = RoomsOfUser { rooms: vec![two.clone()], left: vec![one.clone()] };
    assert_eq!(memberships.rooms_and_left(&user).await?, known);
    assert!(memberships.join(&user, &one, 2).await?);
    assert_eq!(memberships.rooms_and_left(&user).await?, RoomsOfUser { rooms: vec![one, two], left: vec![] });
    Ok(())
}

/// A user is in the rooms that it joined and did not leave, and in no more than allowed.
///
/// # Errors
/// The port's own.
pub async fn a_user_is_in_so_many_rooms_at_most(memberships: &impl Memberships) -> Outcome {
    let user = somebody();
    let rooms = ["a \"b\"", "team.7", "\u{fc}"].map(|id| RoomId::try_from(id).map_err(|_| id));
    let [Ok(one), Ok(two), Ok(three)] = rooms else { unreachable!("valid ids") };
    assert!(memberships.rooms(&user).await?.is_empty() && !memberships.is_member(&user, &one).await?);
    for room in [&two, &one, &one] {
        assert!(memberships.join(&user, room, 2).await?);
    }
    assert!(!memberships.join(&user, &three, 2).await?);
    assert_eq!(memberships.rooms(&user).await?, [one.clone(), two.clone()]);
    assert!(memberships.is_member(&user, &one).await? && !memberships.is_member(&user, &three).await?);
    memberships.leave(&user, &one).await?;
    memberships.leave(&user, &one).await?;
    assert!(memberships.join(&user, &three, 2).await?);
    assert_eq!(memberships.rooms(&user).await?, [two, three]);
    assert!(memberships.rooms(&somebody()).await?.is_empty());
    Ok(())
}

/// A backlog is counted once, in its user's partition, until it is cleared, and is due from the moment noted last.
///
/// # Errors
/// The port's own.
pub async fn a_backlog_is_counted_once_and_due_in_its_time(backlogs: &impl Backlogs) -> Outcome {
    let (user, now) = (somebody(), SystemClock.now());
    let partition = Partitions::default().of(&user);
    let is_due = async |now| Ok(backlogs.due(partition, now, 1_000).await?.contains(&user));
    let before = backlogs.count(partition).await?;
    backlogs.note(&user, now.plus(HOUR)).await?;
    backlogs.note(&user, now.plus(HOUR * 2)).await?;
    assert_eq!(backlogs.count(partition).await?, before + 1);
    assert!(!is_due(now.plus(HOUR)).await? && is_due(now.plus(HOUR * 2)).await?);
    assert_eq!(backlogs.due(partition, now.plus(HOUR * 2), 0).await?, []);
    for other in Partitions::default().all().filter(|other| *other != partition) {
        assert!(!backlogs.due(other, now.plus(HOUR * 2), 1_000).await?.contains(&user));
    }
    backlogs.clear(&user).await?;
    backlogs.clear(&user).await?;
    assert!(!is_due(now.plus(HOUR * 2)).await?);
    assert_eq!(backlogs.count(partition).await?, before);
    Ok(())
}

/// One test a clause, against what `$setup` (an async expression) makes.
#[macro_export]
macro_rules! registry_contract {
    ($setup:expr) => {
        $crate::registry_contract!(@ $setup,
            a_session_reads_back,
            every_device_is_found,
            a_removed_connection_is_forgotten,
            nobody_outlives_a_token,
            a_connection_is_found_with_its_session,
            a_connection_without_a_name_is_found_by_its_provisional_one,
            online_is_from_the_first_connection_to_the_last,
            a_mark_stays_until_everything_is_lost,
            the_first_claim_stands,
            a_backlog_is_counted_once_and_due_in_its_time,
            requests_are_counted_by_connection_and_window,
            a_receipt_moves_its_mark_forward_only,
            who_is_watched_by_whom_is_known_for_a_while,
            a_user_is_in_so_many_rooms_at_most,
            left_room_is_remembered_until_joined_again,
        );
    };
    (@ $setup:expr, $($clause:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $clause() {
            let registry = $setup.await;
            $crate::contract::registry::$clause(&registry).await.expect("the registry failed");
        })*
    };
}
