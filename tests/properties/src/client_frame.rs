//! Any client frame is parsed or rejected, and every reply fits into a frame of the edge.

use kschat_protocol::{
    ClientFrame, ErrorCode, ErrorFrame, JsonId, Message, MessageId, Position, ReceiverFrame, Recipient, SendFrame,
    SendReply, ServerFrame, Status, frame_error_reply,
    limits::{
        MAX_FRAME_BYTES, MAX_MESSAGE_ID_BYTES, MAX_RNO_BYTES, MAX_ROOM_ID_BYTES, MAX_TEXT_BYTES, MAX_USER_ID_BYTES,
    },
};
use serde_json::Value;

/// Checks one input; panics if it violates a property.
pub fn check(text: &str) {
    match ClientFrame::parse(text) {
        Ok(ClientFrame::Send(frame)) => check_send(frame),
        Ok(ClientFrame::Ack(ack)) => {
            assert!(ack.redelivery_requested || ack.message.is_some());
            assert!(ack.message.is_none_or(|id| (1..=MAX_MESSAGE_ID_BYTES).contains(&id.as_str().len())));
            check_reply(ErrorFrame::new(ErrorCode::RegistryUnavailable));
        }
        Ok(ClientFrame::Request(request)) => assert!(!format!("{request:?}").contains("ey")),
        Err(error) => {
            assert_ne!(error.code, ErrorCode::Ok);
            assert!(error.is_send || error.rno.is_none());
            let (code, fields) = (error.code.number(), error.fields.len());
            let reply = check_reply(frame_error_reply(error));
            assert_eq!(reply["ER"], code);
            assert_eq!(
                reply["ERRS"].as_array().map_or(0, Vec::len),
                if reply["event"] == "RESPSEND" { fields } else { 0 }
            );
        }
    }
}

fn check_send(frame: SendFrame) {
    let (recipient, longest, room) = match &frame.recipient {
        Recipient::User(user) => (user.as_str(), MAX_USER_ID_BYTES, None),
        Recipient::Room(room) => (room.as_str(), MAX_ROOM_ID_BYTES, Some(frame.pid.clone())),
    };
    for (id, longest) in [(frame.claimed_sender.as_str(), MAX_USER_ID_BYTES), (recipient, longest)] {
        assert!((1..=longest).contains(&id.len()) && !id.contains(char::is_control));
    }
    assert!(!frame.msg.is_empty());
    assert!(serde_json::to_string(&frame.msg).is_ok_and(|json| json.len() <= MAX_TEXT_BYTES));
    if let Some(JsonId::Text(rno)) = &frame.rno {
        assert!((1..=MAX_RNO_BYTES).contains(&rno.len()));
    }
    let message = Message {
        from: frame.uid.clone(),
        to: frame.pid.clone(),
        msg: frame.msg.clone(),
        status: Status::Accepted,
        time: u64::MAX,
        id: MessageId::from("f".repeat(36)),
        rno: frame.rno.clone(),
        trace: None,
        room,
        sender_connection: None,
    };
    assert_eq!(Message::from_slice(&message.to_vec()).ok().as_ref(), Some(&message));
    // An accepted message reaches its receiver, also when redelivered after another.
    let furthest = Position { run: u32::MAX, number: u64::MAX };
    let mut receiver = ReceiverFrame::after(Some(furthest));
    assert!(receiver.push(&message, true), "accepted message fits no frame");
    check_reply(receiver.finish(furthest));
    for reply in [
        SendReply::accepted(message, true),
        SendReply::failed(ErrorCode::BrokerUnavailable, frame.clone()),
        SendReply::without_rno(frame),
    ] {
        check_reply(reply);
    }
}

fn check_reply(reply: impl Into<ServerFrame>) -> Value {
    let text = reply.into().to_text();
    assert!(text.len() <= MAX_FRAME_BYTES, "{} bytes", text.len());
    let reply: Value = serde_json::from_str(&text).expect("a reply is JSON");
    assert!(reply["event"].as_str().is_some_and(|event| event.starts_with("RESP")));
    assert_eq!(reply["RC"], 1);
    reply
}
