//! What a Socket.IO client says: packets in, packets out, frames in between.

use kschat_core::{connect::ConnectError, disconnect, join};
use kschat_protocol::{
    AckFrame, ConnectionId, Er, ErrorFrame, Position, UserId,
    dialect::{
        Dialect, Kind, Namespace, Packet, RESTART, Revision, SocketIo, SocketPacket, as_event, as_frame, reply_to,
        token_in,
    },
};

use crate::send::{self, Deps};

/// What a client is told whose token is not believed: the seed's words, as its clients may compare them.
const NOT_AUTHENTICATED: &str = "Authentication error";

/// What a packet is answered with, if with anything.
pub(crate) async fn answer(deps: &Deps, connection: &ConnectionId, packet: Packet<'_>) -> Option<String> {
    match packet {
        Packet::Ping(text) => Some(Packet::Pong(text).to_string()),
        Packet::Message(packet) => on_message(deps, connection, packet).await,
        // Nothing follows from these: the answer to our heartbeat, and the parts of a talk that only polling needs.
        Packet::Pong(_) | Packet::Upgrade | Packet::Noop | Packet::Close | Packet::Open(_) => None,
    }
}

/// What a text is answered with that is neither packet nor frame, if its sender speaks this dialect: a frame as it is
/// would end the talk.
pub(crate) async fn refuse(deps: &Deps, connection: &ConnectionId, frame: &str) -> Option<String> {
    let session = deps.join.registry.session(connection).await.ok()??;
    match session.dialect {
        Dialect::SocketIo(SocketIo { namespace: Some(namespace), .. }) => Some(as_event(&namespace, frame)),
        // It has not joined, so that it would hear no event.
        Dialect::SocketIo(_) => Some(RESTART.to_owned()),
        Dialect::Raw => None,
    }
}

async fn on_message(deps: &Deps, connection: &ConnectionId, packet: SocketPacket<'_>) -> Option<String> {
    let SocketPacket { namespace, id, kind } = packet;
    match kind {
        Kind::Connect(auth) => Some(on_connect(deps, connection, namespace, auth.and_then(token_in)).await),
        Kind::Disconnect => {
            leave(deps, connection).await;
            None
        }
        Kind::Event(name, arguments) => {
            let reply = match as_frame(&name, &arguments) {
                Some(frame) => send::reply(deps, connection, &frame).await,
                None => Some(ErrorFrame::new(Er::Malformed).to_text()),
            };
            on_reply(deps, connection, &namespace, id, reply).await
        }
        Kind::Ack(_) => {
            let position = Position::from_packet_id(id?).filter(|position| position.number > 0)?;
            let ack = AckFrame { message: None, position: Some(position), again: false };
            let failed = send::acknowledge(deps, connection, &ack).await?;
            Some(as_event(&namespace, &failed))
        }
        // Only servers say that.
        Kind::Refused(_) => None,
    }
}

async fn on_reply(
    deps: &Deps,
    connection: &ConnectionId,
    namespace: &Namespace,
    id: Option<u64>,
    reply: Option<String>,
) -> Option<String> {
    let Some(id) = id else { return reply.map(|reply| as_event(namespace, &reply)) };
    let (answer, follows) = reply_to(namespace, id, reply.as_deref());
    let sender = follows.and_then(|sender| UserId::try_from(&sender).ok());
    if let Some((sender, reply)) = sender.zip(reply) {
        follow_up(deps, connection, &sender, &reply).await;
    }
    Some(answer)
}

/// One answer is one frame, and the callback has taken it: the event is pushed by the sender's owner.
async fn follow_up(deps: &Deps, connection: &ConnectionId, sender: &UserId, reply: &str) {
    if let Err(error) = deps.replies.reply(sender, connection, reply).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "a reply was not passed on");
    }
}

async fn on_connect(deps: &Deps, connection: &ConnectionId, namespace: Namespace, token: Option<String>) -> String {
    let (session, client) = match deps.join.registry.session(connection).await {
        Ok(Some(session)) => match session.dialect.clone() {
            Dialect::SocketIo(client) => (session, client),
            Dialect::Raw => return RESTART.to_owned(),
        },
        // Nobody knows it: its client connects anew.
        _ => return RESTART.to_owned(),
    };
    if client.revision == Revision::Four && client.namespace.as_ref().is_some_and(|joined| *joined != namespace) {
        return client.refusal(&namespace, "one namespace for each connection", Er::Forbidden);
    }
    let joined = Dialect::SocketIo(SocketIo { namespace: Some(namespace.clone()), ..client.clone() });
    match join::join(&deps.join, connection, &session, joined, token).await {
        Ok(()) => client.welcome(&namespace, connection),
        Err(error) if error.code().is_ours() => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a client can't join for now");
            RESTART.to_owned()
        }
        Err(error) => {
            let code = error.code();
            tracing::info!(er = code.number(), %error, "a client may not join");
            let is_about_token = matches!(error, ConnectError::NoToken | ConnectError::Token(_));
            client.refusal(&namespace, if is_about_token { NOT_AUTHENTICATED } else { code.text() }, code)
        }
    }
}

async fn leave(deps: &Deps, connection: &ConnectionId) {
    let parts = disconnect::Deps { registry: deps.join.registry.clone(), pokes: deps.join.pokes.clone() };
    if let Err(error) = disconnect::disconnect(&parts, connection).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "a client has left and still counts as there");
    }
}
