//! Clauses of [`ConnectionRegistry`], [`IdempotencyStore`] and [`Backlogs`].

use std::time::Duration;

use futures_util::future::join_all;
use kschat_protocol::{ConnectionId, MessageId, RoomId, UserId, Version, dialect::Dialect};

use super::{admission, connection, register, session, somebody};
use crate::{
    Clock, Partitions, Session, SystemClock, Timestamp,
    limits::{BLOCKED, REFUSALS, Rate, Share},
    ports::{
        Addressed, Admission, Backlogs, Charge, Claim, Claimed, Class, ConnectionRegistry, Created, IdempotencyStore,
        Marks, Memberships, Presence, Presences, Reachable, Receipt, Receipts, RoomsOfUser, Seen, SenderShares, Stage,
        Unavailable, Updated, Verdict,
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
    register(registry, &id, &session).await?;
    register(registry, &id, &session).await?;
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
        register(registry, id, &session(&user, now, HOUR)).await?;
    }
    register(registry, &connection(), &session(&other, now, HOUR)).await?;
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
        register(registry, id, &session(&user, now, HOUR)).await?;
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
    register(registry, &id, &session(&user, now, HOUR)).await?;
    let (before, after) = (now.plus(HOUR - Duration::from_secs(1)), now.plus(HOUR + Duration::from_secs(1)));
    let reachable = Reachable { connection: id.clone(), session: session(&user, now, HOUR) };
    assert_eq!(registry.connections(&user, before).await?, [reachable]);
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
    register(registry, &connection, &session(&nobody, now, HOUR)).await?;
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
        register(registry, &connection, &session).await?;
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
    register(registry, &first, &session(&user, now, HOUR)).await?;
    register(registry, &second, &session(&user, now, HOUR)).await?;
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
    let claim =
        |id: &str, digest| Claim { id: MessageId::from(id.to_owned()), time: now, digest, content: Some(digest >> 1) };
    let (first, second) = (claim("m-1", u128::MAX), claim("m-2", 2));
    assert_eq!(store.claim(&user, "r", &first).await?, Claimed::First);
    assert_eq!(store.claim(&user, "r", &second).await?, Claimed::Pending(first.clone()));
    store.settle(&user, "r", &first).await?;
    assert_eq!(store.claim(&user, "r", &second).await?, Claimed::Done(first));
    assert_eq!(store.claim(&user, "s", &second).await?, Claimed::First);
    assert_eq!(store.claim(&other, "r", &second).await?, Claimed::First);
    Ok(())
}

/// However many handshakes come at once, a user has no more connections than it may have; the end of one makes room.
///
/// # Errors
/// The port's own.
pub async fn connections_at_once_stop_at_the_limit(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (somebody(), SystemClock.now());
    let (session, admission) = (session(&user, now, HOUR), Admission { limit: 10, ..admission(now) });
    let ids: Vec<_> = (0..26).map(|_| connection()).collect();
    let created = join_all(ids.iter().map(|id| registry.create(id, &session, &admission))).await;
    let created: Vec<Created> = created.into_iter().collect::<Result<_, _>>()?;
    let count = |outcome| created.iter().filter(|created| **created == outcome).count();
    let too_many = created.iter().filter(|created| matches!(created, Created::TooMany { .. })).count();
    assert_eq!((count(Created::Done), too_many), (10, 16));
    assert_eq!(count(Created::TooMany { check: true }), 1, "one of them sees to a check");
    assert_eq!(devices_of(registry, &user, now).await?.len(), 10);
    let first = ids.iter().zip(&created).find(|(_, created)| **created == Created::Done).map(|(id, _)| id);
    assert_eq!(registry.end(first.unwrap_or(&ids[0])).await?, Some(user.clone()));
    assert_eq!(registry.create(&connection(), &session, &admission).await?, Created::Done);
    let again = registry.create(&connection(), &session, &admission).await?;
    assert_eq!(again, Created::TooMany { check: false });
    // What has surely ended makes room, too.
    let later = now.plus(Session::REMEMBERED);
    let late = Session { connected: later, ..session.clone() };
    assert_eq!(registry.create(&connection(), &late, &Admission { now: later, ..admission }).await?, Created::Done);
    Ok(())
}

