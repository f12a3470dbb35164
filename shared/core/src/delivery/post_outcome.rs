//! Combines the edge's answers to the posts of one frame.

use std::time::Duration;

use kschat_protocol::ConnectionId;
use tokio::time::Instant;

use crate::{backoff::Backoff, metrics, ports::PostError};

/// Attempts for one batch, after which delivery to the user pauses.
const MAX_POST_ATTEMPTS: u32 = 12;

/// The same, once one connection has received it.
pub(crate) const MAX_POST_ATTEMPTS_ONCE_ACCEPTED: u32 = 3;

/// Waits between posts to a connection that the edge does not know yet.
pub(crate) const NEW_CONNECTION_BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(20), cap: Duration::from_millis(250) };

/// Waits after the edge was busy or failed.
pub(crate) const BUSY_EDGE_BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(5) };

/// The result of one post to one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PostVerdict {
    /// The edge has taken the frame.
    Accepted,
    /// The connection does not exist: drop it.
    Gone,
    /// The edge does not know the connection yet: post again soon.
    NotYetKnown,
    /// The edge is busy or has failed: post again later.
    Busy,
    /// The edge will never take this frame.
    Refused,
}

impl PostVerdict {
    pub(crate) fn on(outcome: &Result<(), PostError>, young: bool) -> Self {
        match outcome {
            Ok(()) => Self::Accepted,
            Err(PostError::Gone) if young => Self::NotYetKnown,
            Err(PostError::Gone) => Self::Gone,
            Err(PostError::Retryable(_)) => Self::Busy,
            Err(PostError::Rejected(_)) => Self::Refused,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "reached",
            Self::Gone => "gone",
            Self::NotYetKnown => "early",
            Self::Busy => "busy",
            Self::Refused => "refused",
        }
    }
}

/// The outcome of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchOutcome {
    /// At least one connection has it, and the edge's answer settles it.
    Settled,
    /// At least one connection has it, and its client will acknowledge it.
    AwaitingAcks,
    /// No connection will ever take it.
    Refused,
}

/// The progress of posting one batch.
pub(crate) struct BatchProgress {
    /// Whether the batch is optional.
    may_go_without: bool,
    began: Instant,
    reached: Vec<ConnectionId>,
    refused: Vec<ConnectionId>,
    /// Whether a connection that was reached does not acknowledge: then the edge's answer settles the batch.
    is_settled: bool,
    /// Rounds that count towards [`MAX_POST_ATTEMPTS`].
    attempts: u32,
    /// Rounds that failed only because the edge did not know new connections yet.
    early: u32,
}

impl BatchProgress {
    pub(crate) fn new(may_go_without: bool) -> Self {
        let (reached, refused) = (Vec::new(), Vec::new());
        Self { may_go_without, began: Instant::now(), reached, refused, is_settled: false, attempts: 0, early: 0 }
    }

    /// Whether attempts are left for the remaining connections. There are fewer once one connection has the message:
    /// the others' trouble must not delay the next message. There are as few when the batch is optional.
    pub(crate) fn has_attempts(&self) -> bool {
        let is_urgent = self.reached.is_empty() && !self.may_go_without;
        self.attempts < if is_urgent { MAX_POST_ATTEMPTS } else { MAX_POST_ATTEMPTS_ONCE_ACCEPTED }
    }

    /// Whether that connection has neither received nor refused it.
    pub(crate) fn awaits(&self, id: &ConnectionId) -> bool {
        !self.reached.contains(id) && !self.refused.contains(id)
    }

    /// Records a round without any connection.
    pub(crate) fn note_nobody(&mut self) {
        self.attempts += 1;
    }

