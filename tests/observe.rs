//! What a deployment tells of itself: metrics, log lines, traces.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::time::Duration;

use kschat::stack::Options;
use kschat_tests::{
    collector::{Collector, hex},
    eventually, eventually_within,
    lambda::Lambda,
    stack::{Address, Consumer, SECRET, Services, connect, options, run_for_all, somebody},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// The place in a trace from which a client sends.
const PARENT: &str = "00f067aa0ba902b7";

/// Everything that can tell of itself, telling everything.
struct Deployment {
    address: Address,
    lambda: Lambda,
    consumer: Consumer,
    collector: Collector,
    _services: Services,
}

/// One deployment for all tests of this binary: each makes up its own users. What lives in this process has a runtime
/// of its own, as that of a test ends with the test.
async fn deployment() -> &'static Deployment {
    static DEPLOYMENT: OnceCell<Deployment> = OnceCell::const_new();
    DEPLOYMENT.get_or_init(start).await
}

async fn start() -> Deployment {
    let (told, tell) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async move {
            told.send(Collector::start().await).expect("somebody waits for it");
            std::future::pending::<()>().await;
        });
    });
    let collector = tell.recv().expect("a collector");
    let mut services = Services::start().await;
    services.telemetry = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("METRICS_EMF", "true".to_owned()),
        ("LOG_FORMAT", "json".to_owned()),
        ("RUST_LOG", "info,kschat_core=debug".to_owned()),
    ];
    let lambda = Lambda::start(&services.variables()).await;
    let functions = Some(lambda.url());
    let address = run_for_all(async move || Options { functions, consumer: false, ..options() });
    let consumer = Consumer::start(&services, &address.websocket.replacen("ws:", "http:", 1)).await;
    Deployment { address, lambda, consumer, collector, _services: services }
}

