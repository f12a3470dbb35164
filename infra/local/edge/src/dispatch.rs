//! Invokes functions with events.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Connection, Edge, Outgoing,
    events::{Client, MessageEvent},
    faults::{Hit, InvokeFault},
    journal::{Entry, Kind, Outcome},
    routes::{Route, Target},
};
use crate::{
    error_chain::error_chain,
    functions::{Functions, InvokeError, Reply, status_of},
};

/// How long a function keeps running after the edge has timed out.
///
/// Source: AWS Lambda quotas, "Function timeout".
const FUNCTION_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// How long an event that is to be reordered waits for a later one.
const REORDER_DELAY: Duration = Duration::from_secs(1);

/// Context of an invocation.
pub(super) struct Invocation<'a> {
    pub(super) edge: &'a Edge,
    pub(super) client: &'a Client,
    /// The connection, while it is open.
    pub(super) connection: Option<&'a Arc<Connection>>,
}

/// A running invocation, and until when the edge waits for it.
struct Running<T> {
    deadline: Instant,
    work: BoxFuture<'static, Result<T, InvokeError>>,
}

impl Invocation<'_> {
    /// Dispatches an event to the target of that route; `None` if there is none.
    pub(super) async fn of_route(&self, kind: Kind, key: &str, event: Value) -> Option<Result<Reply, InvokeError>> {
        match &self.edge.0.settings.routes.table.get(key)?.target {
            Target::Function(function) => Some(self.of_function(kind, key, function, event, Reply::read).await),
            Target::Mock(_) => Some(Reply::read(json!({ "statusCode": 200 }))),
        }
    }

    /// Invokes a function, parses its response, and records the outcome.
    pub(super) async fn of_function<T>(
        &self,
        kind: Kind,
        key: &str,
        function: &str,
        event: Value,
        read: impl FnOnce(Value) -> Result<T, InvokeError>,
    ) -> Result<T, InvokeError> {
        let text = event["body"].as_str().map(str::to_owned);
        let began = Instant::now();
        let payload = JsonPayload { function: function.to_owned(), event };
        let mut answer = match self.start(key, function, payload).await {
            // The client's handshake may end sooner.
            Ok(running) => running.in_its_own_task().await,
            Err(error) => Err(error),
        };
        if self.edge.0.settings.float_status {
            answer = answer.map(with_whole_status);
        }
        let status = answer.as_ref().ok().and_then(|answer| status_of(&answer["statusCode"]));
        let answer = answer.and_then(read);
        let entry = Entry::new(kind, &self.client.id).route(key, function).took(began.elapsed());
        self.record(entry, text.as_deref(), status, answer.as_ref().err());
        answer
    }

    /// Invokes a function with a client's frame, and records the outcome.
    async fn of_message(&self, key: &str, function: &str, event: &Arc<MessageEvent>) -> Result<Reply, InvokeError> {
        let max = self.edge.0.settings.max_message;
        if self.edge.0.settings.float_status {
            let read = |answer| Reply::read(answer).and_then(|reply| fits(reply, max));
            return self.of_function(Kind::Message, key, function, event.to_json(), read).await;
        }
        let began = Instant::now();
        let payload = FramePayload { function: function.to_owned(), event: Arc::clone(event) };
        let answer = match self.start(key, function, payload).await {
            Ok(running) => running.in_this_task().await,
            Err(error) => Err(error),
        };
        let status = answer.as_ref().ok().map(|reply| reply.status);
        let answer = answer.and_then(|reply| fits(reply, max));
        let entry = Entry::new(Kind::Message, &self.client.id).route(key, function).took(began.elapsed());
        self.record(entry, Some(event.body()), status, answer.as_ref().err());
        answer
    }

    fn record(&self, mut entry: Entry, text: Option<&str>, status: Option<u16>, error: Option<&InvokeError>) {
        if let Some(text) = text {
            entry = entry.text(text);
        }
        if let Some(status) = status {
            let is_refused = entry.kind == Kind::Connect && !(200..300).contains(&status);
            entry = entry.status(status);
            if is_refused {
                entry = entry.outcome(Outcome::Refused);
            }
        }
        if let Some(error) = error {
            self.edge.journal().totals.failures.fetch_add(1, Relaxed);
            entry = entry.outcome(Outcome::Failed).note(error_chain(error));
        }
        self.edge.journal().record(entry);
    }

    /// Starts an invocation within the integration timeout, with injected faults.
    async fn start<P: Payload>(
        &self,
        key: &str,
        function: &str,
        payload: P,
    ) -> Result<Running<P::Answer>, InvokeError> {
        let inner = &self.edge.0;
        inner.journal.totals.invocations.fetch_add(1, Relaxed);
        let deadline = Instant::now() + inner.settings.integration_timeout;
        let room = timeout_at(deadline, Arc::clone(&inner.concurrency).acquire_owned()).await;
        let room = room.map_err(|_| InvokeError::TimedOut)?;
        let hit = inner.faults.on_invoke(&self.client.id, key);
        if let Some(hit) = &hit {
            self.edge.journal().record(Entry::new(Kind::Fault, &self.client.id).route(key, function).note(&*hit.rule));
        }
        let edge = self.edge.clone();
        let connection = self.connection.map(Arc::clone);
        let work = async move {
            let _room = room;
            edge.journal().totals.in_flight.fetch_add(1, Relaxed);
            let invoked = timeout(FUNCTION_LIFETIME, invoke(&edge, connection.as_deref(), hit, payload));
            // A function that panics has failed.
            let answer = AssertUnwindSafe(invoked).catch_unwind().await;
            edge.journal().totals.in_flight.fetch_sub(1, Relaxed);
            match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(InvokeError::TimedOut),
                Err(_) => Err(InvokeError::Failed("it panicked".to_owned())),
            }
        };
        Ok(Running { deadline, work: work.boxed() })
    }
}

