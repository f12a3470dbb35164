//! Every text is a valid packet or rejected, and every packet round-trips.

#![expect(clippy::unwrap_used, clippy::panic, reason = "an unmet expectation fails the test")]

use kschat_protocol::{
    ClientFrame, ErrorCode, ErrorFrame, Position, ServerFrame,
    dialect::{Dialect, Kind, MAX_PACKET_ID, Namespace, Packet, SocketPacket, callback_packet, event_packet},
    frame_error_reply,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn namespace() -> impl Strategy<Value = Namespace> {
    prop_oneof![Just(Namespace::main()), "/[!-+.-\\[\\]-~]{0,63}".prop_filter_map("valid", |text| text.parse().ok())]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// One packet of each type: its digit and its JSON payload.
fn content() -> impl Strategy<Value = (u8, Option<Value>)> {
    let object = || {
        prop::collection::btree_map(any::<String>(), value(), 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    };
    prop_oneof![
        prop::option::of(object()).prop_map(|data| (0, data)),
        Just((1, None)),
        (any::<String>(), prop::collection::vec(value(), 0..3))
            .prop_map(|(name, rest)| { (2, Some([vec![Value::from(name)], rest].concat().into())) }),
        prop::collection::vec(value(), 0..3).prop_map(|list| (3, Some(Value::from(list)))),
        prop_oneof![object(), any::<String>().prop_map(Value::from)].prop_map(|data| (4, Some(data))),
    ]
}

/// Text that resembles a packet enough to pass the first checks.
fn nearly_a_packet() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("4".to_owned()),
        Just("/kschat,".to_owned()),
        Just("/kschat?token=T,".to_owned()),
        Just("[\"Send\",".to_owned()),
        Just("{\"uId\":1}".to_owned()),
        Just("]".to_owned()),
        "[0-9]{0,18}",
        ".{0,6}",
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| format!("4{}", pieces.concat()))
}

fn check(text: &str) {
    let Ok(packet) = Packet::parse(text) else { return };
    let written = packet.to_string();
    assert_eq!(Packet::parse(&written).unwrap().to_string(), written);
    if let Packet::Message(SocketPacket { kind: Kind::Event(name, arguments), namespace, id }) = packet {
        let reply = match ClientFrame::from_event(&name, &arguments) {
            Ok(_) => ErrorFrame::new(ErrorCode::Forbidden).into(),
            Err(error) => frame_error_reply(error),
        };
        reads(&event_packet(&namespace, &reply));
        reads(&callback_packet(&namespace, id.unwrap_or_default(), Some(&reply)).packet);
    }
}

/// Checks that our output is a valid packet for clients.
fn reads(text: &str) {
    match Packet::parse(text) {
        Ok(Packet::Message(_)) => {}
        other => assert!(text.len() > 32 * 1024, "{text}: {other:?}"),
    }
}

proptest! {
    #[test]
    fn any_text_is_a_packet_or_none(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn packet_parser_never_panics(text in nearly_a_packet()) {
        check(&text);
    }

    #[test]
    fn packet_round_trips(
        namespace in namespace(), id in 0..=MAX_PACKET_ID, with_id in any::<bool>(), (digit, data) in content()
    ) {
        let id = match digit { 2 if with_id => Some(id), 3 => Some(id), _ => None };
        let data = data.map(|data| data.to_string());
        let prefix = if namespace.as_str() == "/" { String::new() } else { format!("{namespace},") };
        let digits = id.map(|id| id.to_string()).unwrap_or_default();
        let text = format!("4{digit}{prefix}{digits}{}", data.as_deref().unwrap_or_default());
        let packet = Packet::parse(&text).unwrap();
        prop_assert_eq!(&packet.to_string(), &text);
        let Packet::Message(packet) = packet else { panic!("{packet:?}") };
        prop_assert_eq!((packet.namespace, packet.id), (namespace, id));
    }

    #[test]
    fn event_packet_carries_name_and_fields(namespace in namespace(), fields in value()) {
        let fields = json!({ "uId": fields });
        let text = format!(r#"{{"event":"RESPX","uId":{}}}"#, fields["uId"]);
        let event = event_packet(&namespace, &ServerFrame::from_text(&text).unwrap());
        let Ok(Packet::Message(SocketPacket { kind: Kind::Event(name, arguments), namespace: heard, .. })) =
            Packet::parse(&event) else { panic!("{event}") };
        let heard_fields: Value = serde_json::from_str(arguments[0].get()).unwrap();
        prop_assert_eq!((name.as_str(), heard, heard_fields), ("RESPX", namespace, fields));
    }

    #[test]
    fn any_stored_dialect_is_one_or_none(code in any::<String>(), id in any::<u64>()) {
        if let Some(dialect) = Dialect::from_code(&code) {
            prop_assert_eq!(dialect.code(), Some(code));
        }
        let _ = Position::from_packet_id(id);
    }
}
