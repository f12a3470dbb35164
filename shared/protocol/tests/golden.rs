//! The frames on the wire, byte for byte, as `tests/golden` holds them.

#![expect(clippy::unwrap_used, reason = "what is not as expected fails the test")]

use kschat_protocol::{
    AckFrame, AuthReply, ClientFrame, Control, Er, ErrorFrame, JsonId, Message, MessageId, Notice, PONG, PeerPresence,
    PeerStatus, Position, PresenceReply, ReceiverFrame, Recipient, Request, RoomId, RoomOp, RoomReply, SendFrame,
    SendReply, Status, StatusReply, UserId, refusal,
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
        via: None,
    }
}

/// The same, as anybody but its sender gets it.
fn item() -> Message {
    message().without_rno()
}

#[test]
fn an_accepted_send_is_answered_in_the_seeds_names() {
    let reply = |repeated| SendReply::accepted(message(), repeated).to_text();
    assert_eq!(reply(false), golden(include_str!("golden/resp_send.json")));
    assert_eq!(reply(true), golden(include_str!("golden/resp_send_repeated.json")));
}

#[test]
fn a_failed_send_carries_its_random_number_back() {
    let reply = SendReply::failed(Er::BrokerUnavailable, sent()).to_text();
    assert_eq!(reply, golden(include_str!("golden/resp_send_failed.json")));
}

