//! The pages in Chromium: the chat page as users see it, the edge view as developers see it.
//!
//! The script `tests/clients/with_page.mjs` drives the chat. Screenshots for review are in `target/screenshots`.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::{
    fs,
    time::{Duration, Instant},
};

use fantoccini::{Client as Window, Locator};
use kschat::stack::{Options, Stack};
use kschat_tests::{
    EVENTUALLY_TIMEOUT,
    browser::Browser,
    client::{Client, token},
    edge::{EdgeUnderTest, settings},
    eventually,
    script::{self, screenshots},
    stack::{self, SECRET, Services, connect, embedded, options},
};
use tokio::time::sleep;

/// Runs parts of the script that drives the chat page.
async fn page(stack: &Stack, parts: &[&str], checks: usize) {
    let folder = screenshots().display().to_string();
    let given = [stack.page_url(), SECRET.to_owned(), folder].into_iter();
    let arguments: Vec<String> = given.chain(parts.iter().map(ToString::to_string)).collect();
    script::run("node", "with_page.mjs", &arguments, checks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_chat_in_windows_and_tabs() {
    let stack = embedded().await;
    page(&stack, &["chatting", "tabs"], 45).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_whose_browser_keeps_nothing_shows_every_message_and_says_so() {
    let stack = embedded().await;
    page(&stack, &["unkept"], 36).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_presence_copies_and_rooms_are_shown() {
    let stack = embedded().await;
    page(&stack, &["agreed"], 27).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_chat_on_rabbitmq_and_redis() {
    let services = Services::start().await;
    let stack = stack::start(Options { backends: Some(services.backends()), ..options() }).await;
    page(&stack, &["chatting", "bursting"], 34).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_survives_offline_rollover_and_expiry() {
    let stack = embedded().await;
    page(&stack, &["offline", "rolling"], 21).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_handles_thousands_of_messages() {
    let stack = embedded().await;
    page(&stack, &["bursting", "scrolling"], 19).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_is_safe_small_and_accessible() {
    let stack = embedded().await;
    page(&stack, &["hostile", "looks", "size"], 52).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_searches_notifies_translates_and_shows_names() {
    let stack = embedded().await;
    page(&stack, &["searching", "notifying", "languages", "naming"], 48).await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_messages_are_sent_after_recovery() {
    let services = Services::start().await;
    let start = async |listen| {
        let options = Options { listen, backends: Some(services.backends()), ..options() };
        stack::start(options).await
    };
    let first = start(options().listen).await;
    let address = first.address();
    let arguments = [first.page_url(), SECRET.to_owned(), screenshots().display().to_string(), "restarting".to_owned()];
    let mut stack = Some(first);
    script::run_with("node", "with_page.mjs", &arguments, 4, async |request| match stack.take() {
        Some(running) if request == "stop" => running.stop().await,
        None if request == "start" => stack = Some(start(address).await),
        _ => panic!("{request} in the wrong order"),
    })
    .await;
    stack.expect("a restarted stack").stop().await;
}

async fn screenshot(window: &Window, name: &str) {
    let picture = window.screenshot().await.expect("a picture");
    fs::write(screenshots().join(format!("{name}.png")), picture).expect("a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn start_page_opens_chat_or_shows_error() {
    let stack = embedded().await;
    let browser = Browser::start().await;
    let window = browser.window("start", 1280, 800).await;
    window.goto(&stack.page_url()).await.expect("the page loads");
    screenshot(&window, "start").await;
    for (name, value) in [("uid", "carol"), ("rid", "dave & co")] {
        let field = window.find(Locator::Css(&format!("[name={name}]"))).await.expect("a field");
        field.send_keys(value).await.expect("keys are accepted");
    }
    window.find(Locator::Css("button")).await.expect("a button").click().await.expect("the click succeeds");
    eventually_says(&window, "#name", "dave & co").await;
    let field = window.find(Locator::Css("#msg")).await.expect("a field");
    field.send_keys("hello\n").await.expect("keys are accepted");
    let mut dave = connect(&stack.websocket_url(), "dave & co").await;
    assert_eq!(dave.texts(1).await, ["hello"]);
    // The page's token is neither in its URL nor in any referrer.
    assert!(!window.current_url().await.expect("an address").as_str().contains(&token(SECRET, "carol")[..10]));
    window.goto(&format!("{}?rid=carol", stack.page_url())).await.expect("the page loads");
    eventually_says(&window, ".notice", "Enter your name").await;
    window.close().await.expect("the window closes");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_signs_token_only_for_local_browser() {
    let stack = embedded().await;
    let http = reqwest::Client::new();
    let url = format!("{}token?uid=carol", stack.page_url());
    let answer = http.get(&url).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let fresh = answer.text().await.expect("text");
    Client::connect_v2(&stack.websocket_url(), &fresh, "carol").await.expect("the fresh token is valid");
    // DNS rebinding by a remote page.
    let answer = http.get(&url).header("host", "evil.example").send().await.expect("an answer");
    assert_eq!(answer.status(), 403);
    for nobody in ["", "?uid=", "?uid=a&uid=b"] {
        let answer = http.get(format!("{}token{nobody}", stack.page_url())).send().await.expect("an answer");
        assert_eq!(answer.status(), 400, "{nobody}");
    }
    stack.stop().await;
}

/// Text of an element, if it exists: the page may still be loading.
async fn said(window: &Window, place: &str) -> Option<String> {
    window.find(Locator::Css(place)).await.ok()?.text().await.ok()
}

/// Waits until the element shows this text, as long as the page changes.
async fn eventually_says(window: &Window, place: &str, words: &str) {
    let (mut last, mut changed) = (None, Instant::now());
    loop {
        let now = said(window, place).await;
        if now.as_ref().is_some_and(|text| text.contains(words)) {
            return;
        }
        if now != last {
            (last, changed) = (now, Instant::now());
        }
        assert!(changed.elapsed() < EVENTUALLY_TIMEOUT, "{place} does not say {words:?}, but {last:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn press(window: &Window, button: &str) {
    let button = window.find(Locator::XPath(&format!("//button[.='{button}']"))).await.expect("a button");
    button.click().await.expect("the click succeeds");
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_view_shows_traffic_and_faults() {
    let edge = EdgeUnderTest::start(settings()).await;
    let browser = Browser::start().await;
    let window = browser.window("edge", 1280, 800).await;
    window.goto(&format!("http://{}/_edge", edge.address)).await.expect("the page loads");
    eventually_says(&window, ".connections", &edge.websocket()).await;
    screenshot(&window, "edge-empty").await;

    let mut client = edge.connect_with("", &[("sec-websocket-protocol", "chat.v1")]).await.expect("connected");
    let url = edge.connection(&client.id().await);
    for text in
        [r#"{"action":"echo","msg":"<img src=x onerror=alert(1)>"}"#, r#"{"action":"fail"}"#, r#"{"action":"ping"}"#]
    {
        client.say(text).await;
        client.text().await;
    }
    let http = reqwest::Client::new();
    http.post(&url).body("a push").send().await.expect("an answer");
    eventually_says(&window, "#connections", "chat.v1").await;
    eventually_says(&window, "#rows", "<img src=x onerror=alert(1)>").await;
    eventually_says(&window, "#rows", "push").await;

    press(&window, "post=500").await;
    press(&window, "Switch on").await;
    eventually_says(&window, "#alarm", "fault").await;
    assert_eq!(http.post(&url).body("refused").send().await.expect("an answer").status(), 500);
    eventually_says(&window, "#faults", "1").await;
    screenshot(&window, "edge").await;
    press(&window, "Switch all off").await;
    eventually("the edge takes pushes again", async || {
        http.post(&url).body("taken").send().await.expect("an answer").status() == 200
    })
    .await;
    window.close().await.expect("the window closes");
    let phone = browser.window("edge-phone", 390, 844).await;
    phone.goto(&format!("http://{}/_edge", edge.address)).await.expect("the page loads");
    eventually_says(&phone, "#rows", "push").await;
    screenshot(&phone, "edge-phone").await;
    phone.close().await.expect("the window closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_negotiates_deflate_and_close_codes() {
    let edge = EdgeUnderTest::start(settings()).await;
    let browser = Browser::start().await;
    let window = browser.window("deflate", 400, 400).await;
    let script = "const [url, done] = arguments;
        const socket = new WebSocket(url, ['chat.v1']);
        const large = 'hello '.repeat(5000);
        socket.onopen = () => socket.send(large);
        socket.onmessage = (event) => { socket.echoed = event.data === large; socket.send('x'.repeat(40000)); };
        socket.onclose = (event) => done([socket.extensions, socket.protocol, socket.echoed, event.code, event.wasClean]);";
    // A page of the edge's own origin: for others Chromium asks for permission to access local addresses.
    window.goto(&edge.callback()).await.expect("the page loads");
    let seen = window.execute_async(script, vec![edge.websocket().into()]).await.expect("the script runs");
    let extensions = seen[0].as_str().expect("text");
    assert!(extensions.starts_with("permessage-deflate"), "{extensions}");
    assert_eq!(
        seen.as_array().expect("a list")[1..],
        serde_json::json!(["chat.v1", true, 1009, true]).as_array().expect("a list")[..]
    );
    window.close().await.expect("the window closes");
}
