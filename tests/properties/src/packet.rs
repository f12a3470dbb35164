//! Any Socket.IO text is parsed or rejected, and every reply is a packet.

use kschat_protocol::{
    ClientFrame, FrameError, Position,
    dialect::{Dialect, Kind, Namespace, Packet, SocketPacket, callback_packet, event_packet, token_in},
    frame_error_reply,
    limits::{MAX_FRAME_BYTES, MAX_NAMESPACE_BYTES},
};

/// Checks one input; panics if it violates a property.
pub fn check(text: &str) {
    if let Some(dialect) = Dialect::from_code(text) {
        assert_eq!(dialect.code().as_deref(), Some(text));
    }
    let Ok(packet) = Packet::parse(text) else { return };
    let written = packet.to_string();
    assert_eq!(Packet::parse(&written).expect("what we write is a packet").to_string(), written);
    let Packet::Message(SocketPacket { namespace, id, kind }) = packet else { return };
    assert!(namespace.as_str().starts_with('/') && namespace.as_str().len() <= MAX_NAMESPACE_BYTES);
    match kind {
        Kind::Event(name, arguments) => {
            if let Err(error) = ClientFrame::from_event(&name, &arguments) {
                check_error(&namespace, id.unwrap_or_default(), error);
            }
        }
        Kind::Connect(auth) => drop(auth.and_then(token_in)),
        Kind::Ack(_) => drop(id.and_then(Position::from_packet_id)),
        Kind::Disconnect | Kind::Refused(_) => {}
    }
}

/// The reply to an invalid event is a packet in the same namespace.
fn check_error(namespace: &Namespace, id: u64, error: FrameError) {
    let frame = frame_error_reply(error);
    let reply = callback_packet(namespace, id, Some(&frame));
    assert!(!reply.event_follows, "an error counts as accepted");
    for text in [event_packet(namespace, &frame), reply.packet] {
        assert!(text.len() <= MAX_FRAME_BYTES, "{} bytes", text.len());
        let Ok(Packet::Message(packet)) = Packet::parse(&text) else { panic!("{text}") };
        assert_eq!(packet.namespace, *namespace);
    }
}
