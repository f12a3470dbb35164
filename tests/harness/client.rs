//! A WebSocket client that says exactly what a test tells it to.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use kschat_adapters::jwt::sign_seed_token;
use kschat_core::{Clock, SystemClock};
use kschat_protocol::{MessageId, Position, UserId};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest, protocol::CloseFrame},
};

use crate::PATIENCE;

/// A token for a user, good for an hour.
#[must_use]
pub fn token(secret: &str, user: &str) -> String {
    token_for(secret, user, Duration::from_secs(3600))
}

/// A token for a user, good for so long, to the second.
#[must_use]
pub fn token_for(secret: &str, user: &str, span: Duration) -> String {
    let user = UserId::try_from(user).expect("a valid user");
    let now = SystemClock.now();
    sign_seed_token(secret, &user, now, now.plus(span)).expect("it can sign")
}

/// One open socket of one user.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    user: String,
    sent: u64,
    /// Messages that were shown.
    shown: HashSet<Identity>,
    /// Came while the test waited for another kind of frame.
    aside: VecDeque<Value>,
    /// Whether it acknowledges what it gets, as clients of version 2 do.
    acks: bool,
    /// The last message that came, whether or not the test has looked at it, and where it stood.
    last: Option<(String, Position)>,
}

/// The place that a field names.
fn position(field: &Value) -> Option<Position> {
    field.as_str()?.parse().ok()
}

/// What two items agree in that are the same message: who has sent it, and what its id says of the send.
pub type Identity = (String, String);

/// What tells an item of a `RESPRECEIVER` from those that are not the same message.
#[must_use]
pub fn identity(item: &Value) -> Identity {
    let sender = item["uId"].as_str().map_or_else(|| item["uId"].to_string(), str::to_owned);
    let id = MessageId::from(item["mId"].as_str().expect("mId is text").to_owned());
    (sender, id.send().to_owned())
}

/// The status with which a handshake was refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub u16);

impl Client {
    /// Connects as the seed does, with the token in the query.
    ///
    /// # Errors
    /// [`Refused`] by the edge.
    pub async fn connect(url: &str, query: &str, user: &str) -> Result<Self, Refused> {
        Self::open(format!("{url}?{query}"), None, user).await
    }

    /// Connects as a browser of version 2 does, with the token among the subprotocols.
    ///
    /// # Errors
    /// [`Refused`] by the edge.
    pub async fn connect_v2(url: &str, token: &str, user: &str) -> Result<Self, Refused> {
        Self::open(url.to_owned(), Some(format!("kschat.v2, bearer.{token}")), user).await
    }

    async fn open(url: String, protocols: Option<String>, user: &str) -> Result<Self, Refused> {
        let mut request = url.into_client_request().expect("a URL");
        let is_v2 = protocols.is_some();
        if let Some(protocols) = protocols {
            request.headers_mut().insert("Sec-WebSocket-Protocol", protocols.parse().expect("a header"));
        }
        match timeout(PATIENCE, connect_async(request)).await.expect("no answer to the handshake") {
            Ok((socket, _)) => Ok(Self {
                socket,
                user: user.to_owned(),
                sent: 0,
                shown: HashSet::new(),
                aside: VecDeque::new(),
                acks: is_v2,
                last: None,
            }),
            Err(Error::Http(response)) => Err(Refused(response.status().as_u16())),
            Err(error) => panic!("the handshake failed: {error}"),
        }
    }

    /// Who it is.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Sends any text.
    pub async fn say(&mut self, text: impl Into<String>) {
        self.socket.send(Message::Text(text.into().into())).await.expect("the socket is open");
    }

    /// Sends a request, and waits for the answer of that event.
    pub async fn ask(&mut self, request: Value, event: &str) -> Value {
        self.say(request.to_string()).await;
        self.next(event).await
    }

    /// Sends a message under a fresh `rno`, and waits for the `RESPSEND` to it.
    pub async fn send(&mut self, to: &str, msg: &str) -> Value {
        self.sent += 1;
        let rno = format!("{}-{}", self.user, self.sent);
        self.send_as(to, msg, &rno).await
    }

    /// Sends a message under that `rno`, and waits for the `RESPSEND` to it.
    pub async fn send_as(&mut self, to: &str, msg: &str, rno: &str) -> Value {
        let frame = json!({ "action": "send", "uId": self.user, "pId": to, "msg": msg, "rno": rno, "time": 1 });
        self.say(frame.to_string()).await;
        self.next("RESPSEND").await
    }

    /// Sends to nobody in particular until the broker is known to be down: a message that was on its way when
    /// it went is reported as unconfirmed, all later ones as refused, each in less than three seconds.
    ///
    /// # Panics
    /// When it is told anything else, or too late.
    pub async fn hears_that_the_broker_is_down(&mut self) {
        loop {
            let began = Instant::now();
            let refused = self.send("nobody", "is there a broker?").await;
            assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
            assert!(refused["RC"] == 1 && !refused["RANDOMNO"].is_null(), "{refused}");
            match refused["ER"].as_u64() {
                Some(2) => return,
                Some(18) => {}
                _ => panic!("{refused}"),
            }
        }
    }

