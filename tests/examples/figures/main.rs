//! Measures fail-over time, memory per user, and the cost of a post and of an invocation: `cargo run --release -p kschat-tests --example figures -- --help`.

#![expect(clippy::expect_used, reason = "an unmet expectation ends the measurement")]
#![expect(clippy::print_stdout, reason = "the figures are for a person at a terminal")]

mod send;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use futures_util::{StreamExt, stream};
use kschat_adapters::{
    api_gateway::ApiGateway,
    install_crypto_provider,
    rabbitmq::{QueueSettings, RabbitMqPublisher},
};
use kschat_core::{
    Clock, Partition, Partitions, SystemClock,
    ports::{ConnectionsApi, Publisher},
};
use kschat_protocol::{ConnectionId, JsonId, Message, MessageId, ProtocolVersion, Status, UserId};
use kschat_tests::{
    client::token,
    edge::raw_handshake,
    eventually, free_port,
    process::{Process, binary, own_cpu_time},
    stack::{Consumer, SECRET, Services},
};
use lapin::{options::QueueDeclareOptions, types::FieldTable};
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{sleep, timeout},
};

/// Maximum concurrent handshakes, and messages in flight to the broker.
const MAX_CONCURRENT_USERS: usize = 64;

/// Timeout of a probe.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a consumer is frozen to find its partitions: shorter than the broker's heartbeat timeout.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Partitions that each of two consumers owns after a rebalance, approximately.
const EXPECTED_PARTITION_SHARE: RangeInclusive<usize> = 7..=9;

/// Open files besides those of the users.
const OTHER_FILES: u64 = 200;

/// Prefix of every probe's text; a number follows.
const PROBE_PREFIX: &[u8] = b"probe-";

/// Measure a deployment of real RabbitMQ, Redis, consumers and an edge, each a separate process, with many users.
#[derive(Parser)]
#[command(name = "figures")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Measure the time until users of a killed consumer receive messages again, with another consumer running.
    Failover {
        /// Number of online users.
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        users: usize,
        /// Number of kills.
        #[arg(long, value_name = "N", default_value_t = 3)]
        rounds: u32,
    },
    /// Measure a consumer's memory per online, idle user.
    Memory {
        /// Number of online users.
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        users: usize,
    },
    /// Measure the CPU time of a post to the connections API, by the AWS SDK and as the consumer does it.
    Posts {
        /// Number of posts in a round.
        #[arg(long, value_name = "N", default_value_t = 5_000)]
        posts: usize,
        /// Number of rounds, each with both.
        #[arg(long, value_name = "N", default_value_t = 5)]
        rounds: usize,
    },
    /// Measure the function `send` alone: its start, its first and its warm invocations.
    Send {
        /// Number of warm invocations in a round.
        #[arg(long, value_name = "N", default_value_t = 2_000)]
        invocations: usize,
        /// Number of rounds, each with a new process.
        #[arg(long, value_name = "N", default_value_t = 3)]
        rounds: usize,
    },
    /// Measure what a consumer needs to bring a backlog to its user.
    Drain {
        /// Number of messages.
        #[arg(long, value_name = "N", default_value_t = 20_000)]
        messages: usize,
        /// Number of rounds.
        #[arg(long, value_name = "N", default_value_t = 3)]
        rounds: usize,
    },
}

/// A received probe: its number, user and time.
type Arrival = (u32, usize, Instant);

struct Deployment {
    services: Services,
    address: String,
    users: Vec<UserId>,
    publishing: RabbitMqPublisher,
    arrivals: UnboundedReceiver<Arrival>,
    arrived: UnboundedSender<Arrival>,
    _edge: Process,
    _folder: TempDir,
}

impl Deployment {
    async fn start(users: usize) -> Self {
        let files = rlimit::increase_nofile_limit(u64::MAX).expect("the limit of open files can be raised");
        assert!(files >= users as u64 + OTHER_FILES, "only {files} open files are allowed: too few for {users} users");
        let services = Services::start().await;
        let folder = TempDir::with_prefix("kschat-figures-").expect("a temporary folder");
        let address = format!("127.0.0.1:{}", free_port());
        let edge = Process::start(
            &binary("kschat"),
            &["--listen", &address, "--no-consumer"],
            &services.variables(),
            &folder.path().join("edge.log"),
        );
        eventually("the edge listens", async || {
            assert!(edge.is_running(), "the edge has ended:\n{}", edge.output());
            TcpStream::connect(&address).await.is_ok()
        })
        .await;
        let name = |n| UserId::try_from(format!("user-{n}")).expect("a valid user");
        let broker = services.rabbitmq.url().parse().expect("a broker URL");
        let (arrived, arrivals) = unbounded_channel();
        Self {
            services,
            address,
            users: (0..users).map(name).collect(),
            publishing: RabbitMqPublisher::new(broker, Partitions::default(), QueueSettings::default()),
            arrivals,
            arrived,
            _edge: edge,
            _folder: folder,
        }
    }

