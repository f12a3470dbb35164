//! Clauses of the ports that a registry implements, from [`ConnectionRegistry`] to [`BacklogStore`].

use std::time::Duration;

use futures_util::future::join_all;
use kschat_protocol::{ConnectionId, MessageId, ProtocolVersion, RoomId, UserId, dialect::Dialect};

use super::{admission, register, session, unique_connection, unique_user};
use crate::{
    Clock, Partitions, Session, SystemClock, Timestamp,
    limits::{BLOCK_DURATION, REFUSAL_RATE, Rate, Share},
    ports::{
        Admission, BacklogStore, Charge, ChargeVerdict, Claim, ClaimOutcome, ConnectionRegistry, CreateOutcome,
        IdempotencyStore, LastSeen, MessageCharge, Presence, PresenceStore, RateClass, Receipt, ReceiptPositions,
        ReceiptStage, ReceiptStore, RegisteredConnection, RoomMemberships, SenderShares, Unavailable, UpdateOutcome,
        UserRooms,
    },
};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The result of a clause: an error of the port fails the test.
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
/// Errors of the port.
pub async fn session_round_trips(registry: &impl ConnectionRegistry) -> Outcome {
    let (id, now) = (unique_connection(), SystemClock.now());
    assert_eq!(registry.session(&id).await?, None);
    let session = session(&unique_user(), now, HOUR);
    register(registry, &id, &session).await?;
    register(registry, &id, &session).await?;
    assert_eq!(registry.session(&id).await?, Some(session));
    Ok(())
}

/// All connections of a user are found, and none of another user.
///
/// # Errors
/// Errors of the port.
pub async fn every_device_is_found(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, other, now) = (unique_user(), unique_user(), SystemClock.now());
    let mut devices = vec![unique_connection(), unique_connection(), unique_connection()];
    for id in &devices {
        register(registry, id, &session(&user, now, HOUR)).await?;
    }
    register(registry, &unique_connection(), &session(&other, now, HOUR)).await?;
    devices.sort();
    assert_eq!(devices_of(registry, &user, now).await?, devices);
    Ok(())
}

/// A removed connection is gone, and removing it again is no error.
///
/// # Errors
/// Errors of the port.
pub async fn removed_connection_is_forgotten(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (unique_user(), SystemClock.now());
    let (stays, goes) = (unique_connection(), unique_connection());
    for id in [&stays, &goes] {
        register(registry, id, &session(&user, now, HOUR)).await?;
    }
    registry.remove(&user, &goes).await?;
    registry.remove(&user, &goes).await?;
    assert_eq!(registry.session(&goes).await?, None);
    assert_eq!(devices_of(registry, &user, now).await?, [stays]);
    Ok(())
}

/// An expired token ends reachability, but the connection's session is still known.
///
/// # Errors
/// Errors of the port.
pub async fn expired_token_ends_reachability(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (unique_user(), SystemClock.now());
    let partition = Partitions::default().of(&user);
    let id = unique_connection();
    register(registry, &id, &session(&user, now, HOUR)).await?;
    let (before, after) = (now.plus(HOUR - Duration::from_secs(1)), now.plus(HOUR + Duration::from_secs(1)));
    let reachable = RegisteredConnection { connection: id.clone(), session: session(&user, now, HOUR) };
    assert_eq!(registry.connections(&user, before).await?, [reachable]);
    assert!(registry.online_users(partition, before).await?.contains(&user));
    assert!(registry.connections(&user, after).await?.is_empty());
    assert!(!registry.online_users(partition, after).await?.contains(&user));
    assert!(registry.session(&id).await?.is_some());
    Ok(())
}

/// An unauthenticated connection is found by its provisional user.
///
/// # Errors
/// Errors of the port.
pub async fn provisional_user_finds_unauthenticated_connection(registry: &impl ConnectionRegistry) -> Outcome {
    let (connection, now) = (unique_connection(), SystemClock.now());
    let partitions = Partitions::default();
    let nobody = UserId::provisional(&connection);
    register(registry, &connection, &session(&nobody, now, HOUR)).await?;
    assert!(registry.online_users(partitions.of(&nobody), now).await?.contains(&nobody));
    let found = registry.connections(&nobody, now).await?;
    assert_eq!(
        found.into_iter().map(|one| (one.connection, one.session.user)).collect::<Vec<_>>(),
        [(connection, nobody)]
    );
    Ok(())
}

