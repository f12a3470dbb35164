//! `$disconnect`: removes the connection.

use kschat_core::inbound::disconnect;
pub use kschat_core::inbound::disconnect::Deps;

use crate::{Event, Response, event};

/// Answers 200, or 500 when the connection could not be removed: the edge ignores either.
pub async fn handle(deps: &Deps, event: Event) -> Response {
    let Some(connection) = event::connection(&event) else {
        return event::reject_event_without_connection();
    };
    match disconnect::disconnect(deps, &connection).await {
        Ok(()) => event::respond(200, None),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "recording a disconnect failed");
            event::respond(500, None)
        }
    }
}
