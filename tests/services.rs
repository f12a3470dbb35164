//! Trust of outgoing connections, and errors of services that reject us.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::{
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Router, routing::get};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use kschat_adapters::{
    config::Environment,
    install_crypto_provider,
    jwt::{JwtSettings, JwtVerifier, KeySource},
};
use kschat_core::ports::{TokenError, TokenVerifier};
use kschat_tests::{
    client::{Client, Refused},
    edge::EdgeUnderTest,
    edge::settings,
    eventually, free_port,
    process::{Process, binary},
    rabbitmq::RabbitMq,
    redis::Redis,
    stack::{Consumer, SECRET, Services, embedded},
    tls,
};
use serde_json::json;
use tempfile::TempDir;

fn port_of(url: &str) -> u16 {
    let port = url.rsplit(':').next().and_then(|rest| rest.split('/').next());
    port.and_then(|port| port.parse().ok()).expect("a port")
}

/// Settings of a consumer with all connections over TLS.
async fn over_tls(services: &Services, callback: &str) -> Vec<(&'static str, String)> {
    let (amqp, redis) =
        (tls::in_front_of(services.rabbitmq.port()).await, tls::in_front_of(services.redis.port()).await);
    let edge = tls::in_front_of(port_of(callback)).await;
    let stage = callback.rsplit('/').next().expect("a stage");
    vec![
        ("AMQP_URL", format!("amqps://guest:guest@localhost:{amqp}")),
        ("REDIS_URL", format!("rediss://localhost:{redis}")),
        ("CALLBACK_URL", format!("https://localhost:{edge}/{stage}/@connections")),
        ("AWS_ACCESS_KEY_ID", "nobody".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "nothing".to_owned()),
        ("AWS_REGION", "eu-west-1".to_owned()),
    ]
}

#[tokio::test]
async fn services_behind_a_private_authority_are_trusted_where_it_is_named() {
    let services = Services::start().await;
    let edge = EdgeUnderTest::start(settings()).await;
    let mut variables = over_tls(&services, &edge.callback()).await;
    variables.push(("SSL_CERT_FILE", tls::authority().display().to_string()));
    let consumer = Consumer::start_as(&variables).await;
    eventually("the connections API is reached", async || {
        consumer.process.output().contains("the connections API answers")
    })
    .await;
}

#[tokio::test]
async fn services_behind_a_private_authority_are_refused_where_nobody_has_named_it() {
    let services = Services::start().await;
    let edge = EdgeUnderTest::start(settings()).await;
    let folder = TempDir::with_prefix("kschat-tls-").expect("a temporary folder");
    let log = folder.path().join("consumer.log");
    let variables = over_tls(&services, &edge.callback()).await;
    let mut variables: Vec<_> = variables.into_iter().filter(|(name, _)| *name != "CALLBACK_URL").collect();
    variables.push(("HEALTH_ADDR", format!("127.0.0.1:{}", free_port())));
    variables.push(("CALLBACK_URL", edge.callback()));
    let consumer = Process::start(&binary("consumer"), &[], &variables, &log);
    eventually("the log says whom to trust", async || {
        let printed = consumer.output();
        printed.contains("UnknownIssuer") && printed.contains("SSL_CERT_FILE")
    })
    .await;
}

/// A signing key, and a token that it has signed.
fn signed() -> (EncodingKey, String) {
    let key = EncodingKey::from_ed_pem(include_bytes!("../shared/adapters/tests/keys/ed.pem")).expect("a key");
    let exp = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs() + 600;
    let claims = json!({ "data": { "id": "7" }, "exp": exp });
    let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &key).expect("a token");
    (key, token)
}

/// Verifies a token in a separate process, as trust roots are read once; returns whether it could fetch the keys.
fn verifies(issuer: &str, authority: Option<&Path>) -> bool {
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child.args(["--ignored", "--exact", "child_verifies_a_token"]).env("ISSUER", issuer);
    if let Some(authority) = authority {
        child.env("SSL_CERT_FILE", authority);
    }
    let output = child.output().expect("the command starts");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.contains("1 passed") || printed.contains("NoKeys"), "{printed}");
    output.status.success()
}