/// A connection is found with its whole session.
///
/// # Errors
/// Errors of the port.
pub async fn connections_return_sessions(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (unique_user(), SystemClock.now());
    let joined = || Dialect::from_code("4/kschat").unwrap_or_default();
    for (version, expires, dialect) in
        [(ProtocolVersion::V1, Some(now.plus(HOUR)), Dialect::Raw), (ProtocolVersion::V2, None, joined())]
    {
        let (connection, session) =
            (unique_connection(), Session { version, expires, dialect, ..session(&user, now, HOUR) });
        register(registry, &connection, &session).await?;
        let id = connection.clone();
        assert_eq!(registry.connections(&user, now).await?, [RegisteredConnection { connection, session }]);
        registry.remove(&user, &id).await?;
        assert!(registry.connections(&user, now).await?.is_empty());
    }
    Ok(())
}

/// The first call learns that it set the marker, which all later ones see.
///
/// # Errors
/// Errors of the port.
pub async fn epoch_marker_is_lost_with_the_data(registry: &impl ConnectionRegistry) -> Outcome {
    let mut partitions = Partitions::default().all();
    for partition in partitions.by_ref().take(2) {
        // Another clause may have set it.
        registry.set_epoch_marker(partition).await?;
        assert!(registry.set_epoch_marker(partition).await? && registry.has_epoch_marker(partition).await?);
    }
    Ok(())
}

/// A user is online from the first connection to the last, in its own partition only.
///
/// # Errors
/// Errors of the port.
pub async fn user_is_online_while_any_connection_remains(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (unique_user(), SystemClock.now());
    let partitions = Partitions::default();
    let (first, second) = (unique_connection(), unique_connection());
    register(registry, &first, &session(&user, now, HOUR)).await?;
    register(registry, &second, &session(&user, now, HOUR)).await?;
    registry.remove(&user, &first).await?;
    for partition in partitions.all() {
        let there = registry.online_users(partition, now).await?.contains(&user);
        assert_eq!(there, partition == partitions.of(&user), "partition {partition}");
    }
    registry.remove(&user, &second).await?;
    assert!(!registry.online_users(partitions.of(&user), now).await?.contains(&user));
    Ok(())
}

/// The first claim of an `rno` stands; it is pending until it is published; users don't share them.
///
/// # Errors
/// Errors of the port.
pub async fn first_claim_wins(store: &impl IdempotencyStore) -> Outcome {
    let (user, other, now) = (unique_user(), unique_user(), SystemClock.now());
    let claim =
        |id: &str, digest| Claim { id: MessageId::from(id.to_owned()), time: now, digest, content: Some(digest >> 1) };
    let (first, second) = (claim("m-1", u128::MAX), claim("m-2", 2));
    assert_eq!(store.claim(&user, "r", &first).await?, ClaimOutcome::New);
    assert_eq!(store.claim(&user, "r", &second).await?, ClaimOutcome::Pending(first.clone()));
    store.mark_published(&user, "r", &first).await?;
    assert_eq!(store.claim(&user, "r", &second).await?, ClaimOutcome::Done(first));
    assert_eq!(store.claim(&user, "s", &second).await?, ClaimOutcome::New);
    assert_eq!(store.claim(&other, "r", &second).await?, ClaimOutcome::New);
    Ok(())
}

