//! Exhaustive search of sessions, within the bounds of each fixture: no user exceeds the limit, no connection is
//! present after its end or belongs to two users, no rooms outlive their token, and every mistake is found.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

mod common;

use kschat_model::sessions::{Faults, Mistake, Sessions};

const NONE: Faults = Faults { flushed: 0, died: 0, unheard: 0, killed: 0 };

/// A user with one connection, whose limit is one.
const ONE: Sessions = Sessions {
    authenticated: 1,
    unauthenticated: 0,
    limit: 1,
    renewals: 0,
    authentications: 0,
    faults: NONE,
    mistake: None,
};

/// A user with two connections, whose limit is one.
const TWO: Sessions = Sessions { authenticated: 2, ..ONE };

/// A connection that is unauthenticated at first, and one with a token of the first user.
const UNNAMED: Sessions = Sessions { unauthenticated: 1, authentications: 2, ..ONE };

fn holds(sessions: Sessions) {
    common::holds(&sessions, 1_000);
}

fn finds(mistake: Mistake, wrong: &str, sessions: Sessions) {
    let found = common::fails(&Sessions { mistake: Some(mistake), ..sessions });
    assert_eq!(found.wrong, wrong, "{mistake:?}");
}

#[test]
fn handshakes_at_once_keep_the_limit() {
    holds(Sessions { authenticated: 3, faults: Faults { died: 1, unheard: 1, ..NONE }, ..ONE });
    holds(Sessions { authenticated: 3, limit: 2, ..ONE });
}

#[test]
fn renewals_keep_end_and_rooms_together() {
    holds(Sessions { renewals: 2, faults: Faults { unheard: 1, ..NONE }, ..TWO });
}

#[test]
fn connect_packets_give_one_user() {
    holds(Sessions { renewals: 1, faults: Faults { died: 1, ..NONE }, ..UNNAMED });
    holds(Sessions { authenticated: 0, faults: Faults { flushed: 1, died: 1, ..NONE }, ..UNNAMED });
}

#[test]
fn sessions_survive_a_loss_of_the_registry() {
    holds(Sessions { faults: Faults { flushed: 1, unheard: 1, killed: 1, ..NONE }, ..TWO });
    holds(Sessions { renewals: 2, faults: Faults { flushed: 1, killed: 1, ..NONE }, ..ONE });
}

#[test]
fn session_mistakes_are_found() {
    let beyond = "a user has more sessions than the limit";
    let ghost = "a connection is present whose end was processed";
    let two_users = "a connection belongs to two users";
    let lost = "an open connection has no session";
    let refused = "a user is refused who has fewer connections than the limit";
    let unheard = Sessions { faults: Faults { unheard: 1, ..NONE }, ..TWO };
    finds(Mistake::CountsThenCreates, beyond, TWO);
    finds(Mistake::CreatesWhatHasEnded, ghost, TWO);
    finds(Mistake::RefusesWithoutProbing, refused, unheard);
    finds(Mistake::ProbesHandshakes, lost, TWO);

    let renewing = Sessions { renewals: 1, ..ONE };
    finds(Mistake::ReadsThenRenews, ghost, renewing);
    finds(Mistake::KeepsTheLaterEnd, "rooms outlive the token that lists them", renewing);

    let flushed = Sessions { faults: Faults { flushed: 1, ..NONE }, ..UNNAMED };
    finds(Mistake::RemovesThenRegisters, ghost, Sessions { authenticated: 0, ..UNNAMED });
    finds(Mistake::NamesWhatIsNamed, two_users, UNNAMED);
    finds(Mistake::ReadsThenRemoves, ghost, UNNAMED);
    finds(Mistake::NamesWhatIsUnknown, two_users, flushed);
    finds(Mistake::RestoresTheUnauthenticated, two_users, flushed);

    let flushed = Sessions { faults: Faults { flushed: 1, ..NONE }, ..TWO };
    finds(Mistake::RestoresBeyondTheLimit, beyond, flushed);
    finds(Mistake::RestoresWhatHasEnded, ghost, flushed);
    finds(Mistake::RestoresWithoutProbing, ghost, flushed);
    finds(Mistake::LooksBeforeItRestores, "an owner gives up a connection that is open", flushed);
    finds(Mistake::RestoresWhatIsKnown, "a renewal was accepted and is lost", Sessions { renewals: 1, ..flushed });
}
