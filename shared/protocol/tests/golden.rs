//! Byte-for-byte comparison of frames with `tests/golden`.

#![expect(clippy::unwrap_used, reason = "an unmet expectation fails the test")]

use kschat_protocol::{
    AckFrame, AuthReply, ClientFrame, Control, EphemeralEvent, ErrorCode, ErrorFrame, JsonId, Message, MessageId, PONG,
    PeerPresence, PeerStatus, Position, PresenceReply, ReceiverFrame, Recipient, Request, RoomId, RoomOp, RoomReply,
    SendFrame, SendReply, ServerFrame, Status, StatusReply, UserId, frame_error_reply,
};

const PLACE: Position = Position { run: 0x0a1b_2c3d, number: 2 };

fn golden(text: &str) -> &str {
    text.trim_end()
}

fn sent() -> SendFrame {
    match ClientFrame::parse(golden(include_str!("golden/client_send.json"))).unwrap() {
        ClientFrame::Send(frame) => frame,
        other => panic!("{other:?}"),
    }
}

fn message() -> Message {
    let frame = sent();
    Message {
        from: frame.uid,
        to: frame.pid,
        msg: frame.msg,
        status: Status::Accepted,
        time: 1_700_000_000_123,
        id: MessageId::from("01890a5d-ac96-774b-bcce-b302099a8057".to_owned()),
        rno: frame.rno,
        trace: None,
        room: None,
        sender_connection: None,
    }
}

/// The same message as its receivers get it.
fn item() -> Message {
    message().without_rno()
}

#[test]
fn accepted_send_reply_matches_golden() {
    let reply = |repeated| ServerFrame::from(SendReply::accepted(message(), repeated)).to_text();
    assert_eq!(reply(false), golden(include_str!("golden/resp_send.json")));
    assert_eq!(reply(true), golden(include_str!("golden/resp_send_repeated.json")));
}

#[test]
fn failed_send_reply_echoes_rno() {
    let reply = ServerFrame::from(SendReply::failed(ErrorCode::BrokerUnavailable, sent())).to_text();
    assert_eq!(reply, golden(include_str!("golden/resp_send_failed.json")));
}