/// Concurrent handshakes do not exceed the connection limit of a user; the end of one frees capacity.
///
/// # Errors
/// Errors of the port.
pub async fn connections_at_once_stop_at_the_limit(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (unique_user(), SystemClock.now());
    let (session, admission) = (session(&user, now, HOUR), Admission { limit: 10, ..admission(now) });
    let ids: Vec<_> = (0..26).map(|_| unique_connection()).collect();
    let created = join_all(ids.iter().map(|id| registry.create(id, &session, &admission))).await;
    let created: Vec<CreateOutcome> = created.into_iter().collect::<Result<_, _>>()?;
    let count = |outcome| created.iter().filter(|created| **created == outcome).count();
    let too_many = created.iter().filter(|created| matches!(created, CreateOutcome::LimitReached { .. })).count();
    assert_eq!((count(CreateOutcome::Done), too_many), (10, 16));
    assert_eq!(count(CreateOutcome::LimitReached { check: true }), 1, "one of them sees to a check");
    assert_eq!(devices_of(registry, &user, now).await?.len(), 10);
    let first = ids.iter().zip(&created).find(|(_, created)| **created == CreateOutcome::Done).map(|(id, _)| id);
    assert_eq!(registry.end_connection(first.unwrap_or(&ids[0])).await?, Some(user.clone()));
    assert_eq!(registry.create(&unique_connection(), &session, &admission).await?, CreateOutcome::Done);
    let again = registry.create(&unique_connection(), &session, &admission).await?;
    assert_eq!(again, CreateOutcome::LimitReached { check: false });
    // A connection that has certainly ended frees capacity, too.
    let later = now.plus(Session::SESSION_RETENTION);
    let late = Session { connected: later, ..session.clone() };
    assert_eq!(
        registry.create(&unique_connection(), &late, &Admission { now: later, ..admission }).await?,
        CreateOutcome::Done
    );
    Ok(())
}

/// A connection that is created twice exists once, and belongs to one user: also when two users replace a provisional
/// one at once.
///
/// # Errors
/// Errors of the port.
pub async fn connection_belongs_to_one_user(registry: &impl ConnectionRegistry) -> Outcome {
    let (one, two, now) = (unique_user(), unique_user(), SystemClock.now());
    let taken = unique_connection();
    register(registry, &taken, &session(&one, now, HOUR)).await?;
    register(registry, &taken, &session(&one, now, HOUR)).await?;
    assert_eq!(registry.create(&taken, &session(&two, now, HOUR), &admission(now)).await?, CreateOutcome::Taken);
    for _ in 0..20 {
        let id = unique_connection();
        let nobody = UserId::provisional(&id);
        register(registry, &id, &session(&nobody, now, HOUR)).await?;
        let admission = Admission { replaced_user: Some(nobody.clone()), ..admission(now) };
        let (first, second) = (session(&one, now, HOUR), session(&two, now, HOUR));
        let (first, second) =
            tokio::join!(registry.create(&id, &first, &admission), registry.create(&id, &second, &admission));
        let outcomes = [first?, second?];
        assert!(outcomes.contains(&CreateOutcome::Done) && outcomes.contains(&CreateOutcome::Taken), "{outcomes:?}");
        let hears = [devices_of(registry, &one, now).await?, devices_of(registry, &two, now).await?];
        assert_eq!(hears.iter().flatten().filter(|heard| **heard == id).count(), 1);
        assert!(devices_of(registry, &nobody, now).await?.is_empty());
        assert!(!registry.online_users(Partitions::default().of(&nobody), now).await?.contains(&nobody));
    }
    let unknown = Admission { replaced_user: Some(one.clone()), ..admission(now) };
    assert_eq!(registry.create(&unique_connection(), &session(&two, now, HOUR), &unknown).await?, CreateOutcome::Gone);
    Ok(())
}

/// An ended connection is not brought back by a late step, and its user is returned again.
///
/// # Errors
/// Errors of the port.
pub async fn ended_connection_stays_ended(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (unique_user(), SystemClock.now());
    let (known, early) = (unique_connection(), unique_connection());
    let session = session(&user, now, HOUR);
    register(registry, &known, &session).await?;
    assert_eq!(registry.end_connection(&known).await?, Some(user.clone()));
    assert_eq!(registry.end_connection(&known).await?, Some(user.clone()));
    // The disconnect of a client that has left while its connect was under way.
    assert_eq!(registry.end_connection(&early).await?, None);
    for id in [&known, &early] {
        let renewed = Session { expires: Some(now.plus(HOUR * 2)), ..session.clone() };
        assert_eq!(registry.update(id, &session, &renewed).await?, UpdateOutcome::Gone);
        assert_eq!(registry.create(id, &session, &admission(now)).await?, CreateOutcome::Gone);
        assert_eq!(registry.restore(id, &session, 100).await?, CreateOutcome::Gone);
        assert_eq!(registry.session(id).await?, None);
    }
    assert!(devices_of(registry, &user, now).await?.is_empty());
    assert!(!registry.online_users(Partitions::default().of(&user), now).await?.contains(&user));
    Ok(())
}

