//! In-memory implementations of the ports of broker and registry.
//!
//! For the embedded local stack and for fast tests: all is lost with the process, so no deployed function or consumer
//! may use them. Here a message goes from its queue to a connection:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use std::sync::Arc;
//! # use async_trait::async_trait;
//! # use kschat_core::{Clock, Partitions, Session, SystemClock, memory::{MemoryBroker, MemoryRegistry}};
//! # use kschat_core::delivery::{DeliveryEnd, DeliverySignals, Deps, serve};
//! # use kschat_core::ports::{Admission, ConnectionRegistry, ConnectionsApi, PostError, Publisher, QueueManager};
//! # use kschat_core::ports::Unavailable;
//! # use kschat_protocol::{ConnectionId, Message, ProtocolVersion, UserId, dialect::Dialect};
//! # use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
//! /// An edge that passes on what is posted.
//! struct Edge(UnboundedSender<String>);
//!
//! #[async_trait]
//! impl ConnectionsApi for Edge {
//!     async fn post(&self, _connection: &ConnectionId, frame: &str) -> Result<(), PostError> {
//!         self.0.send(frame.to_owned()).map_err(|_| PostError::Gone)
//!     }
//! #     async fn close_connection(&self, _connection: &ConnectionId) -> Result<(), Unavailable> {
//! #         Ok(())
//! #     }
//! #     async fn is_open(&self, _connection: &ConnectionId) -> Result<bool, Unavailable> {
//! #         Ok(true)
//! #     }
//! }
//!
//! # let (partitions, now, bob) = (Partitions::default(), SystemClock.now(), UserId::try_from("bob")?);
//! let registry = Arc::new(MemoryRegistry::new(partitions));
//! let (broker, _ownership) = MemoryBroker::new(partitions);
//! # let session = Session {
//! #     user: bob.clone(),
//! #     version: ProtocolVersion::V1,
//! #     connected: now,
//! #     expires: None,
//! #     dialect: Dialect::Raw,
//! #     rooms: None,
//! #     source: None,
//! # };
//! # let admission = Admission { replaced_user: None, limit: 100, rate: None, now };
//! registry.create(&ConnectionId::try_from("L0SM9cOFvHcCIhw=")?, &session, &admission).await?;
//! broker.ensure(&bob).await?;
//! broker.publish(&bob, &Message::from_slice(br#"{"uId":"alice","pId":"bob","msg":"hi","mId":"m-1"}"#)?).await?;
//!
//! let (edge, mut posted) = unbounded_channel();
//! let clock = Arc::new(SystemClock);
//! let deps = Deps::new(registry.clone(), Arc::new(broker), registry, Arc::new(Edge(edge)), clock, partitions);
//! let signals = DeliverySignals::default();
//! let stop = signals.stop.clone();
//! let (end, frame) = tokio::join!(serve(&deps, &bob, &signals), async {
//!     let frame = posted.recv().await;
//!     stop.cancel();
//!     frame
//! });
//! assert!(frame.is_some_and(|frame| frame.contains(r#""msg":"hi""#)));
//! assert_eq!(end, DeliveryEnd::Stopped);
//! # Ok(())
//! # }
//! ```

mod broker;
mod hash;
mod registry;

pub use broker::{MemoryBroker, MemoryOwnership};
pub use hash::MemoryHash;
pub use registry::MemoryRegistry;