#[test]
fn send_without_recipient_names_missing_field() {
    let error = ClientFrame::parse(r#"{"action":"send","uId":12345,"msg":"hello","rno":"r-1"}"#).unwrap_err();
    assert_eq!(frame_error_reply(error).to_text(), golden(include_str!("golden/resp_send_invalid.json")));
}

#[test]
fn receiver_frame_matches_golden() {
    let mut frame = ReceiverFrame::after(None);
    assert!(frame.push(&item(), false) && frame.push(&item(), true));
    assert_eq!(frame.len(), 2);
    assert_eq!(frame.finish(PLACE).to_text(), golden(include_str!("golden/resp_receiver.json")));
}

#[test]
fn malformed_frame_gets_error_frame() {
    assert_eq!(
        ServerFrame::from(ErrorFrame::new(ErrorCode::Malformed)).to_text(),
        golden(include_str!("golden/resp_error.json"))
    );
    assert_eq!(
        frame_error_reply(ClientFrame::parse("{").unwrap_err()).to_text(),
        golden(include_str!("golden/resp_error.json"))
    );
}

#[test]
fn receiver_frame_names_predecessor() {
    let mut frame = ReceiverFrame::after(Some(Position { run: 0x0a1b_2c3d, number: 1 }));
    assert!(frame.push(&item(), false));
    assert_eq!(frame.finish(PLACE).to_text(), golden(include_str!("golden/resp_receiver_after.json")));
}

#[test]
fn copy_for_senders_devices_has_rno() {
    let mut frame = ReceiverFrame::after(None);
    assert!(frame.push(&message(), false));
    assert_eq!(frame.finish(PLACE).to_text(), golden(include_str!("golden/resp_receiver_copy.json")));
}

#[test]
fn receiver_item_carries_traceparent() {
    let ClientFrame::Send(frame) = ClientFrame::parse(golden(include_str!("golden/client_send_traced.json"))).unwrap()
    else {
        panic!("it is a send");
    };
    assert_eq!(SendFrame { trace: None, ..frame.clone() }, sent());
    let traced = Message { trace: frame.trace, ..item() };
    let mut pushed = ReceiverFrame::after(None);
    assert!(pushed.push(&traced, false));
    assert_eq!(pushed.finish(PLACE).to_text(), golden(include_str!("golden/resp_receiver_traced.json")));
    assert_eq!(traced.to_vec(), item().to_vec(), "the queued body does not hold it");
}

#[test]
fn an_ack_is_understood() {
    let ack = ClientFrame::parse(golden(include_str!("golden/client_ack.json"))).unwrap();
    let wanted = AckFrame { message: Some(message().id), position: Some(PLACE), redelivery_requested: false };
    assert_eq!(ack, ClientFrame::Ack(wanted.clone()));
    let again = ClientFrame::parse(golden(include_str!("golden/client_ack_again.json"))).unwrap();
    assert_eq!(again, ClientFrame::Ack(AckFrame { redelivery_requested: true, ..wanted }));
}

#[test]
fn a_fresh_token_is_taken_or_not() {
    let asked = ClientFrame::parse(golden(include_str!("golden/client_auth.json"))).unwrap();
    let token = "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl".to_owned();
    assert_eq!(asked, ClientFrame::Request(Request::Auth { token }));
    assert_eq!(AuthReply::accepted(Some(1_700_003_600_999)).to_text(), golden(include_str!("golden/resp_auth.json")));
    assert_eq!(
        AuthReply::failed(ErrorCode::TokenExpired).to_text(),
        golden(include_str!("golden/resp_auth_failed.json"))
    );
}

fn request(text: &str) -> Request {
    match ClientFrame::parse(golden(text)).unwrap() {
        ClientFrame::Request(request) => request,
        other => panic!("{other:?}"),
    }
}

/// An event as its frame, after a round trip to the owner of its user.
fn pushed(event: &EphemeralEvent) -> String {
    assert_eq!(EphemeralEvent::from_json(&event.to_json()).as_ref(), Some(event));
    event.to_frame().to_text()
}

#[test]
fn typing_event_matches_golden() {
    let to = UserId::try_from("bob").unwrap();
    assert_eq!(request(include_str!("golden/client_typing.json")), Request::Typing { to, on: true });
    let typing = EphemeralEvent::Typing { from: JsonId::Text("alice".into()), on: true };
    assert_eq!(pushed(&typing), golden(include_str!("golden/resp_typing.json")));
}

#[test]
fn receipt_frames_match_golden() {
    let (alice, bob) = (JsonId::Text("alice".into()), JsonId::Text("bob".into()));
    let peer = UserId::try_from("bob").unwrap();
    let read = Request::Read { peer: peer.clone(), pid: bob.clone(), message: message().id };
    assert_eq!(request(include_str!("golden/client_read.json")), read);
    let seven: JsonId = serde_json::from_str("7").unwrap();
    let peers = vec![(bob.clone(), peer), (seven.clone(), UserId::try_from("7").unwrap())];
    assert_eq!(request(include_str!("golden/client_status.json")), Request::Status { peers });
    let event =
        EphemeralEvent::Status { reader: alice, author: bob.clone(), status: Status::Read, message: message().id };
    assert_eq!(pushed(&event), golden(include_str!("golden/resp_status.json")));
    let known = PeerStatus { user: bob, delivered: Some(message().id), read: Some(message().id) };
    let unknown = PeerStatus { user: seven, delivered: None, read: None };
    assert_eq!(StatusReply::of(vec![known, unknown]).to_text(), golden(include_str!("golden/resp_status_list.json")));
}

#[test]
fn presence_frames_match_golden() {
    let named = |name: &str| (JsonId::Text(name.to_owned()), UserId::try_from(name).unwrap());
    let asked = Request::Presence { users: vec![named("bob"), named("carol")] };
    assert_eq!(request(include_str!("golden/client_presence.json")), asked);
    let bob = PeerPresence { user: named("bob").0, on: true, last: None };
    let carol = PeerPresence { user: named("carol").0, on: false, last: Some(1_700_000_000_123) };
    assert_eq!(
        PresenceReply::of(vec![bob, carol.clone()]).to_text(),
        golden(include_str!("golden/resp_presence.json"))
    );
    assert_eq!(pushed(&EphemeralEvent::Presence(carol)), golden(include_str!("golden/resp_presence_change.json")));
}

#[test]
fn room_frames_match_golden() {
    let (room, gid) = (RoomId::try_from("r1").unwrap(), JsonId::Text("r1".into()));
    let join = Request::Join { room: room.clone(), gid: gid.clone() };
    assert_eq!(request(include_str!("golden/client_join.json")), join);
    let leave = Request::Leave { room: room.clone(), gid: gid.clone() };
    assert_eq!(request(include_str!("golden/client_leave.json")), leave);
    assert_eq!(request(include_str!("golden/client_rooms.json")), Request::Rooms);
    let reply = |er| RoomReply::of(RoomOp::Join, Some(gid.clone()), er).to_text();
    assert_eq!(reply(ErrorCode::Ok), golden(include_str!("golden/resp_room.json")));
    assert_eq!(reply(ErrorCode::Forbidden), golden(include_str!("golden/resp_room_failed.json")));
    assert_eq!(RoomReply::list([room.clone()]).to_text(), golden(include_str!("golden/resp_room_list.json")));
    let said = ClientFrame::parse(golden(include_str!("golden/client_send_room.json"))).unwrap();
    let ClientFrame::Send(frame) = said else { panic!("it is a send") };
    assert_eq!(frame.recipient, Recipient::Room(room));
    let message = Message { to: frame.pid.clone(), room: Some(frame.pid), ..message() };
    let mut pushed = ReceiverFrame::after(None);
    assert!(pushed.push(&message.clone().without_rno(), false));
    assert_eq!(pushed.finish(PLACE).to_text(), golden(include_str!("golden/resp_receiver_room.json")));
    assert_eq!(
        ServerFrame::from(SendReply::accepted(message, false)).to_text(),
        golden(include_str!("golden/resp_send_room.json"))
    );
}

#[test]
fn rate_limited_reply_has_retry_delay() {
    assert_eq!(
        ServerFrame::from(ErrorFrame::rate_limited(10_000)).to_text(),
        golden(include_str!("golden/resp_error_rate.json"))
    );
    let limited = ServerFrame::from(SendReply::refused(ErrorCode::RateLimited, Some(40), sent())).to_text();
    assert_eq!(limited, golden(include_str!("golden/resp_send_limited.json")));
    assert_eq!(
        ServerFrame::from(Control::blocked(60_000)).to_text(),
        golden(include_str!("golden/resp_ctrl_blocked.json"))
    );
}

#[test]
fn token_expiry_frame_matches_golden() {
    assert_eq!(ServerFrame::from(Control::EXPIRED).to_text(), golden(include_str!("golden/resp_ctrl.json")));
}

#[test]
fn a_ping_is_answered_by_the_edge() {
    assert_eq!(PONG, golden(include_str!("golden/resp_pong.json")));
}

#[test]
fn queued_body_round_trips() {
    assert_eq!(Message::from_slice(&message().to_vec()).unwrap(), message());
    assert!(Message::from_slice(b"not json").is_err());
}
