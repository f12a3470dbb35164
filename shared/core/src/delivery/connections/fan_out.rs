//! Posts to connections through the edge.

use std::{
    borrow::Cow,
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use kschat_protocol::{ConnectionId, EphemeralEvent, ServerFrame};
use tokio::time::timeout;

use super::{ConnectionStage, Connections};
use crate::{
    Timestamp,
    delivery::post_outcome::PostVerdict,
    metrics,
    ports::{ConnectionsApi, PostError},
};

/// Connections of one user that are posted to at the same time.
pub(crate) const MAX_CONCURRENT_POSTS_PER_USER: usize = 8;

/// The post timeout of an event, while the user's messages wait.
const EVENT_POST_TIMEOUT: Duration = Duration::from_secs(1);

/// What became of each post.
type PostVerdicts = Vec<(ConnectionId, PostVerdict)>;

impl Connections {
    /// Posts to each connection its frame.
    pub(crate) async fn post(
        &self,
        edge: &dyn ConnectionsApi,
        frames: Vec<(ConnectionId, &ServerFrame)>,
    ) -> PostVerdicts {
        let encoded = frames.into_iter().map(|(id, frame)| {
            let text = self.encode(&id, frame);
            (id, text.into())
        });
        self.post_texts(edge, encoded.collect()).await
    }

    /// Posts a frame to one connection.
    pub(crate) async fn post_one(
        &self,
        edge: &dyn ConnectionsApi,
        id: &ConnectionId,
        frame: &ServerFrame,
    ) -> PostVerdict {
        self.post_text(edge, id, &self.encode(id, frame)).await
    }

    /// Sends the handshake packets of a connection's dialect; stops at the first that is not taken.
    pub(crate) async fn send_handshake(&mut self, edge: &dyn ConnectionsApi, id: &ConnectionId) -> PostVerdict {
        for packet in self.handshake_packets(id) {
            match self.post_text(edge, id, &packet).await {
                PostVerdict::Accepted => {}
                other => return other,
            }
        }
        self.set_handshake_sent(id);
        PostVerdict::Accepted
    }

    /// Sends the heartbeats that are due.
    pub(crate) async fn send_due_pings(&mut self, edge: &dyn ConnectionsApi) -> PostVerdicts {
        let pings = self.take_due_pings();
        self.post_texts(edge, pings.into_iter().map(|(id, ping)| (id, Cow::Borrowed(ping))).collect()).await
    }

    /// Posts ephemeral events to the connections that know of them, and returns those that are gone. A connection that
    /// can't be reached misses them.
    pub(crate) async fn post_events(
        &self,
        edge: &dyn ConnectionsApi,
        events: VecDeque<EphemeralEvent>,
        now: Timestamp,
    ) -> BTreeSet<ConnectionId> {
        let targets = self.ids_where(|state| state.acks() && state.stage(now) == ConnectionStage::Ready);
        let mut posts: Vec<(ConnectionId, String)> = Vec::new();
        for event in events {
            let frame = event.to_frame();
            metrics::NOTICES.add_to(EphemeralEvent::kind(&event));
            posts.extend(targets.iter().map(|id| (id.clone(), self.encode(id, &frame))));
        }
        stream::iter(posts)
            .map(|(id, frame)| self.post_event(edge, id, frame))
            .buffer_unordered(MAX_CONCURRENT_POSTS_PER_USER)
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    /// Returns the connection if it is gone.
    async fn post_event(&self, edge: &dyn ConnectionsApi, id: ConnectionId, frame: String) -> Option<ConnectionId> {
        let outcome = timeout(EVENT_POST_TIMEOUT, edge.post(&id, &frame)).await.ok()?;
        (PostVerdict::on(&outcome, self.is_new_connection(&id)) == PostVerdict::Gone).then_some(id)
    }

    /// Asks the edge about each connection that it must know, and returns those that are gone. While the edge does not
    /// answer, none is.
    pub(crate) async fn find_gone(&self, edge: &dyn ConnectionsApi) -> Vec<ConnectionId> {
        let ids: Vec<ConnectionId> = self.ids().filter(|id| !self.is_new_connection(id)).cloned().collect();
        stream::iter(ids)
            .map(|id| async {
                let is_open = edge.is_open(&id).await;
                (id, is_open)
            })
            .buffer_unordered(MAX_CONCURRENT_POSTS_PER_USER)
            .filter_map(|(id, is_open)| std::future::ready(matches!(is_open, Ok(false)).then_some(id)))
            .collect()
            .await
    }

    /// Posts to each connection its text, which is already encoded in its dialect.
    async fn post_texts(&self, edge: &dyn ConnectionsApi, texts: Vec<(ConnectionId, Cow<'_, str>)>) -> PostVerdicts {
        let posts = texts.into_iter().map(|(id, text)| {
            let post = async move {
                let verdict = self.post_text(edge, &id, &text).await;
                (id, verdict)
            };
            post.boxed()
        });
        let posts: Vec<BoxFuture<'_, _>> = posts.collect();
        stream::iter(posts).buffer_unordered(MAX_CONCURRENT_POSTS_PER_USER).collect().await
    }

    async fn post_text(&self, edge: &dyn ConnectionsApi, id: &ConnectionId, text: &str) -> PostVerdict {
        let outcome = edge.post(id, text).await;
        if let Err(PostError::Retryable(error) | PostError::Rejected(error)) = &outcome {
            tracing::warn!(error = error as &dyn std::error::Error, "posting a frame failed");
        }
        let verdict = PostVerdict::on(&outcome, self.is_new_connection(id));
        metrics::PUSHES.add_to(verdict.name());
        verdict
    }
}
