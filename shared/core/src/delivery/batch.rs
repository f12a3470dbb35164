//! The messages that are collected for one push, and their frames.

use std::collections::HashMap;

use kschat_protocol::{ConnectionId, Message, Position, ReceiverFrame, ServerFrame, UserId};
use tracing::{Span, info_span};

use super::{
    connections::Connections,
    in_flight::{FrameViewer, InFlight, InFlightMessage},
};
use crate::{metrics, ports::Delivery, trace};

/// A delivery and the message in it.
pub(crate) type QueuedMessage = (Delivery, Message);

/// Collects messages for one push.
///
/// Holds: the messages fit into one frame, and have consecutive positions in the order of the queue.
pub(crate) struct Batch {
    /// The position of the message before, if it is unacknowledged.
    previous: Option<Position>,
    frame: ReceiverFrame,
    messages: Vec<InFlightMessage>,
}

/// A batch that is complete, with its frames: one for all, with exceptions for those who do not get all of it.
pub(crate) struct PackedBatch {
    messages: Vec<InFlightMessage>,
    all: ServerFrame,
    /// For v1 clients, if it differs.
    v1: Option<FrameVariant>,
    /// For connections that get a different frame.
    per_connection: HashMap<ConnectionId, FrameVariant>,
}

/// What a viewer gets in place of the frame for all.
enum FrameVariant {
    Nothing,
    Frame(ServerFrame),
}

