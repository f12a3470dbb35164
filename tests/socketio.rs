//! The Socket.IO clients of npm, unchanged, against the very functions and consumer that raw clients have.

#![expect(clippy::expect_used, clippy::panic, reason = "what is not as expected fails the test")]

use std::time::Duration;

use axum::{Router, response::Html, routing::get};
use fantoccini::{Client as Window, Locator};
use futures_util::{SinkExt, StreamExt};
use kschat::{
    edge::Settings,
    stack::{Options, Stack},
};
use kschat_protocol::dialect::{Heartbeat, Packet, RESTART};
use kschat_tests::{
    browser::Browser,
    client::{Client, Refused, token},
    eventually,
    socketio::{Generation, SocketIo, guide},
    stack::{Consumer, SECRET, Services, connect, connect_eventually, embedded, options, somebody},
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::{connect_async, tungstenite::Message};

const BOTH: [Generation; 2] = [Generation::Four, Generation::Two];

/// An edge with functions in this process, and the consumer elsewhere.
async fn edge(services: &Services) -> Stack {
    let options = Options { backends: Some(services.backends()), consumer: false, ..options() };
    Stack::start(options).await.expect("the edge starts")
}

async fn chat(page: &str) {
    for generation in BOTH {
        let (a, b) = (somebody("alice"), somebody("bob"));
        let mut alice = SocketIo::connected(generation, page, &a).await;
        let mut bob = SocketIo::connected(generation, page, &b).await;
        assert_eq!(alice.send(&b, "hello").await, json!({ "RESPONSE": "Send Emit is success.", "uId": a }));
        let reply = alice.next("RESPSEND").await["data"].clone();
        assert_eq!((&reply["RC"], &reply["ER"], &reply["STATUS"]), (&json!(1), &json!(0), &json!(1)));
        assert_eq!((&reply["SID"], &reply["RID"], &reply["RANDOMNO"]), (&json!(a), &json!(b), &json!(42)));
        let heard = bob.next("RESPRECEIVER").await;
        // The seed's server gives a callback, too.
        assert_eq!(heard["callback"], "function");
        assert_eq!((&heard["data"]["RC"], &heard["data"]["ER"]), (&json!(1), &json!(0)));
        let item = &heard["data"]["MSG"][0];
        assert_eq!((&item["uId"], &item["pId"], &item["msg"]), (&json!(a), &json!(b), &json!("hello")));
        assert_eq!((&item["rStatus"], &item["msgTime"]), (&json!(1), &reply["MSGTIME"]));
        // Without a callback the reply is the answer.
        let message = bob.message(&a, "hello to you");
        bob.tell(json!({ "emit": ["Send", message] })).await;
        assert_eq!(bob.next("RESPSEND").await["data"]["ER"], 0);
        assert_eq!(alice.texts(1).await, ["hello to you"]);
        // What can't be accepted calls no callback: only the event tells.
        bob.tell(json!({ "emit": ["Send", { "uId": a, "pId": a, "msg": "it is me" }], "ack": true })).await;
        assert_eq!(bob.next("RESPSEND").await["data"]["ER"], 5);
        assert_eq!(bob.has_seen("ack"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_the_guide_chat_with_everything_in_memory() {
    let stack = embedded().await;
    chat(&stack.page_url()).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_the_guide_chat_on_rabbitmq_and_redis() {
    let services = Services::start().await;
    let stack = Stack::start(Options { backends: Some(services.backends()), ..options() }).await.expect("it starts");
    chat(&stack.page_url()).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_every_dialect_hear_the_same() {
    let stack = embedded().await;
    let (page, url) = (stack.page_url(), stack.websocket_url());
    let (a, b) = (somebody("alice"), somebody("bob"));
    let mut alice = connect(&url, &a).await;
    let mut raw = connect(&url, &b).await;
    let mut four = SocketIo::connected(Generation::Four, &page, &b).await;
    let mut two = SocketIo::connected(Generation::Two, &page, &b).await;
    for text in ["one", "two"] {
        assert_eq!(alice.send(&b, text).await["ER"], 0);
    }
    assert_eq!(raw.texts(2).await, ["one", "two"]);
    assert_eq!(four.texts(2).await, ["one", "two"]);
    assert_eq!(two.texts(2).await, ["one", "two"]);
    four.send(&a, "back").await;
    assert_eq!(alice.texts(1).await, ["back"]);
    // The reply goes to the one that has sent.
    four.next("RESPSEND").await;
    assert_eq!(two.has_seen("RESPSEND"), 0);
    // What raw clients can ask for is an event of the same name.
    two.tell(json!({ "emit": ["Auth", { "token": token(SECRET, &b) }] })).await;
    assert_eq!(two.next("RESPAUTH").await["data"]["ER"], 0);
    four.tell(json!({ "emit": ["auth", { "token": "no" }], "ack": true })).await;
    assert_eq!(four.next("ack").await["data"][0]["ER"], 3);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_the_main_namespace_are_served_too() {
    let stack = embedded().await;
    let (page, url) = (stack.page_url(), stack.websocket_url());
    let (a, b, c) = (somebody("alice"), somebody("bob"), somebody("carol"));
    let mut alice = connect(&url, &a).await;
    for (generation, user) in [(Generation::Four, &b), (Generation::Two, &c)] {
        let mut client = SocketIo::start_at(generation, &page, user, &guide(user), false);
        client.next("connect").await;
        alice.send(user, "hello").await;
        assert_eq!(client.texts(1).await, ["hello"]);
        assert_eq!(client.send(&a, "back").await["uId"], json!(user));
        assert_eq!(alice.texts(1).await, ["back"]);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_come_with_the_connect_packet_and_is_believed_no_more_than_any_other() {
    let stack = embedded().await;
    let (page, url) = (stack.page_url(), stack.websocket_url());
    let (a, b) = (somebody("alice"), somebody("bob"));
    let with = |auth: Value| {
        // Without the slash that clients put behind a path otherwise.
        json!({ "path": "/dev", "addTrailingSlash": false, "transports": ["websocket"], "auth": auth })
    };
    let mut alice = SocketIo::start(Generation::Four, &page, &a, &with(json!({ "token": token(SECRET, &a) })), false);
    alice.next("connect").await;
    let mut bob = connect(&url, &b).await;
    bob.send(&a, "hello").await;
    assert_eq!(alice.texts(1).await, ["hello"]);
    alice.send(&b, "hello to you").await;
    assert_eq!(bob.texts(1).await, ["hello to you"]);
    for auth in
        [json!({}), json!({ "token": "no" }), json!({ "token": token("another secret", &a) }), json!({ "token": 7 })]
    {
        let mut mallory = SocketIo::start(Generation::Four, &page, &a, &with(auth), false);
        let refused = mallory.next("connect_error").await;
        assert_eq!((&refused["message"], &refused["data"]), (&json!("Authentication error"), &json!({ "ER": 3 })));
        // With a good one it may come in after all.
        mallory.tell(json!({ "auth": { "token": token(SECRET, &a) } })).await;
        mallory.tell(json!({ "connect": true })).await;
        mallory.next("connect").await;
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_not_believed_or_not_served_is_refused() {
    let stack = embedded().await;
    let (page, url, user) = (stack.page_url(), stack.websocket_url(), somebody("alice"));
    let good = token(SECRET, &user);
    for (query, status) in [
        ("EIO=4&transport=websocket&token=no".to_owned(), 401),
        ("EIO=3&transport=websocket".to_owned(), 401),
        (format!("EIO=4&transport=websocket&token={good}&ksId=bob"), 403),
        (format!("EIO=4&transport=polling&token={good}"), 400),
        (format!("EIO=9&transport=websocket&token={good}"), 400),
    ] {
        assert_eq!(Client::connect(&url, &query, &user).await.err(), Some(Refused(status)), "{query}");
    }
    for generation in BOTH {
        let options =
            json!({ "path": "/dev", "transports": ["websocket"], "query": "token=no", "reconnection": false });
        let mut client = SocketIo::start(generation, &page, &user, &options, false);
        client.next("connect_error").await;
        // Polling never gets as far as a function.
        let options = json!({ "path": "/dev", "transports": ["polling"], "query": format!("token={good}") });
        let mut client = SocketIo::start(generation, &page, &user, &options, false);
        client.next("connect_error").await;
    }
    stack.stop().await;
}

/// What comes within a moment.
async fn heard<S>(socket: &mut S) -> Option<Message>
where
    S: StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    timeout(Duration::from_millis(150), socket.next()).await.ok().flatten().and_then(Result::ok)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_client_says_it_hears_only_what_it_understands() {
    let stack = embedded().await;
    let user = somebody("alice");
    for joins in [true, false] {
        for (digit, connect) in [('4', "40/kschat,"), ('3', "40/kschat?token=x,")] {
            let query = format!("EIO={digit}&transport=websocket&token={}", token(SECRET, &user));
            let url = format!("{}?{query}", stack.websocket_url());
            let (mut socket, _) = connect_async(url).await.expect("connected");
            if joins {
                socket.send(Message::text(connect)).await.expect("open");
            }
            let long = format!("42/kschat,[\"Send\",{{\"msg\":\"{}\"}}]", "x".repeat(32_700));
            let bad = [
                "",
                "0",
                "1",
                "2",
                "2x",
                "3",
                "4",
                "5",
                "6",
                "7",
                "x",
                "{",
                "[]",
                "null",
                "42",
                "42[]",
                "42[1]",
                "42/kschat",
                "42/kschat,[\"Send\"]",
                "42/kschat,[\"Send\",7]",
                "42/kschat,[\"Send\",{}]",
                "42/kschat,1[\"Send\",{}]",
                "42/kschat,[\"fly\",{}]",
                "42/kschat,2[\"fly\"]",
                "42/kschat,[\"Send\",{\"action\":1}]",
                "43[]",
                "43/kschat,9007199254740991[]",
                "43/kschat,1[]",
                "43/kschat,0[]",
                "44{}",
                "44\"x\"",
                "45",
                "47",
                "48",
                "451-[\"Send\",{\"_placeholder\":true,\"num\":0}]",
                "40/",
                "40/other,",
                "40{\"token\":1}",
                "40[",
                "\u{1}",
                "42/kschat,99999999999999999999[\"Send\",{}]",
                "42[[[[[[[[",
                "é",
                long.as_str(),
            ];
            for text in bad {
                socket.send(Message::text(text)).await.expect("open");
            }
            while let Some(message) = heard(&mut socket).await {
                let Message::Text(text) = message else { panic!("{message:?}") };
                let is_understood = text.as_str() == RESTART || Packet::parse(&text).is_ok();
                assert!(is_understood && !text.contains("Internal server error"), "{text}");
            }
            let message = json!({ "uId": user, "pId": "nobody", "msg": "still here" });
            socket.send(Message::text(format!("42/kschat,[\"Send\",{message}]"))).await.expect("open");
            let Some(Message::Text(text)) =
                timeout(Duration::from_secs(5), socket.next()).await.expect("an answer").transpose().expect("open")
            else {
                panic!("no text")
            };
            assert!(text.starts_with("42/kschat,0[\"RESPSEND\",{\"RC\":1,\"ER\":0,"), "{text}");
        }
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_says_who_it_is_may_do_nothing_and_is_cut_off() {
    let stack = embedded().await;
    let url = format!("{}?EIO=4&transport=websocket", stack.websocket_url());
    let (mut socket, _) = connect_async(url).await.expect("connected");
    let Some(Ok(Message::Text(open))) = socket.next().await else { panic!("no first word") };
    assert!(open.starts_with("0{"), "{open}");
    for text in [
        "42[\"Send\",{\"uId\":\"alice\",\"pId\":\"bob\",\"msg\":\"hello\"}]",
        "42[\"typing\",{\"pId\":\"bob\",\"on\":true}]",
    ] {
        socket.send(Message::text(text)).await.expect("open");
        let Some(Ok(Message::Text(refused))) = socket.next().await else { panic!("no answer") };
        assert!(refused.contains("\"ER\":4"), "{refused}");
    }
    let ended = timeout(Duration::from_secs(25), socket.next()).await.expect("it is cut off");
    assert!(matches!(ended, Some(Ok(Message::Close(_)))), "{ended:?}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_keep_silent_clients_connected() {
    let heartbeat = Heartbeat { interval: Duration::from_secs(1), timeout: Duration::from_secs(3) };
    let edge = Settings { idle: Duration::from_secs(4), ..Settings::default() };
    let stack = Stack::start(Options { heartbeat, edge, ..options() }).await.expect("it starts");
    for generation in BOTH {
        let (a, b) = (somebody("alice"), somebody("bob"));
        let mut bob = SocketIo::connected(generation, &stack.page_url(), &b).await;
        for _ in 0..6 {
            bob.next("ping").await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut alice = connect(&stack.websocket_url(), &a).await;
        alice.send(&b, "still there?").await;
        assert_eq!(bob.texts(1).await, ["still there?"]);
        assert_eq!((bob.has_seen("disconnect"), bob.has_seen("connect")), (0, 0));
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_opened_by_whoever_owns_its_user_and_hears_nothing_of_a_fail_over() {
    let services = Services::start().await;
    let stack = edge(&services).await;
    let (page, url, callback) = (stack.page_url(), stack.websocket_url(), stack.callback_url());
    let (a, b, c) = (somebody("alice"), somebody("bob"), somebody("carol"));
    // Nobody is there to say the first word.
    let mut four = SocketIo::start(Generation::Four, &page, &b, &guide(&b), false);
    let mut two = SocketIo::start(Generation::Two, &page, &c, &guide(&c), false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut first = Consumer::start(&services, &callback).await;
    four.next("connect").await;
    two.next("connect").await;
    let mut alice = connect(&url, &a).await;
    for client in [(&b, &mut four), (&c, &mut two)] {
        alice.send(client.0, "before").await;
        assert_eq!(client.1.texts(1).await, ["before"]);
    }
    first.process.kill();
    let _second = Consumer::start(&services, &callback).await;
    for (user, client) in [(&b, &mut four), (&c, &mut two)] {
        assert_eq!(alice.send(user, "after").await["ER"], 0);
        assert_eq!(client.texts(1).await, ["after"]);
        assert_eq!(client.send(&a, "I have noticed nothing").await["uId"], json!(user));
        client.next("RESPSEND").await;
        assert_eq!((client.has_seen("connect"), client.has_seen("disconnect")), (0, 0));
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_has_lost_everything_learns_where_clients_listen() {
    let services = Services::start().await;
    let stack = Stack::start(Options { backends: Some(services.backends()), ..options() }).await.expect("it starts");
    let (a, b) = (somebody("alice"), somebody("bob"));
    let mut bob = SocketIo::connected(Generation::Four, &stack.page_url(), &b).await;
    let mut alice = connect(&stack.websocket_url(), &a).await;
    // Until the owner has seen its marks.
    tokio::time::sleep(Duration::from_secs(3)).await;
    services.redis.flush().await;
    eventually("alice is known again", async || alice.send(&b, "after all").await["ER"] == 0).await;
    assert_eq!(bob.texts(1).await, ["after all"]);
    eventually("bob is known again", async || {
        bob.send(&a, "me, too").await;
        bob.next("RESPSEND").await["data"]["ER"] == 0
    })
    .await;
    assert_eq!(bob.has_seen("disconnect"), 0);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_come_back_by_their_own_logic_when_the_stack_is_back() {
    let services = Services::start().await;
    let start = async |listen| {
        let options = Options { listen, backends: Some(services.backends()), ..options() };
        Stack::start(options).await.expect("the stack starts")
    };
    let stack = start(options().listen).await;
    let (address, page) = (stack.address(), stack.page_url());
    let (a, b, c) = (somebody("alice"), somebody("bob"), somebody("carol"));
    let mut four = SocketIo::connected(Generation::Four, &page, &b).await;
    let mut two = SocketIo::connected(Generation::Two, &page, &c).await;
    stack.stop().await;
    four.next("disconnect").await;
    two.next("disconnect").await;
    let stack = start(address).await;
    let mut alice = connect_eventually(&stack.websocket_url(), &a).await;
    for (user, client) in [(&b, &mut four), (&c, &mut two)] {
        alice.send(user, "welcome back").await;
        client.next("connect").await;
        assert_eq!(client.texts(1).await, ["welcome back"]);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callback_acknowledges_for_version_2_and_nobody_else_has_to_call_it() {
    let stack = embedded().await;
    let (page, url) = (stack.page_url(), stack.websocket_url());
    let mut alice = connect(&url, &somebody("alice")).await;
    for generation in BOTH {
        for (version, calls_back, comes_again) in
            [("", false, false), ("", true, false), ("&v=2", true, false), ("&v=2", false, true)]
        {
            let user = somebody("bob");
            let mut options = guide(&user);
            options["query"] = json!(format!("{}{version}", options["query"].as_str().expect("text")));
            let mut bob = SocketIo::start(generation, &page, &user, &options, calls_back);
            bob.next("connect").await;
            for text in ["one", "two", "three"] {
                assert_eq!(alice.send(&user, text).await["ER"], 0);
            }
            assert_eq!(bob.texts(3).await, ["one", "two", "three"]);
            tokio::time::sleep(Duration::from_millis(3_500)).await;
            alice.send(&user, "four").await;
            let case = format!("{generation:?} {version} {calls_back}");
            if comes_again {
                let again = bob.next("RESPRECEIVER").await;
                assert_eq!(again["data"]["MSG"][0]["redelivered"], true, "{case}");
            } else {
                assert_eq!(bob.texts(1).await, ["four"], "{case}");
            }
        }
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_first_word_does_a_client_no_harm() {
    let stack = embedded().await;
    let (a, b) = (somebody("alice"), somebody("bob"));
    let mut alice = connect(&stack.websocket_url(), &a).await;
    let mut known = stack.edge().ids();
    for generation in BOTH {
        let mut bob = SocketIo::connected(generation, &stack.page_url(), &b).await;
        // The one that has come last.
        let id = stack.edge().ids().into_iter().find(|id| !known.contains(id)).expect("bob's connection");
        let open = r#"0{"sid":"again","upgrades":[],"pingInterval":480000,"pingTimeout":180000,"maxPayload":32768}"#;
        let url = format!("{}/@connections/{id}", stack.callback_url());
        let pushed = reqwest::Client::new().post(&url).body(open).send().await.expect("an answer");
        assert_eq!(pushed.status(), 200);
        known.push(id);
        alice.send(&b, "hello").await;
        assert_eq!(bob.texts(1).await, ["hello"]);
        assert_eq!(bob.send(&a, "still here").await["uId"], json!(b));
        assert_eq!(alice.texts(1).await, ["still here"]);
        assert_eq!((bob.has_seen("connect"), bob.has_seen("disconnect")), (0, 0));
        bob.tell(json!({ "disconnect": true })).await;
        bob.next("disconnect").await;
    }
    stack.stop().await;
}

/// Serves the page of the guide, with what it loads, as its own server did; returns where.
async fn guides_page(stack: &Stack, generation: Generation, uid: u32, rid: u32) -> String {
    let modules = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/node_modules");
    let read = |path: String| std::fs::read_to_string(path).expect("`tests/run` installs what the tests need");
    let client = match generation {
        Generation::Two => "socket.io-client-2",
        Generation::Four => "socket.io-client-4",
    };
    let values = [
        ("{{uid}}", uid.to_string()),
        ("{{rid}}", rid.to_string()),
        ("{{random}}", "4711".to_owned()),
        ("{{tokenId}}", token(SECRET, &uid.to_string())),
        ("{{path}}", "/dev".to_owned()),
        ("{{host}}", format!("http://{}", stack.address())),
    ];
    let page = include_str!("pages/guide.html").to_owned();
    let page = values.iter().fold(page, |page, (name, value)| page.replace(name, value));
    let (client, jquery) =
        (read(format!("{modules}/{client}/dist/socket.io.js")), read(format!("{modules}/jquery/dist/jquery.js")));
    let script =
        |text: String| get(move || async move { ([("content-type", "text/javascript; charset=utf-8")], text) });
    let routes = Router::new()
        .route("/", get(move || async move { Html(page) }))
        .route("/socket.io/socket.io.js", script(client))
        .route("/jquery.js", script(jquery));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}/")
}

async fn write(window: &Window, text: &str) {
    let field = window.find(Locator::Css("#MSG")).await.expect("a field");
    field.send_keys(text).await.expect("it takes keys");
    window.find(Locator::Css("#SEND")).await.expect("a button").click().await.expect("it can be clicked");
    // The callback has been called.
    eventually("the field is empty", async || field.prop("value").await.expect("a value").as_deref() == Some("")).await;
}

async fn eventually_shows(window: &Window, kind: &str, expected: &[&str]) {
    eventually(&format!("{kind} are {expected:?}"), async || {
        let mut texts = Vec::new();
        for item in window.find_all(Locator::Css(&format!("#LIST .{kind}"))).await.expect("a list") {
            texts.push(item.text().await.expect("text"));
        }
        texts == expected
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_guide_works_in_chromium_with_both_generations() {
    let stack = embedded().await;
    let browser = Browser::start().await;
    let (mut windows, pages) = (
        Vec::new(),
        [
            guides_page(&stack, Generation::Four, 12345, 67890).await,
            guides_page(&stack, Generation::Two, 67890, 12345).await,
        ],
    );
    for (name, page) in ["alice", "bob"].iter().zip(&pages) {
        let window = browser.window(name, 800, 600).await;
        window.goto(page).await.expect("the page loads");
        let state = window.find(Locator::Css("#STATE")).await.expect("a state");
        eventually("the page is connected", async || state.text().await.expect("text") == "here").await;
        windows.push(window);
    }
    let [alice, bob] = <[Window; 2]>::try_from(windows).expect("two windows");
    for text in ["hello", "<b>are you there?</b>"] {
        write(&alice, text).await;
    }
    eventually_shows(&alice, "mine", &["hello", "<b>are you there?</b>"]).await;
    eventually_shows(&bob, "theirs", &["hello", "<b>are you there?</b>"]).await;
    write(&bob, "yes 👋").await;
    eventually_shows(&alice, "theirs", &["yes 👋"]).await;
    // What comes while a page is closed waits for it.
    bob.close().await.expect("the window closes");
    eventually("the edge has seen it", async || stack.edge().ids().len() == 1).await;
    write(&alice, "and now?").await;
    let bob = browser.window("bob-again", 800, 600).await;
    bob.goto(&pages[1]).await.expect("the page loads");
    eventually_shows(&bob, "theirs", &["and now?"]).await;
    alice.close().await.expect("the window closes");
    bob.close().await.expect("the window closes");
    stack.stop().await;
}