    async fn consumer(&self) -> Consumer {
        Consumer::start(&self.services, &format!("http://{}/dev", self.address)).await
    }

    /// Connects all users with clients of that version, and reports the rate. They acknowledge nothing.
    async fn connect(&self, version: ProtocolVersion) {
        let began = Instant::now();
        let all = self.users.iter().enumerate().map(|(n, user)| self.connect_one(n, user, version));
        let mut connecting = stream::iter(all).buffer_unordered(MAX_CONCURRENT_USERS);
        let (mut count, step) = (0, (self.users.len() / 10).max(1));
        while connecting.next().await.is_some() {
            count += 1;
            if count % step == 0 {
                println!("  {count} users connected after {:.1} s", began.elapsed().as_secs_f64());
            }
        }
    }

    async fn connect_one(&self, n: usize, user: &UserId, version: ProtocolVersion) {
        let token = token(SECRET, user.as_str());
        let (target, offer) = match version {
            ProtocolVersion::V1 => (format!("/dev?token={token}"), String::new()),
            ProtocolVersion::V2 => {
                ("/dev".to_owned(), format!("Sec-WebSocket-Protocol: kschat.v2, bearer.{token}\r\n"))
            }
        };
        let (socket, answer) = raw_handshake(&self.address, &target, &offer).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "refused: {answer}");
        tokio::spawn(listen(socket, n, self.arrived.clone()));
    }

    /// Waits until every user's queue has a consumer.
    async fn everybody_is_served(&self) {
        let properties = lapin::ConnectionProperties::default();
        let broker = lapin::Connection::connect(&self.services.rabbitmq.url(), properties).await;
        let broker = broker.expect("the broker answers");
        let mut channel = broker.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let began = Instant::now();
        for user in &self.users {
            loop {
                let name = format!("kschat.user.{}", user.as_str());
                let queue = channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await;
                match queue {
                    Ok(queue) if queue.consumer_count() > 0 => break,
                    Ok(_) => {}
                    // The owner is about to create it; the error has closed the channel.
                    Err(_) => channel = broker.create_channel().await.expect("a channel"),
                }
                assert!(began.elapsed() < FAILOVER_TIMEOUT, "a user is not served");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Sends a probe to each of these users.
    async fn probe(&self, number: u32, users: &[usize]) {
        let sent = stream::iter(users).map(|n| self.probe_one(number, *n)).buffer_unordered(MAX_CONCURRENT_USERS);
        sent.for_each(|()| std::future::ready(())).await;
    }

    async fn probe_one(&self, number: u32, n: usize) {
        let user = &self.users[n];
        let message = Message {
            from: JsonId::Text("prober".to_owned()),
            to: JsonId::from(user),
            msg: format!("probe-{number:06}"),
            status: Status::Accepted,
            time: SystemClock.now().millis(),
            id: MessageId::from(format!("probe-id-{number}-{n}")),
            rno: None,
            trace: None,
            room: None,
            sender_connection: None,
        };
        self.publishing.publish(user, &message).await.expect("the broker takes it");
    }

    /// Arrival times of that probe by user, until all have it or the timeout is over.
    async fn hear(&mut self, number: u32, count: usize, patience: Duration) -> BTreeMap<usize, Instant> {
        let mut heard = BTreeMap::new();
        let hearing = async {
            while heard.len() < count {
                let (probe, user, at) = self.arrivals.recv().await.expect("we hold a sender");
                if probe == number {
                    heard.entry(user).or_insert(at);
                }
            }
        };
        // Users who have not received it by then are of interest, too.
        let _ = timeout(patience, hearing).await;
        heard
    }
}

/// Reports every probe that arrives.
async fn listen(mut socket: TcpStream, user: usize, arrived: UnboundedSender<Arrival>) {
    let (mut buffer, mut length) = ([0; 2048], 0);
    while let Ok(more @ 1..) = socket.read(&mut buffer[length..]).await {
        let text = &buffer[..length + more];
        for at in 0..text.len() {
            let digits = text.get(at + PROBE_PREFIX.len()..at + PROBE_PREFIX.len() + 6);
            if let Some(digits) = digits.filter(|_| text[at..].starts_with(PROBE_PREFIX))
                && let Some(number) = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok())
            {
                let _ = arrived.send((number, user, Instant::now()));
            }
        }
        // A probe may arrive in two pieces.
        let kept = text.len().min(PROBE_PREFIX.len() + 5);
        let from = text.len() - kept;
        buffer.copy_within(from..from + kept, 0);
        length = kept;
    }
}

/// The partitions of a consumer: those whose users receive nothing while it is frozen.
async fn owned_by(consumer: &Consumer, deployment: &mut Deployment, number: u32) -> BTreeSet<Partition> {
    let partitions = Partitions::default();
    let mut one_of_each = BTreeMap::new();
    for (n, user) in deployment.users.iter().enumerate() {
        one_of_each.entry(partitions.of(user)).or_insert(n);
    }
    let users: Vec<usize> = one_of_each.values().copied().collect();
    consumer.process.signal("STOP");
    deployment.probe(number, &users).await;
    let heard = deployment.hear(number, users.len(), PROBE_TIMEOUT).await;
    consumer.process.signal("CONT");
    one_of_each.into_iter().filter(|(_, n)| !heard.contains_key(n)).map(|(partition, _)| partition).collect()
}

async fn failover(users: usize, rounds: u32) {
    let mut deployment = Deployment::start(users).await;
    let (mut doomed, mut other) = (deployment.consumer().await, deployment.consumer().await);
    deployment.connect(ProtocolVersion::V2).await;
    deployment.everybody_is_served().await;
    let mut number = 0;
    for round in 1..=rounds {
        let owned = loop {
            number += 1;
            let owned = owned_by(&doomed, &mut deployment, number).await;
            if EXPECTED_PARTITION_SHARE.contains(&owned.len()) {
                break owned;
            }
            println!("  the one to be killed owns {} partitions so far", owned.len());
            sleep(PROBE_TIMEOUT).await;
        };
        // Until the thawed consumer has caught up.
        sleep(PROBE_TIMEOUT).await;
        let is_affected = |n: &usize| owned.contains(&Partitions::default().of(&deployment.users[*n]));
        let mut affected: Vec<usize> = (0..users).filter(is_affected).collect();
        fastrand::shuffle(&mut affected);
        number += 1;
        let killed = Instant::now();
        doomed.process.kill();
        deployment.probe(number, &affected).await;
        let published = killed.elapsed();
        let heard = deployment.hear(number, affected.len(), FAILOVER_TIMEOUT).await;
        let mut times: Vec<f64> = heard.values().map(|at| (*at - killed).as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        let silent = affected.len() - times.len();
        let at = |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1)));
        let [median, p99, last] = [0.5, 0.99, 1.0].map(|share| at(share).copied().unwrap_or(f64::NAN));
        println!(
            "round {round}: {users} users online, {} served by the killed one; all probes with the broker after \
             {:.0} ms; heard again after {median:.0} ms (median), {p99:.0} ms (99 %), {last:.0} ms (last); {silent} \
             not at all",
            affected.len(),
            published.as_secs_f64() * 1e3,
        );
        doomed = deployment.consumer().await;
        std::mem::swap(&mut doomed, &mut other);
    }
}

