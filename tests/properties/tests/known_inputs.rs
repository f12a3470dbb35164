//! The inputs that other tests know have every property.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::{fs, path::Path};

use kschat_properties::{
    client_frame, edge, event, handshake, owner_message, packet, receiver_frame, rules_and_routes,
};
use kschat_protocol::{EphemeralEvent, JsonId};

/// The texts of a folder's files with that ending.
fn texts(folder: &str, ending: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let texts: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == ending))
        .map(|path| fs::read_to_string(path).expect("text"))
        .collect();
    assert!(!texts.is_empty(), "there is no input");
    texts
}

#[test]
fn golden_frames_hold() {
    texts("shared/protocol/tests/golden", "json").iter().for_each(|text| client_frame::check(text));
}

#[test]
fn socket_io_packets_hold() {
    for text in [
        "2",
        "3",
        "40/kschat,",
        r#"40/kschat,{"token":"T"}"#,
        "41/kschat",
        "43/kschat,134217729[]",
        "4/kschat",
        r#"42/kschat,0["Send",{"uId":1,"pId":"bob","msg":"hello","rno":7,"time":0}]"#,
        r#"42/kschat,0["Send","hello"]"#,
        r#"44/kschat,{"message":"no"}"#,
    ] {
        packet::check(text);
    }
}

#[test]
fn owner_messages_hold() {
    let typing = EphemeralEvent::Typing { from: JsonId::Text("bob".to_owned()), on: true }.to_json();
    for text in [
        "\n\n\n\nalice",
        "ack\n7.12\nm-1\n\nalice",
        "again\n\n\n\nalice",
        "wanted\n\nbob\n\nalice",
        "close\nL0SM9cOFvHcCIhw=\n\n\nalice",
        &format!("notice\n\n\n{typing}\nalice"),
        "reply\nL0SM9cOFvHcCIhw=\nalice\n\n{\"event\":\"RESPROOM\",\"RC\":1,\"ER\":0}",
        r#"{"user":"alice","ack":{"message":"m-1","position":"7.12","again":true}}"#,
        &format!(r#"{{"user":"alice","event":{typing}}}"#),
        "unknown\n\n\n\nalice",
    ] {
        owner_message::check(text);
    }
}

#[test]
fn queued_messages_hold() {
    let body = r#"{"uId":1,"pId":"bob","msg":"hello","rStatus":1,"msgTime":0,"mId":"m-1"}"#.as_bytes();
    receiver_frame::check(body);
    receiver_frame::check(&[b"\xff", body, b"\n", body, b"\nnot a message"].concat());
}

#[test]
fn handshakes_hold() {
    for text in ["a.b.c\nalice\n2\nkschat.v2, bearer.a.b.c", "\n\n\nkschat.v2, bearer.a.b.c", "\n\n\nbearer.", ""] {
        handshake::check(text);
    }
}

#[test]
fn captured_events_hold() {
    for text in texts("functions/tests/events", "json") {
        event::check(&text);
        let with_token = r#""queryStringParameters":{"token":"TOKEN","ksId":"alice"},"isBase64Encoded""#;
        event::check(&text.replace(r#""isBase64Encoded""#, with_token));
    }
}

#[test]
fn rules_templates_and_routes_hold() {
    for text in texts("tests/foreign", "yaml").into_iter().chain(texts("tests/edge", "yaml")) {
        rules_and_routes::check(&text);
    }
    for rule in ["post=410 share=10%", "post=delay:250ms next=5", "invoke=freeze:10s route=send", "disconnect=drop"] {
        rules_and_routes::check(rule);
    }
}

#[test]
fn edge_requests_hold() {
    for request in [
        "POST /dev/@connections/L0SM9cOFvHcCIhw=\n\nhello",
        "GET /dev/%40connections/L0SM9cOFvHcCIhw=\n",
        "GET /_edge/state?after=7\nhost:127.0.0.1:3000\norigin:http://evil.example\n",
        "GET /dev?token=x\nupgrade:websocket\nconnection:upgrade\nsec-websocket-version:13\n\
         sec-websocket-key:dGhlIHNhbXBsZSBub25jZQ==\n",
        "POST /_edge/faults\nhost:localhost\ncontent-type:application/json\n\n{\"rule\":\"post=410\"}",
    ] {
        edge::check(request.as_bytes());
    }
}
