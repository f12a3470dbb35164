//! An edge alone, with functions that tests script by what they send.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{SinkExt, StreamExt};
use kschat_edge::{
    Edge, Settings,
    functions::{Functions, InvokeError},
    routes::{Authorizer, Route, Routes},
    server::Server,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        self, Message,
        client::IntoClientRequest,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

use crate::{
    EVENTUALLY_TIMEOUT, eventually, free_port,
    process::{Process, binary},
};

/// An invocation of an [`EdgeUnderTest`]'s function: its name and event.
pub type Invocation = (String, Value);

/// Functions that follow instructions in the event.
#[derive(Default)]
pub struct ScriptedFunctions {
    handed: Mutex<Vec<Invocation>>,
    /// Notified by the test once an invocation that is told to `hold` may go on.
    gate: Notify,
}

/// The first value of a handshake's query parameter.
fn query<'a>(event: &'a Value, name: &str) -> Option<&'a str> {
    event["queryStringParameters"][name].as_str()
}

fn answer(status: u64, body: Option<&str>) -> Value {
    json!({ "statusCode": status, "body": body })
}

async fn connect(event: &Value, gate: &Notify) -> Result<Value, InvokeError> {
    if query(event, "crash").is_some() {
        return Err(InvokeError::Failed("on request".to_owned()));
    }
    assert!(query(event, "panic").is_none(), "on request");
    if query(event, "hold").is_some() {
        gate.notified().await;
    }
    if let Some(millis) = query(event, "wait") {
        tokio::time::sleep(Duration::from_millis(millis.parse().expect("a number"))).await;
    }
    let status = query(event, "refuse").map_or(200, |status| status.parse().expect("a status"));
    let offered = event["headers"]["Sec-WebSocket-Protocol"].as_str().unwrap_or_default();
    let headers = if offered.contains("chat.v1") { json!({ "Sec-WebSocket-Protocol": "chat.v1" }) } else { json!({}) };
    Ok(json!({ "statusCode": status, "headers": headers }))
}

/// A policy in the format of Lambda authorizers.
fn policy(effect: &str, event: &Value) -> Value {
    let statement = json!({ "Action": "execute-api:Invoke", "Effect": effect, "Resource": event["methodArn"] });
    json!({
        "principalId": "me",
        "policyDocument": { "Version": "2012-10-17", "Statement": [statement] },
        "context": { "tenant": "t1", "level": 7 },
    })
}