/// A session is changed only if it equals the expected one; a lost one can be restored, a known one stays unchanged.
///
/// # Errors
/// Errors of the port.
pub async fn session_update_requires_expected_value(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (unique_user(), SystemClock.now());
    let (id, partition) = (unique_connection(), Partitions::default().of(&user));
    let first = session(&user, now, HOUR);
    let second = Session { expires: Some(now.plus(HOUR * 2)), rooms: Some(vec!["a".to_owned()]), ..first.clone() };
    let third = Session { rooms: Some(Vec::new()), ..first.clone() };
    register(registry, &id, &first).await?;
    assert_eq!(registry.update(&id, &first, &second).await?, UpdateOutcome::Done);
    assert_eq!(registry.update(&id, &first, &second).await?, UpdateOutcome::Done, "a repetition");
    assert_eq!(registry.update(&id, &first, &third).await?, UpdateOutcome::Changed(second.clone()));
    assert_eq!(registry.session(&id).await?, Some(second.clone()));
    let end = now.plus(HOUR + HOUR / 2);
    assert_eq!(
        registry.connections(&user, end).await?,
        [RegisteredConnection { connection: id.clone(), session: second.clone() }]
    );
    assert!(registry.online_users(partition, end).await?.contains(&user));
    assert_eq!(registry.restore(&id, &first, 2).await?, CreateOutcome::Done);
    assert_eq!(registry.session(&id).await?, Some(second));
    let (lost, too_many) = (unique_connection(), unique_connection());
    assert_eq!(registry.restore(&lost, &first, 2).await?, CreateOutcome::Done);
    assert_eq!(registry.session(&lost).await?, Some(first.clone()));
    assert_eq!(registry.restore(&too_many, &first, 2).await?, CreateOutcome::LimitReached { check: false });
    assert_eq!(registry.session(&too_many).await?, None);
    Ok(())
}

/// A connection is removed only for its own user.
///
/// # Errors
/// Errors of the port.
pub async fn connection_of_another_user_is_not_removed(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, other, now) = (unique_user(), unique_user(), SystemClock.now());
    let id = unique_connection();
    register(registry, &id, &session(&user, now, HOUR)).await?;
    registry.remove(&other, &id).await?;
    assert_eq!(devices_of(registry, &user, now).await?, [id]);
    Ok(())
}

/// A user with two connections.
struct Pair {
    user: UserId,
    one: ConnectionId,
    two: ConnectionId,
    now: Timestamp,
}

async fn pair(registry: &impl ConnectionRegistry) -> Result<Pair, Unavailable> {
    let pair = Pair { user: unique_user(), one: unique_connection(), two: unique_connection(), now: SystemClock.now() };
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
) -> Result<ChargeVerdict, Unavailable> {
    let entered = registry.charge_session(id, charge, now).await?;
    assert!(entered.is_some(), "the session is known");
    Ok(entered.map_or(ChargeVerdict::ShareFull, |entered| entered.verdict))
}

/// Frames are counted by user over all connections, each class apart, and are granted again in time.
///
/// # Errors
/// Errors of the port.
pub async fn rates_are_counted_by_user_and_class(registry: &impl ConnectionRegistry) -> Outcome {
    let Pair { one, two, now, .. } = pair(registry).await?;
    let rate = Some(Rate::new(10, Duration::from_secs(1), 3));
    let charge = |class| Charge { class, cost: 1, rate, message: None };
    let (acks, requests) = (charge(RateClass::Acks), charge(RateClass::Requests));
    for id in [&one, &two, &one] {
        assert_eq!(verdict(registry, id, &acks, now).await?, ChargeVerdict::Granted);
    }
    assert_eq!(verdict(registry, &two, &acks, now).await?, ChargeVerdict::Limited(Duration::from_millis(100)));
    let heavy = Charge { cost: 2, ..requests.clone() };
    assert_eq!(verdict(registry, &one, &heavy, now).await?, ChargeVerdict::Granted);
    assert_eq!(verdict(registry, &one, &heavy, now).await?, ChargeVerdict::Limited(Duration::from_millis(100)));
    assert_eq!(verdict(registry, &one, &acks, now.plus(Duration::from_millis(100))).await?, ChargeVerdict::Granted);
    let unlimited = Charge { rate: None, ..acks };
    assert_eq!(verdict(registry, &one, &unlimited, now).await?, ChargeVerdict::Granted);
    let other = pair(registry).await?;
    assert_eq!(verdict(registry, &other.one, &acks_of(rate), other.now).await?, ChargeVerdict::Granted);
    assert_eq!(registry.charge_session(&unique_connection(), &unlimited, now).await?, None);
    Ok(())
}

