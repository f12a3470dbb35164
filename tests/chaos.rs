//! Load with injected faults. The long run is `cargo run --release -p kschat-tests --example chaos -- --help`.

#![expect(clippy::print_stdout, reason = "the output explains a failed test")]

use std::time::Duration;

use kschat_tests::chaos::{
    Mode, Options, Verdict,
    faults::Class::{self, *},
    run,
};

/// Fixed, so that failures are reproducible; long runs use random seeds.
const SEED: u64 = 1;

fn options(seed: u64, mode: Mode, classes: Vec<Class>) -> Options {
    Options {
        seed,
        classes,
        mode,
        pause: Duration::from_millis(500)..Duration::from_millis(2_500),
        messages: None,
        users: 20,
        rate: Some(100.0),
        consumers: 2,
        lambda: false,
    }
}

async fn verdict(options: Options) -> Verdict {
    let verdict = run(options, |line| println!("{line}")).await;
    println!("{verdict}");
    verdict
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_class_loses_no_message() {
    let classes =
        vec![ConsumerKill, ConsumerStop, ConsumerFreeze, BrokerKill, RegistryFlush, PostSwallow, PostFail, ClientCut];
    let count = classes.len();
    let verdict = verdict(options(SEED, Mode::Alone, classes)).await;
    assert!(verdict.is_clean() && verdict.strikes.len() == count, "{verdict}");
    let report = &verdict.outcome.report;
    assert!(report.reconnects > 0 && (report.retries > 0 || report.gaps > 0), "nothing went wrong: {verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixture_of_faults_costs_no_message() {
    let mode = Mode::Mixed(Some(Duration::from_secs(45)));
    let verdict = verdict(options(SEED, mode, Class::all(false))).await;
    assert!(verdict.is_clean(), "{verdict}");
    // A broker's restart takes most of the time on a slow machine.
    assert!(verdict.strikes.len() >= 4, "there was not much trouble: {verdict}");
}
