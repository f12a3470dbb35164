//! Whatever a Socket.IO client says is a packet or none, and whatever it is told is one.

#![no_main]

use kschat_protocol::{
    ClientFrame, Position,
    dialect::{Dialect, Kind, Namespace, Packet, SocketPacket, as_event, as_frame, reply_to, token_in},
    limits::{MAX_FRAME, MAX_NAMESPACE},
    refusal,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(dialect) = Dialect::from_code(text) {
        assert_eq!(dialect.code().as_deref(), Some(text));
    }
    let Ok(packet) = Packet::parse(text) else { return };
    let written = packet.to_string();
    assert_eq!(Packet::parse(&written).expect("what we write is a packet").to_string(), written);
    let Packet::Message(SocketPacket { namespace, id, kind }) = packet else { return };
    assert!(namespace.as_str().starts_with('/') && namespace.as_str().len() <= MAX_NAMESPACE);
    match kind {
        Kind::Event(name, arguments) => check_event(&namespace, id, as_frame(&name, &arguments)),
        Kind::Connect(auth) => drop(auth.and_then(token_in)),
        Kind::Ack(_) => drop(id.and_then(Position::from_packet_id)),
        Kind::Disconnect | Kind::Refused(_) => {}
    }
});

/// An event that carries an object is a frame, and its answer a packet in the same namespace.
fn check_event(namespace: &Namespace, id: Option<u64>, frame: Option<String>) {
    let Some(frame) = frame else { return };
    let Err(error) = ClientFrame::parse(&frame) else { return };
    let answer = refusal(error);
    let (reply, follows) = reply_to(namespace, id.unwrap_or_default(), Some(&answer));
    assert!(follows.is_none(), "a refusal counts as accepted");
    for text in [as_event(namespace, &answer), reply] {
        assert!(text.len() <= MAX_FRAME, "{} bytes", text.len());
        let Ok(Packet::Message(told)) = Packet::parse(&text) else { panic!("{text}") };
        assert_eq!(told.namespace, *namespace);
    }
}