impl Deployment {
    /// The JSON lines that functions and consumer have printed so far.
    fn lines(&self) -> (Vec<Value>, Vec<Value>) {
        let read = |printed: String| printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (read(self.lambda.printed()), read(self.consumer.process.printed()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_one_trace_from_its_sender_through_function_and_consumer_to_its_receiver() {
    let deployment = deployment().await;
    let (a, b) = (somebody("alice"), somebody("bob"));
    let mut alice = connect(&deployment.address.websocket, &a).await;
    let mut bob = connect(&deployment.address.websocket, &b).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let frame = json!({ "action": "send", "uId": a, "pId": b, "msg": "a secret text", "rno": "1",
        "traceparent": format!("00-{trace}-{PARENT}-01"), "tracestate": "vendor=1" });
    alice.say(frame.to_string()).await;
    assert_eq!(alice.next("RESPSEND").await["ER"], 0);
    let item = bob.items().await.remove(0);
    let handed_on = item["traceparent"].as_str().expect("the receiver can go on").to_owned();

    eventually("the collector has both spans", async || deployment.collector.trace(trace).len() >= 2).await;
    let spans = deployment.collector.trace(trace);
    let span = |service: &str| &spans.iter().find(|(of, _)| of == service).expect("a span of each service").1;
    let (send, push) = (span("kschat-send"), span("kschat-consumer"));
    assert_eq!((send.name.as_str(), hex(&send.parent_span_id).as_str()), ("send", PARENT));
    assert_eq!((push.name.as_str(), &push.parent_span_id), ("push", &send.span_id));
    assert_eq!((send.trace_state.as_str(), push.trace_state.as_str()), ("vendor=1", "vendor=1"));
    assert_eq!(handed_on, format!("00-{trace}-{}-01", hex(&send.span_id)));
    let everything = deployment.collector.everything();
    for secret in [&a, &b, "a secret text", "eyJ", SECRET] {
        assert!(!everything.contains(secret), "{secret} is in a span");
    }
}

/// Whether a scraper finds that series with at least that value.
fn is_at_least(metrics: &str, series: &str, least: f64) -> bool {
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<f64>().ok());
    value.is_some_and(|value| value >= least)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_in_which_messages_wait_for_somebody_who_is_away_is_counted() {
    let deployment = deployment().await;
    let mut alice = connect(&deployment.address.websocket, &somebody("alice")).await;
    assert_eq!(alice.send(&somebody("bob"), "for later").await["ER"], 0);
    let counted = async || is_at_least(&deployment.consumer.metrics().await, "kschat_queues{kind=\"backlog\"}", 1.0);
    // The owner counts every half a minute.
    eventually_within(Duration::from_secs(60), "the backlog is counted", counted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_finds_every_hop_and_what_is_there_just_now() {
    let deployment = deployment().await;
    let (a, b) = (somebody("alice"), somebody("bob"));
    let mut alice = connect(&deployment.address.websocket, &a).await;
    let mut bob = connect(&deployment.address.websocket, &b).await;
    assert_eq!(alice.send(&b, "hello").await["ER"], 0);
    assert_eq!(bob.texts(1).await, ["hello"]);
    for (name, least) in [
        ("kschat_queue_wait_seconds_count", 1.0),
        ("kschat_push_seconds_count", 1.0),
        ("kschat_ack_seconds_count", 1.0),
        ("kschat_push_seconds_bucket{le=\"+Inf\"}", 1.0),
        ("kschat_frame_messages_count", 1.0),
        ("kschat_pushes_total{outcome=\"reached\"}", 1.0),
        ("kschat_online_users", 2.0),
        ("kschat_connections", 2.0),
        ("kschat_queues{kind=\"online\"}", 2.0),
        ("kschat_unacked_messages", 0.0),
        ("kschat_partitions_owned", 16.0),
        ("kschat_members", 1.0),
    ] {
        let what = format!("{name} is at least {least}");
        eventually(&what, async || is_at_least(&deployment.consumer.metrics().await, name, least)).await;
    }
    let text = deployment.consumer.metrics().await;
    assert!(text.contains("# HELP kschat_push_seconds ") && text.contains("# TYPE kschat_push_seconds histogram"));
    assert!(!text.contains(&a) && !text.contains(&b), "a user is in a label:\n{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_writes_one_line_of_metrics_before_it_answers() {
    let deployment = deployment().await;
    let (a, b) = (somebody("alice"), somebody("bob"));
    let mut alice = connect(&deployment.address.websocket, &a).await;
    let sends = || {
        let lines = deployment.lines().0.into_iter();
        lines.filter(|line| line["kschat_sends_total"] == 1 && line["er"] == "13").collect::<Vec<_>>()
    };
    let before = sends().len();
    assert_eq!(alice.send_as(&b, "one", "1").await["ER"], 0);
    assert_eq!(alice.send_as(&b, "another", "1").await["ER"], 13);
    eventually("the line is printed", async || sends().len() == before + 1).await;
    let accepted = deployment.lines().0.into_iter().find(|line| line["kschat_accept_seconds"].is_array());
    let accepted = accepted.expect("an accepted send is timed");
    assert_eq!((&accepted["er"], &accepted["kschat_sends_total"]), (&json!("0"), &json!(1)));
    let directives = accepted["_aws"]["CloudWatchMetrics"].as_array().expect("directives");
    assert!(directives.iter().all(|directive| directive["Namespace"] == "kschat"), "{directives:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_stops_writes_its_last_metrics() {
    let mut services = Services::start().await;
    services.telemetry.push(("METRICS_EMF", "true".to_owned()));
    // It owns partitions; nobody is there to push to.
    let consumer = Consumer::start(&services, "http://127.0.0.1:9/dev").await;
    let owns_all = async || consumer.metrics().await.contains("kschat_partitions_owned 16");
    eventually("it owns every partition", owns_all).await;
    consumer.process.signal("TERM");
    eventually("the consumer has ended", async || !consumer.process.is_running()).await;
    let printed = consumer.process.printed();
    let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let told = lines.filter(|line| line["_aws"]["CloudWatchMetrics"].is_array() && line["kschat_members"] == 1.0);
    assert_eq!(told.count(), 1, "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_carry_the_ids_of_request_and_message_and_nothing_secret() {
    let deployment = deployment().await;
    let (a, b) = (somebody("alice"), somebody("bob"));
    let mut alice = connect(&deployment.address.websocket, &a).await;
    let mut bob = connect(&deployment.address.websocket, &b).await;
    let reply = alice.send_as(&b, "a secret text", "1").await;
    assert_eq!(bob.texts(1).await, ["a secret text"]);
    assert_eq!(alice.send_as(&b, "another text", "1").await["ER"], 13);
    alice.say("garbage").await;
    assert_eq!(alice.next("RESPERROR").await["ER"], 6);

    let id = reply["MID"].as_str().expect("an id");
    let is_about = |line: &Value| line["spans"].as_array().is_some_and(|spans| spans.iter().any(|s| s["mId"] == id));
    let about = || {
        let (functions, consumer) = deployment.lines();
        (functions.into_iter().find(is_about), consumer.into_iter().find(is_about))
    };
    eventually("both tell of the message", async || matches!(about(), (Some(_), Some(_)))).await;
    let accepted = about().0.expect("the function tells of the message");
    let span = &accepted["spans"][0];
    assert_eq!((&span["name"], &span["route"]), (&json!("send"), &json!("send")), "{accepted}");
    for line in deployment.lines().0.iter().filter(|line| line["target"].as_str().is_some_and(is_ours)) {
        let span = &line["spans"][0];
        assert!(span["request_id"].is_string(), "a line without a request id: {line}");
        // The harness calls each function once by itself, without an edge.
        let is_from_edge = span["route"].is_string();
        assert_eq!(span["api_request_id"].is_string(), is_from_edge, "{line}");
    }
    for printed in [deployment.lambda.printed(), deployment.consumer.process.printed()] {
        for secret in ["eyJ", SECRET, &a, &b, "secret text", "another text"] {
            assert!(!printed.contains(secret), "{secret} was logged:\n{printed}");
        }
    }
}

fn is_ours(target: &str) -> bool {
    target.starts_with("kschat")
}