#[tokio::test]
#[ignore = "it is run by another test, with an issuer"]
async fn child_verifies_a_token() {
    install_crypto_provider();
    let issuer = Environment::read().raw("ISSUER").expect("an issuer").to_owned();
    let settings = JwtSettings {
        algorithm: "EdDSA".parse().expect("an algorithm"),
        keys: KeySource::JwksUrl(issuer),
        ..JwtSettings::v1(String::new())
    };
    let verified = JwtVerifier::new(&settings).expect("settings").verify(&signed().1).await;
    assert_eq!(verified.map(|_| ()), Ok::<(), TokenError>(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issuer_behind_a_private_authority_is_trusted_where_it_is_named() {
    let jwk = Jwk::from_encoding_key(&signed().0, Algorithm::EdDSA).expect("a key");
    let keys = json!({ "keys": [jwk] }).to_string();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let routes = Router::new().route("/keys", get(|| async { keys }));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let issuer = format!("https://localhost:{}/keys", tls::in_front_of(port).await);
    let trusted = issuer.clone();
    let verified =
        tokio::task::spawn_blocking(move || (verifies(&trusted, Some(&tls::authority())), verifies(&trusted, None)));
    assert_eq!(verified.await.expect("both have ended"), (true, false), "{issuer}");
}

/// Output of a process that exits by itself.
fn says(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    // A process that does not exit is killed, and its output fails the test.
    let mut command = Command::new("timeout");
    command.arg("120").arg(binary(program)).args(arguments).envs(variables.iter().copied());
    let output = command.output().expect("the command starts");
    assert!(!output.status.success());
    String::from_utf8([output.stdout, output.stderr].concat()).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_that_refuses_us_is_told_with_whom_it_refuses() {
    let (rabbitmq, redis) = tokio::join!(RabbitMq::start(), Redis::start());
    let password = redis.wants_password("hunter2").await;
    let (broker, registry) = (rabbitmq.url(), redis.url());
    let other_vhost = broker.replace("%2f", "nowhere");
    let unknown = rabbitmq.url_of("nobody", "hunter3");
    let outputs = tokio::task::spawn_blocking(move || {
        let stack = |amqp: &str, redis: &str| {
            says("kschat", &["--amqp-url", amqp, "--redis-url", redis, "--listen", "127.0.0.1:0"], &[])
        };
        let consumer = |redis: &str| {
            let health = format!("127.0.0.1:{}", free_port());
            let callback = ("CALLBACK_URL", "http://127.0.0.1:1/dev");
            says("consumer", &[], &[("AMQP_URL", &broker), ("REDIS_URL", redis), callback, ("HEALTH_ADDR", &health)])
        };
        let wrong = password.replace("hunter2", "hunter4");
        [
            (stack(&other_vhost, &password), "virtual host `nowhere`"),
            (stack(&unknown, &password), "user `nobody`"),
            (stack(&broker, &registry), "Redis wants a password"),
            (stack(&broker, &wrong), "user `default`"),
            (consumer(&registry), "Redis wants a password"),
            (consumer(&wrong), "user `default`"),
        ]
    });
    for (text, part) in outputs.await.expect("all have ended") {
        assert!(text.contains(part) && !text.contains("hunter") && !text.contains("does not answer"), "{part}: {text}");
    }
}

#[tokio::test]
async fn registry_that_dies_while_nobody_is_there_is_told() {
    let mut services = Services::start().await;
    let edge = EdgeUnderTest::start(settings()).await;
    let consumer = Consumer::start(&services, &edge.callback()).await;
    let is_up = async |up: &str| consumer.metrics().await.contains(&format!("kschat_registry_up {up}"));
    eventually("the gauge says that Redis is there", async || is_up("1").await).await;

    services.redis.kill();
    eventually("the consumer is not ready", async || consumer.health("ready").await == Some(503)).await;
    eventually("the gauge says that Redis is gone", async || is_up("0").await).await;
    let prints = async |words: &str| consumer.process.output().contains(words);
    eventually("the log says so, too", async || prints("the registry is out of reach").await).await;
    assert_eq!(consumer.health("live").await, Some(200));

    services.redis.run().await;
    consumer.is_ready().await;
    eventually("the gauge says that Redis is back", async || is_up("1").await).await;
    eventually("the log says so, too", async || prints("the registry answers again").await).await;
}

#[tokio::test]
async fn consumer_that_starts_says_in_few_lines_what_it_owns() {
    let services = Services::start().await;
    let edge = EdgeUnderTest::start(settings()).await;
    let consumer = Consumer::start(&services, &edge.callback()).await;
    eventually("it owns all", async || consumer.metrics().await.contains("kschat_partitions_owned 16")).await;
    let printed = consumer.process.output();
    // It acquires for a second at a time, on most machines all of them.
    let lines = printed.lines().filter(|line| line.contains("acquired")).count();
    assert!((1..8).contains(&lines), "{printed}");
}

#[tokio::test]
async fn callback_url_that_takes_no_push_is_told() {
    let services = Services::start().await;
    let edge = EdgeUnderTest::start(settings()).await;
    let other_stage = edge.callback().rsplit_once('/').expect("a stage").0.to_owned() + "/prod";
    for (callback, hint) in [(other_stage.as_str(), "CALLBACK_URL"), ("http://127.0.0.1:1/dev", "connections API")] {
        let consumer = Consumer::start(&services, callback).await;
        eventually("the consumer tells it", async || {
            let printed = consumer.process.output();
            printed.contains("no push arrives") && printed.contains(hint)
        })
        .await;
    }
}

#[tokio::test]
async fn stack_in_one_process_tells_its_health_and_metrics() {
    let folder = TempDir::with_prefix("kschat-stack-").expect("a temporary folder");
    let address = format!("127.0.0.1:{}", free_port());
    let settings = [("XDG_CONFIG_HOME", folder.path().display().to_string())];
    let log = folder.path().join("kschat.log");
    let stack = Process::start(&binary("kschat"), &["--listen", &address], &settings, &log);
    let get = async |path: &str| reqwest::get(format!("http://{address}{path}")).await;
    eventually("it is ready", async || {
        assert!(stack.is_running(), "{}", stack.output());
        get("/healthz/ready").await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    for path in ["/healthz", "/healthz/live"] {
        assert_eq!(get(path).await.expect("an answer").status(), 200, "{path}");
    }
    let refused = Client::connect(&format!("ws://{address}/dev"), "token=none", "alice").await;
    assert_eq!(refused.err(), Some(Refused(401)));
    let metrics = get("/metrics").await.expect("an answer");
    assert_eq!(metrics.headers()["content-type"], "text/plain; version=0.0.4");
    assert!(metrics.text().await.expect("text").contains(r#"kschat_connects_total{er="3"} 1"#));
    let through_a_proxy = reqwest::Client::new().get(format!("http://{address}/metrics")).header("via", "proxy");
    assert_eq!(through_a_proxy.send().await.expect("an answer").status(), 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_that_can_not_begin_ends_at_once_with_the_cause() {
    let stack = embedded().await;
    let url = stack.websocket_url();
    let over_tls = url.replace("ws://", "wss://");
    let by_http = url.replace("ws://", "http://");
    let other_stage = url.replace("/dev", "/prod");
    let outputs = tokio::task::spawn_blocking(move || {
        // By itself it would retry for a minute.
        let load = |url: &str, secret: &str| {
            let arguments = ["load", url, "--users", "2", "--messages", "2", "--settle", "60s", "--jwt-secret", secret];
            says("kschat", &arguments, &[])
        };
        let other_secret = "a secret that the functions do not know";
        [
            (load(&url, other_secret), "secret"),
            (load(&other_stage, SECRET), "stage"),
            (load(&over_tls, SECRET), "wss"),
            (load(&by_http, SECRET), "ws:// or wss://"),
            (load(&url, "with a line break\n"), "line break"),
        ]
    });
    for (text, part) in outputs.await.expect("all have ended") {
        assert!(text.starts_with("kschat: ") && text.contains(part), "{part}: {text:?}");
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_runs_as_a_cluster_is_refused_at_the_start() {
    let rabbitmq = RabbitMq::start().await;
    let folder = TempDir::with_prefix("kschat-cluster-").expect("a temporary folder");
    let (port, home) = (free_port().to_string(), folder.path().display().to_string());
    let bus = free_port().to_string();
    let arguments =
        ["--port", &port, "--bind", "127.0.0.1", "--dir", &home, "--cluster-enabled", "yes", "--cluster-port", &bus];
    let log = folder.path().join("server.log");
    let cluster = Process::start(Path::new("redis-server"), &arguments, &[], &log);
    eventually("the cluster listens", async || {
        assert!(cluster.is_running(), "{}", cluster.output());
        cluster.output().contains("Ready to accept connections")
    })
    .await;
    let (amqp, redis) = (rabbitmq.url(), format!("redis://127.0.0.1:{port}"));
    let outputs = tokio::task::spawn_blocking(move || {
        let health = format!("127.0.0.1:{}", free_port());
        let urls = [("AMQP_URL", amqp.as_str()), ("REDIS_URL", redis.as_str())];
        let callback = ("CALLBACK_URL", "http://127.0.0.1:1/dev");
        [
            says("consumer", &[], &[urls[0], urls[1], callback, ("HEALTH_ADDR", &health)]),
            says("kschat", &["--listen", "127.0.0.1:0"], &urls),
        ]
    });
    for text in outputs.await.expect("both have ended") {
        assert!(text.contains("cluster mode disabled"), "{text}");
    }
}
