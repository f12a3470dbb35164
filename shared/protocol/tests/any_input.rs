//! The parser never panics on any input, and every answer conforms to the protocol.

use kschat_protocol::{ClientFrame, Handshake, Message, frame_error_reply, limits::MAX_FRAME_BYTES};
use proptest::prelude::*;

/// Text that resembles a frame enough to pass the first checks.
fn nearly_a_frame() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("1e999".to_owned()),
        Just("-0".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        any::<String>().prop_map(|s| format!("{s:?}")),
        ".*",
        Just("[[[[[[[[".to_owned()),
        Just(r#""\ud800""#.to_owned()),
    ];
    let key = prop_oneof![Just("action"), Just("uId"), Just("pId"), Just("msg"), Just("rno"), Just("time"), Just("")];
    prop::collection::vec((key, value), 0..7).prop_map(|fields| {
        let fields: Vec<String> = fields.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    })
}

fn check(text: &str) {
    if let Err(error) = ClientFrame::parse(text) {
        let reply = frame_error_reply(error).to_text();
        assert!(reply.starts_with(r#"{"event":"RESP"#), "{reply}");
        assert!(reply.len() < MAX_FRAME_BYTES);
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn any_near_frame_is_parsed_or_refused(text in nearly_a_frame()) {
        check(&text);
    }

    #[test]
    fn message_parser_never_panics(body in prop::collection::vec(any::<u8>(), 0..2048)) {
        check(&String::from_utf8_lossy(&body));
        let _ = Message::from_slice(&body);
    }

    #[test]
    fn any_header_is_a_handshake(header in any::<String>(), query in any::<String>()) {
        let _refused = Handshake::read(|_| Some(query.as_str()), Some(&header));
    }
}
