//! Handles Socket.IO packets and the frames in them.

use kschat_core::{
    inbound::{
        caller::Caller,
        connect::ConnectError,
        frames::{self, DecodedFrame, handle_frame},
        join_namespace::join_namespace,
    },
    ports::OwnerMessage,
};
use kschat_protocol::{
    ClientFrame, ErrorCode, ServerFrame,
    dialect::{
        Dialect, Kind, Namespace, Packet, RECONNECT_PACKET, Revision, SocketIo, SocketPacket, callback_packet,
        event_packet, token_in,
    },
};

use crate::{input::PacketInput, send_deps::Deps};

/// The error text for a token that is not valid: that of the original guide, as v1 clients may compare it.
const V1_AUTH_ERROR_TEXT: &str = "Authentication error";

/// Handles a packet; returns the packet for the client, if there is one.
pub(crate) async fn handle_packet(deps: &Deps, caller: &Caller, input: PacketInput<'_>) -> Option<String> {
    let PacketInput { packet, frame } = input;
    match packet {
        Packet::Ping(text) => Some(Packet::Pong(text).to_string()),
        Packet::Message(packet) => handle_message(deps, caller, packet, frame).await,
        // These need no reply: the answer to our heartbeat, and packets that only polling needs.
        Packet::Pong(_) | Packet::Upgrade | Packet::Noop | Packet::Close | Packet::Open(_) => None,
    }
}

/// The reply to a text that is no packet: an event, as another form would end the session.
pub(crate) async fn reply_to_non_packet(deps: &Deps, caller: &Caller, client: &SocketIo) -> Option<String> {
    // No frame is read here, whatever the text looks like.
    let reply = handle_frame(&deps.frames, caller, ClientFrame::parse("")).await?;
    Some(match &client.namespace {
        Some(namespace) => event_packet(namespace, &reply),
        // It has not joined, so it would ignore an event.
        None => RECONNECT_PACKET.to_owned(),
    })
}

/// The reply to a packet without a known session. Only its form follows from the text.
pub(crate) fn unavailable_reply(input: PacketInput<'_>, code: ErrorCode) -> Option<String> {
    let Packet::Message(SocketPacket { namespace, id, kind }) = input.packet else { return None };
    if matches!(kind, Kind::Connect(_)) {
        return Some(RECONNECT_PACKET.to_owned());
    }
    let reply = frames::unavailable_reply(input.frame?, code);
    Some(match id.filter(|_| matches!(kind, Kind::Event(..))) {
        Some(id) => callback_packet(&namespace, id, Some(&reply)).packet,
        None => event_packet(&namespace, &reply),
    })
}

async fn handle_message(
    deps: &Deps,
    caller: &Caller,
    packet: SocketPacket<'_>,
    frame: Option<DecodedFrame>,
) -> Option<String> {
    let SocketPacket { namespace, id, kind } = packet;
    match kind {
        Kind::Connect(auth) => Some(on_connect(deps, caller, namespace, auth.and_then(token_in)).await),
        Kind::Disconnect => {
            request_close(deps, caller).await;
            None
        }
        Kind::Event(..) => {
            let reply = handle_frame(&deps.frames, caller, frame?).await;
            match id {
                Some(id) => Some(call_back(deps, caller, &namespace, id, reply).await),
                None => reply.map(|reply| event_packet(&namespace, &reply)),
            }
        }
        Kind::Ack(_) => handle_frame(&deps.frames, caller, frame?).await.map(|reply| event_packet(&namespace, &reply)),
        // Only servers send that.
        Kind::Refused(_) => None,
    }
}

/// Calls the callback of an event. A response holds one packet, so the user's owner pushes an event that follows.
async fn call_back(deps: &Deps, caller: &Caller, namespace: &Namespace, id: u64, reply: Option<ServerFrame>) -> String {
    let called = callback_packet(namespace, id, reply.as_ref());
    if let Some(frame) = reply.filter(|_| called.event_follows) {
        let message = OwnerMessage::Reply { connection: caller.connection.clone(), frame };
        if let Err(error) = deps.owners.send(&caller.session.user, message).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "forwarding a reply failed");
        }
    }
    called.packet
}

async fn on_connect(deps: &Deps, caller: &Caller, namespace: Namespace, token: Option<String>) -> String {
    let Dialect::SocketIo(client) = &caller.session.dialect else { return RECONNECT_PACKET.to_owned() };
    if client.revision == Revision::Four && client.namespace.as_ref().is_some_and(|joined| *joined != namespace) {
        return client.connect_refused(
            &namespace,
            "only one namespace per connection is supported",
            ErrorCode::Forbidden,
        );
    }
    let joined = Dialect::SocketIo(SocketIo { namespace: Some(namespace.clone()), ..client.clone() });
    match join_namespace(&deps.join, caller, joined, token).await {
        Ok(()) => client.connect_accepted(&namespace, &caller.connection),
        Err(error) if error.code().is_server_fault() => {
            tracing::warn!(error = &error as &dyn std::error::Error, "joining a namespace failed temporarily");
            RECONNECT_PACKET.to_owned()
        }
        Err(error) => {
            let code = error.code();
            tracing::info!(er = code.number(), %error, "joining a namespace was refused");
            let is_about_token = matches!(error, ConnectError::NoToken | ConnectError::Token(_));
            client.connect_refused(&namespace, if is_about_token { V1_AUTH_ERROR_TEXT } else { code.text() }, code)
        }
    }
}

/// A client that leaves counts until its connection is closed: it may keep that open.
async fn request_close(deps: &Deps, caller: &Caller) {
    let leave = OwnerMessage::Close { connection: Some(caller.connection.clone()) };
    if let Err(error) = deps.owners.send(&caller.session.user, leave).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "requesting the close of a disconnected client failed; its connection still counts"
        );
    }
}