    /// Waits for the next frame of that event; others are kept for later.
    ///
    /// # Panics
    /// When none comes.
    pub async fn next(&mut self, event: &str) -> Value {
        self.try_next(event, PATIENCE).await.unwrap_or_else(|| panic!("no {event} came to {}", self.user))
    }

    /// The next frame of that event, if one comes in time.
    pub async fn try_next(&mut self, event: &str, patience: Duration) -> Option<Value> {
        if let Some(at) = self.aside.iter().position(|frame| frame["event"] == event) {
            return self.aside.remove(at);
        }
        let wait = async {
            loop {
                let frame = self.frame().await?;
                if frame["event"] == event {
                    return Some(frame);
                }
                self.aside.push_back(frame);
            }
        };
        timeout(patience, wait).await.ok().flatten()
    }

    /// The next frame whatever it is; `None` when the socket has ended.
    pub async fn frame(&mut self) -> Option<Value> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Text(text)) => {
                    let frame = serde_json::from_str(text.as_str()).expect("a frame is JSON");
                    if self.takes(&frame).await {
                        return Some(frame);
                    }
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// From now on it acknowledges nothing.
    pub fn fall_silent(&mut self) {
        self.acks = false;
    }

    /// Acknowledges messages; says no to a frame before which it has missed one, and asks for that again.
    async fn takes(&mut self, frame: &Value) -> bool {
        if !self.acks || frame["event"] != "RESPRECEIVER" {
            return true;
        }
        let here = self.last.as_ref().map(|(_, position)| *position);
        if position(&frame["PREV"]).is_some_and(|previous| !here.is_some_and(|here| here.is_beyond(previous))) {
            let _ = self.socket.send(Message::text(self.ack(true).to_string())).await;
            return false;
        }
        let last = frame["MSG"].as_array().into_iter().flatten().last().and_then(|item| item["mId"].as_str());
        if let Some(last) = last.map(str::to_owned).zip(position(&frame["POS"])) {
            self.last = Some(last);
            // The socket may have ended by now: then it is not acknowledged.
            let _ = self.socket.send(Message::text(self.ack(false).to_string())).await;
        }
        true
    }

    fn ack(&self, again: bool) -> Value {
        let mut ack = json!({ "action": "ack" });
        if let Some((message, position)) = &self.last {
            ack["mId"] = json!(message);
            ack["pos"] = json!(position);
        }
        if again {
            ack["again"] = json!(true);
        }
        ack
    }

    /// The items of the next `RESPRECEIVER`.
    pub async fn items(&mut self) -> Vec<Value> {
        let frame = self.next("RESPRECEIVER").await;
        frame["MSG"].as_array().expect("MSG is an array").clone()
    }

    /// Waits for that many messages and returns their texts, without those it has shown before.
    pub async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        while texts.len() < count {
            for item in self.items().await {
                if self.shown.insert(identity(&item)) {
                    texts.push(item["msg"].as_str().expect("msg is text").to_owned());
                }
            }
        }
        texts
    }

    /// Waits for the close frame and returns its code.
    ///
    /// # Panics
    /// When none comes.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("no close frame came") {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("it ended without a close frame: {other:?}"),
            }
        }
    }

    /// Sends all of these without waiting for replies, begins to listen only after a while, and returns as many
    /// `RESPSEND`s.
    pub async fn flood(self, frames: Vec<String>) -> Vec<Value> {
        let (mut sink, mut stream) = self.socket.split();
        let count = frames.len();
        let talk = async {
            for frame in frames {
                sink.send(Message::Text(frame.into())).await.expect("the socket is open");
            }
        };
        let listen = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut replies = Vec::new();
            while replies.len() < count {
                match timeout(PATIENCE, stream.next()).await.expect("a reply to each frame") {
                    Some(Ok(Message::Text(text))) => {
                        let frame: Value = serde_json::from_str(text.as_str()).expect("a frame is JSON");
                        replies.extend((frame["event"] == "RESPSEND").then_some(frame));
                    }
                    Some(Ok(_)) => {}
                    ended => panic!("the socket has ended: {ended:?}"),
                }
            }
            replies
        };
        tokio::join!(talk, listen).1
    }

    /// Sends a close frame with that code.
    pub async fn say_goodbye(&mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "bye".into() };
        self.socket.send(Message::Close(Some(frame))).await.expect("the socket is open");
    }

    /// Sends a binary frame.
    pub async fn say_binary(&mut self, bytes: Vec<u8>) {
        self.socket.send(Message::Binary(bytes.into())).await.expect("the socket is open");
    }

    /// Leaves in good order.
    pub async fn close(mut self) {
        // An ack and the end of its connection are handled side by side: the ack must come first.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let _ = self.socket.close(None).await;
        // Until the edge has seen it, too.
        while let Ok(Some(Ok(_))) = timeout(PATIENCE, self.socket.next()).await {}
    }
}
