//! `send`, `ack` and `$default`: handles every frame of a client; the body of the response goes to the client.
//!
//! A text is decoded, its caller identified in one round trip that also charges the user's limits, and the frame
//! handled. The session determines the dialect, never the text: a text that looks like a Socket.IO packet is no frame
//! of a raw client, and vice versa.

use kschat_core::inbound::{
    caller::{Caller, identify_caller},
    cost::charge_for,
    frames::{handle_frame, unavailable_reply},
};
use kschat_protocol::{ClientFrame, ConnectionId, dialect::Dialect};

use crate::{Event, Response, event, input::Input, socketio};

pub use crate::send_deps::Deps;

/// Responds with the frame for the client, if there is one, always with status 200: with another status the edge would
/// send its own error instead.
pub async fn handle(deps: &Deps, event: Event) -> Response {
    let Some(connection) = event::connection(&event) else {
        return event::reject_event_without_connection();
    };
    event::respond(200, handle_text(deps, &connection, event::text(&event)).await)
}

/// Handles a text of a client; returns the text for the client, if there is one. An edge in the same process calls it
/// without an event.
pub async fn handle_text(deps: &Deps, connection: &ConnectionId, text: &str) -> Option<String> {
    let input = Input::decode(text);
    let charge = charge_for(&deps.frames.caller.limits, input.frame());
    match identify_caller(&deps.frames.caller, connection, &charge).await {
        Ok(caller) => answer(deps, &caller, text, input).await,
        Err(error) => {
            let code = error.code();
            tracing::warn!(
                er = code.number(),
                error = &error as &dyn std::error::Error,
                "identifying the caller failed"
            );
            match input {
                Input::Frame(frame) => Some(unavailable_reply(frame, code).to_text()),
                Input::Packet(packet) => socketio::unavailable_reply(packet, code),
            }
        }
    }
}

/// Handles an input in the dialect of its session; returns the text for the client, if there is one.
async fn answer(deps: &Deps, caller: &Caller, text: &str, input: Input<'_>) -> Option<String> {
    let dialect = &caller.session.dialect;
    match (dialect, input) {
        (Dialect::SocketIo(_), Input::Packet(packet)) => socketio::handle_packet(deps, caller, packet).await,
        (Dialect::SocketIo(client), Input::Frame(_)) => socketio::reply_to_non_packet(deps, caller, client).await,
        (Dialect::Raw, input) => {
            let frame = match input {
                Input::Frame(frame) => frame,
                Input::Packet(_) => ClientFrame::parse(text),
            };
            handle_frame(&deps.frames, caller, frame).await.map(|reply| dialect.encode(&reply))
        }
    }
}
