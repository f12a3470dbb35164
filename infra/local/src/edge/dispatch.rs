//! Handing events to functions.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Connection, Edge, Outgoing,
    events::Client,
    faults::{Hit, InvokeFault},
    journal::{Entry, Kind, Outcome},
    routes::{Route, Target},
};
use crate::{
    chain::chain,
    functions::{InvokeError, Reply},
};

/// How long a function goes on after the edge has given up on it.
///
/// Source: AWS Lambda quotas, "Function timeout".
const FUNCTION_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// How long an event that is to be overtaken waits for that.
const REORDER: Duration = Duration::from_secs(1);

/// Whom a call of a function is about.
pub(super) struct Invocation<'a> {
    pub(super) edge: &'a Edge,
    pub(super) client: &'a Client,
    /// The connection, once it is open and as long as it is.
    pub(super) connection: Option<&'a Arc<Connection>>,
}

impl Invocation<'_> {
    /// Hands an event to whatever is behind that route. `None` if nothing is.
    pub(super) async fn of_route(&self, kind: Kind, key: &str, event: Value) -> Option<Result<Reply, InvokeError>> {
        match &self.edge.0.settings.routes.table.get(key)?.target {
            Target::Function(function) => Some(self.of_function(kind, key, function, event, Reply::read).await),
            Target::Mock(_) => Some(Reply::read(json!({ "statusCode": 200 }))),
        }
    }

    /// Hands an event to a function, reads its answer, and notes how that went.
    pub(super) async fn of_function<T>(
        &self,
        kind: Kind,
        key: &str,
        function: &str,
        event: Value,
        read: impl FnOnce(Value) -> Result<T, InvokeError>,
    ) -> Result<T, InvokeError> {
        let totals = &self.edge.journal().totals;
        totals.invocations.fetch_add(1, Relaxed);
        let text = event["body"].as_str().map(str::to_owned);
        let began = Instant::now();
        let answer = self.call(key, function, event).await;
        let mut entry = Entry::new(kind, &self.client.id).route(key, function).took(began.elapsed());
        if let Some(text) = text {
            entry = entry.text(&text);
        }
        if let Some(status) = answer.as_ref().ok().and_then(status_of) {
            entry = entry.status(status);
            if kind == Kind::Connect && !(200..300).contains(&status) {
                entry = entry.outcome(Outcome::Refused);
            }
        }
        let answer = answer.and_then(read);
        if let Err(error) = &answer {
            totals.failures.fetch_add(1, Relaxed);
            entry = entry.outcome(Outcome::Failed).note(chain(error));
        }
        self.edge.journal().record(entry);
        answer
    }

    /// Hands an event to a function with all that may go wrong on purpose, inside the integration timeout.
    async fn call(&self, key: &str, function: &str, event: Value) -> Result<Value, InvokeError> {
        let inner = &self.edge.0;
        let deadline = Instant::now() + inner.settings.integration_timeout;
        let room = timeout_at(deadline, Arc::clone(&inner.concurrency).acquire_owned()).await;
        let room = room.map_err(|_| InvokeError::TimedOut)?;
        let hit = inner.faults.on_invoke(&self.client.id, key);
        if let Some(hit) = &hit {
            self.edge.journal().record(Entry::new(Kind::Fault, &self.client.id).route(key, function).note(&*hit.rule));
        }
        let (edge, function) = (self.edge.clone(), function.to_owned());
        let connection = self.connection.map(Arc::clone);
        // A task of its own: a function does not stop because nobody waits for its answer any more.
        let task = tokio::spawn(async move {
            let _room = room;
            edge.journal().totals.in_flight.fetch_add(1, Relaxed);
            let answer = timeout(FUNCTION_LIFETIME, invoke(&edge, connection.as_deref(), hit, &function, event)).await;
            edge.journal().totals.in_flight.fetch_sub(1, Relaxed);
            answer.unwrap_or(Err(InvokeError::TimedOut))
        });
        match timeout_at(deadline, task).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(InvokeError::Failed("it panicked".to_owned())),
            Err(_) => Err(InvokeError::TimedOut),
        }
    }
}

