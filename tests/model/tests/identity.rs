//! Exhaustive search of message identity, within the bounds of each fixture: accepted messages are shown, copies are
//! shown once, and every mistake is found.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

mod common;

use kschat_model::identity::{CONTENT, Faults, Identity, Mistake, RECIPIENT, RNO, SENDER};

const NONE: Faults = Faults { claims_lost: 0, unconfirmed: 0, swallowed: 0, requeued: 0, key_rotated: 0 };
const EVERYTHING: u8 = SENDER | RECIPIENT | RNO | CONTENT;

/// A set of kinds.
const fn set(kinds: &[u8]) -> u16 {
    let (mut set, mut at) = (0, 0);
    while at < kinds.len() {
        set |= 1 << kinds[at];
        at += 1;
    }
    set
}

/// The honest sender tries three times, and has two contents for one `rno`.
const ALONE: Identity = Identity {
    kinds: [set(&[0, CONTENT]), 0],
    tries: [3, 0],
    tail: EVERYTHING,
    is_keyed: true,
    consumer_compares_sender: true,
    client_compares_sender: true,
    faults: NONE,
    mistake: None,
};

/// Messages that differ in one part each.
const MIXED: Identity = Identity { kinds: [set(&[0, RECIPIENT, RNO, CONTENT]), 0], tries: [3, 0], ..ALONE };

/// The hostile sender sends the same messages as the honest one.
const HOSTILE: Identity =
    Identity { kinds: [set(&[0, CONTENT]), set(&[SENDER, SENDER | RNO])], tries: [2, 1], ..ALONE };

/// Nobody compares senders, as clients of the previous release do not.
const BY_TAIL: Identity = Identity { consumer_compares_sender: false, client_compares_sender: false, ..HOSTILE };

const LOST: &str = "a message was accepted, is not shown, and is gone";

fn holds(identity: Identity) {
    common::holds(&identity, 1_000);
}

fn finds(wrong: &str, identity: Identity) {
    assert_eq!(common::fails(&identity).wrong, wrong, "{identity:?}");
}

#[test]
fn messages_of_one_sender_are_shown_once() {
    holds(Identity { faults: Faults { claims_lost: 1, unconfirmed: 1, swallowed: 1, requeued: 1, ..NONE }, ..ALONE });
    holds(Identity { faults: Faults { claims_lost: 1, requeued: 1, ..NONE }, ..MIXED });
}

#[test]
fn hostile_sender_hides_no_message() {
    let faults = Faults { claims_lost: 1, unconfirmed: 1, ..NONE };
    holds(Identity { faults, ..HOSTILE });
    // Tails alone suffice, too: clients of the previous release compare only those, and they include the sender.
    holds(Identity { faults, ..BY_TAIL });
    // Even with the key a hostile sender finds no colliding identity, as senders are compared.
    holds(Identity { is_keyed: false, faults, ..HOSTILE });
}

/// A retry after a lost claim is recognized by its tail, unless the key has changed since.
#[test]
fn key_rotation_duplicates_only_lost_claims() {
    holds(Identity { faults: Faults { key_rotated: 1, unconfirmed: 1, swallowed: 1, ..NONE }, ..ALONE });
    let lost = Faults { claims_lost: 1, key_rotated: 1, ..NONE };
    finds("a message is shown twice", Identity { faults: lost, ..ALONE });
}

#[test]
fn identity_mistakes_are_found() {
    let claims_lost = Faults { claims_lost: 1, ..NONE };
    finds(LOST, Identity { is_keyed: false, ..BY_TAIL });
    finds(LOST, Identity { is_keyed: false, client_compares_sender: false, ..HOSTILE });
    finds(LOST, Identity { is_keyed: false, consumer_compares_sender: false, ..HOSTILE });
    finds(LOST, Identity { tail: EVERYTHING & !SENDER, ..BY_TAIL });
    finds(LOST, Identity { tail: EVERYTHING & !CONTENT, faults: claims_lost, ..ALONE });
    finds(LOST, Identity { tail: EVERYTHING & !RECIPIENT, faults: claims_lost, ..MIXED });
    finds(LOST, Identity { tail: EVERYTHING & !RNO, ..MIXED });

    let with = |mistake, faults| Identity { mistake: Some(mistake), faults, ..ALONE };
    let copies = Faults { unconfirmed: 1, swallowed: 1, ..NONE };
    let requeued = Faults { swallowed: 1, requeued: 1, ..NONE };
    finds(LOST, with(Mistake::ClaimsByRnoAlone, NONE));
    finds(LOST, with(Mistake::TakesPendingForDone, copies));
    finds(LOST, with(Mistake::DropSettlesTheFirst, copies));
    finds(LOST, with(Mistake::RemembersWhatWasPushed, requeued));
}
