//! What connections need beside messages: a first word, heartbeats, frames of their own, and an end when they never
//! come to the point.

use std::{borrow::Cow, time::Duration};

use kschat_protocol::ConnectionId;

use super::{Courier, End, pushing::BUSY};
use crate::{
    audience::Stage,
    posting::{MAX_ATTEMPTS_ONCE_REACHED, Verdict},
};

/// How often we look whether somebody hears by now, while a message waits for that.
const LISTEN: Duration = Duration::from_millis(250);

impl Courier<'_> {
    /// Says the first word of a connection's dialect.
    pub(super) async fn greet(&mut self, id: &ConnectionId) -> Verdict {
        for packet in self.audience.greeting(id) {
            let verdict = self.post_texts(vec![(id.clone(), packet.into())]).await.pop();
            match verdict.map_or(Verdict::Forget, |(_, verdict)| verdict) {
                Verdict::Reached => {}
                other => return other,
            }
        }
        self.audience.set_greeted(id);
        Verdict::Reached
    }

    /// Sends the heartbeats that are due; ends who has not joined in time, so that its client connects anew.
    pub(super) async fn tend(&mut self) -> Result<(), End> {
        self.drop_expired();
        let pings = self.audience.take_pings();
        let pings = pings.into_iter().map(|(id, ping)| (id, Cow::Borrowed(ping))).collect();
        for (id, verdict) in self.post_texts(pings).await {
            if verdict == Verdict::Forget {
                self.forget(&id).await;
            }
        }
        let now = self.deps.clock.now();
        for id in self.audience.who(|listener| listener.stage(now) == Stage::Overdue) {
            tracing::info!("a connection whose client has not joined is ended");
            self.forget(&id).await;
        }
        if self.audience.is_empty() {
            self.look_again().await?;
        }
        self.bring_up_to_date().await
    }

    /// Waits a moment, if there are connections of which none hears yet; says whether there are.
    pub(super) async fn wait_for_listeners(&mut self) -> Result<bool, End> {
        if self.audience.is_empty() || self.audience.hears(self.deps.clock.now()) {
            return Ok(false);
        }
        self.pause(LISTEN).await?;
        self.tend().await?;
        Ok(true)
    }

    /// Posts to single connections what their functions have left for them. What an edge does not take soon is given up:
    /// it says what the client can find out by asking again.
    pub(super) async fn pass_on(&mut self) -> Result<(), End> {
        for (id, frame) in self.signals.replies.take() {
            if !self.audience.is_heard_by(&id, self.deps.clock.now()) {
                // It may have joined, and spoken, before we have looked.
                self.look_again().await?;
                self.bring_up_to_date().await?;
            }
            self.pass_on_to(&id, &frame).await?;
        }
        Ok(())
    }

    async fn pass_on_to(&mut self, id: &ConnectionId, frame: &str) -> Result<(), End> {
        for attempt in 1..=MAX_ATTEMPTS_ONCE_REACHED {
            if !self.audience.is_heard_by(id, self.deps.clock.now()) {
                return Ok(());
            }
            match self.post_once(std::slice::from_ref(id), frame).await.pop() {
                Some((_, Verdict::Busy | Verdict::Early)) => self.pause(BUSY.wait(attempt)).await?,
                Some((id, Verdict::Forget)) => self.forget(&id).await,
                _ => return Ok(()),
            }
        }
        Ok(())
    }
}
