//! The dependencies of use-cases, grouped by the service that implements them together.
//!
//! The ports of the broker and the registry have an adapter in [`crate::memory`] and one for the real service; the clauses
//! that both must pass are in `contract`. Those of the edge, of tokens and of room policies need none in memory.

mod auth;
mod bundles;
mod edge;
mod error;
mod hash;
mod owner;
mod ownership;
mod publisher;
mod queue;
mod registry;
mod rooms;
mod stores;

pub use self::{
    auth::{Identity, TokenError, TokenVerifier},
    bundles::{Broker, Registry},
    edge::{ConnectionsApi, PostError},
    error::{BoxError, Unavailable},
    hash::MessageHash,
    owner::{OwnerChannel, OwnerMessage},
    ownership::{Ownership, OwnershipEvent},
    publisher::{BindOutcome, PublishError, Publisher, QueueProvisioner, QueueRequestOutcome, RoomBindings},
    queue::{DeadLetterReason, Delivery, DeliveryTag, QueueConsumer, QueueManager, QueueStatus},
    registry::{
        Admission, Charge, ChargeVerdict, ChargedSession, ConnectionRegistry, CreateOutcome, MessageCharge, RateClass,
        RegisteredConnection, SenderShares, UpdateOutcome,
    },
    rooms::RoomPolicy,
    stores::{
        BacklogStore, Claim, ClaimOutcome, IdempotencyStore, LastSeen, Presence, PresenceStore, Receipt,
        ReceiptPositions, ReceiptStage, ReceiptStore, RoomMemberships, UserRooms,
    },
};