async fn memory(users: usize) {
    let deployment = Deployment::start(users).await;
    let consumer = deployment.consumer().await;
    sleep(PROBE_TIMEOUT).await;
    let before = consumer.process.resident_bytes();
    deployment.connect(ProtocolVersion::V2).await;
    deployment.everybody_is_served().await;
    // Until all work in flight is done.
    sleep(PROBE_TIMEOUT * 2).await;
    let after = consumer.process.resident_bytes();
    println!(
        "{users} users online and idle: the consumer holds {:.1} MiB, and {:.1} MiB without any: {:.0} bytes a user",
        after as f64 / f64::from(1 << 20),
        before as f64 / f64::from(1 << 20),
        after.saturating_sub(before) as f64 / users as f64,
    );
}

/// Users who share a backlog.
const DRAINED_USERS: usize = 50;

async fn drain(messages: usize, rounds: usize) {
    let mut deployment = Deployment::start(DRAINED_USERS).await;
    deployment.connect(ProtocolVersion::V1).await;
    let consumer = deployment.consumer().await;
    deployment.everybody_is_served().await;
    let each = messages / DRAINED_USERS;
    let all: Vec<usize> = (0..DRAINED_USERS).collect();
    for round in 0..rounds {
        // While it is stopped, the messages wait.
        consumer.process.signal("STOP");
        let first = round * each;
        for number in first..first + each {
            deployment.probe(u32::try_from(number).expect("few messages"), &all).await;
        }
        let (before, began) = (consumer.process.cpu_time(), Instant::now());
        consumer.process.signal("CONT");
        let mut heard = 0;
        while heard < each * DRAINED_USERS {
            let arrived = timeout(FAILOVER_TIMEOUT, deployment.arrivals.recv()).await.expect("a message arrives");
            let (number, ..) = arrived.expect("we hold a sender");
            heard += usize::from(number as usize >= first);
        }
        let span = began.elapsed().as_secs_f64();
        let cpu = (consumer.process.cpu_time() - before).as_secs_f64() * 1e6 / heard as f64;
        println!(
            "round {}: {:.0} messages per second, {cpu:.0} µs of CPU time per message",
            round + 1,
            heard as f64 / span
        );
    }
}

