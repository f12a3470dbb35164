//! Telemetry of a deployment: metrics, logs, traces.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::time::Duration;

use kschat::stack::Options;
use kschat_tests::{
    collector::{Collector, hex},
    eventually, eventually_within,
    lambda::Lambda,
    stack::{Address, Consumer, SECRET, Services, connect, options, run_for_all, unique_user},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// Parent span of a client's send.
const PARENT: &str = "00f067aa0ba902b7";

/// A deployment with all telemetry enabled.
struct Deployment {
    address: Address,
    lambda: Lambda,
    consumer: Consumer,
    collector: Collector,
    _services: Services,
}

/// One deployment for all tests of this binary: each test has users of its own. It has a separate runtime, as that of a
/// test ends with the test.
async fn deployment() -> &'static Deployment {
    static DEPLOYMENT: OnceCell<Deployment> = OnceCell::const_new();
    DEPLOYMENT.get_or_init(start).await
}

async fn start() -> Deployment {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async move {
            sender.send(Collector::start().await).expect("the receiver is alive");
            std::future::pending::<()>().await;
        });
    });
    let collector = receiver.recv().expect("a collector");
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
    /// JSON log lines of functions and consumer so far.
    fn lines(&self) -> (Vec<Value>, Vec<Value>) {
        let read = |printed: String| printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (read(self.lambda.printed()), read(self.consumer.process.output()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn message_produces_one_trace_end_to_end() {
    let deployment = deployment().await;
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = connect(&deployment.address.websocket, &a).await;
    let mut bob = connect(&deployment.address.websocket, &b).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let frame = json!({ "action": "send", "uId": a, "pId": b, "msg": "a secret text", "rno": "1",
        "traceparent": format!("00-{trace}-{PARENT}-01"), "tracestate": "vendor=1" });
    alice.send_text(frame.to_string()).await;
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

/// Whether that metric series has at least this value.
fn is_at_least(metrics: &str, series: &str, least: f64) -> bool {
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<f64>().ok());
    value.is_some_and(|value| value >= least)
}

#[tokio::test(flavor = "multi_thread")]
async fn backlog_queues_are_counted() {
    let deployment = deployment().await;
    let mut alice = connect(&deployment.address.websocket, &unique_user("alice")).await;
    alice.deliver(&unique_user("bob"), "for later").await;
    let counted = async || is_at_least(&deployment.consumer.metrics().await, "kschat_queues{kind=\"backlog\"}", 1.0);
    // The owner counts every half minute.
    eventually_within(Duration::from_secs(300), "the backlog is counted", counted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_exposes_every_metric() {
    let deployment = deployment().await;
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = connect(&deployment.address.websocket, &a).await;
    let mut bob = connect(&deployment.address.websocket, &b).await;
    alice.deliver(&b, "hello").await;
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
async fn invocation_writes_metrics_before_response() {
    let deployment = deployment().await;
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = connect(&deployment.address.websocket, &a).await;
    let sends = || {
        let lines = deployment.lines().0.into_iter();
        lines.filter(|line| line["kschat_sends_total"] == 1 && line["er"] == "13").collect::<Vec<_>>()
    };
    let before = sends().len();
    assert_eq!(alice.send_as(&b, "one", "1").await["ER"], 0);
    assert_eq!(alice.send_as(&b, "another", "1").await["ER"], 13);
    eventually("the line is printed", async || sends().len() > before).await;
    let accepted = deployment.lines().0.into_iter().find(|line| line["kschat_accept_seconds"].is_array());
    let accepted = accepted.expect("an accepted send is timed");
    assert_eq!((&accepted["er"], &accepted["kschat_sends_total"]), (&json!("0"), &json!(1)));
    let directives = accepted["_aws"]["CloudWatchMetrics"].as_array().expect("directives");
    assert!(directives.iter().all(|directive| directive["Namespace"] == "kschat"), "{directives:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_shutdown_writes_final_metrics() {
    let mut services = Services::start().await;
    services.telemetry.push(("METRICS_EMF", "true".to_owned()));
    // It owns partitions, and has nobody to push to.
    let consumer = Consumer::start(&services, "http://127.0.0.1:9/dev").await;
    let owns_all = async || consumer.metrics().await.contains("kschat_partitions_owned 16");
    eventually("it owns every partition", owns_all).await;
    consumer.process.signal("TERM");
    eventually("the consumer has ended", async || !consumer.process.is_running()).await;
    let printed = consumer.process.output();
    let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let reports = lines.filter(|line| line["_aws"]["CloudWatchMetrics"].is_array() && line["kschat_members"] == 1.0);
    // One more comes each minute.
    assert!(reports.count() >= 1, "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_carry_ids_without_secrets() {
    let deployment = deployment().await;
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let mut alice = connect(&deployment.address.websocket, &a).await;
    let mut bob = connect(&deployment.address.websocket, &b).await;
    let reply = alice.send_as(&b, "a secret text", "1").await;
    assert_eq!(bob.texts(1).await, ["a secret text"]);
    assert_eq!(alice.send_as(&b, "another text", "1").await["ER"], 13);
    alice.send_text("garbage").await;
    assert_eq!(alice.next("RESPERROR").await["ER"], 6);

    let id = reply["MID"].as_str().expect("an id");
    let is_about = |line: &Value| line["spans"].as_array().is_some_and(|spans| spans.iter().any(|s| s["mId"] == id));
    let about = || {
        let (functions, consumer) = deployment.lines();
        (functions.into_iter().find(is_about), consumer.into_iter().find(is_about))
    };
    eventually("both tell of the message", async || matches!(about(), (Some(_), Some(_)))).await;
    let accepted = about().0.expect("the function reports the message");
    let span = &accepted["spans"][0];
    assert_eq!((&span["name"], &span["route"]), (&json!("send"), &json!("send")), "{accepted}");
    for line in deployment.lines().0.iter().filter(|line| line["target"].as_str().is_some_and(is_ours)) {
        let span = &line["spans"][0];
        assert!(span["request_id"].is_string(), "a line without a request id: {line}");
        // The harness warms each function up once, without an edge.
        let is_from_edge = span["route"].is_string();
        assert_eq!(span["api_request_id"].is_string(), is_from_edge, "{line}");
    }
    for printed in [deployment.lambda.printed(), deployment.consumer.process.output()] {
        for secret in ["eyJ", SECRET, &a, &b, "secret text", "another text"] {
            assert!(!printed.contains(secret), "{secret} was logged:\n{printed}");
        }
    }
}

fn is_ours(target: &str) -> bool {
    target.starts_with("kschat")
}
