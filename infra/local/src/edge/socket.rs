//! One client's socket, from the upgrade to its end.

use std::{sync::Arc, time::Duration};

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use kschat_protocol::limits::{CONNECTION_LIFETIME, MAX_FRAME};
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep_until, timeout},
};

use super::{Edge, Forget, Outgoing, events::Client};
use crate::functions::Function;

/// The managed edge closes a socket on which nothing was said for so long.
///
/// Source: Amazon API Gateway quotas, "Idle Connection Timeout".
const IDLE: Duration = Duration::from_secs(10 * 60);

/// The largest message, however many frames it comes in.
///
/// Source: Amazon API Gateway quotas, "Message payload size".
const MAX_MESSAGE: usize = 128 * 1024;

/// Invocations under way for one socket at most; then its frames wait. The managed edge has no such bound but
/// the account's.
const CONCURRENCY: usize = 64;

/// How long a client may take to answer a close frame, or to take a frame of ours.
const PATIENCE: Duration = Duration::from_secs(5);

/// A close.
struct Close {
    /// What `$disconnect` is told.
    code: u16,
    reason: String,
    /// Whether the client began it: then the library answers in its stead.
    by_client: bool,
}

impl Close {
    fn new(code: u16, reason: &str) -> Self {
        Self { code, reason: reason.to_owned(), by_client: false }
    }

    fn by_client(code: u16, reason: &str) -> Self {
        Self { by_client: true, ..Self::new(code, reason) }
    }
}

/// Sets the sizes beyond which the edge closes with 1009.
pub(super) fn limited(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade.max_frame_size(MAX_FRAME).max_message_size(MAX_MESSAGE)
}

/// Serves a socket until either side ends it.
pub(super) async fn run(guard: Forget, socket: WebSocket, mut outgoing: mpsc::Receiver<Outgoing>) {
    let (mut sink, mut stream) = socket.split();
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    let end_of_life = Instant::now() + CONNECTION_LIFETIME;
    let mut idle_since = Instant::now();
    let close = loop {
        tokio::select! {
            (permit, incoming) = next_when_free(&mut stream, &permits) => {
                match on_incoming(&guard, incoming, permit) {
                    Ok(spoke) if spoke => idle_since = Instant::now(),
                    Ok(_) => {}
                    Err(close) => break close,
                }
            }
            outgoing = outgoing.recv() => {
                idle_since = Instant::now();
                match on_outgoing(&mut sink, outgoing).await {
                    Ok(()) => {}
                    Err(close) => break close,
                }
            }
            () = sleep_until(end_of_life.min(idle_since + IDLE)) => break Close::new(1001, "Going away"),
        }
    };
    say_goodbye(&mut sink, &close).await;
    guard.end(close.code, &close.reason);
}

/// The client's next frame, once there is room for its invocation. What goes out does not wait for that.
async fn next_when_free(
    stream: &mut SplitStream<WebSocket>,
    permits: &Arc<Semaphore>,
) -> (Option<OwnedSemaphorePermit>, Option<Result<Message, axum::Error>>) {
    // It is never closed, so there always is a permit in the end.
    let permit = Arc::clone(permits).acquire_owned().await.ok();
    (permit, stream.next().await)
}

