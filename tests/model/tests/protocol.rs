//! Exhaustive search of the delivery protocol, within the bounds of each fixture: no message is lost, duplicated or out
//! of place on any device, only one consumer has unacked deliveries, and the end is always reachable. A search that
//! can't fail proves nothing, so every mistake is found, too.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

mod common;

use kschat_model::{
    faults::{Faults, Mistake},
    protocol::{Names, Protocol},
    search::Counterexample,
};

/// Nothing goes wrong.
const NONE: Faults = Faults {
    unconfirmed: 0,
    killed: 0,
    frozen: 0,
    cut_off: 0,
    handed_over: 0,
    swallowed: 0,
    doubled: 0,
    left: 0,
    unacked: 0,
};

/// Two messages to a user with one device.
const SMALL: Protocol = Protocol {
    messages: 2,
    devices: 1,
    window: 3,
    deletes: false,
    names: Names::Copies,
    drops: false,
    faults: NONE,
    mistake: None,
};

/// Three messages to a user with one device; two are in flight at once.
const LARGER: Protocol = Protocol { messages: 3, window: 2, ..SMALL };

/// Two messages to a user with two devices.
const TWO_DEVICES: Protocol = Protocol { devices: 2, ..SMALL };

/// The same, to a consumer that drops copies.
const DROPPING: Protocol = Protocol { drops: true, ..SMALL };

fn holds(protocol: Protocol) {
    common::holds(&protocol, 10_000);
}

fn fails(protocol: Protocol) -> Box<Counterexample<Protocol>> {
    common::fails(&protocol)
}

#[test]
fn protocol_survives_owner_kill_and_handover() {
    holds(Protocol { faults: Faults { killed: 1, handed_over: 1, swallowed: 1, ..NONE }, ..LARGER });
}

#[test]
fn protocol_survives_lost_and_duplicate_frames() {
    holds(Protocol { faults: Faults { swallowed: 1, unacked: 1, doubled: 1, left: 1, ..NONE }, ..LARGER });
    holds(Protocol { faults: Faults { swallowed: 2, unacked: 1, ..NONE }, ..LARGER });
}

#[test]
fn protocol_survives_frozen_owner() {
    holds(Protocol { faults: Faults { frozen: 1, ..NONE }, ..LARGER });
    holds(Protocol { faults: Faults { frozen: 1, doubled: 1, ..NONE }, ..SMALL });
    holds(Protocol { window: 1, faults: Faults { frozen: 1, ..NONE }, ..TWO_DEVICES });
}

#[test]
fn protocol_survives_duplicate_publish() {
    holds(Protocol { faults: Faults { unconfirmed: 1, swallowed: 1, handed_over: 1, ..NONE }, ..SMALL });
}

#[test]
fn dropped_copies_cost_no_message() {
    holds(Protocol { drops: true, faults: Faults { unconfirmed: 1, ..NONE }, ..TWO_DEVICES });
    holds(Protocol { faults: Faults { unconfirmed: 1, swallowed: 1, handed_over: 1, ..NONE }, ..DROPPING });
    holds(Protocol { faults: Faults { unconfirmed: 1, killed: 1, unacked: 1, ..NONE }, ..DROPPING });
}

#[test]
fn protocol_survives_gaps_on_two_devices() {
    holds(Protocol { faults: Faults { killed: 1, swallowed: 1, ..NONE }, ..TWO_DEVICES });
    holds(Protocol { faults: Faults { swallowed: 1, left: 1, ..NONE }, ..TWO_DEVICES });
}

#[test]
fn protocol_survives_queue_creation_and_removal() {
    holds(Protocol { deletes: true, faults: Faults { killed: 1, left: 1, unconfirmed: 1, ..NONE }, ..SMALL });
}

/// One device skips or recognizes whatever a former owner pushes. A second device that joins meanwhile may receive from
/// it, late, what the first has long acknowledged: so the lease is checked before each push.
#[test]
fn stale_owner_reorders_only_without_lease_check() {
    let unaware = Faults { cut_off: 1, swallowed: 1, ..NONE };
    holds(Protocol { faults: unaware, ..SMALL });
    let careless = Protocol { mistake: Some(Mistake::IgnoresPause), faults: Faults { frozen: 1, ..NONE }, ..LARGER };
    holds(careless);
    let found = fails(Protocol { window: 1, devices: 2, messages: 2, ..careless });
    assert_eq!(found.wrong, "a device shows a message in the wrong place");
    // A lease does not cover a connection that only the broker has closed.
    let found = fails(Protocol { faults: Faults { cut_off: 1, ..NONE }, window: 1, ..TWO_DEVICES });
    assert_eq!(found.wrong, "a device shows a message in the wrong place");
}

/// Alice's first message is confirmed late and queued again, behind one of Bob's. An ack of the first copy then covers
/// the second one, too, and Bob's message before it.
#[test]
fn ack_by_message_id_loses_duplicate() {
    let found = fails(Protocol { names: Names::Messages, faults: Faults { unconfirmed: 1, ..NONE }, ..SMALL });
    assert_eq!(found.wrong, "a message was accepted, no device has shown it, and it is gone");
}

#[test]
fn search_finds_every_seeded_mistake() {
    let lost = "a message was accepted, no device has shown it, and it is gone";
    let twice = "a device shows a message twice";
    let disordered = "a device shows a message in the wrong place";
    let luck = Faults { unconfirmed: 1, handed_over: 1, swallowed: 1, killed: 1, ..NONE };
    for (mistake, wrong) in [
        (Mistake::TreatsPostAsDelivery, lost),
        (Mistake::OmitsPredecessor, disordered),
        (Mistake::RequeuesAtTail, disordered),
        (Mistake::ShowsOutOfOrder, twice),
        (Mistake::AcksSkippedMessages, lost),
        (Mistake::NeverRedelivers, "from here there is no way to the end"),
        (Mistake::ReleasesBeforeRequeue, "two consumers have unacked deliveries"),
        (Mistake::OpensBesideInFlight, "two consumers have unacked deliveries"),
        (Mistake::SkipsConfirm, lost),
    ] {
        assert_eq!(fails(Protocol { faults: luck, mistake: Some(mistake), ..SMALL }).wrong, wrong, "{mistake:?}");
    }
    let found = fails(Protocol { faults: luck, mistake: Some(Mistake::DropSettlesTheFirst), ..DROPPING });
    assert_eq!(found.wrong, lost);
    for mistake in [Mistake::DeletesWithoutUnbinding, Mistake::DeletesWhatIsFull, Mistake::SenderDeclaresQueue] {
        let found = fails(Protocol { deletes: true, mistake: Some(mistake), ..SMALL });
        assert_eq!(found.wrong, lost, "{mistake:?}");
    }
}
