//! What one hostile user with a valid token can do to others, on real RabbitMQ and Redis.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt, future::join_all};
use kschat::stack::Options;
use kschat_core::limits::{Limits, Rate};
use kschat_tests::{
    EVENTUALLY_TIMEOUT,
    client::{Client, Refused, token},
    eventually,
    stack::{self, Address, SECRET, Services, add_fault_rule, connect, options, run_for_all, unique_user},
};
use serde_json::{Value, json};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

static ADDRESS: LazyLock<Address> = LazyLock::new(|| {
    run_for_all(async || {
        let services = Box::leak(Box::new(Services::start().await));
        // So low that an attacker exceeds it on a slow machine, too.
        let limits = Limits {
            sends: Some(Rate::new(SENDS_PER_SECOND, Duration::from_secs(1), SEND_BURST)),
            ..Limits::default()
        };
        Options { backends: Some(services.backends()), limits, ..options() }
    })
});

const SENDS_PER_SECOND: u32 = 20;
const SEND_BURST: u32 = 150;

fn url() -> &'static str {
    &ADDRESS.websocket
}

/// Connects; repeats a handshake whose deadline a busy machine has missed.
async fn handshake(user: &str) -> Result<Client, Refused> {
    let mut outcome = Err(Refused(503));
    eventually("the handshake has an outcome", async || {
        outcome = Client::connect_v2(url(), &token(SECRET, user), user).await;
        !matches!(outcome, Err(Refused(503)))
    })
    .await;
    outcome
}

