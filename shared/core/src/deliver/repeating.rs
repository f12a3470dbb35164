//! What is pushed once more: to all when no ack has come for a while, to whoever has just come at once.

use kschat_protocol::ConnectionId;

use super::{
    Courier, End,
    gathering::tags,
    pushing::{BUSY, YOUNG},
};
use crate::{
    audience::Stage,
    metrics,
    posting::{MAX_ATTEMPTS_ONCE_REACHED, Verdict},
};

impl Courier<'_> {
    /// Pushes once more what nobody has acknowledged: the frame may be lost in a half-open socket, or the ack on
    /// its way. The client knows what it has shown.
    pub(super) async fn push_again(&mut self) -> Result<(), End> {
        if !self.unacked.repeat() {
            tracing::warn!("a user's clients have acknowledged nothing for long; the messages go back to the queue");
            return Err(End::Stuck);
        }
        self.drop_expired();
        self.push_all_again().await?;
        if self.audience.is_empty() {
            self.look_again().await?;
            self.bring_up_to_date().await?;
        }
        Ok(())
    }

    /// Whether what takes long may go on: each frame may take an edge seconds, and a user may have hundreds on their way.
    fn may_go_on(&mut self) -> Result<(), End> {
        if self.signals.stop.is_cancelled() {
            return Err(End::Stopped);
        }
        if !self.deliveries.is_ours() {
            return Err(End::Lost);
        }
        self.check_loans()
    }

    async fn push_all_again(&mut self) -> Result<(), End> {
        let mut targets = self.audience.who(|listener| listener.acks() && listener.is_up_to_date);
        for frame in self.unacked.frames() {
            self.may_go_on()?;
            metrics::REPETITIONS.add(targets.len());
            for (id, verdict) in self.post_once(&targets, &frame).await {
                if verdict == Verdict::Forget {
                    targets.retain(|target| *target != id);
                    self.forget(&id).await;
                }
            }
        }
        Ok(())
    }

    /// Gives those who have just come what waits for an ack, before they get anything newer. One that does not
    /// take it soon goes without: it gets it when it is pushed again.
    pub(super) async fn bring_up_to_date(&mut self) -> Result<(), End> {
        let (mut attempts, mut early) = (0, 0);
        loop {
            self.drop_expired();
            let (mut wait, has_chances) = (None, attempts < MAX_ATTEMPTS_ONCE_REACHED);
            for (id, stage) in self.audience.in_need(self.deps.clock.now()) {
                let verdict = match stage {
                    Stage::Hears => self.repeat_to(&id).await?,
                    Stage::New => self.greet(&id).await,
                    Stage::Greeted | Stage::Overdue => continue,
                };
                match verdict {
                    Verdict::Early => {
                        early += 1;
                        wait = Some(YOUNG.wait(early));
                    }
                    Verdict::Busy if has_chances => {
                        attempts += 1;
                        wait = Some(BUSY.wait(attempts));
                    }
                    Verdict::Forget => self.forget(&id).await,
                    Verdict::Reached if stage == Stage::New => {}
                    // Its client waits for the first word: it is cut off, and connects anew.
                    _ if stage == Stage::New => self.forget(&id).await,
                    Verdict::Reached | Verdict::Refused | Verdict::Busy => self.audience.set_up_to_date(&id),
                }
            }
            match wait {
                Some(wait) => self.pause(wait).await?,
                None if self.audience.is_empty() => return self.look_again().await,
                None => return Ok(()),
            }
        }
    }

    /// Posts all that waits for an ack to one connection; stops at the first frame that it does not take.
    async fn repeat_to(&mut self, id: &ConnectionId) -> Result<Verdict, End> {
        for frame in self.unacked.frames() {
            self.may_go_on()?;
            metrics::REPETITIONS.add(1);
            let verdict = self.post_once(std::slice::from_ref(id), &frame).await.pop().map(|(_, verdict)| verdict);
            if let Some(verdict) = verdict.filter(|verdict| *verdict != Verdict::Reached) {
                return Ok(verdict);
            }
        }
        if !self.audience.acks(id) {
            // The edge's word counts for it.
            let settled = self.unacked.settle_all();
            self.note_left(settled.last().map(|pushed| pushed.message.time));
            self.ack(&tags(&settled)).await?;
        }
        Ok(Verdict::Reached)
    }
}