fn acks_of(rate: Option<Rate>) -> Charge<'static> {
    Charge { class: RateClass::Acks, cost: 1, rate, message: None }
}

/// A user who continues in spite of refusals is blocked for a while, and its owner is notified at intervals.
///
/// # Errors
/// Errors of the port.
pub async fn repeated_refusals_block_user(registry: &impl ConnectionRegistry) -> Outcome {
    let Pair { user, one, two, now } = pair(registry).await?;
    let acks = acks_of(Some(Rate::new(1, Duration::from_secs(60), 1)));
    let requests = Charge { class: RateClass::Requests, ..acks.clone() };
    assert_eq!(verdict(registry, &one, &acks, now).await?, ChargeVerdict::Granted);
    assert_eq!(verdict(registry, &one, &requests, now).await?, ChargeVerdict::Granted);
    for _ in 0..REFUSAL_RATE.burst {
        // Messages of others cause acks, so too many acks block nobody.
        assert!(matches!(verdict(registry, &one, &acks, now).await?, ChargeVerdict::Limited(_)));
        assert!(matches!(verdict(registry, &one, &requests, now).await?, ChargeVerdict::Limited(_)));
    }
    assert!(matches!(verdict(registry, &one, &acks, now).await?, ChargeVerdict::Limited(_)));
    let blocked = verdict(registry, &one, &requests, now).await?;
    assert!(
        matches!(blocked, ChargeVerdict::Blocked { should_disconnect: true, left } if left == BLOCK_DURATION),
        "{blocked:?}"
    );
    let sends = Charge { class: RateClass::Sends, cost: 1, rate: None, message: None };
    assert!(matches!(
        verdict(registry, &two, &sends, now).await?,
        ChargeVerdict::Blocked { should_disconnect: false, .. }
    ));
    let created = registry.create(&unique_connection(), &session(&user, now, HOUR), &admission(now)).await?;
    assert!(matches!(created, CreateOutcome::Limited(left) if left <= BLOCK_DURATION), "{created:?}");
    Ok(())
}

/// Handshakes of one user are counted.
///
/// # Errors
/// Errors of the port.
pub async fn handshakes_are_limited_by_user(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (unique_user(), SystemClock.now());
    let admission = Admission { rate: Some(Rate::new(1, Duration::from_secs(1), 2)), ..admission(now) };
    let session = session(&user, now, HOUR);
    for _ in 0..2 {
        assert_eq!(registry.create(&unique_connection(), &session, &admission).await?, CreateOutcome::Done);
    }
    let third = registry.create(&unique_connection(), &session, &admission).await?;
    assert_eq!(third, CreateOutcome::Limited(Duration::from_secs(1)));
    Ok(())
}

