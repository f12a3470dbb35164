//! Exhaustive search of an offline user's queue: confirmed messages are kept, a queue with messages will be checked,
//! and every mistake is found.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

mod common;

use kschat_model::queues::{Faults, Mistake, Queues};

const NONE: Faults = Faults { killed: 0, handed_over: 0, late: 0, died: 0 };

fn holds(faults: Faults) {
    common::holds(&Queues { faults, mistake: None }, 10_000);
}

fn finds(mistake: Mistake, wrong: &str, faults: Faults) {
    let found = common::fails(&Queues { faults, mistake: Some(mistake) });
    assert_eq!(found.wrong, wrong, "{mistake:?}");
}

#[test]
fn queue_creation_and_removal_lose_nothing() {
    holds(Faults { killed: 2, handed_over: 1, late: 2, died: 1 });
}

#[test]
fn queue_mistakes_are_found() {
    let lost = "a message was confirmed, and is gone";
    let unseen = "a message waits in a queue that will not be checked";
    finds(Mistake::DeletesWithoutUnbinding, lost, NONE);
    finds(Mistake::DeletesWithoutWaiting, lost, NONE);
    finds(Mistake::RemovesAtOnce, lost, NONE);
    finds(Mistake::MakesBesideAnOwner, lost, NONE);
    finds(Mistake::GoesOnBesideLateCommands, lost, Faults { late: 1, ..NONE });
    finds(Mistake::ReleasesBesideLateCommands, lost, Faults { handed_over: 1, ..NONE });
    finds(Mistake::UnlocksBesideLateCommands, lost, Faults { killed: 1, ..NONE });
    finds(Mistake::NotesAfterMaking, unseen, Faults { died: 1, ..NONE });
}
