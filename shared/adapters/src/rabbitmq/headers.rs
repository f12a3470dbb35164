//! Message headers: the trace context, under the names of W3C, and the sender's connection.
//!
//! Source: W3C "Trace Context: AMQP protocol", a draft, which names them so among the application's properties.

use kschat_protocol::{ConnectionId, Message, TraceContext};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString},
};

const TRACEPARENT_HEADER: &str = "traceparent";
const TRACESTATE_HEADER: &str = "tracestate";
const SENDER_CONNECTION_HEADER: &str = "x-kschat-connection";

/// Adds the headers of a message.
pub(super) fn with_message_headers(properties: BasicProperties, message: &Message) -> BasicProperties {
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    let mut headers = FieldTable::default();
    if let Some(trace) = &message.trace {
        headers.insert(TRACEPARENT_HEADER.into(), text(&trace.traceparent()));
        if let Some(state) = trace.tracestate() {
            headers.insert(TRACESTATE_HEADER.into(), text(state));
        }
    }
    if let Some(sender_connection) = &message.sender_connection {
        headers.insert(SENDER_CONNECTION_HEADER.into(), text(sender_connection.as_str()));
    }
    if headers.inner().is_empty() { properties } else { properties.with_headers(headers) }
}

/// The trace context in the headers of a message. A foreign process may have written it, so it is checked again.
pub(super) fn trace_from_properties(properties: &BasicProperties) -> Option<TraceContext> {
    TraceContext::read(text_of(properties, TRACEPARENT_HEADER)?, text_of(properties, TRACESTATE_HEADER))
}

/// The connection that sent a message.
pub(super) fn sender_connection_from_properties(properties: &BasicProperties) -> Option<ConnectionId> {
    ConnectionId::try_from(text_of(properties, SENDER_CONNECTION_HEADER)?).ok()
}

fn text_of<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a str> {
    match properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}
