//! Load with an oracle.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use kschat::stack::Options;
use kschat_edge::Settings;
use kschat_load::{Dialect, Pattern, Plan, Until, run};
use kschat_tests::stack::{self, SECRET, embedded, options};

fn plan(url: String) -> Plan {
    let (until, settle) = (Until::Messages(1_000), Duration::from_secs(60));
    Plan { url, secret: SECRET.to_owned(), users: 20, until, settle, ..Plan::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_load_pattern_runs_clean() {
    let stack = embedded().await;
    for (pattern, devices) in [
        (Pattern::Pairs, 2),
        (Pattern::OneToMany, 1),
        (Pattern::ManyToOne, 1),
        (Pattern::Offline, 1),
        (Pattern::Burst, 1),
    ] {
        let size = "10..2000".parse().expect("a range");
        let plan = Plan { pattern, devices, size, burst: 25, ..plan(stack.websocket_url()) };
        let outcome = run(plan, |_| {}).await.expect("the load runs");
        assert!(outcome.clean && outcome.report.received == 1_000, "{pattern:?}\n{}", outcome.report);
        let drawn: u64 = outcome.timeline.points().map(|point| point.messages).sum();
        assert_eq!(drawn, 1_000, "every message has its place in time");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn socketio_clients_lose_nothing_when_cut() {
    let stack = embedded().await;
    for (pattern, devices) in [(Pattern::Pairs, 2), (Pattern::Offline, 1), (Pattern::Burst, 1)] {
        let plan = Plan { dialect: Dialect::Socketio, pattern, devices, burst: 25, ..plan(stack.websocket_url()) };
        let cutter = plan.cutter.clone();
        let cuts = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            cutter.cut(0.5);
        };
        let outcome = tokio::join!(run(plan, |_| {}), cuts).0.expect("the load runs");
        assert!(outcome.clean && outcome.report.received == 1_000, "{pattern:?}\n{}", outcome.report);
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn run_duration_survives_cut_connections() {
    let stack = embedded().await;
    let until = Until::Elapsed(Duration::from_secs(3));
    let plan = Plan { until, rate: Some(200.0), ..plan(stack.websocket_url()) };
    let cutter = plan.cutter.clone();
    // Once all are connected: only then do they send.
    let is_cut = AtomicBool::new(false);
    let report = run(plan, |report| {
        if report.accepted > 0 && !is_cut.swap(true, Ordering::Relaxed) {
            cutter.cut(1.0);
        }
    });
    let report = report.await.expect("the load runs").report;
    // A busy machine sends fewer than 600 in time, and never many more.
    assert!(report.is_clean() && (20..=620).contains(&report.accepted), "{report}");
    assert!(report.reconnects >= 20, "no client was disconnected: {report}");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oracle_detects_lost_message() {
    let faults = vec!["post=swallow".parse().expect("a rule")];
    let edge = Settings { faults, ..Settings::default() };
    let stack = stack::start(Options { edge, ..options() }).await;
    let (until, settle) = (Until::Messages(20), Duration::from_secs(20));
    let plan = Plan { until, settle, ..plan(stack.websocket_url()) };
    let report = run(plan, |_| {}).await.expect("the load runs").report;
    assert_eq!((report.accepted, report.received, report.lost, report.is_clean()), (20, 0, 20, false));
    stack.stop().await;
}
