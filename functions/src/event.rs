//! Between the events of the managed edge and what use-cases speak.

use aws_lambda_events::{encodings::Body, http::HeaderValue};
use kschat_protocol::{ConnectionId, Handshake, TraceContext, dialect::UnsupportedDialect};

use crate::{Event, Response};

const SUBPROTOCOL_HEADER: &str = "sec-websocket-protocol";

/// Whose event it is. The edge sends this always; only a hand-made event lacks it.
pub(crate) fn connection(event: &Event) -> Option<ConnectionId> {
    let id = event.request_context.connection_id.clone();
    id.and_then(|id| ConnectionId::try_from(id).ok())
}

/// What the client said while it connected.
pub(crate) fn handshake(event: &Event) -> Result<Handshake, UnsupportedDialect> {
    let protocols = event.headers.get(SUBPROTOCOL_HEADER).and_then(|value| value.to_str().ok());
    let handshake = Handshake::read(|key| event.query_string_parameters.first(key), protocols)?;
    Ok(Handshake { source: event.request_context.identity.source_ip.clone(), ..handshake })
}

/// The text of a frame; a binary one is no text of ours.
pub(crate) fn text(event: &Event) -> &str {
    if event.is_base64_encoded { "" } else { event.body.as_deref().unwrap_or_default() }
}

/// The trace that a client's frame says it belongs to.
pub(crate) fn trace(event: &Event) -> Option<TraceContext> {
    TraceContext::in_frame(text(event))
}

pub(crate) fn respond(status: u16, body: Option<String>) -> Response {
    let mut response = Response::default();
    response.status_code = i64::from(status);
    response.body = body.map(Body::Text);
    response
}

/// Accepts a handshake, with the one subprotocol that the client may hear.
pub(crate) fn accept(subprotocol: Option<&'static str>) -> Response {
    let mut response = respond(200, None);
    if let Some(subprotocol) = subprotocol {
        response.headers.insert(SUBPROTOCOL_HEADER, HeaderValue::from_static(subprotocol));
    }
    response
}

/// The answer to an event that the edge could not have sent.
pub(crate) fn not_an_event() -> Response {
    tracing::error!("an event names no connection: this function must stand behind a WebSocket API");
    respond(400, None)
}
