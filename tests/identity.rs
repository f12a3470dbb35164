//! Messages are the same only if sender, recipient, `rno` and content agree, and nobody can forge a duplicate of
//! another user's message.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::collections::HashMap;

use kschat::stack::{Options, Stack};
use kschat_tests::{
    client::Client,
    eventually,
    stack::{self, Services, connect, options, unique_user, until_markers_are_known},
};
use lapin::{BasicProperties, options::BasicPublishOptions};
use serde_json::{Value, json};

/// Message ids of the release before keyed ids: a mixed FNV-1a hash of the sender and the `rno`, of which 62 bits are
/// in the id.
mod former {
    use super::HashMap;

    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    const MIX: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

    /// The forged `rno` consists of this many blocks of this many letters.
    const BLOCKS: u32 = 8;
    const LETTERS: u32 = 5;
    /// Variants of each block: enough for a combination to agree in 62 bits.
    const VARIANTS: usize = 100_000;
    /// Lowest byte of the hash after each block, before it is multiplied. Each block thus starts from the same byte,
    /// and the blocks' contributions to the hash are independent.
    const COLLISION_BYTE: u8 = 0x41;

    fn absorb(hash: u128, bytes: &[u8]) -> u128 {
        bytes.iter().fold(hash, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
    }

    fn before_rno(user: &str, length: usize) -> u128 {
        let named = absorb(absorb(OFFSET, &(user.len() as u64).to_be_bytes()), user.as_bytes());
        absorb(named, &(length as u64).to_be_bytes())
    }

    fn mixed(user: &str, rno: &str) -> u128 {
        absorb(before_rno(user, rno.len()), rno.as_bytes()).wrapping_mul(MIX)
    }

    fn low_bits(value: u128, width: u32) -> u64 {
        (value >> 64) as u64 & ((1 << width) - 1)
    }

    /// The part of an id that named its send.
    pub(super) fn tail(user: &str, rno: &str) -> String {
        let bits = low_bits(mixed(user, rno), 62) | 1 << 63;
        format!("{:04x}-{:012x}", bits >> 48, bits & 0xffff_ffff_ffff)
    }

    type Sums = Vec<(u128, Vec<u8>)>;

    /// Contribution of each variant of a block that starts from that lowest byte and precedes this many letters.
    fn variants(start: u8, after: u32) -> Sums {
        let letters: Vec<u8> = (b'a'..=b'z').chain(b'A'..=b'Z').chain(b'0'..=b'9').collect();
        let (start, factor) = (u128::from(start), PRIME.wrapping_pow(after).wrapping_mul(MIX));
        let variant = |number: usize| {
            let digits = (0..LETTERS - 1).scan(number, |rest, _| {
                let letter = letters[*rest % letters.len()];
                *rest /= letters.len();
                Some(letter)
            });
            let mut block: Vec<u8> = digits.collect();
            let last = absorb(start, &block) as u8 ^ COLLISION_BYTE;
            block.push(last);
            let added = absorb(start, &block).wrapping_sub(start.wrapping_mul(PRIME.wrapping_pow(LETTERS)));
            last.is_ascii_alphanumeric().then_some((added.wrapping_mul(factor), block))
        };
        (0..).filter_map(variant).take(VARIANTS).collect()
    }

    /// Pairs whose sums are zero in this many relevant bits.
    fn join(left: &Sums, right: &Sums, width: u32, limit: usize) -> Sums {
        let mut by_bits: HashMap<u64, Vec<usize>> = HashMap::new();
        for (at, (value, _)) in right.iter().enumerate() {
            by_bits.entry(low_bits(*value, width)).or_default().push(at);
        }
        let partners = |(value, text): &(u128, Vec<u8>)| {
            let wanted = low_bits(value.wrapping_neg(), width);
            // The bits below the relevant ones may carry.
            let wanted = [wanted, low_bits(u128::from(wanted.wrapping_add(1)) << 64, width)];
            let at = wanted.iter().filter_map(|bits| by_bits.get(bits)).flatten();
            let sums = at.map(|at| (value.wrapping_add(right[*at].0), [&text[..], &right[*at].1].concat()));
            sums.filter(|(sum, _)| low_bits(*sum, width) == 0).collect::<Sums>()
        };
        left.iter().flat_map(partners).take(limit).collect()
    }

    /// An `rno` that gave the attacker the same tail as the victim's own.
    pub(super) fn forge(attacker: &str, victim: &str, rno: &str) -> String {
        let length = BLOCKS * LETTERS;
        let start = before_rno(attacker, length as usize);
        let meeting = u128::from(COLLISION_BYTE).wrapping_mul(PRIME) as u8;
        let low = |block| if block == 0 { start as u8 } else { meeting };
        let mut sums: Vec<Sums> =
            (0..BLOCKS).map(|block| variants(low(block), (BLOCKS - 1 - block) * LETTERS)).collect();
        let wanted = mixed(victim, rno) >> 64 << 64;
        let offset = start.wrapping_mul(PRIME.wrapping_pow(length)).wrapping_mul(MIX).wrapping_sub(wanted);
        sums[0].iter_mut().for_each(|(value, _)| *value = value.wrapping_add(offset));
        for (width, limit) in [(16, usize::MAX), (32, usize::MAX), (62, 1)] {
            sums = sums.chunks(2).map(|pair| join(&pair[0], &pair[1], width, limit)).collect();
        }
        String::from_utf8(sums[0].first().expect("a combination fits").1.clone()).expect("letters")
    }

    #[test]
    fn former_tails_could_be_forged() {
        let forged = forge("mallory", "alice", "a-1");
        assert_eq!(tail("mallory", &forged), tail("alice", "a-1"));
    }
}

struct Fixture {
    services: Services,
    stack: Stack,
}

impl Fixture {
    async fn start() -> Self {
        let services = Services::start().await;
        let options = Options { backends: Some(services.backends()), ..options() };
        Self { stack: stack::start(options).await, services }
    }

