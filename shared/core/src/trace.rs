//! Trace context across processes.
//!
//! Spans are those of `tracing`, which knows nothing of other processes. A process that exports spans installs a
//! [`Tracer`], once. Without one a client's own context is forwarded unchanged, and nothing else is done.

use std::sync::OnceLock;

use kschat_protocol::TraceContext;
use tracing::Span;

static TRACER: OnceLock<Box<dyn Tracer>> = OnceLock::new();

/// Connects spans to their traces.
pub trait Tracer: Send + Sync {
    /// Makes the context the parent of a span. The span must be new: it was never entered.
    fn continue_from(&self, span: &Span, context: &TraceContext);

    /// Links a span to another trace that it also deals with.
    fn link(&self, span: &Span, context: &TraceContext);

    /// The context for children of a span; `None` if it belongs to no trace.
    fn context_of(&self, span: &Span) -> Option<TraceContext>;
}

/// Exports spans from now on. A second call does nothing.
pub fn install(tracer: Box<dyn Tracer>) {
    // An error only means that another call was first.
    let _ = TRACER.set(tracer);
}

/// Makes what `context` returns the parent of a new span; it is only called where spans are exported.
pub fn continue_from(span: &Span, context: impl FnOnce() -> Option<TraceContext>) {
    if let Some(tracer) = TRACER.get()
        && let Some(context) = context()
    {
        tracer.continue_from(span, &context);
    }
}

/// Connects a new span to messages: the first is its parent, the others are links.
pub fn continue_from_all<'a>(span: &Span, mut contexts: impl Iterator<Item = &'a TraceContext>) {
    let Some(tracer) = TRACER.get() else { return };
    if let Some(first) = contexts.next() {
        tracer.continue_from(span, first);
    }
    contexts.for_each(|context| tracer.link(span, context));
}

/// The context to send on: the present span, where spans are exported, else the incoming context.
#[must_use]
pub fn outgoing_context(incoming: Option<TraceContext>) -> Option<TraceContext> {
    TRACER.get().and_then(|tracer| tracer.context_of(&Span::current())).or(incoming)
}