/// A connection that is created twice is there once, and belongs to one user: also when two are named at once in the place
/// of a provisional one.
///
/// # Errors
/// The port's own.
pub async fn connection_belongs_to_one_user(registry: &impl ConnectionRegistry) -> Outcome {
    let (one, two, now) = (somebody(), somebody(), SystemClock.now());
    let taken = connection();
    register(registry, &taken, &session(&one, now, HOUR)).await?;
    register(registry, &taken, &session(&one, now, HOUR)).await?;
    assert_eq!(registry.create(&taken, &session(&two, now, HOUR), &admission(now)).await?, Created::Taken);
    for _ in 0..20 {
        let id = connection();
        let nobody = UserId::nameless(&id);
        register(registry, &id, &session(&nobody, now, HOUR)).await?;
        let admission = Admission { instead_of: Some(nobody.clone()), ..admission(now) };
        let (first, second) = (session(&one, now, HOUR), session(&two, now, HOUR));
        let (first, second) =
            tokio::join!(registry.create(&id, &first, &admission), registry.create(&id, &second, &admission));
        let outcomes = [first?, second?];
        assert!(outcomes.contains(&Created::Done) && outcomes.contains(&Created::Taken), "{outcomes:?}");
        let hears = [devices_of(registry, &one, now).await?, devices_of(registry, &two, now).await?];
        assert_eq!(hears.iter().flatten().filter(|heard| **heard == id).count(), 1);
        assert!(devices_of(registry, &nobody, now).await?.is_empty());
        assert!(!registry.online(Partitions::default().of(&nobody), now).await?.contains(&nobody));
    }
    let unknown = Admission { instead_of: Some(one.clone()), ..admission(now) };
    assert_eq!(registry.create(&connection(), &session(&two, now, HOUR), &unknown).await?, Created::Gone);
    Ok(())
}

/// A connection that has ended is not brought back by a step that comes late, and whose it was is told again.
///
/// # Errors
/// The port's own.
pub async fn ended_connection_stays_ended(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (somebody(), SystemClock.now());
    let (known, early) = (connection(), connection());
    let session = session(&user, now, HOUR);
    register(registry, &known, &session).await?;
    assert_eq!(registry.end(&known).await?, Some(user.clone()));
    assert_eq!(registry.end(&known).await?, Some(user.clone()));
    // The disconnect of a client that has left while its connect was under way.
    assert_eq!(registry.end(&early).await?, None);
    for id in [&known, &early] {
        let renewed = Session { expires: Some(now.plus(HOUR * 2)), ..session.clone() };
        assert_eq!(registry.update(id, &session, &renewed).await?, Updated::Gone);
        assert_eq!(registry.create(id, &session, &admission(now)).await?, Created::Gone);
        assert_eq!(registry.restore(id, &session, 100).await?, Created::Gone);
        assert_eq!(registry.session(id).await?, None);
    }
    assert!(devices_of(registry, &user, now).await?.is_empty());
    assert!(!registry.online(Partitions::default().of(&user), now).await?.contains(&user));
    Ok(())
}

/// A session is changed only if it is what it was taken for; a lost one can be restored, a known one is left as it is.
///
/// # Errors
/// The port's own.
pub async fn session_changes_only_from_what_it_was(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (somebody(), SystemClock.now());
    let (id, partition) = (connection(), Partitions::default().of(&user));
    let first = session(&user, now, HOUR);
    let second = Session { expires: Some(now.plus(HOUR * 2)), rooms: Some(vec!["a".to_owned()]), ..first.clone() };
    let third = Session { rooms: Some(Vec::new()), ..first.clone() };
    register(registry, &id, &first).await?;
    assert_eq!(registry.update(&id, &first, &second).await?, Updated::Done);
    assert_eq!(registry.update(&id, &first, &second).await?, Updated::Done, "a repetition");
    assert_eq!(registry.update(&id, &first, &third).await?, Updated::Changed(second.clone()));
    assert_eq!(registry.session(&id).await?, Some(second.clone()));
    let end = now.plus(HOUR + HOUR / 2);
    assert_eq!(
        registry.connections(&user, end).await?,
        [Reachable { connection: id.clone(), session: second.clone() }]
    );
    assert!(registry.online(partition, end).await?.contains(&user));
    assert_eq!(registry.restore(&id, &first, 2).await?, Created::Done);
    assert_eq!(registry.session(&id).await?, Some(second));
    let (lost, too_many) = (connection(), connection());
    assert_eq!(registry.restore(&lost, &first, 2).await?, Created::Done);
    assert_eq!(registry.session(&lost).await?, Some(first.clone()));
    assert_eq!(registry.restore(&too_many, &first, 2).await?, Created::TooMany { check: false });
    assert_eq!(registry.session(&too_many).await?, None);
    Ok(())
}

