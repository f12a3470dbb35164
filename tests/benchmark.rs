//! The benchmark works: every contender delivers every message. Nothing here asserts a speed.

use std::time::Duration;

use kschat_adapters::install_crypto_provider;
use kschat_tests::{
    benchmark::{Contender, Plan, measure},
    stack::Services,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_contender_delivers_every_message() {
    install_crypto_provider();
    let services = Services::start_for_benchmark().await;
    let plan = Plan { users: 4, span: Duration::from_secs(1), in_flight: vec![2], rate: 20.0 };
    for contender in [Contender::Guide, Contender::WebMqtt, Contender::V1, Contender::V2Split, Contender::SocketIo] {
        let outcome = measure(contender, &plan, &services).await;
        let counts = outcome.counts;
        assert!(counts.received > 0, "{contender:?}");
        // On a busy machine a send may be refused although its message arrives, as the broker misses a deadline.
        assert_eq!((counts.lost, counts.disordered), (0, 0), "{contender:?}: {counts:?}");
        assert!(counts.repeated <= counts.refused, "{contender:?}: {counts:?}");
        // Web-MQTT is part of the broker, and has no server of its own.
        let has_server = contender != Contender::WebMqtt;
        assert!(outcome.closed_loop[0].1.cpu[1] > 0.0, "{contender:?}: {outcome:?}");
        assert_eq!(outcome.memory > 0.0, has_server, "{contender:?}: {outcome:?}");
    }
}
