//! From the queue to a batch: what is read, what shares a frame, and what is set aside.

use kschat_protocol::{Message, Position, ReceiverFrame};
use tracing::{Span, info_span};

use super::{Courier, End, frames::Frames};
use crate::{
    Timestamp, metrics,
    ports::{Delivery, Tag, Unavailable, Undeliverable},
    trace,
    unacked::Pushed,
};

/// Messages that share one frame.
pub(super) struct Batch {
    pub(super) messages: Vec<Pushed>,
    pub(super) frames: Frames,
}

pub(super) fn tags(messages: &[Pushed]) -> Vec<Tag> {
    messages.iter().map(|pushed| pushed.tag).collect()
}

impl Batch {
    /// Whether all of it are copies of what the user has said: whoever does not take them soon goes without.
    pub(super) fn is_of_copies(&self) -> bool {
        self.messages.iter().all(|pushed| pushed.is_own)
    }

    /// Where the log and the traces of its messages meet.
    pub(super) fn span(&self) -> Span {
        let first = self.messages.first().map(|pushed| pushed.message.id.as_str());
        let span = info_span!("push", mId = first, messages = self.messages.len());
        trace::continue_from_all(&span, self.messages.iter().filter_map(|pushed| pushed.message.trace.as_ref()));
        span
    }
}

/// A delivery that was read, and found to be a message.
pub(super) type Read = (Delivery, Message);

impl Courier<'_> {
    /// Somebody else may have written into the queue: what is no message is set aside, not pushed. The second copy of
    /// what was pushed before leaves the queue; the first one stays until it is acknowledged.
    pub(super) async fn read(&mut self, mut delivery: Delivery) -> Result<Option<Read>, End> {
        self.arrivals.note_read();
        let (trace, via) = (delivery.trace.take(), delivery.via.take());
        match Message::from_slice(&delivery.body).map(|message| self.for_this_user(Message { trace, via, ..message })) {
            Ok(message) if self.unacked.has(&message) => {
                self.ack(&[delivery.tag]).await?;
                Ok(None)
            }
            Ok(message) => {
                if delivery.redelivered {
                    metrics::REDELIVERIES.add(1);
                } else {
                    metrics::QUEUE_WAIT.took_between(Timestamp::from_millis(message.time), self.deps.clock.now());
                }
                Ok(Some((delivery, message)))
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a queued body is set aside");
                let Delivery { tag, body, .. } = delivery;
                self.set_aside(tag, &body, Undeliverable::NotAMessage).await?;
                Ok(None)
            }
        }
    }

    /// What the user may get of it: the `rno` is its sender's own matter.
    fn for_this_user(&self, message: Message) -> Message {
        if message.from.names(self.user) { message } else { message.without_rno() }
    }

    async fn set_aside(&mut self, tag: Tag, body: &[u8], why: Undeliverable) -> Result<(), End> {
        self.deliveries.discard(tag, body, why).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "a message can't be set aside for now");
            End::Lost
        })?;
        metrics::DEAD_LETTERS.add(1);
        Ok(())
    }

    /// Puts what already waits into one frame, as much as it holds.
    pub(super) async fn gather(&mut self, first: Read) -> Result<Option<Batch>, End> {
        let mut frame = ReceiverFrame::after(self.unacked.last());
        let (mut messages, mut redelivered) = (Vec::new(), Vec::new());
        let mut end: Option<Position> = None;
        let mut next = Some(first);
        while let Some((delivery, message)) = next.take() {
            if !frame.push(&message, delivery.redelivered) {
                if messages.is_empty() {
                    tracing::error!("a queued message is larger than any frame and is set aside");
                    self.set_aside(delivery.tag, &delivery.body, Undeliverable::TooLarge).await?;
                    return Ok(None);
                }
                self.held = Some((delivery, message));
                break;
            }
            let position = self.unacked.next_position();
            end = Some(position);
            messages.push(Pushed::new(delivery.tag, message, position, self.user).here_since(self.arrivals.since()));
            redelivered.push(delivery.redelivered);
            next = self.next_here(&messages).await?;
        }
        metrics::FRAME_MESSAGES.counted(messages.len());
        Ok(end.map(|position| {
            let frames = self.frames(&messages, &redelivered, frame.into_text(position));
            Batch { messages, frames }
        }))
    }

    /// The next message that is here already and not in the batch, which may hold its first copy.
    async fn next_here(&mut self, batch: &[Pushed]) -> Result<Option<Read>, End> {
        while let Some(delivery) = self.deliveries.try_next() {
            let Some((delivery, message)) = self.read(delivery).await? else { continue };
            if !batch.iter().any(|pushed| pushed.message.is_same_as(&message)) {
                return Ok(Some((delivery, message)));
            }
            self.ack(&[delivery.tag]).await?;
        }
        Ok(None)
    }

    pub(super) async fn discard(&mut self, messages: &[Pushed]) -> Result<(), Unavailable> {
        for Pushed { tag, message, .. } in messages {
            self.deliveries.discard(*tag, &message.to_vec(), Undeliverable::Refused).await?;
            metrics::DEAD_LETTERS.add(1);
        }
        Ok(())
    }
}
