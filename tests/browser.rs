//! The pages in Chromium: the chat as two people see it, the view of the edge as a developer does.
//!
//! Screenshots are left in `target/screenshots`, to be looked at.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::{fs, path::PathBuf};

use fantoccini::{Client as Window, Locator};
use kschat::stack::{Options, Stack};
use kschat_tests::{
    browser::Browser,
    client::token,
    edge::{EdgeUnderTest, settings},
    eventually,
    stack::{SECRET, Services, connect, embedded, options},
};

async fn open(browser: &Browser, page: &str, uid: &str, rid: &str, size: (u32, u32)) -> Window {
    let window = browser.window(uid, size.0, size.1).await;
    window.goto(&format!("{page}?uid={uid}&rid={rid}")).await.expect("the page loads");
    connected(&window).await;
    window
}

async fn connected(window: &Window) {
    eventually("the page is connected", async || {
        let status = window.find(Locator::Css("#status")).await.expect("a status");
        status.attr("data-state").await.expect("an attribute").as_deref() == Some("connected")
    })
    .await;
}

async fn write(window: &Window, text: &str) {
    let field = window.find(Locator::Css("#msg")).await.expect("a field");
    field.send_keys(text).await.expect("it takes keys");
    window.find(Locator::Css("#send")).await.expect("a button").click().await.expect("it can be clicked");
}

async fn texts(window: &Window, kind: &str) -> Vec<String> {
    let found = window.find_all(Locator::Css(&format!("#messages .message.{kind} .text"))).await.expect("messages");
    let mut texts = Vec::new();
    for element in found {
        texts.push(element.text().await.expect("text"));
    }
    texts
}

async fn eventually_texts(window: &Window, kind: &str, expected: &[&str]) {
    let mut last = Vec::new();
    let mut tries = 0;
    while last != expected && tries < 200 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        last = texts(window, kind).await;
        tries += 1;
    }
    assert_eq!(last, expected);
}

async fn states(window: &Window) -> Vec<String> {
    let mut states = Vec::new();
    for element in window.find_all(Locator::Css("#messages .message.mine")).await.expect("messages") {
        states.push(element.attr("data-state").await.expect("an attribute").unwrap_or_default());
    }
    states
}

async fn screenshot(window: &Window, name: &str) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/screenshots");
    fs::create_dir_all(&folder).expect("a folder");
    let picture = window.screenshot().await.expect("a picture");
    fs::write(folder.join(format!("{name}.png")), picture).expect("a file");
}

