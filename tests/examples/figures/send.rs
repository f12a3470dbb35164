//! The function `send` alone, behind a server that speaks the Runtime API of AWS Lambda.
//!
//! Source: AWS Lambda developer guide, "Using the Lambda runtime API".

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use kschat_adapters::{
    rabbitmq::{QueueSettings, RabbitMqPublisher},
    redis::RedisRegistry,
};
use kschat_core::{
    Clock, Partitions, Session, SystemClock,
    ports::{Admission, ConnectionRegistry, Publisher, QueueProvisioner},
};
use kschat_protocol::{ConnectionId, JsonId, Message, MessageId, ProtocolVersion, Status, UserId, dialect::Dialect};
use kschat_tests::{
    free_port,
    process::{Process, binary},
    stack::Services,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{
    Mutex,
    mpsc::{Receiver, Sender, channel},
};

const CONNECTION: &str = "L0SM9cOFvHcCIhw=";

/// How long a session is valid: longer than any measurement.
const SESSION_SPAN: Duration = Duration::from_secs(60 * 60);

/// The platform's side: hands out events, and takes the responses.
struct RuntimeApi {
    events: Mutex<Receiver<String>>,
    /// A function has asked for its first event.
    asked: Sender<()>,
    responses: Sender<Bytes>,
}

async fn next(State(api): State<Arc<RuntimeApi>>) -> Response {
    let _ = api.asked.try_send(());
    let Some(event) = api.events.lock().await.recv().await else { return StatusCode::GONE.into_response() };
    let deadline = SystemClock.now().plus(Duration::from_secs(60)).millis().to_string();
    let headers = [
        ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd"),
        ("lambda-runtime-deadline-ms", deadline.as_str()),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:123456789012:function:send"),
        ("lambda-runtime-trace-id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700"),
    ];
    (headers, event).into_response()
}

async fn take(State(api): State<Arc<RuntimeApi>>, body: Bytes) -> StatusCode {
    let _ = api.responses.send(body).await;
    StatusCode::ACCEPTED
}

/// The function, and the platform that invokes it.
struct Function {
    process: Process,
    events: Sender<String>,
    responses: Receiver<Bytes>,
    /// From the start of the process until it has asked for an event.
    init: Duration,
    _folder: TempDir,
}

impl Function {
    async fn start(services: &Services) -> Self {
        let (events, queued) = channel(1);
        let ((asked, mut first), (sent, responses)) = (channel(1), channel(1));
        let api = Arc::new(RuntimeApi { events: Mutex::new(queued), asked, responses: sent });
        let app = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(take))
            .with_state(api);
        let address = format!("127.0.0.1:{}", free_port());
        let listener = tokio::net::TcpListener::bind(&address).await.expect("a free port");
        tokio::spawn(async move { axum::serve(listener, app).await });
        let mut variables = services.variables();
        variables.extend([
            ("AWS_LAMBDA_RUNTIME_API", address),
            ("AWS_LAMBDA_FUNCTION_NAME", "send".to_owned()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256".to_owned()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "1".to_owned()),
            ("SEND_RATE", "off".to_owned()),
            ("REQUEST_RATE", "off".to_owned()),
            ("RUST_LOG", "warn".to_owned()),
        ]);
        let folder = TempDir::with_prefix("kschat-figures-").expect("a temporary folder");
        let began = Instant::now();
        let process = Process::start(&binary("send"), &[], &variables, &folder.path().join("send.log"));
        first.recv().await.expect("the function asks for an event");
        Self { process, events, responses, init: began.elapsed(), _folder: folder }
    }

    async fn invoke(&mut self, frame: &str) -> Duration {
        let event = json!({
            "requestContext": {
                "routeKey": "send", "eventType": "MESSAGE", "messageDirection": "IN", "stage": "dev",
                "connectedAt": 0, "requestTimeEpoch": 0, "requestId": "BFHPjHgpIAMF8ew=",
                "extendedRequestId": "BFHPjHgpIAMF8ew=", "connectionId": CONNECTION, "apiId": "abc",
                "identity": { "sourceIp": "192.0.2.1" }
            },
            "body": frame, "isBase64Encoded": false
        });
        let began = Instant::now();
        self.events.send(event.to_string()).await.expect("the function runs");
        let response = self.responses.recv().await.expect("a response");
        let took = began.elapsed();
        assert!(response.starts_with(b"{\"statusCode\":200"), "{}", String::from_utf8_lossy(&response));
        took
    }

    /// Median time and CPU time of warm invocations.
    async fn warm(&mut self, count: usize, frame: impl Fn(usize) -> String) -> (Duration, Duration) {
        let before = self.process.cpu_time();
        let mut times = Vec::new();
        for n in 0..count {
            times.push(self.invoke(&frame(n)).await);
        }
        let calls = u32::try_from(count).expect("a number of calls");
        (median(times), (self.process.cpu_time() - before) / calls)
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Registers the connection that all frames come from.
async fn register(services: &Services, user: &UserId) {
    let url = services.redis.url().parse().expect("a Redis URL");
    let registry = RedisRegistry::new(url, Partitions::default(), SESSION_SPAN);
    let now = SystemClock.now();
    let session = Session {
        user: user.clone(),
        version: ProtocolVersion::V2,
        connected: now,
        expires: Some(now.plus(SESSION_SPAN)),
        dialect: Dialect::Raw,
        rooms: None,
        source: None,
    };
    let connection = ConnectionId::try_from(CONNECTION.to_owned()).expect("a connection id");
    let admission = Admission { replaced_user: None, limit: 1, rate: None, now };
    registry.create(&connection, &session, &admission).await.expect("Redis answers");
}

/// The median time of a confirmed publish alone, in this process.
async fn confirm_alone(publishing: &RabbitMqPublisher, user: &UserId, count: usize) -> Duration {
    let mut times = Vec::new();
    for n in 0..count {
        let message = Message {
            from: JsonId::Text("alice".to_owned()),
            to: JsonId::from(user),
            msg: "x".repeat(100),
            status: Status::Accepted,
            time: SystemClock.now().millis(),
            id: MessageId::from(format!("figure-{n}")),
            rno: None,
            trace: None,
            room: None,
            sender_connection: None,
        };
        let began = Instant::now();
        publishing.publish(user, &message).await.expect("the broker takes it");
        times.push(began.elapsed());
    }
    median(times)
}

/// Measures the start, the first and warm invocations.
pub(crate) async fn send(invocations: usize, rounds: usize) {
    let services = Services::start().await;
    let [alice, bob] = ["alice", "bob"].map(|name| UserId::try_from(name).expect("a valid user"));
    register(&services, &alice).await;
    let broker = services.rabbitmq.url().parse().expect("a broker URL");
    let publishing = RabbitMqPublisher::new(broker, Partitions::default(), QueueSettings::default());
    publishing.request_queue(&bob, &alice).await.expect("the broker works");
    for round in 1..=rounds {
        let mut function = Function::start(&services).await;
        let text = "x".repeat(100);
        let message = |n: usize| {
            let rno = format!("{round}-{n}");
            json!({ "action": "send", "uId": "alice", "pId": "bob", "msg": text, "rno": rno, "time": 1 }).to_string()
        };
        let first = function.invoke(&message(invocations)).await;
        let (warm, cpu) = function.warm(invocations, message).await;
        let (refused, refused_cpu) = function.warm(invocations, |_| r#"{"action":"send","uId":7"#.to_owned()).await;
        let confirm = confirm_alone(&publishing, &bob, invocations).await;
        println!(
            "round {round}: init {:.1?}, first invocation {first:.1?}; warm {warm:.0?} and {cpu:.0?} of CPU time, of \
             which the confirm alone takes {confirm:.0?}; a malformed frame {refused:.0?} and {refused_cpu:.0?}",
            function.init
        );
    }
}
