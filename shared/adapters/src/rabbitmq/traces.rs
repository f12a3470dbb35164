//! What travels beside a message, among its headers: its trace, under the names that W3C gives them, and the connection that
//! sent it.
//!
//! Source: W3C "Trace Context: AMQP protocol", a draft, which names them so among the application's properties.

use kschat_protocol::{ConnectionId, Message, TraceContext};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString},
};

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
const VIA: &str = "x-kschat-connection";

/// Puts what travels beside a message among its headers.
pub(super) fn beside(properties: BasicProperties, message: &Message) -> BasicProperties {
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    let mut headers = FieldTable::default();
    if let Some(trace) = &message.trace {
        headers.insert(PARENT.into(), text(&trace.traceparent()));
        if let Some(state) = trace.tracestate() {
            headers.insert(STATE.into(), text(state));
        }
    }
    if let Some(via) = &message.via {
        headers.insert(VIA.into(), text(via.as_str()));
    }
    if headers.inner().is_empty() { properties } else { properties.with_headers(headers) }
}

/// The trace among the headers of a message. Somebody else may have written it, so it is checked again.
pub(super) fn trace_of(properties: &BasicProperties) -> Option<TraceContext> {
    TraceContext::read(text_of(properties, PARENT)?, text_of(properties, STATE))
}

/// The connection that sent a message.
pub(super) fn via_of(properties: &BasicProperties) -> Option<ConnectionId> {
    ConnectionId::try_from(text_of(properties, VIA)?).ok()
}

fn text_of<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a str> {
    match properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}