/// A new recipient costs more than a known one. What waits of one sender for one recipient is bounded, until it has
/// left the queue; messages to rooms are bounded apart.
///
/// # Errors
/// Errors of the port.
pub async fn new_recipients_and_sender_shares_are_limited(
    registry: &(impl ConnectionRegistry + SenderShares),
) -> Outcome {
    let Pair { user, one, two: second, now } = pair(registry).await?;
    let new_recipients = Some(Rate::new(2, HOUR, 2));
    let share = Some(Share { bytes: 10_000, min_message_bytes: 1_000, retention: HOUR });
    let (bob, carol, dave) = (unique_user(), unique_user(), unique_user());
    let send = async |to: Option<&UserId>, bytes| {
        let message = Some(MessageCharge { to, bytes, new_recipients, share });
        verdict(registry, &one, &Charge { class: RateClass::Sends, cost: 1, rate: None, message }, now).await
    };
    for known in [&bob, &carol, &bob] {
        assert_eq!(send(Some(known), 1).await?, ChargeVerdict::Granted);
    }
    assert!(matches!(send(Some(&dave), 1).await?, ChargeVerdict::Limited(_)));
    assert_eq!(send(Some(&bob), 7_600).await?, ChargeVerdict::Granted, "twice a thousand and eight thousand");
    assert_eq!(send(Some(&bob), 1).await?, ChargeVerdict::ShareFull);
    assert_eq!(send(Some(&carol), 8_600).await?, ChargeVerdict::Granted, "each recipient has its own share");
    assert_eq!(send(Some(&user), 100_000).await?, ChargeVerdict::Granted, "one's own devices");
    registry.rotate_shares(&bob).await?;
    assert_eq!(send(Some(&bob), 1).await?, ChargeVerdict::ShareFull, "the message may still be queued");
    registry.rotate_shares(&bob).await?;
    assert_eq!(send(Some(&bob), 4_600).await?, ChargeVerdict::Granted);
    assert_eq!(send(Some(&bob), 5_600).await?, ChargeVerdict::ShareFull);
    registry.release_share(&bob, &user, 5_000).await?;
    assert_eq!(send(Some(&bob), 5_600).await?, ChargeVerdict::Granted);
    registry.clear_shares(&bob).await?;
    assert_eq!(send(Some(&bob), 9_600).await?, ChargeVerdict::Granted);
    for _ in 0..10 {
        assert_eq!(send(None, 1).await?, ChargeVerdict::Granted, "in a room");
    }
    assert!(matches!(send(None, 1).await?, ChargeVerdict::Limited(_)));
    let message = Some(MessageCharge { to: Some(&bob), bytes: 1, new_recipients: None, share: None });
    let charge = Charge { class: RateClass::Sends, cost: 1, rate: None, message };
    assert!(registry.charge_session(&one, &charge, now).await?.is_some_and(|entered| entered.has_other_devices));
    registry.end_connection(&second).await?;
    assert!(registry.charge_session(&one, &charge, now).await?.is_some_and(|entered| !entered.has_other_devices));
    Ok(())
}

/// A frame that is not allowed leaves nothing behind: an unauthenticated connection adds no recipients.
///
/// # Errors
/// Errors of the port.
pub async fn charge_for_unknown_connection_returns_none(registry: &impl ConnectionRegistry) -> Outcome {
    let (id, now, bob, carol) = (unique_connection(), SystemClock.now(), unique_user(), unique_user());
    register(registry, &id, &session(&UserId::provisional(&id), now, HOUR)).await?;
    let new_recipients = Some(Rate::new(1, HOUR, 1));
    for to in [&bob, &carol, &bob] {
        let message = Some(MessageCharge { to: Some(to), bytes: 1, new_recipients, share: None });
        let charge = Charge { class: RateClass::Sends, cost: 1, rate: None, message };
        assert_eq!(
            verdict(registry, &id, &charge, now).await?,
            ChargeVerdict::Granted,
            "an unauthenticated connection is not charged"
        );
    }
    Ok(())
}

/// A change of an older connection does not remove a newer one.
///
/// # Errors
/// Errors of the port.
pub async fn update_of_old_connection_keeps_newer_one(registry: &impl ConnectionRegistry) -> Outcome {
    let (user, now) = (unique_user(), SystemClock.now());
    let (old, new) = (unique_connection(), unique_connection());
    // It is about to expire.
    let age = Session::SESSION_RETENTION - Duration::from_secs(2);
    let began = Timestamp::from_millis(now.millis() - u64::try_from(age.as_millis()).unwrap_or_default());
    let first = Session { expires: None, ..session(&user, began, HOUR) };
    register(registry, &new, &Session { expires: None, ..session(&user, now, HOUR) }).await?;
    register(registry, &old, &first).await?;
    let changed = Session { rooms: Some(Vec::new()), ..first.clone() };
    assert_eq!(registry.update(&old, &first, &changed).await?, UpdateOutcome::Done);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(devices_of(registry, &user, SystemClock.now()).await?, [new]);
    Ok(())
}