/// Deals with what the client sent; says whether it spoke, which keeps the socket from being idle.
fn on_incoming(
    guard: &Forget,
    incoming: Option<Result<Message, axum::Error>>,
    permit: Option<OwnedSemaphorePermit>,
) -> Result<bool, Close> {
    match incoming {
        Some(Ok(Message::Text(text))) => {
            let (edge, client) = (guard.edge.clone(), Arc::clone(&guard.client));
            // As on the managed edge, frames of one client do not wait for one another.
            tokio::spawn(async move {
                invoke(&edge, &client, text.as_str()).await;
                drop(permit);
            });
            Ok(true)
        }
        Some(Ok(Message::Binary(_))) => Err(Close::new(1003, "Binary frames are not supported")),
        // Answered by the library. Whether they keep a socket alive is not documented: here they do not.
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(false),
        Some(Ok(Message::Close(Some(frame)))) => Err(Close::by_client(frame.code, frame.reason.as_str())),
        Some(Ok(Message::Close(None))) => Err(Close::by_client(1005, "Client-side close frame status not set")),
        Some(Err(error)) if is_too_long(&error) => Err(Close::new(1009, "Message too long")),
        Some(Err(_)) | None => Err(Close::new(1006, "Connection closed abnormally")),
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    // The library's own type is not public: its words are all that tells.
    std::error::Error::source(error).is_some_and(|source| source.to_string().contains("too long"))
}

async fn on_outgoing(sink: &mut SplitSink<WebSocket, Message>, outgoing: Option<Outgoing>) -> Result<(), Close> {
    match outgoing {
        Some(Outgoing::Text(text)) => {
            let sent = timeout(PATIENCE, sink.send(Message::Text(text.into()))).await;
            if matches!(sent, Ok(Ok(()))) { Ok(()) } else { Err(Close::new(1006, "Connection closed abnormally")) }
        }
        Some(Outgoing::Close(code, reason)) => Err(Close::new(code, reason)),
        // The edge itself holds a sender: it has forgotten us.
        None => Err(Close::new(1001, "Going away")),
    }
}

async fn say_goodbye(sink: &mut SplitSink<WebSocket, Message>, close: &Close) {
    let goodbye = async {
        if close.by_client {
            return sink.flush().await;
        }
        // 1006 is never on the wire: it says that no close frame was there.
        let code = if close.code == 1006 { 1000 } else { close.code };
        sink.send(Message::Close(Some(CloseFrame { code, reason: close.reason.as_str().into() }))).await
    };
    // The client may be gone.
    let _ = timeout(PATIENCE, goodbye).await;
}

/// Routes one frame to its function; what it answers goes back to the client.
async fn invoke(edge: &Edge, client: &Client, text: &str) {
    let event = client.message_event(route(text), text);
    let request = event["requestContext"]["requestId"].clone();
    let body = match edge.0.functions.invoke(Function::Send, event).await {
        Ok(reply) if reply.status < 500 => reply.body,
        Ok(_) => Some(internal_error(&client.id, &request)),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a function failed");
            Some(internal_error(&client.id, &request))
        }
    };
    let outbox = edge.connections().get(&client.id).map(|connection| connection.outbox.clone());
    if let (Some(body), Some(outbox)) = (body, outbox) {
        // The client may have left meanwhile.
        let _ = outbox.send(Outgoing::Text(body)).await;
    }
}

/// `$request.body.action`: whatever names no route goes to `$default`.
fn route(text: &str) -> &'static str {
    let body: Option<Value> = serde_json::from_str(text).ok();
    match body.as_ref().and_then(|body| body.get("action")).and_then(Value::as_str) {
        Some("send") => "send",
        _ => "$default",
    }
}

/// What the client hears when a function failed, as the managed edge writes it.
fn internal_error(connection: &str, request: &Value) -> String {
    let [connection, request] = [json!(connection), request.clone()];
    format!(r#"{{"message": "Internal server error", "connectionId":{connection}, "requestId":{request}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_known_action_has_a_route() {
        assert_eq!(route(r#"{"action":"send"}"#), "send");
        for text in ["", "7", "[]", "{}", r#"{"action":7}"#, r#"{"action":"fly"}"#, "{"] {
            assert_eq!(route(text), "$default", "{text}");
        }
    }

    #[test]
    fn a_failure_is_told_in_the_edges_own_words() {
        let frame = internal_error("L0SM9cOFvHcCIhw=", &json!("Ahg9fEFYPHcFcIg="));
        let expected = r#"{"message": "Internal server error", "connectionId":"L0SM9cOFvHcCIhw=", "requestId":"Ahg9fEFYPHcFcIg="}"#;
        assert_eq!(frame, expected);
    }
}
