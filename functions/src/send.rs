//! `send` and `$default`: takes a message to the broker; the body of the answer goes to the client.

use kschat_core::send;
pub use kschat_core::send::Deps;
use kschat_protocol::{SendFrame, refusal};

use crate::{Event, Response, event};

/// Answers with the frame for the sender, always with status 200: any other would replace that frame by the
/// edge's own error.
pub async fn handle(deps: &Deps, event: Event) -> Response {
    let Some(connection) = event::connection(&event) else {
        return event::not_an_event();
    };
    let reply = match SendFrame::parse(event::text(&event)) {
        Ok(frame) => send::send(deps, &connection, frame).await.to_text(),
        Err(error) => {
            tracing::info!(er = error.code.number(), "frame refused");
            refusal(error)
        }
    };
    event::respond(200, Some(reply))
}
