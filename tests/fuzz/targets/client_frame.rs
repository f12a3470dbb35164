//! Whatever a client says is understood or answered, and every answer is a frame that the edge carries.

#![no_main]

use kschat_protocol::{
    ClientFrame, Er, ErrorFrame, JsonId, Message, MessageId, Position, ReceiverFrame, Recipient, SendFrame, SendReply, Status,
    limits::{MAX_FRAME, MAX_MESSAGE_ID, MAX_MSG, MAX_RNO, MAX_ROOM_ID, MAX_USER_ID},
    refusal,
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| {
    match ClientFrame::parse(text) {
        Ok(ClientFrame::Send(frame)) => check_send(frame),
        Ok(ClientFrame::Ack(ack)) => {
            assert!(ack.again || ack.message.is_some());
            assert!(ack.message.is_none_or(|id| (1..=MAX_MESSAGE_ID).contains(&id.as_str().len())));
            check_answer(&ErrorFrame::new(Er::RegistryUnavailable).to_text());
        }
        Ok(ClientFrame::Request(request)) => assert!(!format!("{request:?}").contains("ey")),
        Err(error) => {
            assert_ne!(error.code, Er::Ok);
            assert!(error.is_send || error.rno.is_none());
            let (code, fields) = (error.code.number(), error.fields.len());
            let answer = check_answer(&refusal(error));
            assert_eq!(answer["ER"], code);
            assert_eq!(
                answer["ERRS"].as_array().map_or(0, Vec::len),
                if answer["event"] == "RESPSEND" { fields } else { 0 }
            );
        }
    }
});

fn check_send(frame: SendFrame) {
    let (recipient, longest, room) = match &frame.recipient {
        Recipient::User(user) => (user.as_str(), MAX_USER_ID, None),
        Recipient::Room(room) => (room.as_str(), MAX_ROOM_ID, Some(frame.pid.clone())),
    };
    for (id, longest) in [(frame.claimed_sender.as_str(), MAX_USER_ID), (recipient, longest)] {
        assert!((1..=longest).contains(&id.len()) && !id.contains(char::is_control));
    }
    assert!(!frame.msg.is_empty());
    assert!(serde_json::to_string(&frame.msg).is_ok_and(|json| json.len() <= MAX_MSG));
    if let Some(JsonId::Text(rno)) = &frame.rno {
        assert!((1..=MAX_RNO).contains(&rno.len()));
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
        via: None,
    };
    assert_eq!(Message::from_slice(&message.to_vec()).ok().as_ref(), Some(&message));
    // What was accepted reaches its receiver, also repeated and behind another.
    let furthest = Position { run: u32::MAX, number: u64::MAX };
    let mut receiver = ReceiverFrame::after(Some(furthest));
    assert!(receiver.push(&message, true), "it fits no frame");
    check_answer(&receiver.into_text(furthest));
    for answer in [
        SendReply::accepted(message, true),
        SendReply::failed(Er::BrokerUnavailable, frame.clone()),
        SendReply::without_rno(frame),
    ] {
        check_answer(&answer.to_text());
    }
}

fn check_answer(text: &str) -> Value {
    assert!(text.len() <= MAX_FRAME, "{} bytes", text.len());
    let answer: Value = serde_json::from_str(text).expect("an answer is JSON");
    assert!(answer["event"].as_str().is_some_and(|event| event.starts_with("RESP")));
    assert_eq!(answer["RC"], 1);
    answer
}
