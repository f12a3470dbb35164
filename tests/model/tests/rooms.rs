//! Exhaustive search of a membership and its binding, within the bounds of each fixture: once all is quiet, a user
//! whose `join` was accepted is bound, one whose `leave` was accepted is not, and every mistake is found.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

mod common;

use kschat_model::rooms::{Faults, Mistake, Rooms};

const NONE: Faults = Faults { died: 0, late: 0, queue_lost: 0, unread: 0 };

/// One of everything.
const QUIET: Rooms = Rooms { joins: 1, leaves: 1, sends: 1, visits: 2, faults: NONE, mistake: None };

/// The user joins twice.
const BUSY: Rooms = Rooms { joins: 2, ..QUIET };

fn holds(rooms: Rooms) {
    common::holds(&rooms, 10_000);
}

fn finds(mistake: Mistake, wrong: &str, rooms: Rooms) {
    let found = common::fails(&Rooms { mistake: Some(mistake), ..rooms });
    assert_eq!(found.wrong, wrong, "{mistake:?}");
}

#[test]
fn bindings_follow_memberships() {
    holds(Rooms { leaves: 2, ..BUSY });
}

#[test]
fn bindings_survive_processes_that_die() {
    holds(Rooms { faults: Faults { died: 1, ..NONE }, ..BUSY });
    holds(Rooms { joins: 1, leaves: 2, sends: 0, faults: Faults { died: 2, ..NONE }, ..BUSY });
}

#[test]
fn bindings_survive_slow_broker_and_queue_loss() {
    holds(Rooms { sends: 0, faults: Faults { late: 1, ..NONE }, ..BUSY });
    holds(Rooms { faults: Faults { queue_lost: 1, unread: 1, ..NONE }, ..QUIET });
}

#[test]
fn room_mistakes_are_found() {
    let bound = "the room was left, and the queue is bound to it";
    let unbound = "the room was joined, and the queue is not bound to it";
    let dying = Rooms { faults: Faults { died: 1, ..NONE }, ..BUSY };
    let unread = Rooms { faults: Faults { queue_lost: 1, unread: 1, ..NONE }, ..QUIET };
    finds(Mistake::LeavesByUnbindingFirst, bound, QUIET);
    finds(Mistake::JoinsWithoutReadingAgain, bound, QUIET);
    finds(Mistake::LeavesWithoutReadingAgain, unbound, QUIET);
    finds(Mistake::SendsWithoutReading, bound, QUIET);
    finds(Mistake::SendsWithoutReadingAgain, bound, QUIET);
    finds(Mistake::OpensWithoutReadingAgain, bound, QUIET);
    finds(Mistake::OpensWithoutReading, unbound, unread);
    finds(Mistake::ForgetsWhoHasLeft, bound, dying);
    finds(Mistake::DeletesWithoutReadingAgain, unbound, QUIET);
}
