//! The dependencies of the three functions, assembled in one place.

use std::sync::Arc;

use kschat_core::{
    Clock,
    inbound::caller,
    inbound::frames,
    inbound::request,
    inbound::send::{self as sends, UnknownRecipientPolicy},
    limits::Limits,
    ports::{Broker, MessageHash, OwnerChannel, Registry, RoomPolicy, TokenVerifier},
    rooms,
};

use crate::{connect, disconnect, send};

/// The services behind the functions, and their settings.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::{collections::HashMap, sync::Arc, time::Duration};
/// # use kschat_adapters::jwt::{JwtSettings, JwtVerifier, sign_v1_token};
/// # use kschat_core::{Clock, Partitions, SystemClock, inbound::send::UnknownRecipientPolicy, limits::Limits, rooms};
/// # use kschat_core::memory::{MemoryBroker, MemoryHash, MemoryRegistry};
/// # use kschat_functions::{Event, connect, dependencies::Services, send};
/// # use kschat_protocol::UserId;
/// # let (secret, now) = ("a secret of at least 32 characters", SystemClock.now());
/// # let token = sign_v1_token(secret, &UserId::try_from("alice")?, now, now.plus(Duration::from_secs(60)))?;
/// let (broker, _ownership) = MemoryBroker::new(Partitions::default());
/// let services = Services {
///     registry: Arc::new(MemoryRegistry::new(Partitions::default())),
///     broker: Arc::new(broker.clone()),
///     owners: Arc::new(broker),
///     verifier: Arc::new(JwtVerifier::new(&JwtSettings::v1(secret.to_owned()))?),
///     hash: Arc::new(MemoryHash::new()),
///     room_policy: Arc::new(rooms::AllowAllRooms),
///     clock: Arc::new(SystemClock),
///     limits: Limits::default(),
///     requires_token: true,
///     unknown_recipients: UnknownRecipientPolicy::Queue,
/// };
/// let mut event = Event::default();
/// event.request_context.connection_id = Some("L0SM9cOFvHcCIhw=".to_owned());
/// event.query_string_parameters = HashMap::from([("token".to_owned(), vec![token])]).into();
/// assert_eq!(connect::handle(&services.connect(), event.clone()).await.status_code, 200);
///
/// event.body = Some(r#"{"action":"send","uId":"alice","pId":"bob","msg":"hi"}"#.to_owned());
/// let response = send::handle(&services.send(), event).await;
/// assert!(format!("{:?}", response.body).contains("RESPSEND"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Services {
    /// Sessions, claims, backlogs, receipts, presence and rooms.
    pub registry: Arc<dyn Registry>,
    /// Publishes messages, creates queues and binds them to rooms.
    pub broker: Arc<dyn Broker>,
    /// Sends messages to the owners of users.
    pub owners: Arc<dyn OwnerChannel>,
    /// Verifies tokens.
    pub verifier: Arc<dyn TokenVerifier>,
    /// Hashes that distinguish messages.
    pub hash: Arc<dyn MessageHash>,
    /// Decides who may join which room.
    pub room_policy: Arc<dyn RoomPolicy>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The limits of one user.
    pub limits: Limits,
    /// Whether a handshake without a token is refused, even if the client could send it later.
    pub requires_token: bool,
    /// The policy for messages to users who have never connected.
    pub unknown_recipients: UnknownRecipientPolicy,
}

impl Services {
    /// The dependencies of `$connect`.
    #[must_use]
    pub fn connect(&self) -> connect::Deps {
        connect::Deps {
            verifier: self.verifier.clone(),
            registry: self.registry.clone(),
            queues: self.broker.clone(),
            owners: self.owners.clone(),
            clock: self.clock.clone(),
            rate: self.limits.connects,
            requires_token: self.requires_token,
        }
    }

    /// The dependencies of `$disconnect`.
    #[must_use]
    pub fn disconnect(&self) -> disconnect::Deps {
        disconnect::Deps { registry: self.registry.clone(), owners: self.owners.clone() }
    }

    /// The dependencies of `send`, `ack` and `$default`.
    #[must_use]
    pub fn send(&self) -> send::Deps {
        let rooms = rooms::Deps {
            memberships: self.registry.clone(),
            bindings: self.broker.clone(),
            queues: self.broker.clone(),
            policy: self.room_policy.clone(),
        };
        let frames = frames::Deps {
            caller: caller::Deps {
                registry: self.registry.clone(),
                owners: self.owners.clone(),
                clock: self.clock.clone(),
                limits: self.limits,
            },
            send: sends::Deps {
                idempotency: self.registry.clone(),
                backlogs: self.registry.clone(),
                hash: self.hash.clone(),
                publisher: self.broker.clone(),
                queues: self.broker.clone(),
                shares: Some(self.registry.clone()),
                clock: self.clock.clone(),
                rooms: rooms.clone(),
                unknown_recipients: self.unknown_recipients,
            },
            request: request::Deps {
                registry: self.registry.clone(),
                receipts: self.registry.clone(),
                presences: self.registry.clone(),
                rooms,
                verifier: self.verifier.clone(),
                owners: self.owners.clone(),
                clock: self.clock.clone(),
            },
        };
        send::Deps { frames, join: self.connect(), owners: self.owners.clone() }
    }
}
