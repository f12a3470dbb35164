//! What is pushed beside messages.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, stream};
use kschat_protocol::{ConnectionId, Notice};
use tokio::time::{Instant, timeout};

use super::{Courier, End, pushing::FAN_OUT};
use crate::{audience::Stage, metrics, posting::Verdict};

/// From one push of notices to a user until the next: what comes meanwhile is pushed together, each thing once.
const PAUSE: Duration = Duration::from_millis(100);

/// How long the edge may take for a notice, while the user's messages wait.
const POST: Duration = Duration::from_secs(1);

impl Courier<'_> {
    /// Pushes what the user may like to know to those connections that know of such. One that does not get it misses it.
    pub(super) async fn push_notices(&mut self) -> Result<(), End> {
        self.drop_expired();
        if !self.deliveries.is_ours() {
            return Err(End::Lost);
        }
        let now = self.deps.clock.now();
        let targets = self.audience.who(|listener| listener.acks() && listener.stage(now) == Stage::Hears);
        let mut posts: Vec<(ConnectionId, String)> = Vec::new();
        for notice in self.signals.notices.take() {
            let frame = notice.to_text();
            metrics::NOTICES.add_to(Notice::kind(&notice));
            posts.extend(targets.iter().map(|id| (id.clone(), self.audience.encode(id, &frame).into_owned())));
        }
        let gone: BTreeSet<ConnectionId> = stream::iter(posts)
            .map(|(id, frame)| self.post_notice(id, frame))
            .buffer_unordered(FAN_OUT)
            .filter_map(std::future::ready)
            .collect()
            .await;
        // From now on, not from when it began: however many come, messages get their turn.
        self.notices_at = Instant::now() + PAUSE;
        for id in &gone {
            self.forget(id).await;
        }
        if self.audience.is_empty() { self.look_again().await } else { Ok(()) }
    }

    /// Returns the connection if it is gone.
    async fn post_notice(&self, id: ConnectionId, frame: String) -> Option<ConnectionId> {
        let outcome = timeout(POST, self.deps.connections.post(&id, &frame)).await.ok()?;
        (Verdict::on(&outcome, self.audience.is_young(&id)) == Verdict::Forget).then_some(id)
    }
}