impl<T: Send + 'static> Running<T> {
    /// Runs it in a task of its own: for a caller that may be cancelled.
    async fn in_its_own_task(self) -> Result<T, InvokeError> {
        match timeout_at(self.deadline, tokio::spawn(self.work)).await {
            Ok(Ok(answer)) => answer,
            // It catches panics itself.
            Ok(Err(_)) => Err(InvokeError::Failed("it was aborted".to_owned())),
            Err(_) => Err(InvokeError::TimedOut),
        }
    }

    /// Runs it in the caller's task, which is never cancelled. A function keeps running after the edge has timed out.
    async fn in_this_task(mut self) -> Result<T, InvokeError> {
        match timeout_at(self.deadline, &mut self.work).await {
            Ok(answer) => answer,
            Err(_) => {
                tokio::spawn(self.work);
                Err(InvokeError::TimedOut)
            }
        }
    }
}

/// What a function is invoked with.
trait Payload: Clone + Send + Sync + 'static {
    /// What the function answers.
    type Answer: Send + 'static;

    /// Invokes the function.
    fn invoke(self, functions: &dyn Functions) -> impl Future<Output = Result<Self::Answer, InvokeError>> + Send;
}

/// Any event, as JSON.
#[derive(Clone)]
struct JsonPayload {
    function: String,
    event: Value,
}

impl Payload for JsonPayload {
    type Answer = Value;

    async fn invoke(self, functions: &dyn Functions) -> Result<Value, InvokeError> {
        functions.invoke(&self.function, self.event).await
    }
}

/// A client's frame, which functions in this process take as it is.
#[derive(Clone)]
struct FramePayload {
    function: String,
    event: Arc<MessageEvent>,
}

impl Payload for FramePayload {
    type Answer = Reply;

    async fn invoke(self, functions: &dyn Functions) -> Result<Reply, InvokeError> {
        functions.handle_message(&self.function, &self.event).await
    }
}