/// Ids with special characters do not collide with others.
///
/// # Errors
/// Errors of the port.
pub async fn ids_with_special_characters_do_not_collide(registry: &(impl IdempotencyStore + ReceiptStore)) -> Outcome {
    let id = |text: String| UserId::try_from(text).map_err(|error| Unavailable::new("test", "make an id", error));
    let base = unique_user();
    let (plain, odd) = (id(base.as_str().to_owned())?, id(format!("{}}}:b", base.as_str()))?);
    let now = SystemClock.now();
    let claim = |id: &str| Claim { id: MessageId::from(id.to_owned()), time: now, digest: 7, content: Some(7) };
    assert_eq!(registry.claim(&odd, "c", &claim("m-1")).await?, ClaimOutcome::New);
    assert_eq!(registry.claim(&plain, "b}:c", &claim("m-2")).await?, ClaimOutcome::New);
    assert_eq!(registry.claim(&id(format!("{}%7D:b", base.as_str()))?, "c", &claim("m-3")).await?, ClaimOutcome::New);
    let receipt = |author: &UserId, reader: &UserId, message: &str| Receipt {
        author: author.clone(),
        reader: reader.clone(),
        stage: ReceiptStage::Read,
        message: MessageId::from(message.to_owned()),
    };
    let (reader, odd_reader) = (id("c".to_owned())?, id("b}:c".to_owned())?);
    registry.record_receipts(&[receipt(&odd, &reader, "m-9")]).await?;
    assert_eq!(registry.receipt_positions(&plain, &[odd_reader]).await?, [ReceiptPositions::default()]);
    Ok(())
}

/// Positions are kept for each pair and stage, never move back, and are returned in the requested order.
///
/// # Errors
/// Errors of the port.
pub async fn receipt_only_advances_position(receipts: &impl ReceiptStore) -> Outcome {
    let (author, one, two) = (unique_user(), unique_user(), unique_user());
    let id = |id: &str| MessageId::from(id.to_owned());
    let receipt = |reader: &UserId, stage, message: &str| {
        let (author, reader) = (author.clone(), reader.clone());
        Receipt { author, reader, stage, message: id(message) }
    };
    let noted = [receipt(&one, ReceiptStage::Delivered, "m-5"), receipt(&two, ReceiptStage::Delivered, "m-2")];
    receipts.record_receipts(&noted).await?;
    receipts.record_receipts(&[receipt(&one, ReceiptStage::Read, "m-4")]).await?;
    receipts
        .record_receipts(&[receipt(&one, ReceiptStage::Read, "m-3"), receipt(&one, ReceiptStage::Delivered, "m-6")])
        .await?;
    let marks = receipts.receipt_positions(&author, &[two.clone(), unique_user(), one.clone()]).await?;
    let first = ReceiptPositions { delivered: Some(id("m-2")), read: None };
    let last = ReceiptPositions { delivered: Some(id("m-6")), read: Some(id("m-4")) };
    assert_eq!(marks, [first, ReceiptPositions::default(), last]);
    assert_eq!(
        receipts.receipt_positions(&one, &[author]).await?,
        [ReceiptPositions::default()],
        "positions belong to one reader"
    );
    Ok(())
}

/// A watcher is known until its time ends; presence is known from the first connection to the last, and when the last
/// one ended.
///
/// # Errors
/// Errors of the port.
pub async fn presence_watch_expires(presences: &(impl PresenceStore + ConnectionRegistry)) -> Outcome {
    let (user, other, now) = (unique_user(), unique_user(), SystemClock.now());
    let (one, two) = (unique_user(), unique_user());
    let (soon, later) = (now.plus(HOUR / 2), now.plus(HOUR));
    let asked = [user.clone(), other.clone()];
    let unknown = Presence { is_reachable: false, seen: LastSeen::Never };
    assert_eq!(presences.watch(&one, &asked, now, soon).await?, [unknown, unknown]);
    assert_eq!(presences.mark_online(&user).await?, LastSeen::Never);
    assert_eq!(presences.mark_online(&user).await?, LastSeen::Online);
    let id = unique_connection();
    register(presences, &id, &session(&user, now, HOUR)).await?;
    let here = Presence { is_reachable: true, seen: LastSeen::Online };
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
    presences.mark_offline(&user, now).await?;
    let gone = Presence { is_reachable: false, seen: LastSeen::OfflineSince(now) };
    assert_eq!(presences.watch(&two, &asked[..1], now, later).await?, [gone]);
    assert_eq!(presences.mark_online(&user).await?, LastSeen::OfflineSince(now));
    Ok(())
}