async fn invoke(
    edge: &Edge,
    connection: Option<&Connection>,
    hit: Option<Hit<InvokeFault>>,
    function: &str,
    event: Value,
) -> Result<Value, InvokeError> {
    let functions = &edge.0.functions;
    if let Some(hit) = hit {
        match hit.fault {
            InvokeFault::Fail => return Err(InvokeError::Failed("a fault rule says so".to_owned())),
            InvokeFault::Freeze(time) => edge.0.faults.frozen(&hit, time).await,
            InvokeFault::Reorder => {
                // The one that comes while another is held back is the one that overtakes it.
                if let Some(connection) = connection.filter(|connection| !connection.held.swap(true, Relaxed)) {
                    // If no other one comes, there is nothing to be overtaken by.
                    let _ = timeout(REORDER, connection.answered.notified()).await;
                    connection.held.store(false, Relaxed);
                }
            }
            InvokeFault::Duplicate => {
                let twice = (functions.invoke(function, event.clone()), functions.invoke(function, event));
                return tokio::join!(twice.0, twice.1).0;
            }
        }
    }
    functions.invoke(function, event).await
}

/// Gives a client's frame to its function and the client the answer.
pub(super) async fn answer(edge: &Edge, connection: &Arc<Connection>, key: &str, route: &Route, text: &str) {
    let Target::Function(function) = &route.target else { return };
    let client = &connection.client;
    let event = client.message_event(key, text);
    let request = event["requestContext"]["requestId"].clone();
    connection.in_flight.fetch_add(1, Relaxed);
    let call = Invocation { edge, client, connection: Some(connection) };
    let max = edge.0.settings.max_message;
    let answered = call.of_function(Kind::Message, key, function, event, |answer| read_reply(answer, max)).await;
    connection.in_flight.fetch_sub(1, Relaxed);
    connection.answered.notify_waiters();
    let body = match answered {
        Ok(reply) if route.response => reply.body,
        Ok(_) => None,
        Err(_) => Some(error_frame("Internal server error", &client.id, &request)),
    };
    if let Some(body) = body {
        say(edge, connection, key, body).await;
    }
}

/// Reads an answer that is to fit into a message.
fn read_reply(answer: Value, max: usize) -> Result<Reply, InvokeError> {
    let reply = Reply::read(answer)?;
    match &reply.body {
        Some(body) if body.len() > max => Err(InvokeError::Failed(format!("its body has more than {max} bytes"))),
        _ => Ok(reply),
    }
}

/// Queues a frame that is no push.
async fn say(edge: &Edge, connection: &Connection, key: &str, text: String) {
    let entry = Entry::new(Kind::Out, &connection.client.id).route(key, "").text(&text);
    let lost = connection.outbox.send(Outgoing::Text(text)).await.is_err();
    // The client may have left meanwhile.
    edge.journal().record(if lost { entry.outcome(Outcome::Lost).note("the client has left") } else { entry });
}

/// What a client hears when a frame came to nothing, as the managed edge writes it.
pub(super) fn error_frame(message: &str, connection: &str, request: &Value) -> String {
    let [message, connection] = [json!(message), json!(connection)];
    format!(r#"{{"message": {message}, "connectionId":{connection}, "requestId":{request}}}"#)
}

fn status_of(answer: &Value) -> Option<u16> {
    answer["statusCode"].as_u64().and_then(|status| u16::try_from(status).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_in_the_edges_own_words() {
        let frame = error_frame("Internal server error", "L0SM9cOFvHcCIhw=", &json!("Ahg9fEFYPHcFcIg="));
        let expected = r#"{"message": "Internal server error", "connectionId":"L0SM9cOFvHcCIhw=", "requestId":"Ahg9fEFYPHcFcIg="}"#;
        assert_eq!(frame, expected);
    }
}