#[test]
fn a_send_without_recipient_is_told_which_field_is_missing() {
    let error = ClientFrame::parse(r#"{"action":"send","uId":12345,"msg":"hello","rno":"r-1"}"#).unwrap_err();
    assert_eq!(refusal(error), golden(include_str!("golden/resp_send_invalid.json")));
}

#[test]
fn a_receiver_gets_an_array_and_hears_what_was_pushed_before() {
    let mut frame = ReceiverFrame::after(None);
    assert!(frame.push(&item(), false) && frame.push(&item(), true));
    assert_eq!(frame.len(), 2);
    assert_eq!(frame.into_text(PLACE), golden(include_str!("golden/resp_receiver.json")));
}

#[test]
fn what_can_not_be_understood_is_answered_by_an_error_frame() {
    assert_eq!(ErrorFrame::new(Er::Malformed).to_text(), golden(include_str!("golden/resp_error.json")));
    assert_eq!(refusal(ClientFrame::parse("{").unwrap_err()), golden(include_str!("golden/resp_error.json")));
}

#[test]
fn a_frame_names_the_one_before_it() {
    let mut frame = ReceiverFrame::after(Some(Position { run: 0x0a1b_2c3d, number: 1 }));
    assert!(frame.push(&item(), false));
    assert_eq!(frame.into_text(PLACE), golden(include_str!("golden/resp_receiver_after.json")));
}

#[test]
fn copy_for_senders_devices_has_rno() {
    let mut frame = ReceiverFrame::after(None);
    assert!(frame.push(&message(), false));
    assert_eq!(frame.into_text(PLACE), golden(include_str!("golden/resp_receiver_copy.json")));
}

#[test]
fn an_item_says_which_trace_it_belongs_to() {
    let ClientFrame::Send(frame) = ClientFrame::parse(golden(include_str!("golden/client_send_traced.json"))).unwrap()
    else {
        panic!("it is a send");
    };
    assert_eq!(SendFrame { trace: None, ..frame.clone() }, sent());
    let traced = Message { trace: frame.trace, ..item() };
    let mut pushed = ReceiverFrame::after(None);
    assert!(pushed.push(&traced, false));
    assert_eq!(pushed.into_text(PLACE), golden(include_str!("golden/resp_receiver_traced.json")));
    assert_eq!(traced.to_vec(), item().to_vec(), "the queued body does not hold it");
}

#[test]
fn an_ack_is_understood() {
    let ack = ClientFrame::parse(golden(include_str!("golden/client_ack.json"))).unwrap();
    let wanted = AckFrame { message: Some(message().id), position: Some(PLACE), again: false };
    assert_eq!(ack, ClientFrame::Ack(wanted.clone()));
    let again = ClientFrame::parse(golden(include_str!("golden/client_ack_again.json"))).unwrap();
    assert_eq!(again, ClientFrame::Ack(AckFrame { again: true, ..wanted }));
}

#[test]
fn a_fresh_token_is_taken_or_not() {
    let asked = ClientFrame::parse(golden(include_str!("golden/client_auth.json"))).unwrap();
    let token = "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl".to_owned();
    assert_eq!(asked, ClientFrame::Request(Request::Auth { token }));
    assert_eq!(AuthReply::accepted(Some(1_700_003_600_999)), golden(include_str!("golden/resp_auth.json")));
    assert_eq!(AuthReply::failed(Er::TokenExpired), golden(include_str!("golden/resp_auth_failed.json")));
}

fn request(text: &str) -> Request {
    match ClientFrame::parse(golden(text)).unwrap() {
        ClientFrame::Request(request) => request,
        other => panic!("{other:?}"),
    }
}

/// A notice as its frame, after the way that it takes to the owner of its user.
fn pushed(notice: &Notice) -> String {
    assert_eq!(Notice::from_json(&notice.to_json()).as_ref(), Some(notice));
    notice.to_text()
}

#[test]
fn who_is_writing_is_told() {
    let to = UserId::try_from("bob").unwrap();
    assert_eq!(request(include_str!("golden/client_typing.json")), Request::Typing { to, on: true });
    let typing = Notice::Typing { from: JsonId::Text("alice".into()), on: true };
    assert_eq!(pushed(&typing), golden(include_str!("golden/resp_typing.json")));
}

#[test]
fn what_was_got_and_read_is_told_and_can_be_asked_for() {
    let (alice, bob) = (JsonId::Text("alice".into()), JsonId::Text("bob".into()));
    let peer = UserId::try_from("bob").unwrap();
    let read = Request::Read { peer: peer.clone(), pid: bob.clone(), message: message().id };
    assert_eq!(request(include_str!("golden/client_read.json")), read);
    let seven: JsonId = serde_json::from_str("7").unwrap();
    let peers = vec![(bob.clone(), peer), (seven.clone(), UserId::try_from("7").unwrap())];
    assert_eq!(request(include_str!("golden/client_status.json")), Request::Status { peers });
    let notice = Notice::Status { reader: alice, author: bob.clone(), status: Status::Read, message: message().id };
    assert_eq!(pushed(&notice), golden(include_str!("golden/resp_status.json")));
    let known = PeerStatus { user: bob, delivered: Some(message().id), read: Some(message().id) };
    let unknown = PeerStatus { user: seven, delivered: None, read: None };
    assert_eq!(StatusReply::of(vec![known, unknown]), golden(include_str!("golden/resp_status_list.json")));
}

#[test]
fn who_is_there_can_be_asked_for_and_a_change_is_told() {
    let named = |name: &str| (JsonId::Text(name.to_owned()), UserId::try_from(name).unwrap());
    let asked = Request::Presence { users: vec![named("bob"), named("carol")] };
    assert_eq!(request(include_str!("golden/client_presence.json")), asked);
    let bob = PeerPresence { user: named("bob").0, on: true, last: None };
    let carol = PeerPresence { user: named("carol").0, on: false, last: Some(1_700_000_000_123) };
    assert_eq!(PresenceReply::of(vec![bob, carol.clone()]), golden(include_str!("golden/resp_presence.json")));
    assert_eq!(pushed(&Notice::Presence(carol)), golden(include_str!("golden/resp_presence_change.json")));
}

#[test]
fn a_room_is_joined_left_and_spoken_in() {
    let (room, gid) = (RoomId::try_from("r1").unwrap(), JsonId::Text("r1".into()));
    let join = Request::Join { room: room.clone(), gid: gid.clone() };
    assert_eq!(request(include_str!("golden/client_join.json")), join);
    let leave = Request::Leave { room: room.clone(), gid: gid.clone() };
    assert_eq!(request(include_str!("golden/client_leave.json")), leave);
    assert_eq!(request(include_str!("golden/client_rooms.json")), Request::Rooms);
    let reply = |er| RoomReply::of(RoomOp::Join, Some(gid.clone()), er);
    assert_eq!(reply(Er::Ok), golden(include_str!("golden/resp_room.json")));
    assert_eq!(reply(Er::Forbidden), golden(include_str!("golden/resp_room_failed.json")));
    assert_eq!(RoomReply::list([room.clone()]), golden(include_str!("golden/resp_room_list.json")));
    let said = ClientFrame::parse(golden(include_str!("golden/client_send_room.json"))).unwrap();
    let ClientFrame::Send(frame) = said else { panic!("it is a send") };
    assert_eq!(frame.recipient, Recipient::Room(room));
    let message = Message { to: frame.pid.clone(), room: Some(frame.pid), ..message() };
    let mut pushed = ReceiverFrame::after(None);
    assert!(pushed.push(&message.clone().without_rno(), false));
    assert_eq!(pushed.into_text(PLACE), golden(include_str!("golden/resp_receiver_room.json")));
    assert_eq!(SendReply::accepted(message, false).to_text(), golden(include_str!("golden/resp_send_room.json")));
}

#[test]
fn who_asks_too_often_hears_how_long_to_wait() {
    assert_eq!(ErrorFrame::rate_limited(10_000).to_text(), golden(include_str!("golden/resp_error_rate.json")));
    let limited = SendReply::refused(Er::RateLimited, Some(40), sent()).to_text();
    assert_eq!(limited, golden(include_str!("golden/resp_send_limited.json")));
    assert_eq!(Control::blocked(60_000).to_text(), golden(include_str!("golden/resp_ctrl_blocked.json")));
}

#[test]
fn the_end_of_a_token_is_told() {
    assert_eq!(Control::EXPIRED.to_text(), golden(include_str!("golden/resp_ctrl.json")));
}

#[test]
fn a_ping_is_answered_by_the_edge() {
    assert_eq!(PONG, golden(include_str!("golden/resp_pong.json")));
}

#[test]
fn a_queued_body_reads_back_as_it_was_written() {
    assert_eq!(Message::from_slice(&message().to_vec()).unwrap(), message());
    assert!(Message::from_slice(b"not json").is_err());
}