/// Posts in flight.
const MAX_CONCURRENT_TEST_POSTS: usize = 16;

async fn posts(posts: usize, rounds: usize) {
    let folder = TempDir::with_prefix("kschat-figures-").expect("a temporary folder");
    let address = format!("127.0.0.1:{}", free_port());
    let settings = [("JWT_SECRET", SECRET.to_owned()), ("RUST_LOG", "warn".to_owned())];
    let edge = Process::start(&binary("kschat"), &["--listen", &address], &settings, &folder.path().join("edge.log"));
    eventually("the edge listens", async || {
        assert!(edge.is_running(), "the edge has ended:\n{}", edge.output());
        TcpStream::connect(&address).await.is_ok()
    })
    .await;
    let offer = format!("Sec-WebSocket-Protocol: kschat.v2, bearer.{}\r\n", token(SECRET, "alice"));
    let (mut socket, answer) = raw_handshake(&address, "/dev", &offer).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "refused: {answer}");
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while socket.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    });
    let state = reqwest::get(format!("http://{address}/_edge/state")).await.expect("the edge answers");
    let state = state.text().await.expect("text");
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    let connection = state["connections"][0]["connectionId"].as_str().expect("a connection").to_owned();
    let url = format!("http://{address}/dev");
    let ours = ApiGateway::new(&url.parse().expect("a callback URL")).await.expect("TLS works");
    let sdk = sdk_client(&url);
    let frame = "x".repeat(200);
    for round in 1..=rounds {
        let id = ConnectionId::try_from(connection.clone()).expect("an id");
        let by_sdk = cpu_per_call(posts, || async {
            let post = sdk.post_to_connection().connection_id(&connection).data(frame.clone().into_bytes().into());
            post.send().await.expect("the edge takes it");
        })
        .await;
        let by_us = cpu_per_call(posts, || async { ours.post(&id, &frame).await.expect("the edge takes it") }).await;
        println!(
            "round {round}: {by_sdk:.0} µs of CPU time per post by the SDK, {by_us:.0} µs by the consumer's adapter"
        );
    }
}

/// The SDK with the settings that the consumer had for posts.
fn sdk_client(url: &str) -> aws_sdk_apigatewaymanagement::Client {
    use aws_sdk_apigatewaymanagement::config::{
        BehaviorVersion, Builder, Credentials, Region, StalledStreamProtectionConfig, retry::RetryConfig,
    };
    let config = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(url)
        .region(Region::from_static("local"))
        .credentials_provider(Credentials::new("local", "local", None, None, "local edge"))
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    aws_sdk_apigatewaymanagement::Client::from_conf(config.build())
}

/// Microseconds of this process's CPU time per call.
async fn cpu_per_call<F: Future<Output = ()>>(calls: usize, call: impl Fn() -> F) -> f64 {
    let before = own_cpu_time();
    stream::iter(0..calls).map(|_| call()).buffer_unordered(MAX_CONCURRENT_TEST_POSTS).collect::<Vec<()>>().await;
    (own_cpu_time() - before).as_secs_f64() * 1e6 / calls as f64
}

#[tokio::main]
async fn main() {
    install_crypto_provider();
    match Arguments::parse().what {
        What::Failover { users, rounds } => failover(users, rounds).await,
        What::Memory { users } => memory(users).await,
        What::Posts { posts: count, rounds } => posts(count, rounds).await,
        What::Send { invocations, rounds } => send::send(invocations, rounds).await,
        What::Drain { messages, rounds } => drain(messages, rounds).await,
    }
}
