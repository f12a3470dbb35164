//! What a consumer's death costs, and what a user: `cargo run --release -p kschat-tests --example figures -- --help`.

#![expect(clippy::expect_used, reason = "what is not as expected ends the measurement")]
#![expect(clippy::print_stdout, reason = "the figures are for a person at a terminal")]

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use futures_util::{StreamExt, stream};
use kschat_adapters::{
    install_crypto_provider,
    rabbitmq::{Publishing, QueueSettings},
};
use kschat_core::{Clock, Partition, Partitions, SystemClock, ports::Publisher};
use kschat_protocol::{JsonId, Message, MessageId, Status, UserId};
use kschat_tests::{
    client::token,
    edge::raw_handshake,
    eventually, free_port,
    process::{Process, binary},
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

/// Handshakes, and messages on their way to the broker, at once.
const AT_ONCE: usize = 64;

/// How long any probe may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// For so long a consumer is frozen to see whom it serves: shorter than the broker's patience.
const GLANCE: Duration = Duration::from_secs(2);

/// Partitions that each of two consumers owns once they have shared them, more or less.
const SHARE: RangeInclusive<usize> = 7..=9;

/// Open files that are needed besides one for each user.
const OTHER_FILES: u64 = 200;

/// What every probe's text begins with; a number follows.
const PROBE: &[u8] = b"probe-";

/// Measure a deployment of real RabbitMQ, Redis, consumers and an edge, each a process of its own, with many users.
#[derive(Parser)]
#[command(name = "figures")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// How long it takes until those whom a killed consumer has served hear again, with another one at its side.
    Failover {
        /// Users who are online.
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        users: usize,
        /// How often one is killed.
        #[arg(long, value_name = "N", default_value_t = 3)]
        rounds: u32,
    },
    /// How much memory a consumer needs for each user who is online and idle.
    Memory {
        /// Users who are online.
        #[arg(long, value_name = "N", default_value_t = 1_000)]
        users: usize,
    },
}

/// A probe that has come: its number, to whom, and when.
type Arrival = (u32, usize, Instant);

struct Deployment {
    services: Services,
    address: String,
    users: Vec<UserId>,
    publishing: Publishing,
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
            assert!(edge.is_running(), "the edge has ended:\n{}", edge.printed());
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
            publishing: Publishing::new(broker, Partitions::default(), QueueSettings::default()),
            arrivals,
            arrived,
            _edge: edge,
            _folder: folder,
        }
    }

    async fn consumer(&self) -> Consumer {
        Consumer::start(&self.services, &format!("http://{}/dev", self.address)).await
    }

    /// Connects everybody, and says how fast that was.
    async fn connect(&self) {
        let began = Instant::now();
        let all = self.users.iter().enumerate().map(|(n, user)| self.connect_one(n, user));
        let mut connecting = stream::iter(all).buffer_unordered(AT_ONCE);
        let (mut count, step) = (0, (self.users.len() / 10).max(1));
        while connecting.next().await.is_some() {
            count += 1;
            if count % step == 0 {
                println!("  {count} users connected after {:.1} s", began.elapsed().as_secs_f64());
            }
        }
    }

    async fn connect_one(&self, n: usize, user: &UserId) {
        let offer = format!("Sec-WebSocket-Protocol: kschat.v2, bearer.{}\r\n", token(SECRET, user.as_str()));
        let (socket, answer) = raw_handshake(&self.address, "/dev", &offer).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "refused: {answer}");
        tokio::spawn(listen(socket, n, self.arrived.clone()));
    }

    /// Waits until a consumer takes from each user's queue.
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
                    // The owner is about to make it; the refusal has closed the channel.
                    Err(_) => channel = broker.create_channel().await.expect("a channel"),
                }
                assert!(began.elapsed() < PATIENCE, "a user is not served");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Sends each of those users a probe.
    async fn probe(&self, number: u32, users: &[usize]) {
        let sent = stream::iter(users).map(|n| self.probe_one(number, *n)).buffer_unordered(AT_ONCE);
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
            via: None,
        };
        self.publishing.publish(user, &message).await.expect("the broker takes it");
    }

    /// When the probe of that number has come, by user: of all of them, or of those to whom it comes in time.
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
        // Who has not come by then is of interest, too.
        let _ = timeout(patience, hearing).await;
        heard
    }
}

