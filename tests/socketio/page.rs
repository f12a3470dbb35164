//! The original guide's page, in Chromium.

use axum::{Router, response::Html, routing::get};
use fantoccini::{Client as Window, Locator};
use kschat::stack::Stack;
use kschat_tests::{
    browser::Browser,
    client::token,
    eventually,
    socketio::Generation,
    stack::{SECRET, embedded},
};

/// Serves the guide's page and its files as its own server did; returns the URL.
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
    let page = include_str!("../pages/guide.html").to_owned();
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
    field.send_keys(text).await.expect("keys are accepted");
    window.find(Locator::Css("#SEND")).await.expect("a button").click().await.expect("the click succeeds");
    // The callback was called.
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
async fn guide_page_works_in_chromium() {
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
    // Messages sent while a page is closed wait for it.
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
