//! Ports that one service implements together.

use super::{
    BacklogStore, ConnectionRegistry, IdempotencyStore, PresenceStore, Publisher, QueueProvisioner, ReceiptStore,
    RoomBindings, RoomMemberships, SenderShares,
};

/// The ports of the registry, as Redis implements them.
pub trait Registry:
    ConnectionRegistry + IdempotencyStore + BacklogStore + SenderShares + ReceiptStore + PresenceStore + RoomMemberships
{
}

impl<T> Registry for T where
    T: ConnectionRegistry
        + IdempotencyStore
        + BacklogStore
        + SenderShares
        + ReceiptStore
        + PresenceStore
        + RoomMemberships
{
}

/// The ports of the broker that functions use, as RabbitMQ implements them.
pub trait Broker: Publisher + QueueProvisioner + RoomBindings {}

impl<T: Publisher + QueueProvisioner + RoomBindings> Broker for T {}
