//! Decodes the text of a client before its dialect is known: the session is read in the same step that charges for the
//! frame. A raw frame is an object and begins with a brace, a packet begins with a digit, so no text is both.

use kschat_core::inbound::frames::DecodedFrame;
use kschat_protocol::{
    AckFrame, ClientFrame, Position,
    dialect::{Kind, Packet, SocketPacket},
};

/// A decoded text.
pub(crate) enum Input<'a> {
    /// It is no packet: a raw frame, if it is readable.
    Frame(DecodedFrame),
    /// A packet of Engine.IO.
    Packet(PacketInput<'a>),
}

/// A packet, and the frame in it if it has one.
pub(crate) struct PacketInput<'a> {
    pub(crate) packet: Packet<'a>,
    /// The frame of an event or of a message's callback.
    pub(crate) frame: Option<DecodedFrame>,
}

impl<'a> Input<'a> {
    pub(crate) fn decode(text: &'a str) -> Self {
        match Packet::parse(text) {
            Ok(packet) => Self::Packet(PacketInput { frame: frame_in(&packet), packet }),
            Err(_) => Self::Frame(ClientFrame::parse(text)),
        }
    }

    /// What the user is charged for.
    pub(crate) const fn frame(&self) -> Option<&DecodedFrame> {
        match self {
            Self::Frame(frame) => Some(frame),
            Self::Packet(input) => input.frame.as_ref(),
        }
    }
}

fn frame_in(packet: &Packet<'_>) -> Option<DecodedFrame> {
    let Packet::Message(SocketPacket { kind, id, .. }) = packet else { return None };
    match kind {
        Kind::Event(name, arguments) => Some(ClientFrame::from_event(name, arguments)),
        Kind::Ack(_) => {
            let position = id.and_then(Position::from_packet_id).filter(|position| position.number > 0)?;
            let ack = AckFrame { message: None, position: Some(position), redelivery_requested: false };
            Some(Ok(ClientFrame::Ack(ack)))
        }
        Kind::Connect(_) | Kind::Disconnect | Kind::Refused(_) => None,
    }
}