    async fn connect(&self, user: &str) -> Client {
        connect(&self.stack.websocket_url(), user).await
    }

    /// Queues a body, as a function of the previous release or a service would.
    async fn queue(&self, user: &str, body: &Value) {
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect(&self.services.rabbitmq.url(), properties).await;
        let channel = connection.expect("the broker answers").create_channel().await.expect("a channel");
        let (key, body) = (format!("ks_{user}"), body.to_string());
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish("kschat.direct".into(), key.into(), options, body.as_bytes(), properties);
        sent.await.expect("the message is published").await.expect("the broker confirms");
    }
}

/// The `rno` of the victim's next send, and the attacker's forgery of it.
fn forged(attacker: &str, victim: &str, number: usize) -> (String, String) {
    let rno = format!("{victim}-{number}");
    let forged = former::forge(attacker, victim, &rno);
    (rno, forged)
}

async fn say(client: &mut Client, to: &Value, rno: &str, text: &str) {
    let mut frame = json!({ "action": "send", "uId": client.user(), "msg": text, "rno": rno, "time": 1 });
    frame.as_object_mut().expect("an object").extend(to.as_object().expect("an object").clone());
    assert_eq!(client.ask(frame, "RESPSEND").await["ER"], 0, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_previous_release_id_hides_no_message() {
    let world = Fixture::start().await;
    let (a, m, b, room) = (unique_user("alice"), unique_user("mallory"), unique_user("bob"), unique_user("room"));
    let (mut alice, mut mallory) = (world.connect(&a).await, world.connect(&m).await);
    let mut bob = world.connect(&b).await;
    for client in [&mut alice, &mut mallory, &mut bob] {
        assert_eq!(client.ask(json!({ "action": "join", "gId": room }), "RESPROOM").await["ER"], 0);
    }
    let (to_bob, in_room) = (json!({ "pId": b }), json!({ "gId": room }));
    for (number, (to, text)) in [(&to_bob, "to somebody who is there"), (&in_room, "to the room")].iter().enumerate() {
        let (rno, forged) = forged(&m, &a, number);
        say(&mut mallory, to, &forged, "decoy").await;
        say(&mut alice, to, &rno, text).await;
        assert_eq!(bob.texts(2).await, ["decoy", *text]);
    }
    bob.close().await;
    let (rno, forged) = forged(&m, &a, 2);
    say(&mut mallory, &to_bob, &forged, "decoy").await;
    say(&mut alice, &to_bob, &rno, "to somebody who is away").await;
    assert_eq!(world.connect(&b).await.texts(2).await, ["decoy", "to somebody who is away"]);
    world.stack.stop().await;
}

/// A body as the previous release queued it.
fn former_body(from: &Value, to: &str, rno: &str, number: u64) -> Value {
    let tail = former::tail(&from.to_string().replace('"', ""), rno);
    let (time, id) = (1_700_000_000_000 + number, format!("018bcfe5-6800-7{number:03x}-{tail}"));
    json!({ "uId": from, "pId": to, "msg": number.to_string(), "rStatus": 1, "msgTime": time, "mId": id, "rno": rno })
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_bodies_of_previous_release_arrive_once() {
    let world = Fixture::start().await;
    let (a, m, b) = (unique_user("alice"), unique_user("mallory"), unique_user("bob"));
    world.connect(&a).await.send(&b, "0").await;
    let (rno, forged) = forged(&m, &a, 0);
    for (number, (from, rno)) in (1..).zip([(&m, forged.as_str()), (&a, &rno), (&a, "other"), (&a, &rno)]) {
        world.queue(&b, &former_body(&json!(from), &b, rno, number)).await;
    }
    let mut bob = world.connect(&b).await;
    assert_eq!(bob.texts(4).await, ["0", "1", "2", "3"]);
    world.connect(&a).await.send_as(&b, "last", "last").await;
    assert_eq!(bob.texts(1).await, ["last"], "the copy under a second id is none");
    world.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numeric_and_text_sender_are_one() {
    let world = Fixture::start().await;
    let b = unique_user("bob");
    world.connect(&unique_user("alice")).await.send(&b, "0").await;
    for (number, from) in (1..).zip([json!(7), json!("7"), json!("07")]) {
        world.queue(&b, &former_body(&from, &b, "r", number)).await;
        // The last one is from another user, whose id has the same tail.
    }
    let mut same_tail = former_body(&json!(7), &b, "r", 4);
    same_tail["uId"] = json!("8");
    world.queue(&b, &same_tail).await;
    let mut bob = world.connect(&b).await;
    assert_eq!(bob.texts(4).await, ["0", "1", "3", "4"]);
    world.stack.stop().await;
}

/// Sends until the registry knows the session again, after it lost all data.
async fn accepted(client: &mut Client, to: &str, text: &str, rno: &str) -> Value {
    let mut reply = Value::Null;
    eventually("it is accepted", async || {
        reply = client.send_as(to, text, rno).await;
        reply["ER"] == 0
    })
    .await;
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_claim_deduplicates_only_same_text() {
    let world = Fixture::start().await;
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (world.connect(&a).await, world.connect(&b).await);
    let first = alice.send_as(&b, "one", "r").await;
    assert_eq!(bob.texts(1).await, ["one"]);
    until_markers_are_known(&world.services).await;

    world.services.redis.flush().await;
    let again = accepted(&mut alice, &b, "one", "r").await;
    assert_ne!(again["MID"], first["MID"], "the first try is forgotten");
    alice.send_as(&b, "after", "s").await;
    assert_eq!(bob.texts(1).await, ["after"], "the second try was shown already");
    until_markers_are_known(&world.services).await;

    world.services.redis.flush().await;
    accepted(&mut alice, &b, "two", "r").await;
    assert_eq!(bob.texts(1).await, ["two"]);
    assert_eq!(alice.send_as(&b, "three", "r").await["ER"], 13);
    world.stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rno_goes_to_senders_devices_only() {
    let world = Fixture::start().await;
    let (a, b, room) = (unique_user("alice"), unique_user("bob"), unique_user("room"));
    let (mut phone, mut desk, mut bob) = (world.connect(&a).await, world.connect(&a).await, world.connect(&b).await);
    for client in [&mut phone, &mut bob] {
        assert_eq!(client.ask(json!({ "action": "join", "gId": room }), "RESPROOM").await["ER"], 0);
    }
    for (to, rno) in [(json!({ "pId": b }), "r1"), (json!({ "gId": room }), "r2")] {
        say(&mut phone, &to, rno, "hello").await;
        assert_eq!(desk.items().await[0]["rno"], rno);
        let item = bob.items().await.remove(0);
        assert!(item["msg"] == "hello" && item.get("rno").is_none(), "{item}");
    }
    let to_self = json!({ "pId": a });
    say(&mut phone, &to_self, "r3", "a note").await;
    assert_eq!((&desk.items().await[0]["rno"], &phone.items().await[0]["rno"]), (&json!("r3"), &json!("r3")));
    // As the previous release queued it.
    world.queue(&b, &former_body(&json!(a), &b, "r4", 4)).await;
    let item = bob.items().await.remove(0);
    assert!(item["msg"] == "4" && item.get("rno").is_none(), "{item}");
    world.stack.stop().await;
}
