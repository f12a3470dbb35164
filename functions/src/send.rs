//! `send`, `ack` and `$default`: everything that a client can say; the body of the answer goes to the client.
//!
//! The session says in which dialect its client speaks, never the text: what reads as a packet of Socket.IO is no frame of
//! a raw client, and the other way round.

use std::{sync::Arc, time::Instant};

use kschat_core::{
    ack, connect,
    inbound::{self, Caller, EnterError},
    metrics,
    ports::{Replies, Supervision},
    request, send,
};
use kschat_protocol::{
    AckFrame, ClientFrame, ConnectionId, Er, ErrorFrame, FrameError, SendFrame, SendReply, dialect::Dialect, refusal,
};

use crate::{
    Event, Response, event,
    socketio::{self, SaidInPackets},
};

/// What this function needs.
#[derive(Clone)]
pub struct Deps {
    /// For everything that is said.
    pub inbound: inbound::Deps,
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
    /// For clients that leave.
    pub supervision: Arc<dyn Supervision>,
}

/// What a frame says, if it says anything that can be understood.
pub(crate) type Said = Result<ClientFrame, FrameError>;

/// Answers with the frame for the client, if there is one, always with status 200: any other would replace that
/// frame by the edge's own error.
pub async fn handle(deps: &Deps, event: Event) -> Response {
    let Some(connection) = event::connection(&event) else {
        return event::not_an_event();
    };
    let answer = match SaidInPackets::read(event::text(&event)) {
        Some(said) => on_packet(deps, &connection, event::text(&event), said).await,
        None => on_frame(deps, &connection, ClientFrame::parse(event::text(&event))).await,
    };
    event::respond(200, answer)
}

async fn enter(deps: &Deps, connection: &ConnectionId, said: Option<&Said>) -> Result<Caller, EnterError> {
    let entered = inbound::enter(&deps.inbound, connection, &deps.inbound.limits.charge(said)).await;
    entered.inspect_err(|error| {
        tracing::warn!(er = error.code().number(), error = error as &dyn std::error::Error, "nobody can be looked up");
    })
}

/// A text that is no packet.
async fn on_frame(deps: &Deps, connection: &ConnectionId, said: Said) -> Option<String> {
    match enter(deps, connection, Some(&said)).await {
        Ok(caller) => match &caller.session.dialect {
            Dialect::Raw => reply(deps, &caller, said).await,
            Dialect::SocketIo(client) => socketio::answer_other(deps, &caller, client).await,
        },
        Err(error) => fail(said, error.code()),
    }
}

/// A text that reads as a packet.
async fn on_packet(deps: &Deps, connection: &ConnectionId, text: &str, packets: SaidInPackets<'_>) -> Option<String> {
    match enter(deps, connection, packets.frame.as_ref()).await {
        Ok(caller) => match &caller.session.dialect {
            Dialect::Raw => reply(deps, &caller, ClientFrame::parse(text)).await,
            Dialect::SocketIo(_) => socketio::answer(deps, &caller, packets).await,
        },
        Err(error) => socketio::fail(packets, error.code()),
    }
}

/// Does what a frame says; returns the frame for the client, if there is one.
pub(crate) async fn reply(deps: &Deps, caller: &Caller, said: Said) -> Option<String> {
    match said {
        Ok(ClientFrame::Send(frame)) => Some(accept(deps, caller, frame).await),
        Ok(ClientFrame::Ack(ack)) => acknowledge(deps, caller, &ack).await,
        Ok(ClientFrame::Request(asked)) => {
            let (code, reply) = request::answer(&deps.request, caller, &asked).await;
            metrics::REQUESTS.add_code(code);
            reply
        }
        Err(error) => Some(misunderstood(caller, error)),
    }
}

/// Whoever says too much that can't be understood hears only that.
fn misunderstood(caller: &Caller, error: FrameError) -> String {
    if let Err(refused) = caller.check() {
        metrics::REQUESTS.add_code(refused.code());
        return ErrorFrame::rate_limited(refused.retry().unwrap_or_default()).to_text();
    }
    tracing::info!(er = error.code.number(), "frame refused");
    metrics::SENDS.add_code(error.code);
    refusal(error)
}

/// The answer to what can't be done, as nobody can be looked up.
pub(crate) fn fail(said: Said, code: Er) -> Option<String> {
    Some(match said {
        Ok(ClientFrame::Send(frame)) => {
            metrics::SENDS.add_code(code);
            SendReply::failed(code, frame).to_text()
        }
        Ok(ClientFrame::Ack(_)) => {
            metrics::ACKS.add_code(code);
            ErrorFrame::new(code).to_text()
        }
        Ok(ClientFrame::Request(asked)) => {
            metrics::REQUESTS.add_code(code);
            request::refusal(&asked, code)
        }
        Err(error) => {
            metrics::SENDS.add_code(error.code);
            refusal(error)
        }
    })
}

async fn accept(deps: &Deps, caller: &Caller, frame: SendFrame) -> String {
    let began = Instant::now();
    let reply = send::send(&deps.send, caller, frame).await;
    metrics::SENDS.add_code(reply.code());
    if reply.code() == Er::Ok {
        metrics::ACCEPT.took(began.elapsed());
    }
    reply.to_text()
}

/// An ack is answered only if it failed.
pub(crate) async fn acknowledge(deps: &Deps, caller: &Caller, ack: &AckFrame) -> Option<String> {
    let acked = ack::ack(&deps.ack, caller, ack).await;
    let code = acked.as_ref().map_or_else(ack::AckError::code, |()| Er::Ok);
    metrics::ACKS.add_code(code);
    let error = acked.err()?;
    if code.is_ours() {
        tracing::warn!(er = code.number(), error = &error as &dyn std::error::Error, "an ack was not passed on");
    } else {
        tracing::info!(er = code.number(), %error, "ack refused");
    }
    Some(match error {
        ack::AckError::Refused(refused) => ErrorFrame::rate_limited(refused.retry().unwrap_or_default()).to_text(),
        _ => ErrorFrame::new(code).to_text(),
    })
}