async fn chat(page: &str, name: &str) {
    let browser = Browser::start().await;
    let alice = open(&browser, page, "alice", "bob", (1280, 800)).await;
    let bob = open(&browser, page, "bob", "alice", (390, 844)).await;
    write(&alice, "Hello Bob, are you there?").await;
    write(&alice, "<b>not bold</b> <img src=x onerror=alert(1)>").await;
    let said = ["Hello Bob, are you there?", "<b>not bold</b> <img src=x onerror=alert(1)>"];
    eventually_texts(&bob, "theirs", &said).await;
    eventually("both have a tick", async || states(&alice).await == ["sent", "sent"]).await;
    write(&bob, "Yes, on my phone 👋").await;
    eventually_texts(&alice, "theirs", &["Yes, on my phone 👋"]).await;
    screenshot(&alice, &format!("{name}-alice")).await;
    screenshot(&bob, &format!("{name}-bob")).await;

    bob.close().await.expect("the window closes");
    for text in ["one", "two", "three"] {
        write(&alice, text).await;
    }
    eventually("all are accepted", async || states(&alice).await == ["sent"; 5]).await;
    let bob = browser.window("bob-again", 390, 844).await;
    bob.goto(&format!("{page}?uid=bob&rid=alice")).await.expect("the page loads");
    eventually_texts(&bob, "theirs", &["one", "two", "three"]).await;
    screenshot(&bob, &format!("{name}-bob-again")).await;
    // Nothing comes twice.
    write(&alice, "four").await;
    eventually_texts(&bob, "theirs", &["one", "two", "three", "four"]).await;
    alice.close().await.expect("the window closes");
    bob.close().await.expect("the window closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_windows_chat_with_everything_in_memory() {
    let stack = embedded().await;
    chat(&stack.page_url(), "embedded").await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_windows_chat_on_rabbitmq_and_redis() {
    let services = Services::start().await;
    let stack = Stack::start(Options { backends: Some(services.backends()), ..options() }).await.expect("it starts");
    chat(&stack.page_url(), "real").await;
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_the_server_is_away_is_sent_once_it_is_back() {
    let services = Services::start().await;
    let start = async |listen| {
        let options = Options { listen, backends: Some(services.backends()), ..options() };
        Stack::start(options).await.expect("the stack starts")
    };
    let stack = start(options().listen).await;
    let (address, page) = (stack.address(), stack.page_url());
    let browser = Browser::start().await;
    let alice = open(&browser, &page, "alice", "bob", (1280, 800)).await;
    write(&alice, "before").await;
    eventually("it has a tick", async || states(&alice).await == ["sent"]).await;
    stack.stop().await;
    write(&alice, "meanwhile").await;
    write(&alice, "and more").await;
    assert_eq!(states(&alice).await, ["sent", "waiting", "waiting"]);
    screenshot(&alice, "away").await;
    let stack = start(address).await;
    connected(&alice).await;
    eventually("all have a tick", async || states(&alice).await == ["sent"; 3]).await;
    let mut bob = connect(&stack.websocket_url(), "bob").await;
    assert_eq!(bob.texts(3).await, ["before", "meanwhile", "and more"]);
    alice.close().await.expect("the window closes");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_page_leads_to_a_chat_and_says_what_is_missing() {
    let stack = embedded().await;
    let browser = Browser::start().await;
    let window = browser.window("start", 1280, 800).await;
    window.goto(&stack.page_url()).await.expect("the page loads");
    screenshot(&window, "start").await;
    for (name, value) in [("uid", "carol"), ("rid", "dave & co")] {
        let field = window.find(Locator::Css(&format!("[name={name}]"))).await.expect("a field");
        field.send_keys(value).await.expect("it takes keys");
    }
    window.find(Locator::Css("button")).await.expect("a button").click().await.expect("it can be clicked");
    connected(&window).await;
    write(&window, "hello").await;
    let mut dave = connect(&stack.websocket_url(), "dave & co").await;
    assert_eq!(dave.texts(1).await, ["hello"]);
    window.goto(&format!("{}?uid=carol", stack.page_url())).await.expect("the page loads");
    let notice = window.find(Locator::Css(".notice")).await.expect("a notice").text().await.expect("text");
    assert!(notice.contains("Both names are needed"), "{notice}");
    // The page's own token is not in its address, nor anywhere a referrer could carry it.
    assert!(!window.current_url().await.expect("an address").as_str().contains(&token(SECRET, "carol")[..10]));
    window.close().await.expect("the window closes");
    stack.stop().await;
}

/// What the page says there.
async fn said(window: &Window, place: &str) -> String {
    window.find(Locator::Css(place)).await.expect("it is there").text().await.expect("text")
}

async fn eventually_says(window: &Window, place: &str, words: &str) {
    eventually(&format!("{place} says {words}"), async || said(window, place).await.contains(words)).await;
}

async fn press(window: &Window, button: &str) {
    let button = window.find(Locator::XPath(&format!("//button[.='{button}']"))).await.expect("a button");
    button.click().await.expect("it can be clicked");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_of_the_edge_shows_what_happens_and_what_goes_wrong_on_purpose() {
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
async fn chromium_agrees_on_permessage_deflate_and_hears_the_codes() {
    let edge = EdgeUnderTest::start(settings()).await;
    let browser = Browser::start().await;
    let window = browser.window("deflate", 400, 400).await;
    let script = "const [url, done] = arguments;
        const socket = new WebSocket(url, ['chat.v1']);
        const large = 'hello '.repeat(5000);
        socket.onopen = () => socket.send(large);
        socket.onmessage = (event) => { socket.echoed = event.data === large; socket.send('x'.repeat(40000)); };
        socket.onclose = (event) => done([socket.extensions, socket.protocol, socket.echoed, event.code, event.wasClean]);";
    // A page of the edge's own origin: from elsewhere Chromium asks a person whether it may reach this machine.
    window.goto(&edge.callback()).await.expect("the page loads");
    let seen = window.execute_async(script, vec![edge.websocket().into()]).await.expect("it runs");
    let extensions = seen[0].as_str().expect("text");
    assert!(extensions.starts_with("permessage-deflate"), "{extensions}");
    assert_eq!(
        seen.as_array().expect("a list")[1..],
        serde_json::json!(["chat.v1", true, 1009, true]).as_array().expect("a list")[..]
    );
    window.close().await.expect("the window closes");
}
