//! Everything that can happen to the delivery protocol, within the bounds of each scene: nothing is lost, no device
//! shows a message twice or in the wrong place, one consumer at a time has loans, and from everywhere there is a way to
//! the end. And, as a search that can't fail proves nothing: every mistake is found.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

mod common;

use kschat_model::{
    faults::{Luck, Mistake},
    protocol::{Names, Protocol},
    search::Counterexample,
};

/// Nothing goes wrong.
const NONE: Luck = Luck {
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
    luck: NONE,
    mistake: None,
};

/// Three messages to a user with one device; two are under way at once.
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
fn the_model_bears_owners_that_are_killed_and_owners_that_hand_over() {
    holds(Protocol { luck: Luck { killed: 1, handed_over: 1, swallowed: 1, ..NONE }, ..LARGER });
}

#[test]
fn the_model_bears_pushes_and_acks_that_are_lost_or_doubled_and_a_device_that_comes_and_goes() {
    holds(Protocol { luck: Luck { swallowed: 1, unacked: 1, doubled: 1, left: 1, ..NONE }, ..LARGER });
    holds(Protocol { luck: Luck { swallowed: 2, unacked: 1, ..NONE }, ..LARGER });
}

#[test]
fn the_model_bears_an_owner_that_is_frozen_and_thaws() {
    holds(Protocol { luck: Luck { frozen: 1, ..NONE }, ..LARGER });
    holds(Protocol { luck: Luck { frozen: 1, doubled: 1, ..NONE }, ..SMALL });
    holds(Protocol { window: 1, luck: Luck { frozen: 1, ..NONE }, ..TWO_DEVICES });
}

#[test]
fn the_model_bears_a_message_that_is_queued_twice() {
    holds(Protocol { luck: Luck { unconfirmed: 1, swallowed: 1, handed_over: 1, ..NONE }, ..SMALL });
}

#[test]
fn dropped_copies_cost_no_message() {
    holds(Protocol { drops: true, luck: Luck { unconfirmed: 1, ..NONE }, ..TWO_DEVICES });
    holds(Protocol { luck: Luck { unconfirmed: 1, swallowed: 1, handed_over: 1, ..NONE }, ..DROPPING });
    holds(Protocol { luck: Luck { unconfirmed: 1, killed: 1, unacked: 1, ..NONE }, ..DROPPING });
}

#[test]
fn the_model_bears_two_devices_that_miss_different_pushes() {
    holds(Protocol { luck: Luck { killed: 1, swallowed: 1, ..NONE }, ..TWO_DEVICES });
    holds(Protocol { luck: Luck { swallowed: 1, left: 1, ..NONE }, ..TWO_DEVICES });
}

#[test]
fn the_model_bears_a_queue_that_is_made_when_it_is_needed_and_deleted_when_it_is_not() {
    holds(Protocol { deletes: true, luck: Luck { killed: 1, left: 1, unconfirmed: 1, ..NONE }, ..SMALL });
}

/// One device lets pass or knows whatever an owner pushes that is none any more. A second one that comes meanwhile may
/// get from it, late, what the first one has long acknowledged: that is why the lease is looked at before each push.
#[test]
fn a_former_owner_harms_no_single_device_and_disorders_a_second_one_unless_it_looks_at_its_lease() {
    let unaware = Luck { cut_off: 1, swallowed: 1, ..NONE };
    holds(Protocol { luck: unaware, ..SMALL });
    let careless =
        Protocol { mistake: Some(Mistake::NeverLooksAtTheLease), luck: Luck { frozen: 1, ..NONE }, ..LARGER };
    holds(careless);
    let found = fails(Protocol { window: 1, devices: 2, messages: 2, ..careless });
    assert_eq!(found.wrong, "a device shows a message in the wrong place");
    // No lease tells an owner that runs of a connection that only the broker has given up.
    let found = fails(Protocol { luck: Luck { cut_off: 1, ..NONE }, window: 1, ..TWO_DEVICES });
    assert_eq!(found.wrong, "a device shows a message in the wrong place");
}

/// Alice's first message is confirmed late and queued again, behind one of Bob's. An ack of the first copy then stands
/// for the second one, too, and for Bob's message before it.
#[test]
fn acks_that_name_a_message_lose_another_where_it_is_queued_twice() {
    let found = fails(Protocol { names: Names::Messages, luck: Luck { unconfirmed: 1, ..NONE }, ..SMALL });
    assert_eq!(found.wrong, "a message was accepted, no device has shown it, and it is gone");
}

#[test]
fn the_search_finds_every_mistake() {
    let lost = "a message was accepted, no device has shown it, and it is gone";
    let twice = "a device shows a message twice";
    let disordered = "a device shows a message in the wrong place";
    let luck = Luck { unconfirmed: 1, handed_over: 1, swallowed: 1, killed: 1, ..NONE };
    for (mistake, wrong) in [
        (Mistake::TakenIsDelivered, lost),
        (Mistake::NamesNoPredecessor, disordered),
        (Mistake::GivesBackToTheEnd, disordered),
        (Mistake::ShowsWhateverComes, twice),
        (Mistake::AcksWhatItLetsPass, lost),
        (Mistake::NeverRepeats, "from here there is no way to the end"),
        (Mistake::ReleasesBeforeGivingBack, "two consumers have loans from one queue"),
        (Mistake::OpensBesideLoans, "two consumers have loans from one queue"),
        (Mistake::BelievesWithoutConfirm, lost),
    ] {
        assert_eq!(fails(Protocol { luck, mistake: Some(mistake), ..SMALL }).wrong, wrong, "{mistake:?}");
    }
    let found = fails(Protocol { luck, mistake: Some(Mistake::DropSettlesTheFirst), ..DROPPING });
    assert_eq!(found.wrong, lost);
    for mistake in [Mistake::DeletesWithoutUnbinding, Mistake::DeletesWhatIsFull, Mistake::AnybodyDeclares] {
        let found = fails(Protocol { deletes: true, mistake: Some(mistake), ..SMALL });
        assert_eq!(found.wrong, lost, "{mistake:?}");
    }
}