async fn invoke<P: Payload>(
    edge: &Edge,
    connection: Option<&Connection>,
    hit: Option<Hit<InvokeFault>>,
    payload: P,
) -> Result<P::Answer, InvokeError> {
    let functions = &*edge.0.functions;
    if let Some(hit) = hit {
        match hit.fault {
            InvokeFault::Fail => return Err(InvokeError::Failed("failed by a fault rule".to_owned())),
            InvokeFault::Freeze(time) => edge.0.faults.wait_until_thawed(&hit, time).await,
            InvokeFault::Reorder => {
                // An event that arrives while another is held back overtakes it.
                if let Some(connection) = connection.filter(|connection| !connection.held.swap(true, Relaxed)) {
                    // Without a later event, nothing is reordered.
                    let _ = timeout(REORDER_DELAY, connection.answered.notified()).await;
                    connection.held.store(false, Relaxed);
                }
            }
            InvokeFault::Duplicate => {
                let twice = (payload.clone().invoke(functions), payload.invoke(functions));
                return tokio::join!(twice.0, twice.1).0;
            }
        }
    }
    payload.invoke(functions).await
}

/// Invokes the function for a client's frame and sends its response to the client. Must not be cancelled.
pub(super) async fn answer(edge: &Edge, connection: &Arc<Connection>, key: &str, route: &Route, text: String) {
    let Target::Function(function) = &route.target else { return };
    let client = &connection.client;
    let event = Arc::new(MessageEvent::new(client, key, text));
    connection.in_flight.fetch_add(1, Relaxed);
    let call = Invocation { edge, client, connection: Some(connection) };
    let answered = call.of_message(key, function, &event).await;
    connection.in_flight.fetch_sub(1, Relaxed);
    connection.answered.notify_waiters();
    let body = match answered {
        Ok(reply) if route.response => reply.body,
        Ok(_) => None,
        Err(_) => Some(error_frame("Internal server error", &client.id, event.request_id())),
    };
    if let Some(body) = body {
        queue_text(edge, connection, key, body).await;
    }
}

/// Checks that a response fits into a message.
fn fits(reply: Reply, max: usize) -> Result<Reply, InvokeError> {
    match &reply.body {
        Some(body) if body.len() > max => Err(InvokeError::Failed(format!("its body exceeds {max} bytes"))),
        _ => Ok(reply),
    }
}

/// Queues a frame that is not a push.
async fn queue_text(edge: &Edge, connection: &Connection, key: &str, text: String) {
    let entry = Entry::new(Kind::Out, &connection.client.id).route(key, "").text(&text);
    let lost = connection.outbox.send(Outgoing::Text(text)).await.is_err();
    // The client may have disconnected meanwhile.
    edge.journal().record(if lost { entry.outcome(Outcome::Lost).note("the client disconnected") } else { entry });
}

/// The error frame for a failed invocation, in the managed edge's format.
pub(super) fn error_frame(message: &str, connection: &str, request: &str) -> String {
    let [message, connection, request] = [json!(message), json!(connection), json!(request)];
    format!(r#"{{"message": {message}, "connectionId":{connection}, "requestId":{request}}}"#)
}

/// Replaces a status code such as 200.0 by the whole number.
fn with_whole_status(mut answer: Value) -> Value {
    if let Some(status) = answer["statusCode"].as_f64().filter(|status| status.fract() == 0.0)
        && let Ok(status) = format!("{status}").parse::<u16>()
    {
        answer["statusCode"] = status.into();
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn function_failure_yields_managed_error_frame() {
        let frame = error_frame("Internal server error", "L0SM9cOFvHcCIhw=", "Ahg9fEFYPHcFcIg=");
        let expected = r#"{"message": "Internal server error", "connectionId":"L0SM9cOFvHcCIhw=", "requestId":"Ahg9fEFYPHcFcIg="}"#;
        assert_eq!(frame, expected);
    }
}
