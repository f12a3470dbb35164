//! A token is read only where a handshake offers one, and is never changed.

use kschat_protocol::{BEARER_PREFIX, Handshake, ProtocolVersion, SUBPROTOCOL};

/// Checks one input; panics if it violates a property.
pub fn check(text: &str) {
    let mut lines = text.split('\n');
    let mut next = || lines.next().filter(|line| !line.is_empty());
    let (token, user, version, protocols) = (next(), next(), next(), next());
    let query = |key: &str| match key {
        "token" => token,
        "ksId" => user,
        "v" => version,
        _ => None,
    };
    let read = Handshake::read(query, protocols).expect("no dialect is asked for");
    let offered: Vec<&str> = protocols.unwrap_or_default().split(',').map(str::trim).collect();
    match (&read.token, token) {
        (Some(read), Some(token)) => assert_eq!(read, token),
        (Some(read), None) => assert!(!read.is_empty() && offered.contains(&format!("{BEARER_PREFIX}{read}").as_str())),
        (None, Some(token)) => panic!("{token} was not read"),
        (None, None) => {
            let first = offered.iter().find_map(|name| name.strip_prefix(BEARER_PREFIX));
            assert!(first.unwrap_or_default().is_empty());
        }
    }
    assert_eq!(read.claimed_user.as_deref(), user);
    assert_eq!(read.subprotocol, offered.contains(&SUBPROTOCOL).then_some(SUBPROTOCOL));
    assert_eq!(read.version == ProtocolVersion::V2, read.subprotocol.is_some() || version == Some("2"));
}
