//! Sizes and lifetimes that the managed edge or the protocol sets, each in bytes unless it says otherwise.

use std::time::Duration;

/// The largest frame the managed edge passes in either direction, and the unit it bills by.
///
/// Source: Amazon API Gateway quotas, "WebSocket frame size".
pub const MAX_FRAME: usize = 32 * 1024;

/// The largest `msg`, measured as the JSON string that carries it, quotes included.
///
/// What is left of [`MAX_FRAME`] holds the envelope, two ids at their longest and a trace, so that a message that
/// was accepted always fits into a frame to its receiver.
pub const MAX_MSG: usize = 28 * 1024;

/// The longest user id: with its prefix it stays well below the 255 bytes of an AMQP routing key.
pub const MAX_USER_ID: usize = 128;

/// The longest room id: with every byte escaped it still fits into an AMQP routing key.
pub const MAX_ROOM_ID: usize = 64;

/// The longest connection id. The managed edge mints 16 characters; the room is for other edges.
pub const MAX_CONNECTION_ID: usize = 128;

/// The longest `rno`, as text.
pub const MAX_RNO: usize = 128;

/// The longest message id that a client may name. Ours have 36 characters.
pub const MAX_MESSAGE_ID: usize = 64;

/// The longest namespace of a Socket.IO client.
pub const MAX_NAMESPACE: usize = 64;

/// How much longer than the frame itself an event of Socket.IO can be: a namespace, an id, and what is around them.
pub const MAX_WRAPPING: usize = MAX_NAMESPACE + 24;
/// Users whom one request may ask about.
pub const MAX_ASKED: usize = 100;

/// How long the managed edge keeps a connection at most.
///
/// Source: Amazon API Gateway quotas, "Connection duration for WebSocket API".
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(2 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        JsonId, Message, MessageId, Position, ReceiverFrame, Status, TraceContext,
        dialect::{Namespace, as_event},
    };

    #[test]
    fn the_largest_message_between_the_longest_ids_fits_one_frame() {
        // A quote takes two bytes in JSON: the worst case that a valid id allows.
        let longest = JsonId::Text("\"".repeat(MAX_USER_ID));
        let message = Message {
            from: longest.clone(),
            to: longest,
            msg: "m".repeat(MAX_MSG - 2),
            status: Status::Accepted,
            time: u64::MAX,
            id: MessageId::from("0".repeat(36)),
            rno: Some(JsonId::Text("\"".repeat(MAX_RNO))),
            trace: TraceContext::new(u128::MAX, u64::MAX, u8::MAX, None),
            room: None,
            via: None,
        };
        let furthest = Position { run: u32::MAX, number: u64::MAX };
        let mut frame = ReceiverFrame::after(Some(furthest));
        assert!(frame.push(&message, true), "it does not fit");
        let frame = frame.into_text(furthest);
        assert!(frame.len() <= MAX_FRAME - MAX_WRAPPING);
        let namespace: Namespace = format!("/{}", "n".repeat(MAX_NAMESPACE - 1)).parse().unwrap();
        assert!(as_event(&namespace, &frame).len() <= MAX_FRAME);
    }
}
