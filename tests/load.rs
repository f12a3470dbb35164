//! Load with an oracle, while things go wrong.

use std::time::Duration;

use kschat::{
    edge::Settings,
    load::{Pattern, Plan, run},
    stack::{Options, Stack},
};
use kschat_tests::stack::{Consumer, SECRET, Services, embedded, options};

fn plan(url: String) -> Plan {
    Plan {
        url,
        secret: SECRET.to_owned(),
        users: 20,
        devices: 1,
        messages: 1_000,
        rate: None,
        size: 100,
        pattern: Pattern::Pairs,
        settle: Duration::from_secs(60),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pattern_is_clean_when_nothing_goes_wrong() {
    let stack = embedded().await;
    for (pattern, devices) in
        [(Pattern::Pairs, 2), (Pattern::OneToMany, 1), (Pattern::ManyToOne, 1), (Pattern::Offline, 1)]
    {
        let plan = Plan { pattern, devices, ..plan(stack.websocket_url()) };
        let report = run(plan, |_| {}).await.expect("it runs");
        assert!(report.is_clean() && report.received == 1_000, "{pattern:?}\n{report}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oracle_sees_what_never_arrives() {
    let faults = vec!["post=swallow".parse().expect("a rule")];
    let edge = Settings { faults, ..Settings::default() };
    let stack = Stack::start(Options { edge, ..options() }).await.expect("it starts");
    let plan = Plan { messages: 20, settle: Duration::from_secs(3), ..plan(stack.websocket_url()) };
    let report = run(plan, |_| {}).await.expect("it runs");
    assert_eq!((report.accepted, report.received, report.lost, report.is_clean()), (20, 0, 20, false));
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_disordered_while_consumers_die_redis_forgets_and_the_edge_misbehaves() {
    let services = Services::start().await;
    let rules = ["post=swallow share=1%", "post=429 share=3%", "post=500 share=1%", "invoke=fail share=1% route=send"];
    let faults = rules.iter().map(|rule| rule.parse().expect("a rule")).collect();
    let edge = Settings { faults, ..Settings::default() };
    let options = Options { edge, backends: Some(services.backends()), consumer: false, ..options() };
    let stack = Stack::start(options).await.expect("it starts");
    let consumer = Consumer::start(&services, &stack.callback_url()).await;
    let chaos = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        services.redis.flush().await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        // As a power cut would, with messages on loan.
        drop(consumer);
        Consumer::start(&services, &stack.callback_url()).await
    };
    let plan = Plan { messages: 3_000, rate: Some(250.0), ..plan(stack.websocket_url()) };
    let (report, _consumer) = tokio::join!(run(plan, |_| {}), chaos);
    let report = report.expect("it runs");
    assert!(report.is_clean() && report.accepted == 3_000 && report.received == 3_000, "{report}");
    assert!(report.retries > 0 && report.gaps > 0, "nothing went wrong, so nothing was tested: {report}");
    stack.stop().await;
}