    /// Records a round of posts; returns how long to wait before the remaining connections are retried. `acks` tells
    /// whether a connection's client acknowledges.
    pub(crate) fn note_round(
        &mut self,
        verdicts: Vec<(ConnectionId, PostVerdict)>,
        acks: impl Fn(&ConnectionId) -> bool,
    ) -> Option<Duration> {
        let (mut early, mut busy, is_first) = (false, false, self.reached.is_empty());
        for (id, verdict) in verdicts {
            match verdict {
                PostVerdict::Accepted => {
                    self.is_settled |= !acks(&id);
                    self.reached.push(id);
                }
                PostVerdict::Refused => self.refused.push(id),
                PostVerdict::Gone => {}
                PostVerdict::NotYetKnown => early = true,
                PostVerdict::Busy => busy = true,
            }
        }
        if is_first && !self.reached.is_empty() {
            metrics::PUSH.record_duration(self.began.elapsed());
            // From here on the lower maximum counts.
            self.attempts = 0;
        }
        // A connection is new for a short time only, so waiting for that alone uses up no attempt.
        if early && !busy {
            self.early += 1;
            return Some(NEW_CONNECTION_BACKOFF.wait(self.early));
        }
        self.attempts += 1;
        busy.then(|| BUSY_EDGE_BACKOFF.wait(self.attempts))
    }

    /// The outcome when all attempts are used up, or nobody is left.
    pub(crate) fn final_outcome(&self) -> Option<BatchOutcome> {
        self.outcome().or(self.may_go_without.then_some(BatchOutcome::Settled))
    }

    /// The outcome, if it is known: one connection that took the frame is enough.
    pub(crate) fn outcome(&self) -> Option<BatchOutcome> {
        if !self.reached.is_empty() {
            return Some(if self.is_settled { BatchOutcome::Settled } else { BatchOutcome::AwaitingAcks });
        }
        (!self.refused.is_empty()).then_some(BatchOutcome::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{contract::unique_connection, ports::Unavailable};

    #[test]
    fn post_verdict_reflects_edge_answer() {
        let busy = || Unavailable::new("edge", "post", "429");
        assert_eq!(PostVerdict::on(&Ok(()), true), PostVerdict::Accepted);
        assert_eq!(PostVerdict::on(&Err(PostError::Gone), true), PostVerdict::NotYetKnown);
        assert_eq!(PostVerdict::on(&Err(PostError::Gone), false), PostVerdict::Gone);
        assert_eq!(PostVerdict::on(&Err(PostError::Retryable(busy())), false), PostVerdict::Busy);
        assert_eq!(PostVerdict::on(&Err(PostError::Rejected(busy())), false), PostVerdict::Refused);
    }

    #[tokio::test(start_paused = true)]
    async fn batch_gets_fewer_attempts_once_reached() {
        let [phone, desk] = [(); 2].map(|()| unique_connection());
        let mut progress = BatchProgress::new(false);
        for _ in 1..MAX_POST_ATTEMPTS {
            assert!(progress.note_round(vec![(phone.clone(), PostVerdict::Busy)], |_| true).is_some());
        }
        for _ in 0..MAX_POST_ATTEMPTS {
            assert!(progress.note_round(vec![(phone.clone(), PostVerdict::NotYetKnown)], |_| true).is_some());
        }
        assert!(progress.has_attempts(), "only busy rounds count");
        assert_eq!(progress.final_outcome(), None);
        let round = vec![(phone.clone(), PostVerdict::Accepted), (desk.clone(), PostVerdict::Busy)];
        assert!(progress.note_round(round, |_| true).is_some());
        assert!(!progress.awaits(&phone) && progress.awaits(&desk));
        assert_eq!(progress.outcome(), Some(BatchOutcome::AwaitingAcks));
        for _ in 1..MAX_POST_ATTEMPTS_ONCE_ACCEPTED {
            assert!(progress.has_attempts());
            progress.note_round(vec![(desk.clone(), PostVerdict::Busy)], |_| true);
        }
        assert!(!progress.has_attempts());
    }

    #[tokio::test]
    async fn batch_outcome_depends_on_who_was_reached() {
        let outcome = |verdict, acks, may_go_without| {
            let mut progress = BatchProgress::new(may_go_without);
            progress.note_round(vec![(unique_connection(), verdict)], |_| acks);
            progress.final_outcome()
        };
        assert_eq!(outcome(PostVerdict::Accepted, true, false), Some(BatchOutcome::AwaitingAcks));
        assert_eq!(outcome(PostVerdict::Accepted, false, false), Some(BatchOutcome::Settled));
        assert_eq!(outcome(PostVerdict::Refused, true, false), Some(BatchOutcome::Refused));
        assert_eq!(outcome(PostVerdict::Gone, true, false), None);
        assert_eq!(outcome(PostVerdict::Gone, true, true), Some(BatchOutcome::Settled));
    }
}
