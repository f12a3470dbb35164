//! A WebSocket client under full control of a test.

use std::{
    collections::{HashSet, VecDeque},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use kschat_adapters::jwt::sign_v1_token;
use kschat_client::{Ack, AckCursor, ClientFrame, ConnectRequest, SendRequest, ServerFrame};
use kschat_core::{Clock, SystemClock};
use kschat_protocol::{MessageId, UserId};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Error, Message, client::IntoClientRequest, protocol::CloseFrame},
};

use crate::{ANSWER_TIMEOUT, EVENTUALLY_TIMEOUT, eventually};

/// A token for a user, valid for an hour.
#[must_use]
pub fn token(secret: &str, user: &str) -> String {
    token_for(secret, user, Duration::from_secs(3600))
}

/// A token for a user, valid for this long, to the second.
#[must_use]
pub fn token_for(secret: &str, user: &str, span: Duration) -> String {
    let user = UserId::try_from(user).expect("a valid user");
    let now = SystemClock.now();
    sign_v1_token(secret, &user, now, now.plus(span)).expect("the secret signs")
}

/// An open socket of a user.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    user: String,
    /// Which of all clients it is: the devices of a user must not use the same `rno`.
    number: u64,
    sent: u64,
    /// Messages that it has shown.
    shown: HashSet<Identity>,
    /// Frames that arrived while the test waited for another kind.
    skipped: VecDeque<Value>,
    /// Whether it acknowledges messages, as clients of version 2 do.
    acks: bool,
    /// Which messages it has received, whether or not the test has read them.
    cursor: AckCursor,
}

static NEXT_CLIENT: AtomicU64 = AtomicU64::new(0);

/// So many requests, one after the other, take longer than an ack that was sent before them.
const ROUND_TRIPS_OF_AN_ACK: usize = 3;

/// Identity of a message: its sender, and the send part of its id.
pub type Identity = (String, String);

/// The identity of a `RESPRECEIVER` item.
#[must_use]
pub fn identity(item: &Value) -> Identity {
    let sender = item["uId"].as_str().map_or_else(|| item["uId"].to_string(), str::to_owned);
    let id = MessageId::from(item["mId"].as_str().expect("mId is text").to_owned());
    (sender, id.dedup_key().to_owned())
}

/// Status of a refused handshake.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub u16);

impl Client {
    /// Connects as a v1 client, with the token in the query.
    ///
    /// # Errors
    /// [`Refused`] by the edge.
    pub async fn connect(url: &str, query: &str, user: &str) -> Result<Self, Refused> {
        Self::open(&ConnectRequest::v1(url, query), user).await
    }

    /// Connects as a version-2 browser, with the token among the subprotocols.
    ///
    /// # Errors
    /// [`Refused`] by the edge.
    pub async fn connect_v2(url: &str, token: &str, user: &str) -> Result<Self, Refused> {
        Self::open(&ConnectRequest::v2(url, token), user).await
    }

    async fn open(request: &ConnectRequest, user: &str) -> Result<Self, Refused> {
        let mut http = request.url().into_client_request().expect("a URL");
        if let Some(subprotocols) = request.subprotocols() {
            http.headers_mut().insert("Sec-WebSocket-Protocol", subprotocols.parse().expect("a header"));
        }
        match timeout(EVENTUALLY_TIMEOUT, connect_async_with_config(http, None, true))
            .await
            .expect("no answer to the handshake")
        {
            Ok((socket, _)) => Ok(Self {
                socket,
                user: user.to_owned(),
                number: NEXT_CLIENT.fetch_add(1, Ordering::Relaxed),
                sent: 0,
                shown: HashSet::new(),
                skipped: VecDeque::new(),
                acks: request.acknowledges(),
                cursor: AckCursor::default(),
            }),
            Err(Error::Http(response)) => Err(Refused(response.status().as_u16())),
            Err(error) => panic!("the handshake failed: {error}"),
        }
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Sends a text.
    pub async fn send_text(&mut self, text: impl Into<String>) {
        self.socket.send(Message::Text(text.into().into())).await.expect("the socket is open");
    }

    /// Sends a request, and waits for the reply with that event.
    pub async fn ask(&mut self, request: Value, event: &str) -> Value {
        self.send_text(request.to_string()).await;
        self.next(event).await
    }

    /// Sends a message with a fresh `rno`, and waits for its `RESPSEND`.
    pub async fn send(&mut self, to: &str, msg: &str) -> Value {
        self.sent += 1;
        let rno = format!("{}-{}-{}", self.user, self.number, self.sent);
        self.send_as(to, msg, &rno).await
    }

    /// Sends a message that must be accepted; repeats it as [`Self::settle`] does.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn deliver(&mut self, to: &str, msg: &str) {
        let reply = self.settle(to, msg).await;
        assert_eq!(reply["ER"], 0, "{reply}");
    }

    /// Sends a message until its outcome is known, always under the same `rno`, as clients do: a busy machine may miss
    /// the deadlines of the functions.
    pub async fn settle(&mut self, to: &str, msg: &str) -> Value {
        self.sent += 1;
        let rno = format!("{}-{}-{}", self.user, self.number, self.sent);
        let mut reply = Value::Null;
        eventually("a send has an outcome", async || {
            reply = self.send_as(to, msg, &rno).await;
            // A version-1 message that may have been accepted must not be repeated.
            assert!(self.acks || reply["ER"] != 18, "{reply}");
            !matches!(reply["ER"].as_u64(), Some(2 | 17 | 18))
        })
        .await;
        reply
    }

