//! `$disconnect`: forgets the connection.

use kschat_core::disconnect;
pub use kschat_core::disconnect::Deps;

use crate::{Event, Response, event};

/// Answers 200, or 500 when the connection could not be forgotten: the edge ignores either.
pub async fn handle(deps: &Deps, event: Event) -> Response {
    let Some(connection) = event::connection(&event) else {
        return event::not_an_event();
    };
    match disconnect::disconnect(deps, &connection).await {
        Ok(()) => event::respond(200, None),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a disconnect was not noted");
            event::respond(500, None)
        }
    }
}
