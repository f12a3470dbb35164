//! Any queued body is parsed or rejected, and frames hold messages in order, within the limit.

use kschat_protocol::{
    Message, Position, ReceiverFrame,
    limits::{MAX_FRAME_BYTES, MAX_MESSAGE_ID_BYTES},
};
use serde_json::Value;

/// Maximum copies of a body, whose first byte gives the number: small inputs fill frames, too.
const COPIES: usize = 64;

/// Checks one input; panics if it violates a property.
pub fn check(data: &[u8]) {
    let mut read = Vec::new();
    for line in data.split(|byte| *byte == b'\n') {
        let (copies, body) = match line {
            [first, body @ ..] if *first >= 0x80 => (usize::from(first & 0x7f) % COPIES + 1, body),
            body => (1, body),
        };
        if let Ok(message) = Message::from_slice(body) {
            // A client must be able to name it in an ack.
            assert!((1..=MAX_MESSAGE_ID_BYTES).contains(&message.id.as_str().len()));
            let queued = Message::from_slice(&message.to_vec());
            assert!(queued.is_ok_and(|queued| queued == message), "a message changes on its way through a queue");
            read.extend(std::iter::repeat_n(message, copies));
        }
    }
    check_frames(&read);
}

/// Puts messages into frames as the consumer does.
fn check_frames(messages: &[Message]) {
    let (mut frame, mut inside, mut previous) = (ReceiverFrame::after(None), Vec::new(), None);
    for (at, message) in messages.iter().enumerate() {
        let redelivered = at % 3 == 0;
        if !frame.push(message, redelivered) {
            check_frame(std::mem::replace(&mut frame, ReceiverFrame::after(previous)), &inside, previous);
            inside.clear();
            previous = at.checked_sub(1).map(place);
            frame = ReceiverFrame::after(previous);
            if !frame.push(message, redelivered) {
                continue;
            }
        }
        inside.push((message, redelivered));
    }
    check_frame(frame, &inside, previous);
}

fn place(at: usize) -> Position {
    Position { run: 7, number: at as u64 + 1 }
}

fn check_frame(frame: ReceiverFrame, inside: &[(&Message, bool)], previous: Option<Position>) {
    assert_eq!((frame.len(), frame.is_empty()), (inside.len(), inside.is_empty()));
    let here = place(previous.map_or(0, |previous| previous.number as usize) + inside.len());
    let text = frame.finish(here).to_text();
    assert!(text.len() <= MAX_FRAME_BYTES, "{} bytes", text.len());
    let sent: Value = serde_json::from_str(&text).expect("a frame is JSON");
    assert_eq!(sent["event"], "RESPRECEIVER");
    assert_eq!(sent["PREV"].as_str().and_then(|text| text.parse().ok()), previous);
    assert_eq!(sent["POS"].as_str().and_then(|text| text.parse().ok()), Some(here));
    let items = sent["MSG"].as_array().expect("a list");
    assert_eq!(items.len(), inside.len());
    for (item, (message, redelivered)) in items.iter().zip(inside) {
        assert_eq!(item["redelivered"].as_bool(), redelivered.then_some(true));
        assert_eq!(Message::from_slice(item.to_string().as_bytes()).ok().as_ref(), Some(*message));
    }
}