/// A left room is recorded, as its binding may remain. That ends when the user joins it again, but not right after the
/// user has left, as an attempt to bind it may be under way.
///
/// # Errors
/// Errors of the port.
pub async fn left_room_is_remembered_until_rejoin(memberships: &impl RoomMemberships) -> Outcome {
    let user = unique_user();
    let rooms = ["one", "two"].map(RoomId::try_from);
    let [Ok(one), Ok(two)] = rooms else { unreachable!("valid ids") };
    assert_eq!(memberships.rooms_and_left(&user).await?, UserRooms::default());
    assert!(memberships.join(&user, &one, 2).await? && memberships.join(&user, &two, 2).await?);
    for _ in 0..2 {
        memberships.leave(&user, &one).await?;
    }
    memberships.clear_left_rooms(&user).await?;
    let known = UserRooms { rooms: vec![two.clone()], left: vec![one.clone()] };
    assert_eq!(memberships.rooms_and_left(&user).await?, known);
    assert!(memberships.join(&user, &one, 2).await?);
    assert_eq!(memberships.rooms_and_left(&user).await?, UserRooms { rooms: vec![one, two], left: vec![] });
    Ok(())
}

/// A user is in the rooms that it joined and did not leave, and in no more than allowed.
///
/// # Errors
/// Errors of the port.
pub async fn room_limit_per_user_is_enforced(memberships: &impl RoomMemberships) -> Outcome {
    let user = unique_user();
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
    assert!(memberships.rooms(&unique_user()).await?.is_empty());
    Ok(())
}

/// A backlog is counted once, in its user's partition, until it is cleared, and is due at the time scheduled last.
///
/// # Errors
/// Errors of the port.
pub async fn backlog_is_counted_once_and_becomes_due(backlogs: &impl BacklogStore) -> Outcome {
    let (user, now) = (unique_user(), SystemClock.now());
    let partition = Partitions::default().of(&user);
    let is_due = async |now| Ok(backlogs.due(partition, now, 1_000).await?.contains(&user));
    let before = backlogs.count(partition).await?;
    backlogs.schedule_check(&user, now.plus(HOUR)).await?;
    backlogs.schedule_check(&user, now.plus(HOUR * 2)).await?;
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

/// One test per clause, on the registry that `$setup` (an async expression) makes.
#[macro_export]
macro_rules! registry_contract {
    ($setup:expr) => {
        $crate::registry_contract!(@ $setup,
            session_round_trips,
            every_device_is_found,
            removed_connection_is_forgotten,
            expired_token_ends_reachability,
            connections_return_sessions,
            provisional_user_finds_unauthenticated_connection,
            user_is_online_while_any_connection_remains,
            epoch_marker_is_lost_with_the_data,
            first_claim_wins,
            backlog_is_counted_once_and_becomes_due,
            connections_at_once_stop_at_the_limit,
            connection_belongs_to_one_user,
            ended_connection_stays_ended,
            session_update_requires_expected_value,
            connection_of_another_user_is_not_removed,
            rates_are_counted_by_user_and_class,
            repeated_refusals_block_user,
            handshakes_are_limited_by_user,
            new_recipients_and_sender_shares_are_limited,
            charge_for_unknown_connection_returns_none,
            update_of_old_connection_keeps_newer_one,
            ids_with_special_characters_do_not_collide,
            receipt_only_advances_position,
            presence_watch_expires,
            room_limit_per_user_is_enforced,
            left_room_is_remembered_until_rejoin,
        );
    };
    (@ $setup:expr, $($clause:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $clause() {
            let registry = $setup.await;
            $crate::contract::hold(async || $crate::contract::registry::$clause(&registry).await).await;
        })*
    };
}
