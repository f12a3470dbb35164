//! Traces beyond this process: where one goes on, and what is handed on.
//!
//! Spans are `tracing`'s, which knows nothing of other processes. Whoever exports them installs a [`Tracer`], once.
//! Without one a client's own context is handed on as it came, and nothing else is done.

use std::sync::OnceLock;

use kschat_protocol::TraceContext;
use tracing::Span;

static TRACER: OnceLock<Box<dyn Tracer>> = OnceLock::new();

/// Ties spans to the traces that they belong to.
pub trait Tracer: Send + Sync {
    /// Makes a span go on from there. It must be new: nobody has entered it yet.
    fn continue_from(&self, span: &Span, context: &TraceContext);

    /// Notes that a span deals with something from that trace, too.
    fn link(&self, span: &Span, context: &TraceContext);

    /// Where others go on from a span; `None` if it belongs to no trace.
    fn context_of(&self, span: &Span) -> Option<TraceContext>;
}

/// Has spans exported from now on. A second call does nothing.
pub fn install(tracer: Box<dyn Tracer>) {
    // An error only says that another one was first.
    let _ = TRACER.set(tracer);
}

/// Makes a new span go on from what `context` finds, which is asked only where spans are exported.
pub fn continue_from(span: &Span, context: impl FnOnce() -> Option<TraceContext>) {
    if let Some(tracer) = TRACER.get()
        && let Some(context) = context()
    {
        tracer.continue_from(span, &context);
    }
}

/// Ties a new span to messages: it goes on from the first, and is linked to the others.
pub fn continue_from_all<'a>(span: &Span, mut contexts: impl Iterator<Item = &'a TraceContext>) {
    let Some(tracer) = TRACER.get() else { return };
    if let Some(first) = contexts.next() {
        tracer.continue_from(span, first);
    }
    contexts.for_each(|context| tracer.link(span, context));
}

/// What is handed on from here: the present span, where spans are exported, else what came in.
#[must_use]
pub fn handed_on(incoming: Option<TraceContext>) -> Option<TraceContext> {
    TRACER.get().and_then(|tracer| tracer.context_of(&Span::current())).or(incoming)
}
