//! The Socket.IO clients of npm, each in a separate process controlled by a test.

use std::{collections::VecDeque, path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{EVENTUALLY_TIMEOUT, client::token, stack::SECRET};

/// A generation of the npm client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// socket.io-client 2.x.
    Two,
    /// socket.io-client 4.x.
    Four,
}

impl Generation {
    const fn name(self) -> &'static str {
        match self {
            Self::Two => "2",
            Self::Four => "4",
        }
    }
}

/// A client process.
pub struct SocketIo {
    _child: Child,
    commands: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    /// Events that arrived while the test waited for another one.
    aside: VecDeque<Value>,
    user: String,
}

/// Options of the guide's client, with the stage.
#[must_use]
pub fn guide(user: &str) -> Value {
    let query = format!("token={}&ksId={user}", token(SECRET, user));
    json!({ "path": "/dev", "transports": ["websocket"], "query": query })
}

impl SocketIo {
    /// Starts a client that joins the guide's namespace.
    pub fn start(generation: Generation, page: &str, user: &str, options: &Value, calls_back: bool) -> Self {
        Self::start_at(generation, &format!("{page}kschat"), user, options, calls_back)
    }

    /// Starts a client that connects to a URL.
    pub fn start_at(generation: Generation, url: &str, user: &str, options: &Value, calls_back: bool) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let node = here.join("../target/tools/bin/node");
        let script = here.join("clients/socketio.mjs");
        let missing = !node.is_file() || !here.join("clients/node_modules/socket.io-client-4").is_dir();
        assert!(!missing, "node or its modules are missing; `tests/run` installs what the tests need");
        let mut command = Command::new(node);
        command
            .arg(script)
            .args([generation.name(), url, &options.to_string()])
            .args(calls_back.then_some("--callback"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node can be started");
        let commands = child.stdin.take().expect("a pipe");
        let said = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { _child: child, commands, said, aside: VecDeque::new(), user: user.to_owned() }
    }

    /// Starts a client with the guide's options, and waits until it is connected.
    pub async fn connected(generation: Generation, page: &str, user: &str) -> Self {
        let mut client = Self::start(generation, page, user, &guide(user), false);
        client.next("connect").await;
        client
    }

    /// Sends it a command.
    pub async fn tell(&mut self, command: Value) {
        self.commands.write_all(format!("{command}\n").as_bytes()).await.expect("the client reads its input");
    }

    /// The argument of this user's `Send`.
    #[must_use]
    pub fn message(&self, to: &str, text: &str) -> Value {
        json!({ "uId": self.user, "pId": to, "msg": text, "rno": 42, "time": 1 })
    }

    /// Sends a message as the guide does, with a callback; returns the callback's argument.
    pub async fn send(&mut self, to: &str, text: &str) -> Value {
        let message = self.message(to, text);
        self.tell(json!({ "emit": ["Send", message], "ack": true })).await;
        self.next("ack").await["data"][0].clone()
    }

    /// The next event of that kind.
    ///
    /// # Panics
    /// On timeout.
    pub async fn next(&mut self, on: &str) -> Value {
        if let Some(at) = self.aside.iter().position(|said| said["on"] == on) {
            return self.aside.remove(at).expect("an index within the list");
        }
        let aside = &mut self.aside;
        let found = async {
            loop {
                let line = self.said.next_line().await.expect("text").expect("the client has ended");
                let said: Value = serde_json::from_str(&line).expect("JSON");
                if said["on"] == on {
                    return said;
                }
                aside.push_back(said);
            }
        };
        let found = timeout(EVENTUALLY_TIMEOUT, found).await;
        found.unwrap_or_else(|_| panic!("no {on} came, only {:?}", self.aside))
    }

    /// The texts of the next messages.
    pub async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        while texts.len() < count {
            let frame = self.next("RESPRECEIVER").await;
            let items = frame["data"]["MSG"].as_array().expect("messages").clone();
            texts.extend(items.iter().map(|item| item["msg"].as_str().expect("text").to_owned()));
        }
        texts
    }

    /// How often that event arrived while the test waited for another one.
    #[must_use]
    pub fn has_seen(&self, on: &str) -> usize {
        self.aside.iter().filter(|said| said["on"] == on).count()
    }
}
