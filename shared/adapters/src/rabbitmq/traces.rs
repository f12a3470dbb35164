//! The trace of a message, among its headers, under the names that W3C gives them.
//!
//! Source: W3C "Trace Context: AMQP protocol", a draft, which names them so among the application's properties.

use kschat_protocol::TraceContext;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString},
};

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// Puts the trace, if there is one, among the headers of a message.
pub(super) fn with_trace(properties: BasicProperties, trace: Option<&TraceContext>) -> BasicProperties {
    let Some(trace) = trace else { return properties };
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    let mut headers = FieldTable::default();
    headers.insert(PARENT.into(), text(&trace.traceparent()));
    if let Some(state) = trace.tracestate() {
        headers.insert(STATE.into(), text(state));
    }
    properties.with_headers(headers)
}

/// The trace among the headers of a message. Somebody else may have written it, so it is checked again.
pub(super) fn trace_of(properties: &BasicProperties) -> Option<TraceContext> {
    let headers = properties.headers().as_ref()?.inner();
    let text = |name: &str| match headers.get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    };
    TraceContext::read(text(PARENT)?, text(STATE))
}
