//! Translates between events of the managed edge and the types of the use-cases.

use aws_lambda_events::{
    encodings::Body,
    http::{HeaderMap, HeaderValue},
};
use kschat_protocol::{ConnectionId, Handshake, TraceContext, dialect::UnsupportedDialect};

use crate::{Event, Response};

const SUBPROTOCOL_HEADER: &str = "sec-websocket-protocol";

/// The connection of an event. The edge always sends it; only a hand-made event lacks it.
pub(crate) fn connection(event: &Event) -> Option<ConnectionId> {
    let id = event.request_context.connection_id.clone();
    id.and_then(|id| ConnectionId::try_from(id).ok())
}

/// The handshake of a connecting client.
pub(crate) fn handshake(event: &Event) -> Result<Handshake, UnsupportedDialect> {
    let protocols = protocols(event);
    let handshake = Handshake::read(|key| event.query_string_parameters.first(key), protocols.as_deref())?;
    Ok(Handshake { source: event.request_context.identity.source_ip.clone(), ..handshake })
}

/// The offered subprotocols. Several lines of that header are one list; the edge's plain headers hold only the last.
///
/// Source: RFC 6455, section 11.3.4.
fn protocols(event: &Event) -> Option<String> {
    let lines = |headers: &HeaderMap| -> Vec<String> {
        let values = headers.get_all(SUBPROTOCOL_HEADER).into_iter();
        values.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect()
    };
    let all = [&event.multi_value_headers, &event.headers].map(lines);
    all.into_iter().find(|lines| !lines.is_empty()).map(|lines| lines.join(", "))
}

/// The text of a frame; a binary frame has none.
pub(crate) fn text(event: &Event) -> &str {
    if event.is_base64_encoded { "" } else { event.body.as_deref().unwrap_or_default() }
}

/// The trace context in a client's frame.
pub(crate) fn trace(event: &Event) -> Option<TraceContext> {
    TraceContext::in_frame(text(event))
}

pub(crate) fn respond(status: u16, body: Option<String>) -> Response {
    let mut response = Response::default();
    response.status_code = i64::from(status);
    response.body = body.map(Body::Text);
    response
}

/// Accepts a handshake, with the one subprotocol that the client may receive.
pub(crate) fn accept(subprotocol: Option<&'static str>) -> Response {
    let mut response = respond(200, None);
    if let Some(subprotocol) = subprotocol {
        response.headers.insert(SUBPROTOCOL_HEADER, HeaderValue::from_static(subprotocol));
    }
    response
}

/// The answer to an event that the edge could not have sent.
pub(crate) fn reject_event_without_connection() -> Response {
    tracing::error!("the event has no connection id: this function must be integrated with a WebSocket API");
    respond(400, None)
}
