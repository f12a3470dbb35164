//! What one hostile user with a good token can do to others, on real RabbitMQ and Redis.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt, future::join_all};
use kschat::stack::Options;
use kschat_tests::{
    client::{Client, Refused, token},
    eventually,
    stack::{Address, SECRET, Services, break_edge, connect, options, run_for_all, somebody},
};
use serde_json::{Value, json};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

static ADDRESS: LazyLock<Address> = LazyLock::new(|| {
    run_for_all(async || {
        let services = Box::leak(Box::new(Services::start().await));
        Options { backends: Some(services.backends()), ..options() }
    })
});

fn url() -> &'static str {
    &ADDRESS.websocket
}

/// As many sockets of one user as are let in of so many that come at once, and how the others were refused.
async fn handshakes_at_once(user: &str, count: usize) -> (Vec<Client>, Vec<Refused>) {
    let token = token(SECRET, user);
    let handshakes = join_all((0..count).map(|_| Client::connect_v2(url(), &token, user))).await;
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
    let user = somebody("mallory");
    let (open, refused) = handshakes_at_once(&user, 260).await;
    assert_eq!(open.len(), 100);
    assert!(refused.iter().all(|refused| *refused == Refused(429)), "{refused:?}");
    // Another user is not touched.
    connect(url(), &somebody("alice")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_that_races_with_a_close_leaves_no_ghost() {
    let users: Vec<String> = (0..40).map(|n| somebody(&format!("ghost{n}"))).collect();
    join_all(users.iter().map(async |user| {
        let mut client = connect(url(), user).await;
        client.say(json!({ "action": "auth", "token": token(SECRET, user) }).to_string()).await;
        client.say_goodbye(1000).await;
    }))
    .await;
    let mut watcher = connect(url(), &somebody("watcher")).await;
    eventually("nobody is there", async || {
        let reply = watcher.ask(json!({ "action": "presence", "uIds": users }), "RESPPRESENCE").await;
        let there = reply["LIST"].as_array().expect("a list").iter().filter(|one| one["on"] == 1).count();
        tokio::time::sleep(Duration::from_millis(200)).await;
        there == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_connect_packets_at_once_give_the_connection_to_one_user() {
    for _ in 0..10 {
        let (a, b) = (somebody("alice"), somebody("bob"));
        let request = format!("{}?EIO=4&transport=websocket", url()).into_client_request().expect("a URL");
        let (mut socket, _) = connect_async(request).await.expect("connected");
        for user in [&a, &b] {
            let text = format!(r#"40/kschat,{{"token":"{}"}}"#, token(SECRET, user));
            socket.send(Message::text(text)).await.expect("open");
        }
        // Whoever got in is told so; the other one is refused.
        let (mut welcomed, mut refused) = (0, 0);
        while welcomed + refused < 2 {
            match socket.next().await.expect("open").expect("open") {
                Message::Text(text) if text.starts_with("40/kschat") => welcomed += 1,
                Message::Text(text) if text.starts_with("44/kschat") => refused += 1,
                _ => {}
            }
        }
        assert_eq!((welcomed, refused), (1, 1));
        let mut sender = connect(url(), &somebody("carol")).await;
        for user in [&a, &b] {
            assert_eq!(sender.send(user, "for one of them").await["ER"], 0);
        }
        let mut heard = 0;
        let listen = async {
            while let Some(Ok(message)) = socket.next().await {
                heard += usize::from(message.to_text().is_ok_and(|text| text.contains("RESPRECEIVER")));
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(500), listen).await;
        assert_eq!(heard, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_disconnects_keep_nobody_out() {
    let services = Services::start().await;
    let stack = Options { backends: Some(services.backends()), ..options() };
    let stack = kschat::stack::Stack::start(stack).await.expect("it starts");
    break_edge(&stack, "disconnect=drop").await;
    let user = somebody("alice");
    let mut sockets = Vec::new();
    for _ in 0..100 {
        sockets.push(connect(&stack.websocket_url(), &user).await);
    }
    // A connection that is being made may not be known to the edge yet, so it is not asked for.
    tokio::time::sleep(Duration::from_secs(4)).await;
    join_all(sockets.into_iter().map(Client::close)).await;
    let again = Client::connect_v2(&stack.websocket_url(), &token(SECRET, &user), &user).await;
    assert!(again.is_ok(), "{:?}", again.err());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_client_that_says_packets_goes_on_to_count() {
    let user = somebody("mallory");
    let (mut open, _) = handshakes_at_once(&user, 100).await;
    for client in &mut open {
        client.say("41").await;
        let refused = client.next("RESPERROR").await;
        assert_eq!(refused["ER"], 6);
    }
    let (more, _) = handshakes_at_once(&user, 5).await;
    assert!(more.is_empty());
}

/// Sends to invented recipients, or to one, as fast as possible, until it is disconnected or told to stop.
async fn attack(mallory: String, recipients: impl Fn(usize) -> String, until: Instant) -> (usize, usize) {
    let (mut accepted, mut refused) = (0, 0);
    let mut number = 0;
    while Instant::now() < until {
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
                client.say(frame.to_string()).await;
                under_way += 1;
            }
            let Some(reply) = client.frame().await else { break };
            if reply["event"] == "RESPSEND" {
                under_way -= 1;
                if reply["ER"] == 0 { accepted += 1 } else { refused += 1 }
            }
            if reply["event"] == "RESPCTRL" || Instant::now() > until {
                break;
            }
        }
    }
    (accepted, refused)
}

/// Whether everything that honest users send meanwhile is accepted and arrives.
async fn honest_pair(until: Instant) -> usize {
    let (a, b) = (somebody("alice"), somebody("bob"));
    let (mut alice, mut bob) = (connect(url(), &a).await, connect(url(), &b).await);
    let mut count = 0;
    while Instant::now() < until {
        count += 1;
        let reply = alice.send(&b, &count.to_string()).await;
        assert_eq!(reply["ER"], 0, "{reply}");
        assert_eq!(bob.texts(1).await, [count.to_string()]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    count
}

/// Writes to somebody who is away, each time another one.
async fn honest_writer(until: Instant) -> usize {
    let a = somebody("alice");
    let mut alice = connect(url(), &a).await;
    let mut count = 0;
    while Instant::now() < until {
        count += 1;
        let reply = alice.send(&somebody("away"), "for later").await;
        assert_eq!(reply["ER"], 0, "{reply}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn flood_next_to_honest_users_costs_them_no_send() {
    let until = Instant::now() + Duration::from_secs(15);
    let to_many = attack(somebody("mallory"), |n| format!("nobody-{n}"), until);
    let victim = somebody("victim");
    let to_one = attack(somebody("trudy"), move |_| victim.clone(), until);
    let pairs = join_all((0..20).map(|_| honest_pair(until)));
    let (many, one, pairs, written) = tokio::join!(to_many, to_one, pairs, honest_writer(until));
    assert!(many.0 <= 110, "{} queues were made", many.0);
    assert!(one.0 <= 1_200, "{} messages were taken", one.0);
    assert!(many.1 > 0 && one.1 > 0);
    assert!(pairs.iter().all(|count| *count > 3) && written > 3, "{pairs:?} {written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_sender_leaves_room_in_a_queue_for_the_others() {
    let services = Services::start().await;
    let mut options = Options { backends: Some(services.backends()), ..options() };
    options.queues.max_messages = std::num::NonZero::new(40).expect("a number");
    options.limits.share = Some(kschat_core::limits::Share::of_queue(
        25,
        options.queues.max_bytes.get(),
        options.queues.max_messages.get(),
        options.queues.retention,
    ));
    let stack = kschat::stack::Stack::start(options).await.expect("it starts");
    let (mallory, alice, victim) = (somebody("mallory"), somebody("alice"), somebody("victim"));
    let mut one = connect(&stack.websocket_url(), &mallory).await;
    let mut codes: Vec<Value> = Vec::new();
    for n in 0..15 {
        codes.push(one.send(&victim, &n.to_string()).await["ER"].clone());
    }
    assert_eq!(codes.iter().filter(|code| **code == json!(0)).count(), 10, "{codes:?}");
    assert!(codes[10..].iter().all(|code| *code == json!(11)), "{codes:?}");
    let mut other = connect(&stack.websocket_url(), &alice).await;
    assert_eq!(other.send(&victim, "there is room").await["ER"], 0);
    // Once the victim has taken them, there is room again.
    let mut taker = connect(&stack.websocket_url(), &victim).await;
    assert_eq!(taker.texts(11).await.len(), 11);
    eventually("the sender may send again", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        one.send(&victim, "again").await["ER"] == 0
    })
    .await;
    stack.stop().await;
}
