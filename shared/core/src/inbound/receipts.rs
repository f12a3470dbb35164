//! Handles read receipts and receipt status requests.

use futures_util::future::try_join;
use kschat_protocol::{EphemeralEvent, JsonId, MessageId, PeerStatus, ServerFrame, Status, StatusReply, UserId};

use super::context::{Deps, RequestError};
use crate::{
    Session,
    ports::{OwnerMessage, Receipt, ReceiptStage},
};

/// Records that the user has read all messages of a peer up to this one.
pub(crate) async fn mark_read(
    deps: &Deps,
    session: &Session,
    peer: &UserId,
    pid: &JsonId,
    message: &MessageId,
) -> Result<(), RequestError> {
    let (author, reader) = (peer.clone(), session.user.clone());
    let receipt = [Receipt { author, reader, stage: ReceiptStage::Read, message: message.clone() }];
    let (reader, author) = (JsonId::from(&session.user), pid.clone());
    let event = EphemeralEvent::Status { reader, author, status: Status::Read, message: message.clone() };
    let noted = async { deps.receipts.record_receipts(&receipt).await.map_err(RequestError::Registry) };
    let notified = async { deps.owners.send(peer, OwnerMessage::Event(event)).await.map_err(RequestError::Broker) };
    try_join(noted, notified).await.map(drop)
}

/// Returns which messages of the user these peers have received and read.
pub(crate) async fn receipt_status(
    deps: &Deps,
    session: &Session,
    peers: &[(JsonId, UserId)],
) -> Result<ServerFrame, RequestError> {
    let users: Vec<UserId> = peers.iter().map(|(_, user)| user.clone()).collect();
    let marks = deps.receipts.receipt_positions(&session.user, &users).await.map_err(RequestError::Registry)?;
    let known = peers.iter().zip(marks);
    let list =
        known.map(|((id, _), marks)| PeerStatus { user: id.clone(), delivered: marks.delivered, read: marks.read });
    Ok(StatusReply::of(list.collect()))
}
