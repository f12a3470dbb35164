//! The fixture: one user with a queue, and an edge with scripted answers.

use kschat_core::ports::OwnerMessage;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use kschat_core::{
    Partitions, Session, Timestamp,
    contract::{ManualClock, message, register, session, unique_connection, unique_user},
    delivery::{DeliveryEnd, DeliverySignals, Deps, serve},
    memory::{MemoryBroker, MemoryRegistry},
    ports::{ConnectionRegistry, ConnectionsApi, PostError, Publisher, QueueManager, Unavailable},
};
use kschat_protocol::{AckFrame, ConnectionId, MessageId, ProtocolVersion, UserId};
use serde_json::Value;
use tokio::{task::JoinHandle, time::timeout};

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// The edge's answers to the posts of one connection, in this order; 200 after that.
pub(crate) type Script = Vec<u16>;

/// An edge with scripted answers that records what it took.
#[derive(Default)]
pub(crate) struct Edge {
    pub(crate) scripts: Mutex<HashMap<ConnectionId, Script>>,
    pub(crate) taken: Mutex<Vec<(ConnectionId, String)>>,
    pub(crate) closed: Mutex<Vec<ConnectionId>>,
    /// Connections that have ended unnoticed.
    pub(crate) gone: Mutex<HashSet<ConnectionId>>,
}

#[async_trait]
impl ConnectionsApi for Edge {
    async fn post(&self, connection: &ConnectionId, frame: &str) -> Result<(), PostError> {
        // As over a network, other tasks run meanwhile.
        tokio::task::yield_now().await;
        let mut scripts = self.scripts.lock().expect("no test panics here");
        let script = scripts.entry(connection.clone()).or_default();
        let status = if script.is_empty() { 200 } else { script.remove(0) };
        let report = || Unavailable::new("edge", "post", status.to_string());
        match status {
            200 => {
                self.taken.lock().expect("no test panics here").push((connection.clone(), frame.to_owned()));
                Ok(())
            }
            410 => Err(PostError::Gone),
            413 => Err(PostError::Rejected(report())),
            _ => Err(PostError::Retryable(report())),
        }
    }

    async fn close_connection(&self, connection: &ConnectionId) -> Result<(), Unavailable> {
        self.closed.lock().expect("no test panics here").push(connection.clone());
        Ok(())
    }

    async fn is_open(&self, connection: &ConnectionId) -> Result<bool, Unavailable> {
        tokio::task::yield_now().await;
        Ok(!self.gone.lock().expect("no test panics here").contains(connection))
    }
}

