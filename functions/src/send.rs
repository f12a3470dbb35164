//! `send`, `ack` and `$default`: everything that a client can say; the body of the answer goes to the client.

use kschat_core::{ack, send};
use kschat_protocol::{AckFrame, ClientFrame, ConnectionId, ErrorFrame, refusal};

use crate::{Event, Response, event};

/// What this function needs.
#[derive(Clone)]
pub struct Deps {
    /// For messages.
    pub send: send::Deps,
    /// For acks.
    pub ack: ack::Deps,
}

/// Answers with the frame for the client, if there is one, always with status 200: any other would replace that
/// frame by the edge's own error.
pub async fn handle(deps: &Deps, event: Event) -> Response {
    let Some(connection) = event::connection(&event) else {
        return event::not_an_event();
    };
    let reply = match ClientFrame::parse(event::text(&event)) {
        Ok(ClientFrame::Send(frame)) => Some(send::send(&deps.send, &connection, frame).await.to_text()),
        Ok(ClientFrame::Ack(ack)) => acknowledge(deps, &connection, &ack).await,
        Err(error) => {
            tracing::info!(er = error.code.number(), "frame refused");
            Some(refusal(error))
        }
    };
    event::respond(200, reply)
}

/// An ack is answered only if it failed.
async fn acknowledge(deps: &Deps, connection: &ConnectionId, ack: &AckFrame) -> Option<String> {
    let error = ack::ack(&deps.ack, connection, ack).await.err()?;
    let code = error.code();
    if code.is_ours() {
        tracing::warn!(er = code.number(), error = &error as &dyn std::error::Error, "an ack was not passed on");
    } else {
        tracing::info!(er = code.number(), %error, "ack refused");
    }
    Some(ErrorFrame::new(code).to_text())
}
