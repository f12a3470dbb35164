//! Reads messages from the queue, batches them, and dead-letters unreadable ones.

use kschat_protocol::Message;

use super::{DeliveryEnd, UserDelivery};
use crate::{
    Timestamp,
    delivery::{
        batch::{Batch, PackedBatch, QueuedMessage},
        in_flight::InFlightMessage,
    },
    metrics,
    ports::{DeadLetterReason, Delivery, DeliveryTag, Unavailable},
};

impl UserDelivery<'_> {
    /// Reads a delivery. Others may have written into the queue: a body that is no message is dead-lettered, not
    /// pushed. The second copy of a pushed message leaves the queue; the first one stays until it is acknowledged.
    pub(super) async fn read(&mut self, mut delivery: Delivery) -> Result<Option<QueuedMessage>, DeliveryEnd> {
        self.in_flight.note_read();
        let (trace, sender_connection) = (delivery.trace.take(), delivery.sender_connection.take());
        match Message::from_slice(&delivery.body)
            .map(|message| self.for_this_user(Message { trace, sender_connection, ..message }))
        {
            Ok(message) if self.in_flight.knows(&message) => {
                self.ack(&[delivery.tag]).await?;
                Ok(None)
            }
            Ok(message) => {
                if delivery.redelivered {
                    metrics::REDELIVERIES.add(1);
                } else {
                    metrics::QUEUE_WAIT.record_between(Timestamp::from_millis(message.time), self.deps.clock.now());
                }
                Ok(Some((delivery, message)))
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "dead-lettering an unreadable message body");
                let Delivery { tag, body, .. } = delivery;
                self.dead_letter(tag, &body, DeadLetterReason::NotAMessage).await?;
                Ok(None)
            }
        }
    }

    /// What the user receives of a message: without the `rno`, which is private to its sender. A message of a back end
    /// without a date gets the present one.
    fn for_this_user(&self, message: Message) -> Message {
        let message = message.timed(self.deps.clock.now().millis());
        if message.from.names(self.user) { message } else { message.without_rno() }
    }

    async fn dead_letter(&mut self, tag: DeliveryTag, body: &[u8], why: DeadLetterReason) -> Result<(), DeliveryEnd> {
        self.queue_consumer.dead_letter(tag, body, why).await.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "dead-lettering a message failed");
            DeliveryEnd::Lost
        })?;
        metrics::DEAD_LETTERS.add(1);
        Ok(())
    }

    /// Collects a batch from the buffered messages, as many as one frame holds.
    pub(super) async fn collect_batch(
        &mut self,
        mut next: Option<QueuedMessage>,
    ) -> Result<Option<PackedBatch>, DeliveryEnd> {
        let mut batch = Batch::after(self.in_flight.last_position());
        while let Some(queued) = next.take() {
            match batch.push(queued, &mut self.in_flight, self.user) {
                None => next = self.next_buffered(&batch).await?,
                Some((Delivery { tag, body, .. }, _)) if batch.is_empty() => {
                    tracing::error!("dead-lettering a message that exceeds the frame size");
                    self.dead_letter(tag, &body, DeadLetterReason::TooLarge).await?;
                }
                overflow => self.overflow = overflow,
            }
        }
        Ok(batch.pack(&self.connections))
    }

    /// The next buffered message that is not in the batch already: the batch may hold its first copy.
    async fn next_buffered(&mut self, batch: &Batch) -> Result<Option<QueuedMessage>, DeliveryEnd> {
        while let Some(delivery) = self.queue_consumer.try_next() {
            let Some((delivery, message)) = self.read(delivery).await? else { continue };
            if !batch.contains(&message) {
                return Ok(Some((delivery, message)));
            }
            self.ack(&[delivery.tag]).await?;
        }
        Ok(None)
    }

    pub(super) async fn dead_letter_all(&mut self, messages: &[InFlightMessage]) -> Result<(), Unavailable> {
        for InFlightMessage { tag, message, .. } in messages {
            self.queue_consumer.dead_letter(*tag, &message.to_vec(), DeadLetterReason::Rejected).await?;
            metrics::DEAD_LETTERS.add(1);
        }
        Ok(())
    }
}
