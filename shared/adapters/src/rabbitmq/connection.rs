//! Channels of a connection to the broker.

use std::time::Duration;

use lapin::{Channel, Connection, ErrorKind};

/// The time for one reply of the broker, after which its connection counts as dead.
pub(super) const BROKER_REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// The channel, or a new one in its place.
pub(super) async fn open_channel(
    connection: &Connection,
    channel: &mut Option<Channel>,
) -> Result<Channel, lapin::Error> {
    match channel {
        Some(open) if open.status().connected() => Ok(open.clone()),
        _ => Ok(channel.insert(connection.create_channel().await?).clone()),
    }
}

/// The reply code of the broker's refusal.
pub(super) fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(refused) => Some(refused.get_id()),
        _ => None,
    }
}
