//! What the edge's answers to the posts of one frame come to.

use kschat_protocol::ConnectionId;
use tokio::time::Instant;

use crate::ports::PostError;

/// How often a batch is tried before we stop and let the user's queue rest.
const MAX_ATTEMPTS: u32 = 12;

/// The same, once one connection has it.
pub(crate) const MAX_ATTEMPTS_ONCE_REACHED: u32 = 3;

/// What to do about one connection after one post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The edge has taken the frame for it.
    Reached,
    /// There is no such connection: forget it.
    Forget,
    /// The edge does not know it yet: post again soon.
    Early,
    /// The edge is busy or failed: post again later.
    Busy,
    /// The edge will never take this frame.
    Refused,
}

impl Verdict {
    pub(crate) fn on(outcome: &Result<(), PostError>, young: bool) -> Self {
        match outcome {
            Ok(()) => Self::Reached,
            Err(PostError::Gone) if young => Self::Early,
            Err(PostError::Gone) => Self::Forget,
            Err(PostError::Retryable(_)) => Self::Busy,
            Err(PostError::Refused(_)) => Self::Refused,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Forget => "gone",
            Self::Early => "early",
            Self::Busy => "busy",
            Self::Refused => "refused",
        }
    }
}

/// What became of a batch.
#[derive(Clone, Copy)]
pub(crate) enum Posted {
    /// At least one connection has it, and the edge's word counts for it.
    Settled,
    /// At least one connection has it, and its client will acknowledge it.
    Reached,
    /// No connection will ever take it.
    Refused,
}

/// How far the posting of one frame has come.
pub(crate) struct Tally {
    pub(crate) began: Instant,
    pub(crate) reached: Vec<ConnectionId>,
    pub(crate) refused: Vec<ConnectionId>,
    /// Whether one of those reached does not acknowledge: then the edge's word counts.
    pub(crate) is_settled: bool,
    /// Rounds that count towards [`MAX_ATTEMPTS`].
    pub(crate) attempts: u32,
    /// Rounds in which only connections were missing that the edge does not know yet.
    pub(crate) early: u32,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let (reached, refused) = (Vec::new(), Vec::new());
        Self { began: Instant::now(), reached, refused, is_settled: false, attempts: 0, early: 0 }
    }

    /// How many attempts those that are left have: fewer when the message has arrived somewhere, as then it
    /// is only one device's trouble, and the other devices wait for the next message. As few if they may go without.
    pub(crate) fn chances(&self, may_go_without: bool) -> u32 {
        if self.reached.is_empty() && !may_go_without { MAX_ATTEMPTS } else { MAX_ATTEMPTS_ONCE_REACHED }
    }

    /// The outcome, as far as there is one: taken once is taken.
    pub(crate) fn posted(&self) -> Option<Posted> {
        if !self.reached.is_empty() {
            return Some(if self.is_settled { Posted::Settled } else { Posted::Reached });
        }
        (!self.refused.is_empty()).then_some(Posted::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Unavailable;

    #[test]
    fn only_what_the_edge_took_counts_as_reached() {
        let busy = || Unavailable::new("edge", "post", "429");
        assert_eq!(Verdict::on(&Ok(()), true), Verdict::Reached);
        assert_eq!(Verdict::on(&Err(PostError::Gone), true), Verdict::Early);
        assert_eq!(Verdict::on(&Err(PostError::Gone), false), Verdict::Forget);
        assert_eq!(Verdict::on(&Err(PostError::Retryable(busy())), false), Verdict::Busy);
        assert_eq!(Verdict::on(&Err(PostError::Refused(busy())), false), Verdict::Refused);
    }
}