#[async_trait]
impl Functions for ScriptedFunctions {
    async fn invoke(&self, function: &str, event: Value) -> Result<Value, InvokeError> {
        self.handed.lock().expect("the lock is not poisoned").push((function.to_owned(), event.clone()));
        let text = event["body"].as_str().unwrap_or_default();
        let body: Value = serde_json::from_str(text).unwrap_or_default();
        match function {
            "connect" => connect(&event, &self.gate).await,
            "authorizer" => match query(&event, "token") {
                Some("good") => Ok(policy("Allow", &event)),
                Some("bad") => Ok(policy("Deny", &event)),
                _ => Err(InvokeError::Failed(r#"{"errorMessage":"Unauthorized"}"#.to_owned())),
            },
            "echo" => {
                if body["hold"] == true {
                    self.gate.notified().await;
                }
                tokio::time::sleep(Duration::from_millis(body["wait"].as_u64().unwrap_or_default())).await;
                Ok(answer(200, Some(text)))
            }
            "whoami" => {
                let id = json!({ "connectionId": event["requestContext"]["connectionId"] });
                Ok(answer(200, Some(&id.to_string())))
            }
            "fail" => Err(InvokeError::Failed("on request".to_owned())),
            // A common mistake: the body is not text.
            "malformed" => Ok(json!({ "statusCode": 200, "body": { "hello": "world" } })),
            // Another one: a field that a proxy response does not have.
            "extra" => Ok(json!({ "statusCode": 200, "ConnectionId": event["requestContext"]["connectionId"] })),
            "float" => Ok(json!({ "statusCode": 200.0, "body": "float" })),
            "large" => Ok(answer(200, Some(&"x".repeat(1_001)))),
            "verbose" => Err(InvokeError::Failed("so much to say ".repeat(10_000))),
            "leaky" => Err(InvokeError::Failed("no such user: eyJhbGciOiJIUzI1NiJ9.e30.x".to_owned())),
            "hang" => std::future::pending().await,
            _ => Ok(answer(200, None)),
        }
    }
}

/// Routes to all of [`ScriptedFunctions`].
#[must_use]
pub fn routes() -> Routes {
    let table = [
        ("$connect", Route::to("connect")),
        ("$disconnect", Route::to("disconnect")),
        ("$default", Route::answered_by("echo")),
        ("echo", Route::answered_by("echo")),
        ("whoami", Route::answered_by("whoami")),
        ("quiet", Route::to("echo")),
        ("fail", Route::to("fail")),
        ("malformed", Route::to("malformed")),
        ("extra", Route::to("extra")),
        ("float", Route::answered_by("float")),
        ("hang", Route::to("hang")),
        ("large", Route::answered_by("large")),
        ("verbose", Route::to("verbose")),
        ("leaky", Route::to("leaky")),
        ("ping", Route::mock(r#"{"pong":1}"#)),
    ];
    let table = table.map(|(key, route)| (key.to_owned(), route)).into();
    Routes { table, ..Routes::kschat() }
}

/// The same with an authorizer that requires a token.
#[must_use]
pub fn guarded_routes() -> Routes {
    let identity = vec!["route.request.querystring.token".to_owned()];
    Routes { authorizer: Some(Authorizer { function: "authorizer".to_owned(), identity }), ..routes() }
}

/// Settings with [`routes`].
#[must_use]
pub fn settings() -> Settings {
    Settings { routes: routes(), ..Settings::default() }
}

/// Settings with these fault rules.
#[must_use]
pub fn with_faults(rules: &[&str]) -> Settings {
    Settings { faults: rules.iter().map(|rule| rule.parse().expect("a rule")).collect(), ..settings() }
}

/// An edge on a free port of loopback.
pub struct EdgeUnderTest {
    /// Its address.
    pub address: SocketAddr,
    functions: Arc<ScriptedFunctions>,
    edge: Edge,
    _server: Server,
}

impl EdgeUnderTest {
    /// Starts an edge.
    pub async fn start(settings: Settings) -> Self {
        let functions = Arc::new(ScriptedFunctions::default());
        let edge = Edge::new(settings, functions.clone());
        let server = Server::start(([127, 0, 0, 1], 0).into(), edge.routes()).await.expect("the edge listens");
        Self { address: server.reachable(), functions, edge, _server: server }
    }

    /// WebSocket URL for clients.
    #[must_use]
    pub fn websocket(&self) -> String {
        format!("ws://{}/dev", self.address)
    }

    /// URL of the connections API.
    #[must_use]
    pub fn callback(&self) -> String {
        format!("http://{}/dev", self.address)
    }

    /// The connections API's URL of a connection.
    #[must_use]
    pub fn connection(&self, id: &str) -> String {
        format!("{}/@connections/{id}", self.callback())
    }

    /// Connects a client.
    pub async fn connect(&self) -> Socket {
        self.connect_with("", &[]).await.expect("the handshake succeeds")
    }

    /// Connects with this query and these headers; an error is the handshake's status.
    ///
    /// # Errors
    /// The status with which the handshake was refused.
    pub async fn connect_with(&self, query: &str, headers: &[(&'static str, &str)]) -> Result<Socket, u16> {
        self.connect_to(&format!("{}{query}", self.websocket()), headers).await
    }

    /// Connects to a URL.
    ///
    /// # Errors
    /// The status with which the handshake was refused.
    pub async fn connect_to(&self, url: &str, headers: &[(&'static str, &str)]) -> Result<Socket, u16> {
        let mut request = url.into_client_request().expect("a URL");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header"));
        }
        match connect_async(request).await {
            Ok((socket, response)) => {
                let header =
                    |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
                let (subprotocol, extensions) = (header("sec-websocket-protocol"), header("sec-websocket-extensions"));
                Ok(Socket { socket, subprotocol, extensions })
            }
            Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("no handshake: {error}"),
        }
    }

    /// All invocations so far.
    #[must_use]
    pub fn handed(&self) -> Vec<Invocation> {
        self.functions.handed.lock().expect("the lock is not poisoned").clone()
    }

    /// The events of one function, once there are this many.
    pub async fn events(&self, function: &str, count: usize) -> Vec<Value> {
        let mut found = Vec::new();
        eventually(&format!("{function} is called {count} times"), async || {
            found = self.handed().into_iter().filter(|(name, _)| name == function).map(|(_, event)| event).collect();
            found.len() >= count
        })
        .await;
        assert_eq!(found.len(), count, "{found:?}");
        found
    }

    /// Lets the invocation that holds go on.
    pub fn release(&self) {
        self.functions.gate.notify_one();
    }

    /// URL of the fault rules.
    #[must_use]
    pub fn faults(&self) -> String {
        format!("http://{}/_edge/faults", self.address)
    }

    /// How often fault rules have applied.
    pub async fn fault_hits(&self) -> u64 {
        let listed = reqwest::get(self.faults()).await.expect("an answer").text().await.expect("a body");
        let rules: Vec<Value> = serde_json::from_str(&listed).expect("JSON");
        rules.iter().map(|rule| rule["hits"].as_u64().expect("a number")).sum()
    }

    /// Shuts the edge down.
    pub async fn close_all(&self) {
        self.edge.close_all().await;
    }

    /// The ids of all connections.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.edge.ids()
    }
}

/// `kschat edge` as a separate process.
pub struct EdgeProcess {
    /// Its address.
    pub address: String,
    /// The process.
    pub process: Process,
    _folder: TempDir,
}

impl EdgeProcess {
    /// Starts it with these routes and arguments, and functions at this URL; returns once it listens.
    pub async fn start(functions: &str, routes: &str, more: &[&str]) -> Self {
        let folder = TempDir::with_prefix("kschat-edge-").expect("a temporary folder");
        let address = format!("127.0.0.1:{}", free_port());
        let mut arguments = vec!["edge", "--functions", functions, "--listen", &address, "--routes", routes];
        arguments.extend(more);
        let log = folder.path().join("edge.log");
        let process = Process::start(&binary("kschat"), &arguments, &[("RUST_LOG", "info".to_owned())], &log);
        eventually("the edge listens", async || {
            assert!(process.is_running(), "the edge has ended:\n{}", process.output());
            TcpStream::connect(&address).await.is_ok()
        })
        .await;
        Self { address, process, _folder: folder }
    }
}

/// Sends a raw handshake with additional header lines; returns the socket and the response head.
pub async fn raw_handshake(address: &str, path: &str, more: &str) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    );
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.expect("an answer"));
    }
    (socket, String::from_utf8(answer).expect("text"))
}

/// A client that exposes what is on the wire.
pub struct Socket {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The negotiated subprotocol.
    pub subprotocol: Option<String>,
    /// The negotiated extensions.
    pub extensions: Option<String>,
}

impl Socket {
    /// Sends a text.
    pub async fn say(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).await.expect("the socket is open");
    }

    /// Sends a text in this many frames of that size; the edge's reactions are read later.
    pub async fn say_in_fragments(&mut self, fragment: &str, count: usize) {
        for n in 0..count {
            let opcode = if n == 0 { Data::Text } else { Data::Continue };
            let frame = Frame::message(fragment.to_owned(), OpCode::Data(opcode), n + 1 == count);
            if self.socket.send(Message::Frame(frame)).await.is_err() {
                return;
            }
        }
    }

    /// Sends any other message.
    pub async fn send(&mut self, message: Message) {
        self.socket.send(message).await.expect("the socket is open");
    }

    /// The next text.
    ///
    /// # Panics
    /// On timeout.
    pub async fn text(&mut self) -> String {
        match self.next().await {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("no text came, but {other:?}"),
        }
    }

    /// The next text as JSON.
    pub async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).expect("a frame is JSON")
    }

    /// The next message other than an answer to our close.
    pub async fn next(&mut self) -> Message {
        let next = timeout(EVENTUALLY_TIMEOUT, self.socket.next()).await.expect("something comes");
        next.expect("the socket has not ended").expect("the socket works")
    }

    /// Whether nothing arrives for this time.
    pub async fn is_silent(&mut self, time: Duration) -> bool {
        timeout(time, self.socket.next()).await.is_err()
    }

    /// The edge's close code and reason.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match timeout(EVENTUALLY_TIMEOUT, self.socket.next()).await.expect("a close frame comes") {
                Some(Ok(Message::Close(Some(frame)))) => return (frame.code.into(), frame.reason.to_string()),
                Some(Ok(_)) => {}
                other => panic!("it ended without a close frame: {other:?}"),
            }
        }
    }

    /// The connection's id, as the functions see it.
    pub async fn id(&mut self) -> String {
        self.say(r#"{"action":"whoami"}"#).await;
        self.json().await["connectionId"].as_str().expect("text").to_owned()
    }
}