    /// Sends a message with that `rno`, and waits for its `RESPSEND`.
    pub async fn send_as(&mut self, to: &str, msg: &str, rno: &str) -> Value {
        let (sender, recipient) = (self.user.clone(), to.to_owned());
        let send = SendRequest { sender, recipient, msg: msg.to_owned(), rno: rno.to_owned(), time: 1 };
        self.send_text(ClientFrame::Send(send).to_text()).await;
        self.next("RESPSEND").await
    }

    /// Sends until the broker is known to be down: a send in flight during the failure is reported as unconfirmed, all
    /// later ones as rejected, each by the functions' own deadline.
    ///
    /// # Panics
    /// On any other reply, or a late one.
    pub async fn expect_broker_unavailable(&mut self) {
        eventually("sends are refused", async || {
            let began = Instant::now();
            let refused = self.send("nobody", "is there a broker?").await;
            assert!(began.elapsed() < ANSWER_TIMEOUT, "it took {:?}", began.elapsed());
            assert!(refused["RC"] == 1 && !refused["RANDOMNO"].is_null(), "{refused}");
            match refused["ER"].as_u64() {
                Some(2) => true,
                Some(17 | 18) => false,
                _ => panic!("{refused}"),
            }
        })
        .await;
    }

    /// Waits for the next frame with that event; keeps others for later.
    ///
    /// # Panics
    /// On timeout.
    pub async fn next(&mut self, event: &str) -> Value {
        self.try_next(event, EVENTUALLY_TIMEOUT).await.unwrap_or_else(|| panic!("no {event} came to {}", self.user))
    }

    /// The next frame with that event, if it arrives in time.
    pub async fn try_next(&mut self, event: &str, patience: Duration) -> Option<Value> {
        if let Some(at) = self.skipped.iter().position(|frame| frame["event"] == event) {
            return self.skipped.remove(at);
        }
        let wait = async {
            loop {
                let frame = self.frame().await?;
                if frame["event"] == event {
                    return Some(frame);
                }
                self.skipped.push_back(frame);
            }
        };
        timeout(patience, wait).await.ok().flatten()
    }

    /// The next frame; `None` when the socket has ended.
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

    /// Stops acknowledging.
    pub fn stop_acking(&mut self) {
        self.acks = false;
    }

    /// Acknowledges messages. Rejects a frame whose predecessor is missing, and requests redelivery.
    async fn takes(&mut self, frame: &Value) -> bool {
        let ServerFrame::Messages(messages) = ServerFrame::read(frame) else { return true };
        if !self.acks {
            return true;
        }
        if !self.cursor.follows(&messages) {
            self.send_ack(self.cursor.redelivery_request()).await;
            return false;
        }
        if self.cursor.advance(&messages)
            && let Some(ack) = self.cursor.ack()
        {
            self.send_ack(ack).await;
        }
        true
    }

    async fn send_ack(&mut self, ack: Ack) {
        // The socket may have ended: then nothing is acknowledged.
        let _ = self.socket.send(Message::text(ClientFrame::Ack(ack).to_text())).await;
    }

    /// The next items that it has not shown yet: a late ack makes the server repeat what it covers.
    ///
    /// # Panics
    /// On timeout, also when only items come that it has shown.
    pub async fn items(&mut self) -> Vec<Value> {
        let unseen = async {
            loop {
                let mut items = self.received_items().await;
                items.retain(|item| self.shown.insert(identity(item)));
                if !items.is_empty() {
                    return items;
                }
            }
        };
        timeout(EVENTUALLY_TIMEOUT, unseen).await.expect("no new message came")
    }

    /// The items of the next `RESPRECEIVER`, also those that came before.
    pub async fn received_items(&mut self) -> Vec<Value> {
        let frame = self.next("RESPRECEIVER").await;
        frame["MSG"].as_array().expect("MSG is an array").clone()
    }

    /// Waits for this many messages and returns their texts, without duplicates.
    pub async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        while texts.len() < count {
            let items = self.items().await;
            texts.extend(items.iter().map(|item| item["msg"].as_str().expect("msg is text").to_owned()));
        }
        texts
    }

    /// Waits for the close frame and returns its code.
    ///
    /// # Panics
    /// On timeout.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match timeout(EVENTUALLY_TIMEOUT, self.socket.next()).await.expect("no close frame came") {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("it ended without a close frame: {other:?}"),
            }
        }
    }

    /// Sends all frames without waiting for replies, begins to read only after a while, and returns as many
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
                match timeout(EVENTUALLY_TIMEOUT, stream.next()).await.expect("a reply to each frame") {
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

    /// Sends a close frame with this code.
    pub async fn close_with(&mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "bye".into() };
        self.socket.send(Message::Close(Some(frame))).await.expect("the socket is open");
    }

    /// Sends a binary frame.
    pub async fn say_binary(&mut self, bytes: Vec<u8>) {
        self.socket.send(Message::Binary(bytes.into())).await.expect("the socket is open");
    }

    /// Closes the connection gracefully.
    pub async fn close(mut self) {
        // Ack and disconnect are handled concurrently: the ack must come first.
        tokio::time::sleep(Duration::from_millis(500)).await;
        // A busy machine takes longer, for these requests, too.
        for _ in 0..ROUND_TRIPS_OF_AN_ACK {
            if self.acks {
                let _ = self.socket.send(Message::text(r#"{"action":"rooms"}"#)).await;
                self.try_next("RESPROOM", Duration::from_secs(2)).await;
            }
        }
        let _ = self.socket.close(None).await;
        // Until the edge has processed the close.
        while let Ok(Some(Ok(_))) = timeout(EVENTUALLY_TIMEOUT, self.socket.next()).await {}
    }
}
