//! Notices as control messages.

use kschat_protocol::Notice;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString},
};

use super::topology::{NOTICE, NOTICE_HEADER};

/// How long a notice waits for an owner, in milliseconds: later it would be no news.
const LIFE: &str = "5000";

const TRANSIENT: u8 = 1;

/// The properties of the control message that brings a notice; its body names the user.
pub(super) fn with_notice(notice: &Notice) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(NOTICE_HEADER.into(), AMQPValue::LongString(LongString::from(notice.to_json())));
    BasicProperties::default()
        .with_type(NOTICE.into())
        .with_headers(headers)
        .with_delivery_mode(TRANSIENT)
        .with_expiration(LIFE.into())
}

/// The notice that a control message brings.
pub(super) fn notice_of(properties: &BasicProperties) -> Option<Notice> {
    match properties.headers().as_ref()?.inner().get(NOTICE_HEADER)? {
        AMQPValue::LongString(text) => Notice::from_json(std::str::from_utf8(text.as_bytes()).ok()?),
        _ => None,
    }
}