/// A connection is taken away only from the user whose it is.
///
/// # Errors
/// The port's own.
pub async fn connection_of_another_user_is_not_removed(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, other, now) = (somebody(), somebody(), SystemClock.now());
    let id = connection();
    register(registry, &id, &session(&user, now, HOUR)).await?;
    registry.remove(&other, &id).await?;
    assert_eq!(devices_of(registry, &user, now).await?, [id]);
    Ok(())
}

/// A user who goes by way of two connections.
struct Pair {
    user: UserId,
    one: ConnectionId,
    two: ConnectionId,
    now: Timestamp,
}

async fn pair(registry: &impl ConnectionRegistry) -> Result<Pair, Unavailable> {
    let pair = Pair { user: somebody(), one: connection(), two: connection(), now: SystemClock.now() };
    for id in [&pair.one, &pair.two] {
        register(registry, id, &session(&pair.user, pair.now, HOUR)).await?;
    }
    Ok(pair)
}

async fn verdict(
    registry: &impl ConnectionRegistry,
    id: &ConnectionId,
    charge: &Charge<'_>,
    now: Timestamp,
) -> Result<Verdict, Unavailable> {
    let entered = registry.enter(id, charge, now).await?;
    assert!(entered.is_some(), "it is known");
    Ok(entered.map_or(Verdict::ShareFull, |entered| entered.verdict))
}

/// What a user does is counted over all its connections, each class apart, and is granted again in time.
///
/// # Errors
/// The port's own.
pub async fn rates_are_counted_by_user_and_class(registry: &impl ConnectionRegistry) -> Outcome {
    let Pair { one, two, now, .. } = pair(registry).await?;
    let rate = Some(Rate::new(10, Duration::from_secs(1), 3));
    let charge = |class| Charge { class, cost: 1, rate, message: None };
    let (acks, requests) = (charge(Class::Acks), charge(Class::Requests));
    for id in [&one, &two, &one] {
        assert_eq!(verdict(registry, id, &acks, now).await?, Verdict::Granted);
    }
    assert_eq!(verdict(registry, &two, &acks, now).await?, Verdict::Limited(Duration::from_millis(100)));
    let heavy = Charge { cost: 2, ..requests.clone() };
    assert_eq!(verdict(registry, &one, &heavy, now).await?, Verdict::Granted);
    assert_eq!(verdict(registry, &one, &heavy, now).await?, Verdict::Limited(Duration::from_millis(100)));
    assert_eq!(verdict(registry, &one, &acks, now.plus(Duration::from_millis(100))).await?, Verdict::Granted);
    let unlimited = Charge { rate: None, ..acks };
    assert_eq!(verdict(registry, &one, &unlimited, now).await?, Verdict::Granted);
    let other = pair(registry).await?;
    assert_eq!(verdict(registry, &other.one, &acks_of(rate), other.now).await?, Verdict::Granted);
    assert_eq!(registry.enter(&connection(), &unlimited, now).await?, None);
    Ok(())
}

fn acks_of(rate: Option<Rate>) -> Charge<'static> {
    Charge { class: Class::Acks, cost: 1, rate, message: None }
}

