//! `$connect`: verifies the token and registers the connection.

pub use kschat_core::inbound::connect::Deps;
use kschat_core::{inbound::connect, metrics};
use kschat_protocol::{ErrorCode, ErrorFrame, ServerFrame};

use crate::{Event, Response, event};

/// Answers a handshake: 200, or the status of its error.
pub async fn handle(deps: &Deps, event: Event) -> Response {
    let Some(connection) = event::connection(&event) else {
        return event::reject_event_without_connection();
    };
    let handshake = match event::handshake(&event) {
        Ok(handshake) => handshake,
        Err(unsupported) => {
            metrics::CONNECTS.add_code(ErrorCode::Malformed);
            tracing::info!(%unsupported, "connect refused");
            return event::respond(400, Some(unsupported.to_string()));
        }
    };
    match connect::connect(deps, &connection, &handshake).await {
        Ok(_) => {
            metrics::CONNECTS.add_code(ErrorCode::Ok);
            event::accept(handshake.subprotocol)
        }
        Err(error) => {
            let code = error.code();
            metrics::CONNECTS.add_code(code);
            if code.is_server_fault() {
                tracing::warn!(er = code.number(), error = &error as &dyn std::error::Error, "connect failed");
            } else {
                tracing::info!(er = code.number(), %error, "connect refused");
            }
            event::respond(code.http_status(), Some(ServerFrame::from(ErrorFrame::new(code)).to_text()))
        }
    }
}