/// One user with a queue, and its delivery.
pub(crate) struct Fixture {
    pub(crate) user: UserId,
    pub(crate) registry: Arc<MemoryRegistry>,
    pub(crate) broker: MemoryBroker,
    pub(crate) edge: Arc<Edge>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) signals: DeliverySignals,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let partitions = Partitions::default();
        let fixture = Self {
            user: unique_user(),
            registry: Arc::new(MemoryRegistry::new(partitions)),
            broker: MemoryBroker::new(partitions).0,
            edge: Arc::default(),
            clock: Arc::new(ManualClock::new(NOW)),
            signals: DeliverySignals::default(),
        };
        fixture.broker.ensure(&fixture.user).await.expect("memory");
        // As its owner does.
        fixture.registry.set_epoch_marker(partitions.of(&fixture.user)).await.expect("memory");
        fixture
    }

    /// A v1 client.
    pub(crate) async fn device(&self, script: Script) -> ConnectionId {
        self.device_of(ProtocolVersion::V1, script).await
    }

    /// A client that acknowledges when the test says so.
    pub(crate) async fn acking_device(&self, script: Script) -> ConnectionId {
        self.device_of(ProtocolVersion::V2, script).await
    }

    pub(crate) async fn device_of(&self, version: ProtocolVersion, script: Script) -> ConnectionId {
        let id = unique_connection();
        self.edge.scripts.lock().expect("no test panics here").insert(id.clone(), script);
        let session = Session { version, ..session(&self.user, NOW, HOUR) };
        register(&*self.registry, &id, &session).await.expect("memory");
        id
    }

    pub(crate) async fn queue(&self, texts: &[&str]) {
        for text in texts {
            self.broker.publish(&self.user, &message(&self.user, text)).await.expect("memory");
        }
    }

    pub(crate) fn serve(&self) -> JoinHandle<DeliveryEnd> {
        self.serve_with(|deps| deps)
    }

    pub(crate) fn serve_with(&self, more: impl FnOnce(Deps) -> Deps) -> JoinHandle<DeliveryEnd> {
        let broker = Arc::new(self.broker.clone());
        let (registry, edge, clock) = (self.registry.clone(), self.edge.clone(), self.clock.clone());
        let deps = more(Deps::new(registry.clone(), broker, registry, edge, clock, Partitions::default()));
        let (user, signals) = (self.user.clone(), self.signals.clone());
        tokio::spawn(async move { serve(&deps, &user, &signals).await })
    }

    /// The frames that a device got, each as the texts of its messages.
    pub(crate) fn received_texts(&self, device: &ConnectionId) -> Vec<Vec<String>> {
        let texts = |frame: &str| {
            let items = frame.split(r#""msg":""#).skip(1);
            items.map(|item| item.split('"').next().expect("text").to_owned()).collect()
        };
        let taken = self.edge.taken.lock().expect("no test panics here");
        let messages = taken.iter().filter(|(id, frame)| id == device && frame.contains("RESPRECEIVER"));
        messages.map(|(_, frame)| texts(frame)).collect()
    }

    /// The frames that a device got, unchanged.
    pub(crate) fn frames(&self, device: &ConnectionId) -> Vec<String> {
        let taken = self.edge.taken.lock().expect("no test panics here");
        taken.iter().filter(|(id, _)| id == device).map(|(_, frame)| frame.clone()).collect()
    }

    /// Acknowledges the message with that text, at its position on a device.
    pub(crate) fn ack(&self, text: &str) {
        let taken = self.edge.taken.lock().expect("no test panics here");
        let item = taken.iter().rev().find_map(|(_, frame)| {
            let frame: Value = serde_json::from_str(frame).expect("JSON");
            frame["MSG"].as_array().expect("messages").iter().find(|item| item["msg"] == text).cloned()
        });
        let id = item.expect("a pushed frame")["mId"].as_str().expect("text").to_owned();
        self.signals.inbox.put(OwnerMessage::Ack(AckFrame {
            message: Some(MessageId::from(id)),
            position: None,
            redelivery_requested: false,
        }));
    }

    /// A device disconnects, and the owner is notified.
    pub(crate) async fn leave(&self, device: &ConnectionId) {
        self.registry.remove(&self.user, device).await.expect("memory");
        self.signals.inbox.put(OwnerMessage::Refresh);
    }

    pub(crate) async fn registered(&self) -> Vec<ConnectionId> {
        let reachable = self.registry.connections(&self.user, NOW).await.expect("memory");
        reachable.into_iter().map(|reachable| reachable.connection).collect()
    }

    pub(crate) async fn wait_a_minute(&self) {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }

    /// The texts that are still in the queue.
    pub(crate) async fn queued_texts(&self) -> Vec<String> {
        let mut deliveries = self.broker.open(&self.user).await.expect("the queue has no consumer");
        let mut texts = Vec::new();
        while let Some(delivery) = deliveries.try_next() {
            texts.push(kschat_protocol::Message::from_slice(&delivery.body).expect("a message").msg);
        }
        deliveries.close().await;
        texts
    }

    pub(crate) async fn stop(&self, delivery: JoinHandle<DeliveryEnd>) -> DeliveryEnd {
        self.signals.stop.cancel();
        timeout(Duration::from_secs(60), delivery).await.expect("delivery stops").expect("the task does not panic")
    }
}