/// A user who goes on in spite of refusals is blocked for a while, and its owner is told once in a while.
///
/// # Errors
/// The port's own.
pub async fn user_who_ignores_refusals_is_blocked(registry: &impl ConnectionRegistry) -> Outcome {
    let Pair { user, one, two, now } = pair(registry).await?;
    let acks = acks_of(Some(Rate::new(1, Duration::from_secs(60), 1)));
    let requests = Charge { class: Class::Requests, ..acks.clone() };
    assert_eq!(verdict(registry, &one, &acks, now).await?, Verdict::Granted);
    assert_eq!(verdict(registry, &one, &requests, now).await?, Verdict::Granted);
    for _ in 0..REFUSALS.burst {
        // Others make a user acknowledge: that blocks nobody.
        assert!(matches!(verdict(registry, &one, &acks, now).await?, Verdict::Limited(_)));
        assert!(matches!(verdict(registry, &one, &requests, now).await?, Verdict::Limited(_)));
    }
    assert!(matches!(verdict(registry, &one, &acks, now).await?, Verdict::Limited(_)));
    let blocked = verdict(registry, &one, &requests, now).await?;
    assert!(matches!(blocked, Verdict::Blocked { kick: true, left } if left == BLOCKED), "{blocked:?}");
    let sends = Charge { class: Class::Sends, cost: 1, rate: None, message: None };
    assert!(matches!(verdict(registry, &two, &sends, now).await?, Verdict::Blocked { kick: false, .. }));
    let created = registry.create(&connection(), &session(&user, now, HOUR), &admission(now)).await?;
    assert!(matches!(created, Created::Limited(left) if left <= BLOCKED), "{created:?}");
    Ok(())
}

/// Handshakes of one user are counted.
///
/// # Errors
/// The port's own.
pub async fn handshakes_are_limited_by_user(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (somebody(), SystemClock.now());
    let admission = Admission { rate: Some(Rate::new(1, Duration::from_secs(1), 2)), ..admission(now) };
    let session = session(&user, now, HOUR);
    for _ in 0..2 {
        assert_eq!(registry.create(&connection(), &session, &admission).await?, Created::Done);
    }
    let third = registry.create(&connection(), &session, &admission).await?;
    assert_eq!(third, Created::Limited(Duration::from_secs(1)));
    Ok(())
}

/// Somebody new costs more than somebody known, and what waits of one sender for one recipient is bounded, until it has left
/// the queue; what is said in rooms is bounded by itself.
///
/// # Errors
/// The port's own.
pub async fn new_recipients_and_shares_are_bounded(registry: &(impl ConnectionRegistry + SenderShares)) -> Outcome {
    let Pair { user, one, two: second, now } = pair(registry).await?;
    let new_recipients = Some(Rate::new(2, HOUR, 2));
    let share = Some(Share { bytes: 10_000, least: 1_000, retention: HOUR });
    let (bob, carol, dave) = (somebody(), somebody(), somebody());
    let send = async |to: Option<&UserId>, bytes| {
        let message = Some(Addressed { to, bytes, new_recipients, share });
        verdict(registry, &one, &Charge { class: Class::Sends, cost: 1, rate: None, message }, now).await
    };
    for known in [&bob, &carol, &bob] {
        assert_eq!(send(Some(known), 1).await?, Verdict::Granted);
    }
    assert!(matches!(send(Some(&dave), 1).await?, Verdict::Limited(_)));
    assert_eq!(send(Some(&bob), 7_600).await?, Verdict::Granted, "twice a thousand and eight thousand");
    assert_eq!(send(Some(&bob), 1).await?, Verdict::ShareFull);
    assert_eq!(send(Some(&carol), 8_600).await?, Verdict::Granted, "she has a queue of her own");
    assert_eq!(send(Some(&user), 100_000).await?, Verdict::Granted, "one's own devices");
    registry.rotate_shares(&bob).await?;
    assert_eq!(send(Some(&bob), 1).await?, Verdict::ShareFull, "it may still wait");
    registry.rotate_shares(&bob).await?;
    assert_eq!(send(Some(&bob), 4_600).await?, Verdict::Granted);
    assert_eq!(send(Some(&bob), 5_600).await?, Verdict::ShareFull);
    registry.give_back(&bob, &user, 5_000).await?;
    assert_eq!(send(Some(&bob), 5_600).await?, Verdict::Granted);
    registry.clear_shares(&bob).await?;
    assert_eq!(send(Some(&bob), 9_600).await?, Verdict::Granted);
    for _ in 0..10 {
        assert_eq!(send(None, 1).await?, Verdict::Granted, "in a room");
    }
    assert!(matches!(send(None, 1).await?, Verdict::Limited(_)));
    let message = Some(Addressed { to: Some(&bob), bytes: 1, new_recipients: None, share: None });
    let charge = Charge { class: Class::Sends, cost: 1, rate: None, message };
    assert!(registry.enter(&one, &charge, now).await?.is_some_and(|entered| entered.has_other_devices));
    registry.end(&second).await?;
    assert!(registry.enter(&one, &charge, now).await?.is_some_and(|entered| !entered.has_other_devices));
    Ok(())
}

