//! The functions as Lambda runs them: binaries that poll a Runtime API, one event at a time, and are frozen in between.

use std::time::Duration;

use kschat::stack::{Options, Stack};
use kschat_tests::{
    client::{Client, Refused, token},
    eventually,
    lambda::Lambda,
    stack::{self, Consumer, SECRET, Services, connect, options, unique_user},
};

/// Heartbeat of the broker, set in the URL to keep the test short.
const HEARTBEAT: Duration = Duration::from_secs(2);

struct Deployment {
    services: Services,
    lambda: Lambda,
    stack: Stack,
    consumer: Consumer,
}

impl Deployment {
    async fn start() -> Self {
        let mut services = Services::start().await;
        services.heartbeat = Some(HEARTBEAT);
        let lambda = Lambda::start(&services.variables()).await;
        let options = Options { functions: Some(lambda.url()), consumer: false, ..options() };
        let stack = stack::start(options).await;
        let consumer = Consumer::start(&services, &stack.callback_url()).await;
        Self { services, lambda, stack, consumer }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lambda_functions_serve_chat() {
    let deployment = Deployment::start().await;
    let url = deployment.stack.websocket_url();
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    alice.deliver(&b, "hello").await;
    assert_eq!(bob.texts(1).await, ["hello"]);
    bob.close().await;
    for text in ["one", "two", "three"] {
        alice.deliver(&b, text).await;
    }
    let mut bob = connect(&url, &b).await;
    assert_eq!(bob.texts(3).await, ["one", "two", "three"]);

    let forged = token("another secret", &a);
    assert_eq!(Client::connect_v2(&url, &forged, &a).await.err(), Some(Refused(401)));
    bob.send_text(format!(r#"{{"action":"send","uId":"{a}","pId":"{b}","msg":"x","rno":"1"}}"#)).await;
    assert_eq!(bob.next("RESPSEND").await["ER"], 5);
    bob.send_text("garbage").await;
    assert_eq!(bob.next("RESPERROR").await["ER"], 6);

    for printed in [deployment.lambda.printed(), deployment.consumer.process.output()] {
        assert!(!printed.contains("eyJ") && !printed.contains(SECRET), "a secret was logged:\n{printed}");
        assert!(!printed.contains(&a) && !printed.contains(&b), "a user id was logged:\n{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn function_survives_freeze_and_broker_restart() {
    let mut deployment = Deployment::start().await;
    let url = deployment.stack.websocket_url();
    let (a, b) = (unique_user("alice"), unique_user("bob"));
    let (mut alice, mut bob) = (connect(&url, &a).await, connect(&url, &b).await);
    alice.deliver(&b, "before").await;
    assert_eq!(bob.texts(1).await, ["before"]);

    // Long enough for the broker to close the connection of the frozen function.
    deployment.lambda.signal("send", "STOP");
    tokio::time::sleep(HEARTBEAT * 4).await;
    deployment.lambda.signal("send", "CONT");
    alice.deliver(&b, "thawed").await;
    assert_eq!(bob.texts(1).await, ["thawed"]);

    deployment.services.rabbitmq.kill();
    alice.expect_broker_unavailable().await;
    deployment.services.rabbitmq.run().await;
    eventually("a message is accepted again", async || alice.send(&b, "after").await["ER"] == 0).await;
    assert_eq!(bob.texts(1).await, ["after"]);
}