/// Opens concurrent sockets of one user; returns the accepted ones and the status of the others.
async fn handshakes_at_once(user: &str, count: usize) -> (Vec<Client>, Vec<Refused>) {
    let handshakes = join_all((0..count).map(|_| handshake(user))).await;
    let (mut open, mut refused) = (Vec::new(), Vec::new());
    for handshake in handshakes {
        match handshake {
            Ok(client) => open.push(client),
            Err(error) => refused.push(error),
        }
    }
    (open, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_at_once_stop_at_the_limit() {
    let user = unique_user("mallory");
    let (open, refused) = handshakes_at_once(&user, 260).await;
    assert_eq!(open.len(), 100);
    assert!(refused.iter().all(|refused| *refused == Refused(429)), "{refused:?}");
    // Other users are not affected.
    connect(url(), &unique_user("alice")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_racing_close_leaves_no_session() {
    let users: Vec<String> = (0..40).map(|n| unique_user(&format!("ghost{n}"))).collect();
    join_all(users.iter().map(async |user| {
        let mut client = connect(url(), user).await;
        client.send_text(json!({ "action": "auth", "token": token(SECRET, user) }).to_string()).await;
        client.close_with(1000).await;
    }))
    .await;
    let mut watcher = connect(url(), &unique_user("watcher")).await;
    eventually("nobody is there", async || {
        let reply = watcher.ask(json!({ "action": "presence", "uIds": users }), "RESPPRESENCE").await;
        let there = reply["LIST"].as_array().expect("a list").iter().filter(|one| one["on"] == 1).count();
        tokio::time::sleep(Duration::from_millis(200)).await;
        there == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_connect_packets_bind_one_user() {
    for _ in 0..10 {
        let (a, b) = (unique_user("alice"), unique_user("bob"));
        let request = format!("{}?EIO=4&transport=websocket", url()).into_client_request().expect("a URL");
        let (mut socket, _) = connect_async(request).await.expect("connected");
        for user in [&a, &b] {
            let text = format!(r#"40/kschat,{{"token":"{}"}}"#, token(SECRET, user));
            socket.send(Message::text(text)).await.expect("open");
        }
        // An accepted client receives a welcome; the other one is refused.
        let (mut welcomed, mut refused) = (0, 0);
        while welcomed + refused < 2 {
            match socket.next().await.expect("open").expect("open") {
                Message::Text(text) if text.starts_with("40/kschat") => welcomed += 1,
                Message::Text(text) if text.starts_with("44/kschat") => refused += 1,
                _ => {}
            }
        }
        assert_eq!((welcomed, refused), (1, 1));
        let mut sender = connect(url(), &unique_user("carol")).await;
        for user in [&a, &b] {
            sender.deliver(user, "for one of them").await;
        }
        let mut heard = async |patience| {
            let listen = async {
                while let Some(Ok(message)) = socket.next().await {
                    if message.to_text().is_ok_and(|text| text.contains("RESPRECEIVER")) {
                        return;
                    }
                }
            };
            tokio::time::timeout(patience, listen).await.is_ok()
        };
        assert!(heard(EVENTUALLY_TIMEOUT).await);
        assert!(!heard(Duration::from_millis(500)).await, "the messages of both users came");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_disconnects_do_not_exhaust_limit() {
    let services = Services::start().await;
    let stack = Options { backends: Some(services.backends()), ..options() };
    let stack = stack::start(stack).await;
    add_fault_rule(&stack, "disconnect=drop").await;
    let user = unique_user("alice");
    let mut sockets = Vec::new();
    for _ in 0..100 {
        sockets.push(connect(&stack.websocket_url(), &user).await);
    }
    // The edge may not know a connection in its handshake yet, so it is not probed.
    tokio::time::sleep(Duration::from_secs(4)).await;
    join_all(sockets.into_iter().map(Client::close)).await;
    // The owner checks the others meanwhile.
    eventually("the user can connect again", async || {
        tokio::time::sleep(Duration::from_millis(600)).await;
        Client::connect_v2(&stack.websocket_url(), &token(SECRET, &user), &user).await.is_ok()
    })
    .await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_client_sending_packets_stays_counted() {
    let user = unique_user("mallory");
    let (mut open, _) = handshakes_at_once(&user, 100).await;
    for client in &mut open {
        client.send_text("41").await;
        let refused = client.next("RESPERROR").await;
        assert_eq!(refused["ER"], 6);
    }
    let (more, _) = handshakes_at_once(&user, 5).await;
    assert!(more.is_empty());
}

const HONEST_PAIRS: usize = 20;

/// Messages that each honest user sends during a flood, at least.
const HONEST_MESSAGES: usize = 4;

/// Duration of a flood: until each attacker was refused and each honest user has sent enough, with a minimum. A busy
/// machine needs longer.
struct Flood {
    began: Instant,
    refusals: [AtomicUsize; 2],
    /// Messages of each honest pair, and of the writer.
    honest: [AtomicUsize; HONEST_PAIRS + 1],
    /// How many of their sends had to be repeated.
    repeated: [AtomicUsize; HONEST_PAIRS + 1],
}

impl Flood {
    fn begin() -> Self {
        Self {
            began: Instant::now(),
            refusals: Default::default(),
            honest: std::array::from_fn(|_| AtomicUsize::new(0)),
            repeated: std::array::from_fn(|_| AtomicUsize::new(0)),
        }
    }

    fn has_shown_enough(&self) -> bool {
        self.refusals.iter().all(|count| count.load(Ordering::Relaxed) > 0)
            && self.honest.iter().all(|count| count.load(Ordering::Relaxed) >= HONEST_MESSAGES)
    }

    fn is_over(&self) -> bool {
        let span = Duration::from_secs(if self.has_shown_enough() { 15 } else { 120 });
        self.began.elapsed() > span
    }
}

/// Sends as fast as possible, until it is disconnected or stopped.
async fn attack(mallory: String, recipients: impl Fn(usize) -> String, flood: &Flood, attacker: usize) -> usize {
    let mut accepted = 0;
    let mut number = 0;
    while !flood.is_over() {
        let Ok(mut client) = Client::connect_v2(url(), &token(SECRET, &mallory), &mallory).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let mut under_way = 0_usize;
        loop {
            while under_way < 64 {
                number += 1;
                let frame = json!({
                    "action": "send", "uId": mallory, "pId": recipients(number), "msg": "x".repeat(1_000), "rno": number
                });
                client.send_text(frame.to_string()).await;
                under_way += 1;
            }
            let Some(reply) = client.frame().await else { break };
            if reply["event"] == "RESPSEND" {
                under_way -= 1;
                if reply["ER"] == 0 {
                    accepted += 1;
                } else {
                    flood.refusals[attacker].fetch_add(1, Ordering::Relaxed);
                }
            }
            if reply["event"] == "RESPCTRL" || flood.is_over() {
                break;
            }
        }
    }
    accepted
}

/// Sends a message. On a busy machine the broker may miss a deadline: then the client repeats the send, as any client
/// must.
async fn send_honestly(alice: &mut Client, to: &str, text: &str, flood: &Flood, who: usize) {
    let rno = unique_user("rno");
    eventually("a message of an honest user is accepted", async || {
        let reply = alice.send_as(to, text, &rno).await;
        if reply["ER"] == 0 {
            return true;
        }
        assert!(matches!(reply["ER"].as_u64(), Some(2 | 17 | 18)), "{reply}");
        flood.repeated[who].fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
        false
    })
    .await;
}

/// Checks that all messages of honest users are accepted and arrive meanwhile.
async fn honest_pair(flood: &Flood, pair: usize) {
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(url(), &a).await, connect(url(), &b).await);
    while !flood.is_over() {
        let text = flood.honest[pair].load(Ordering::Relaxed).to_string();
        send_honestly(&mut alice, &b, &text, flood, pair).await;
        assert_eq!(bob.texts(1).await, [text]);
        flood.honest[pair].fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Writes to offline users, each time another one.
async fn honest_writer(flood: &Flood) {
    let a = unique_user("alice");
    let mut alice = connect(url(), &a).await;
    while !flood.is_over() {
        send_honestly(&mut alice, &unique_user("away"), "for later", flood, HONEST_PAIRS).await;
        flood.honest[HONEST_PAIRS].fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flooding_user_does_not_affect_others() {
    let flood = Flood::begin();
    let to_many = attack(unique_user("mallory"), |n| format!("nobody-{n}"), &flood, 0);
    let victim = unique_user("victim");
    let to_one = attack(unique_user("trudy"), move |_| victim.clone(), &flood, 1);
    let pairs = join_all((0..HONEST_PAIRS).map(|pair| honest_pair(&flood, pair)));
    let (many, one, ..) = tokio::join!(to_many, to_one, pairs, honest_writer(&flood));
    let seconds = usize::try_from(flood.began.elapsed().as_secs()).expect("a short test");
    assert!(many <= 110, "{many} queues were made");
    let [rate, burst] = [SENDS_PER_SECOND, SEND_BURST].map(|number| usize::try_from(number).expect("small"));
    assert!(one <= burst + rate * (seconds + 1), "{one} messages were taken");
    for (sent, repeated) in flood.honest.iter().zip(&flood.repeated) {
        let [sent, repeated] = [sent, repeated].map(|count| count.load(Ordering::Relaxed));
        // A slow machine misses deadlines by itself.
        assert!(repeated <= 2 + sent / 10, "{repeated} of {sent} sends of an honest user had to be repeated");
    }
    assert!(flood.has_shown_enough(), "refusals {:?}, messages of honest users {:?}", flood.refusals, flood.honest);
}

#[tokio::test(flavor = "multi_thread")]
async fn sender_share_leaves_queue_room_for_others() {
    let services = Services::start().await;
    let mut options = Options { backends: Some(services.backends()), ..options() };
    options.queues.max_messages = std::num::NonZero::new(40).expect("a number");
    options.limits.share = Some(kschat_core::limits::Share::of_queue(
        25,
        options.queues.max_bytes.get(),
        options.queues.max_messages.get(),
        options.queues.retention,
    ));
    let stack = stack::start(options).await;
    let (mallory, alice, victim) = (unique_user("mallory"), unique_user("alice"), unique_user("victim"));
    let mut one = connect(&stack.websocket_url(), &mallory).await;
    let mut codes: Vec<Value> = Vec::new();
    for n in 0..15 {
        codes.push(one.settle(&victim, &n.to_string()).await["ER"].clone());
    }
    assert_eq!(codes.iter().filter(|code| **code == json!(0)).count(), 10, "{codes:?}");
    assert!(codes[10..].iter().all(|code| *code == json!(11)), "{codes:?}");
    let mut other = connect(&stack.websocket_url(), &alice).await;
    other.deliver(&victim, "there is room").await;
    // Once the victim has received them, there is space again.
    let mut taker = connect(&stack.websocket_url(), &victim).await;
    assert_eq!(taker.texts(11).await.len(), 11);
    eventually("the sender may send again", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        one.send(&victim, "again").await["ER"] == 0
    })
    .await;
    stack.stop().await;
}
