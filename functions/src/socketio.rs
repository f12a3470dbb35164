//! What a Socket.IO client says: packets in, packets out, frames in between.

use kschat_core::{connect::ConnectError, inbound::Caller, join};
use kschat_protocol::{
    AckFrame, ClientFrame, Er, Position,
    dialect::{
        Dialect, Kind, Namespace, Packet, RESTART, Revision, SocketIo, SocketPacket, as_event, as_frame, reply_to,
        token_in,
    },
};

use crate::send::{self, Deps, Said};

/// What a client is told whose token is not believed: the seed's words, as its clients may compare them.
const NOT_AUTHENTICATED: &str = "Authentication error";

/// What a text says that reads as a packet: the packet, and the frame in it if it has one.
pub(crate) struct SaidInPackets<'a> {
    packet: Packet<'a>,
    /// What the frame of an event or the callback of a message says.
    pub(crate) frame: Option<Said>,
}

impl<'a> SaidInPackets<'a> {
    /// Reads a text; nothing if it is no packet.
    pub(crate) fn read(text: &'a str) -> Option<Self> {
        let packet = Packet::parse(text).ok()?;
        let frame = match &packet {
            Packet::Message(SocketPacket { kind: Kind::Event(name, arguments), .. }) => {
                Some(match as_frame(name, arguments) {
                    Some(frame) => ClientFrame::parse(&frame),
                    None => ClientFrame::parse(""),
                })
            }
            Packet::Message(SocketPacket { kind: Kind::Ack(_), id, .. }) => {
                let position = id.and_then(Position::from_packet_id).filter(|position| position.number > 0);
                position.map(|position| {
                    Ok(ClientFrame::Ack(AckFrame { message: None, position: Some(position), again: false }))
                })
            }
            _ => None,
        };
        Some(Self { packet, frame })
    }
}

/// What a packet is answered with, if with anything.
pub(crate) async fn answer(deps: &Deps, caller: &Caller, said: SaidInPackets<'_>) -> Option<String> {
    let SaidInPackets { packet, frame } = said;
    match packet {
        Packet::Ping(text) => Some(Packet::Pong(text).to_string()),
        Packet::Message(packet) => on_message(deps, caller, packet, frame).await,
        // Nothing follows from these: the answer to our heartbeat, and the parts of a talk that only polling needs.
        Packet::Pong(_) | Packet::Upgrade | Packet::Noop | Packet::Close | Packet::Open(_) => None,
    }
}

/// What a text is answered with that is no packet: by an event, as an answer of another form would end the talk.
pub(crate) async fn answer_other(deps: &Deps, caller: &Caller, client: &SocketIo) -> Option<String> {
    // No frame is read here, whatever the text looks like.
    let reply = send::reply(deps, caller, ClientFrame::parse("")).await?;
    Some(match &client.namespace {
        Some(namespace) => as_event(namespace, &reply),
        // It has not joined, so that it would hear no event.
        None => RESTART.to_owned(),
    })
}

/// The answer to a packet of which nobody knows whose it is. Only its form follows from the text.
pub(crate) fn fail(said: SaidInPackets<'_>, code: Er) -> Option<String> {
    match (said.packet, said.frame) {
        (Packet::Message(SocketPacket { kind: Kind::Connect(_), .. }), _) => Some(RESTART.to_owned()),
        (Packet::Message(SocketPacket { namespace, id, .. }), Some(frame)) => {
            let is_ack = matches!(frame, Ok(ClientFrame::Ack(_)));
            let reply = send::fail(frame, code)?;
            Some(match id.filter(|_| !is_ack) {
                Some(id) => reply_to(&namespace, id, Some(&reply)).0,
                None => as_event(&namespace, &reply),
            })
        }
        _ => None,
    }
}

async fn on_message(deps: &Deps, caller: &Caller, packet: SocketPacket<'_>, frame: Option<Said>) -> Option<String> {
    let SocketPacket { namespace, id, kind } = packet;
    match kind {
        Kind::Connect(auth) => Some(on_connect(deps, caller, namespace, auth.and_then(token_in)).await),
        Kind::Disconnect => {
            leave(deps, caller).await;
            None
        }
        Kind::Event(..) => {
            let reply = send::reply(deps, caller, frame?).await;
            on_reply(deps, caller, &namespace, id, reply).await
        }
        Kind::Ack(_) => match frame? {
            Ok(ClientFrame::Ack(ack)) => {
                let failed = send::acknowledge(deps, caller, &ack).await?;
                Some(as_event(&namespace, &failed))
            }
            _ => None,
        },
        // Only servers say that.
        Kind::Refused(_) => None,
    }
}

async fn on_reply(
    deps: &Deps,
    caller: &Caller,
    namespace: &Namespace,
    id: Option<u64>,
    reply: Option<String>,
) -> Option<String> {
    let Some(id) = id else { return reply.map(|reply| as_event(namespace, &reply)) };
    let (answer, follows) = reply_to(namespace, id, reply.as_deref());
    if let Some(reply) = reply.filter(|_| follows.is_some()) {
        follow_up(deps, caller, &reply).await;
    }
    Some(answer)
}

/// One answer is one frame, and the callback has taken it: the event is pushed by the sender's owner.
async fn follow_up(deps: &Deps, caller: &Caller, reply: &str) {
    if let Err(error) = deps.replies.reply(&caller.session.user, &caller.connection, reply).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "a reply was not passed on");
    }
}

async fn on_connect(deps: &Deps, caller: &Caller, namespace: Namespace, token: Option<String>) -> String {
    let Dialect::SocketIo(client) = &caller.session.dialect else { return RESTART.to_owned() };
    if client.revision == Revision::Four && client.namespace.as_ref().is_some_and(|joined| *joined != namespace) {
        return client.refusal(&namespace, "one namespace for each connection", Er::Forbidden);
    }
    let joined = Dialect::SocketIo(SocketIo { namespace: Some(namespace.clone()), ..client.clone() });
    match join::join(&deps.join, caller, joined, token).await {
        Ok(()) => client.welcome(&namespace, &caller.connection),
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

/// A client that leaves goes on to count until its connection is closed: it may keep that open.
async fn leave(deps: &Deps, caller: &Caller) {
    if let Err(error) = deps.supervision.close(&caller.session.user, Some(&caller.connection)).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "a client has left and still counts as there");
    }
}