/// Tells of every probe that comes.
async fn listen(mut socket: TcpStream, user: usize, arrived: UnboundedSender<Arrival>) {
    let (mut buffer, mut length) = ([0; 2048], 0);
    while let Ok(more @ 1..) = socket.read(&mut buffer[length..]).await {
        let text = &buffer[..length + more];
        for at in 0..text.len() {
            let digits = text.get(at + PROBE.len()..at + PROBE.len() + 6);
            if let Some(digits) = digits.filter(|_| text[at..].starts_with(PROBE))
                && let Some(number) = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok())
            {
                let _ = arrived.send((number, user, Instant::now()));
            }
        }
        // A probe may come in two pieces.
        let kept = text.len().min(PROBE.len() + 5);
        let from = text.len() - kept;
        buffer.copy_within(from..from + kept, 0);
        length = kept;
    }
}

/// The partitions that a consumer owns: whoever hears nothing while it is frozen.
async fn owned_by(consumer: &Consumer, deployment: &mut Deployment, number: u32) -> BTreeSet<Partition> {
    let partitions = Partitions::default();
    let mut one_of_each = BTreeMap::new();
    for (n, user) in deployment.users.iter().enumerate() {
        one_of_each.entry(partitions.of(user)).or_insert(n);
    }
    let users: Vec<usize> = one_of_each.values().copied().collect();
    consumer.process.signal("STOP");
    deployment.probe(number, &users).await;
    let heard = deployment.hear(number, users.len(), GLANCE).await;
    consumer.process.signal("CONT");
    one_of_each.into_iter().filter(|(_, n)| !heard.contains_key(n)).map(|(partition, _)| partition).collect()
}

async fn failover(users: usize, rounds: u32) {
    let mut deployment = Deployment::start(users).await;
    let (mut doomed, mut other) = (deployment.consumer().await, deployment.consumer().await);
    deployment.connect().await;
    deployment.everybody_is_served().await;
    let mut number = 0;
    for round in 1..=rounds {
        let owned = loop {
            number += 1;
            let owned = owned_by(&doomed, &mut deployment, number).await;
            if SHARE.contains(&owned.len()) {
                break owned;
            }
            println!("  the one to be killed owns {} partitions so far", owned.len());
            sleep(GLANCE).await;
        };
        // Until what was frozen is thawed and heard.
        sleep(GLANCE).await;
        let is_affected = |n: &usize| owned.contains(&Partitions::default().of(&deployment.users[*n]));
        let mut affected: Vec<usize> = (0..users).filter(is_affected).collect();
        fastrand::shuffle(&mut affected);
        number += 1;
        let killed = Instant::now();
        doomed.process.kill();
        deployment.probe(number, &affected).await;
        let published = killed.elapsed();
        let heard = deployment.hear(number, affected.len(), PATIENCE).await;
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
    sleep(GLANCE).await;
    let before = consumer.process.resident_bytes();
    deployment.connect().await;
    deployment.everybody_is_served().await;
    // Until what was under way is done.
    sleep(GLANCE * 2).await;
    let after = consumer.process.resident_bytes();
    println!(
        "{users} users online and idle: the consumer holds {:.1} MiB, and {:.1} MiB without any: {:.0} bytes a user",
        after as f64 / f64::from(1 << 20),
        before as f64 / f64::from(1 << 20),
        after.saturating_sub(before) as f64 / users as f64,
    );
}

#[tokio::main]
async fn main() {
    install_crypto_provider();
    match Arguments::parse().what {
        What::Failover { users, rounds } => failover(users, rounds).await,
        What::Memory { users } => memory(users).await,
    }
}