/// Whoever may do nothing leaves nothing behind: a connection whose user is not known meets nobody.
///
/// # Errors
/// The port's own.
pub async fn connection_without_user_meets_nobody(registry: &impl ConnectionRegistry) -> Outcome {
    let (id, now, bob, carol) = (connection(), SystemClock.now(), somebody(), somebody());
    register(registry, &id, &session(&UserId::nameless(&id), now, HOUR)).await?;
    let new_recipients = Some(Rate::new(1, HOUR, 1));
    for to in [&bob, &carol, &bob] {
        let message = Some(Addressed { to: Some(to), bytes: 1, new_recipients, share: None });
        let charge = Charge { class: Class::Sends, cost: 1, rate: None, message };
        assert_eq!(verdict(registry, &id, &charge, now).await?, Verdict::Granted, "it is not looked at");
    }
    Ok(())
}

/// A change of an older connection does not end what is known of a newer one.
///
/// # Errors
/// The port's own.
pub async fn newer_connection_outlives_change_of_older_one(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (somebody(), SystemClock.now());
    let (old, new) = (connection(), connection());
    // It is about to be forgotten.
    let age = Session::REMEMBERED - Duration::from_secs(2);
    let began = Timestamp::from_millis(now.millis() - u64::try_from(age.as_millis()).unwrap_or_default());
    let first = Session { expires: None, ..session(&user, began, HOUR) };
    register(registry, &new, &Session { expires: None, ..session(&user, now, HOUR) }).await?;
    register(registry, &old, &first).await?;
    let changed = Session { rooms: Some(Vec::new()), ..first.clone() };
    assert_eq!(registry.update(&old, &first, &changed).await?, Updated::Done);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(devices_of(registry, &user, SystemClock.now()).await?, [new]);
    Ok(())
}

/// No id, however odd, ends up in the place of another one.
///
/// # Errors
/// The port's own.
pub async fn odd_ids_do_not_collide(registry: &(impl IdempotencyStore + Receipts)) -> Outcome {
    let id = |text: String| UserId::try_from(text).map_err(|error| Unavailable::new("test", "make an id", error));
    let base = somebody();
    let (plain, odd) = (id(base.as_str().to_owned())?, id(format!("{}}}:b", base.as_str()))?);
    let now = SystemClock.now();
    let claim = |id: &str| Claim { id: MessageId::from(id.to_owned()), time: now, digest: 7, content: Some(7) };
    assert_eq!(registry.claim(&odd, "c", &claim("m-1")).await?, Claimed::First);
    assert_eq!(registry.claim(&plain, "b}:c", &claim("m-2")).await?, Claimed::First);
    assert_eq!(registry.claim(&id(format!("{}%7D:b", base.as_str()))?, "c", &claim("m-3")).await?, Claimed::First);
    let receipt = |author: &UserId, reader: &UserId, message: &str| Receipt {
        author: author.clone(),
        reader: reader.clone(),
        stage: Stage::Read,
        message: MessageId::from(message.to_owned()),
    };
    let (reader, odd_reader) = (id("c".to_owned())?, id("b}:c".to_owned())?);
    registry.note_receipts(&[receipt(&odd, &reader, "m-9")]).await?;
    assert_eq!(registry.marks(&plain, &[odd_reader]).await?, [Marks::default()]);
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
    register(presences, &id, &session(&user, now, HOUR)).await?;
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
            connections_at_once_stop_at_the_limit,
            connection_belongs_to_one_user,
            ended_connection_stays_ended,
            session_changes_only_from_what_it_was,
            connection_of_another_user_is_not_removed,
            rates_are_counted_by_user_and_class,
            user_who_ignores_refusals_is_blocked,
            handshakes_are_limited_by_user,
            new_recipients_and_shares_are_bounded,
            connection_without_user_meets_nobody,
            newer_connection_outlives_change_of_older_one,
            odd_ids_do_not_collide,
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
