//! Sizes and lifetimes set by the managed edge or by the protocol, in bytes unless stated otherwise.

use std::time::Duration;

/// The largest frame the managed edge passes in either direction, and the unit it bills by.
///
/// Source: Amazon API Gateway quotas, "WebSocket frame size".
pub const MAX_FRAME_BYTES: usize = 32 * 1024;

/// The largest `msg`, measured as the JSON string that carries it, quotes included.
///
/// The rest of [`MAX_FRAME_BYTES`] holds the envelope, two ids of maximum length and a trace. An accepted message thus
/// always fits into a frame to its receiver.
pub const MAX_TEXT_BYTES: usize = 28 * 1024;

/// The longest user id: with its prefix it stays well below the 255 bytes of an AMQP routing key.
pub const MAX_USER_ID_BYTES: usize = 128;

/// The longest room id: with every byte escaped it still fits into an AMQP routing key.
pub const MAX_ROOM_ID_BYTES: usize = 64;

/// The longest connection id. The managed edge generates 16 characters; other edges may use more.
pub const MAX_CONNECTION_ID_BYTES: usize = 128;

/// The longest `rno`, as text.
pub const MAX_RNO_BYTES: usize = 128;

/// The longest message id that a client may send. Ours have 36 characters.
pub const MAX_MESSAGE_ID_BYTES: usize = 64;

/// The longest namespace of a Socket.IO client.
pub const MAX_NAMESPACE_BYTES: usize = 64;

/// Maximum overhead of a Socket.IO event over its frame: a namespace, an id and delimiters.
pub const MAX_SOCKET_IO_OVERHEAD_BYTES: usize = MAX_NAMESPACE_BYTES + 24;
/// Maximum users in one request.
pub const MAX_USERS_PER_REQUEST: usize = 100;

/// Maximum lifetime of a connection at the managed edge.
///
/// Source: Amazon API Gateway quotas, "Connection duration for WebSocket API".
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(2 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        JsonId, Message, MessageId, Position, ReceiverFrame, Status, TraceContext,
        dialect::{Namespace, event_packet},
    };

    #[test]
    fn largest_message_fits_one_frame() {
        // A quote takes two bytes in JSON: the worst case that a valid id allows.
        let longest = JsonId::Text("\"".repeat(MAX_USER_ID_BYTES));
        let message = Message {
            from: longest.clone(),
            to: longest,
            msg: "m".repeat(MAX_TEXT_BYTES - 2),
            status: Status::Accepted,
            time: u64::MAX,
            id: MessageId::from("0".repeat(36)),
            rno: Some(JsonId::Text("\"".repeat(MAX_RNO_BYTES))),
            trace: TraceContext::new(u128::MAX, u64::MAX, u8::MAX, None),
            room: None,
            sender_connection: None,
        };
        let furthest = Position { run: u32::MAX, number: u64::MAX };
        let mut frame = ReceiverFrame::after(Some(furthest));
        assert!(frame.push(&message, true), "the largest message exceeds a frame");
        let frame = frame.finish(furthest);
        assert!(frame.to_text().len() <= MAX_FRAME_BYTES - MAX_SOCKET_IO_OVERHEAD_BYTES);
        let namespace: Namespace = format!("/{}", "n".repeat(MAX_NAMESPACE_BYTES - 1)).parse().unwrap();
        assert!(event_packet(&namespace, &frame).len() <= MAX_FRAME_BYTES);
    }
}