impl Batch {
    /// Starts an empty batch, which will be pushed after that position.
    pub(crate) fn after(previous: Option<Position>) -> Self {
        Self { previous, frame: ReceiverFrame::after(previous), messages: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether the first copy of that message is in it.
    pub(crate) fn contains(&self, message: &Message) -> bool {
        self.messages.iter().any(|one| one.message.is_duplicate_of(message))
    }

    /// Adds a message, which gets the next position. Returns it unchanged if the frame has no room for it.
    #[must_use]
    pub(crate) fn push(
        &mut self,
        (delivery, message): QueuedMessage,
        in_flight: &mut InFlight,
        user: &UserId,
    ) -> Option<QueuedMessage> {
        if !self.frame.push(&message, delivery.redelivered) {
            return Some((delivery, message));
        }
        self.messages.push(in_flight.assign_position(&delivery, message, user));
        None
    }

    /// Completes the batch for these connections; `None` if it is empty.
    pub(crate) fn pack(self, connections: &Connections) -> Option<PackedBatch> {
        let end = self.messages.last()?.position;
        metrics::FRAME_MESSAGES.record_count(self.messages.len());
        // The usual case.
        let (mut v1, mut per_connection) = (None, HashMap::new());
        if self.messages.iter().any(|one| one.is_own) {
            v1 = Some(self.frame_for(FrameViewer::V1));
            let acking = connections.ids().filter(|id| connections.acks(id));
            per_connection = acking.map(|id| (id.clone(), self.frame_for(FrameViewer::V2(id)))).collect();
        }
        Some(PackedBatch { all: self.frame.finish(end), messages: self.messages, v1, per_connection })
    }

    /// The frame with what that viewer receives.
    fn frame_for(&self, viewer: FrameViewer<'_>) -> FrameVariant {
        let mut frame = ReceiverFrame::after(self.previous);
        let mut end = None;
        for one in &self.messages {
            // It fits, as all of them together do.
            if one.is_for(viewer) && frame.push(&one.message, one.redelivered) {
                end = Some(one.position);
            }
        }
        end.map_or(FrameVariant::Nothing, |end| FrameVariant::Frame(frame.finish(end)))
    }
}

impl PackedBatch {
    /// The frame of that viewer, if any.
    pub(crate) fn frame_of(&self, viewer: FrameViewer<'_>) -> Option<&ServerFrame> {
        let other = match viewer {
            FrameViewer::V1 => self.v1.as_ref(),
            FrameViewer::V2(id) => self.per_connection.get(id),
        };
        match other {
            None => Some(&self.all),
            Some(FrameVariant::Frame(frame)) => Some(frame),
            Some(FrameVariant::Nothing) => None,
        }
    }

    /// Whether it holds only copies of the user's own messages: a slow connection may miss those.
    pub(crate) fn holds_only_copies(&self) -> bool {
        self.messages.iter().all(|one| one.is_own)
    }

    /// The span that ties the log to the traces of its messages.
    pub(crate) fn span(&self) -> Span {
        let first = self.messages.first().map(|one| one.message.id.as_str());
        let span = info_span!("push", mId = first, messages = self.messages.len());
        trace::continue_from_all(&span, self.messages.iter().filter_map(|one| one.message.trace.as_ref()));
        span
    }

    /// The messages, in the order of their positions.
    pub(crate) fn into_messages(self) -> Vec<InFlightMessage> {
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use kschat_protocol::{ProtocolVersion, limits::MAX_FRAME_BYTES};

    use super::*;
    use crate::{
        Session, Timestamp,
        contract::{message, session, unique_connection, unique_user},
        delivery::deps::DEFAULT_HEARTBEAT,
        ports::{DeliveryTag, RegisteredConnection},
    };

    fn queued(message: Message) -> QueuedMessage {
        (
            Delivery {
                tag: DeliveryTag(1),
                body: Vec::new(),
                redelivered: false,
                trace: None,
                sender_connection: None,
            },
            message,
        )
    }

    fn connections(user: &UserId, versions: &[(ConnectionId, ProtocolVersion)]) -> Connections {
        let registered = |(connection, version): &(ConnectionId, ProtocolVersion)| RegisteredConnection {
            connection: connection.clone(),
            session: Session {
                version: *version,
                ..session(user, Timestamp::from_millis(0), std::time::Duration::from_secs(60))
            },
        };
        let mut connections = Connections::new(DEFAULT_HEARTBEAT);
        connections.replace(versions.iter().map(registered).collect());
        connections
    }

    #[tokio::test]
    async fn batch_keeps_order_and_returns_what_does_not_fit() {
        let (user, mut in_flight) = (unique_user(), InFlight::new());
        let mut batch = Batch::after(in_flight.last_position());
        assert!(batch.is_empty());
        let large = message(&user, &"x".repeat(MAX_FRAME_BYTES / 3));
        let rest = (0..3).find_map(|_| batch.push(queued(large.clone()), &mut in_flight, &user)).unwrap();
        assert_eq!(rest.1, large);
        assert!(batch.contains(&large) && !batch.contains(&message(&user, "other")));
        let packed = batch.pack(&connections(&user, &[])).unwrap();
        assert!(packed.all.to_text().len() <= MAX_FRAME_BYTES);
        let numbers: Vec<u64> = packed.into_messages().iter().map(|one| one.position.number).collect();
        assert_eq!(numbers, [1, 2], "the third has no position yet");
    }

    #[tokio::test]
    async fn frames_omit_copies_for_sender_and_v1_clients() {
        let (user, mut in_flight) = (unique_user(), InFlight::new());
        let [phone, desk, old] = [(); 3].map(|()| unique_connection());
        let versions =
            [(phone.clone(), ProtocolVersion::V2), (desk.clone(), ProtocolVersion::V2), (old, ProtocolVersion::V1)];
        let connections = connections(&user, &versions);
        let copy =
            Message { from: (&user).into(), sender_connection: Some(phone.clone()), ..message(&unique_user(), "mine") };
        for (messages, for_sender) in [(vec![copy.clone()], None), (vec![message(&user, "one"), copy], Some("one"))] {
            let mut batch = Batch::after(None);
            for one in messages {
                assert!(batch.push(queued(one), &mut in_flight, &user).is_none());
            }
            let packed = batch.pack(&connections).unwrap();
            assert_eq!(packed.holds_only_copies(), for_sender.is_none());
            assert!(packed.frame_of(FrameViewer::V2(&desk)).unwrap().fields().contains("mine"));
            for viewer in [FrameViewer::V1, FrameViewer::V2(&phone)] {
                let frame = packed.frame_of(viewer);
                assert_eq!(frame.is_some(), for_sender.is_some());
                assert!(frame.is_none_or(
                    |frame| frame.fields().contains(for_sender.unwrap()) && !frame.fields().contains("mine")
                ));
            }
        }
    }
}
