//! `send`, `ack` and `$default`: everything that a client can say; the body of the answer goes to the client.

use std::{sync::Arc, time::Instant};

use kschat_core::{ack, connect, metrics, ports::Replies, request, send};
use kschat_protocol::{AckFrame, ClientFrame, ConnectionId, Er, ErrorFrame, SendFrame, dialect::Packet, refusal};

use crate::{Event, Response, event, socketio};

/// What this function needs.
#[derive(Clone)]
pub struct Deps {
    /// For messages.
    pub send: send::Deps,
    /// For acks.
    pub ack: ack::Deps,
    /// For whatever else a client asks.
    pub request: request::Deps,
    /// For Socket.IO clients that join a namespace.
    pub join: connect::Deps,
    /// For replies that are no answer, as a callback has taken its place.
    pub replies: Arc<dyn Replies>,
}

/// Answers with the frame for the client, if there is one, always with status 200: any other would replace that
/// frame by the edge's own error.
pub async fn handle(deps: &Deps, event: Event) -> Response {
    let Some(connection) = event::connection(&event) else {
        return event::not_an_event();
    };
    let text = event::text(&event);
    let answer = match Packet::parse(text) {
        Ok(packet) => socketio::answer(deps, &connection, packet).await,
        Err(_) => match reply(deps, &connection, text).await {
            // It is not understood, so its sender may speak another dialect.
            Some(refusal) if ErrorFrame::is(&refusal) => {
                socketio::refuse(deps, &connection, &refusal).await.or(Some(refusal))
            }
            reply => reply,
        },
    };
    event::respond(200, answer)
}

/// Does what a frame says; returns the frame for the client, if there is one.
pub(crate) async fn reply(deps: &Deps, connection: &ConnectionId, text: &str) -> Option<String> {
    match ClientFrame::parse(text) {
        Ok(ClientFrame::Send(frame)) => Some(accept(deps, connection, frame).await),
        Ok(ClientFrame::Ack(ack)) => acknowledge(deps, connection, &ack).await,
        Ok(ClientFrame::Request(asked)) => {
            let (code, reply) = request::answer(&deps.request, connection, &asked).await;
            metrics::REQUESTS.add_code(code);
            reply
        }
        Err(error) => {
            tracing::info!(er = error.code.number(), "frame refused");
            metrics::SENDS.add_code(error.code);
            Some(refusal(error))
        }
    }
}

async fn accept(deps: &Deps, connection: &ConnectionId, frame: SendFrame) -> String {
    let began = Instant::now();
    let reply = send::send(&deps.send, connection, frame).await;
    metrics::SENDS.add_code(reply.code());
    if reply.code() == Er::Ok {
        metrics::ACCEPT.took(began.elapsed());
    }
    reply.to_text()
}

/// An ack is answered only if it failed.
pub(crate) async fn acknowledge(deps: &Deps, connection: &ConnectionId, ack: &AckFrame) -> Option<String> {
    let acked = ack::ack(&deps.ack, connection, ack).await;
    let code = acked.as_ref().map_or_else(ack::AckError::code, |()| Er::Ok);
    metrics::ACKS.add_code(code);
    let error = acked.err()?;
    if code.is_ours() {
        tracing::warn!(er = code.number(), error = &error as &dyn std::error::Error, "an ack was not passed on");
    } else {
        tracing::info!(er = code.number(), %error, "ack refused");
    }
    Some(ErrorFrame::new(code).to_text())
}
