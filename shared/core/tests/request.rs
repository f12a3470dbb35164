//! How much a connection may ask for.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::sync::Arc;

use async_trait::async_trait;
use kschat_core::{
    Partitions, Session, Timestamp,
    contract::{ManualClock, connection, register},
    inbound::{self, enter},
    limits::Limits,
    memory::{MemoryBroker, MemoryRegistry},
    ports::{Identity, TokenError, TokenVerifier},
    request::{Deps, answer},
    rooms,
};
use kschat_protocol::{ClientFrame, ConnectionId, Er, Request, UserId, Version, dialect::Dialect};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// Believes nobody.
struct Distrust;

#[async_trait]
impl TokenVerifier for Distrust {
    async fn verify(&self, _token: &str) -> Result<Identity, TokenError> {
        Err(TokenError::Invalid)
    }
}

/// A connection of alice, and what answers it.
async fn scene() -> (inbound::Deps, Deps, ConnectionId) {
    let broker = Arc::new(MemoryBroker::new(Partitions::default()).0);
    let registry = Arc::new(MemoryRegistry::new(Partitions::default()));
    let session = Session {
        user: UserId::try_from("alice").expect("an id"),
        version: Version::V2,
        connected: NOW,
        expires: None,
        dialect: Dialect::Raw,
        rooms: None,
        source: None,
    };
    let alice = connection();
    register(&*registry, &alice, &session).await.expect("memory");
    let rooms = rooms::Deps {
        memberships: registry.clone(),
        bindings: broker.clone(),
        queues: broker.clone(),
        policy: Arc::new(rooms::Everybody),
    };
    let clock = Arc::new(ManualClock::new(NOW));
    let inbound = inbound::Deps {
        registry: registry.clone(),
        supervision: broker.clone(),
        clock: clock.clone(),
        limits: Limits::default(),
    };
    let deps = Deps {
        registry: registry.clone(),
        verifier: Arc::new(Distrust),
        pokes: broker.clone(),
        receipts: registry.clone(),
        presences: registry,
        rooms,
        notices: broker,
        clock,
    };
    (inbound, deps, alice)
}

fn asking(action: &str, field: &str, users: usize) -> Request {
    let users: Vec<String> = (1..=users).map(|id| id.to_string()).collect();
    let text = format!(r#"{{"action":"{action}","{field}":[{}]}}"#, users.join(","));
    match ClientFrame::parse(&text).expect("a frame") {
        ClientFrame::Request(request) => request,
        other => panic!("{other:?}"),
    }
}

/// How often that is granted until the user has asked too often.
async fn granted(request: &Request) -> usize {
    let (inbound, deps, alice) = scene().await;
    let said = Ok(ClientFrame::Request(request.clone()));
    for count in 0..1_000 {
        let caller = enter(&inbound, &alice, &inbound.limits.charge(Some(&said))).await.expect("a session");
        match answer(&deps, &caller, request).await {
            (Er::Ok, _) => (),
            (Er::RateLimited, Some(frame)) => {
                assert!(frame.contains(r#""RETRY":"#), "{frame}");
                return count;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("nothing bounds it");
}

#[tokio::test(start_paused = true)]
async fn who_asks_about_many_users_may_ask_less_often() {
    for (action, field) in [("presence", "uIds"), ("status", "pIds")] {
        assert_eq!(granted(&asking(action, field, 1)).await, 300, "{action}");
        assert_eq!(granted(&asking(action, field, 10)).await, 150, "{action}");
        assert_eq!(granted(&asking(action, field, 100)).await, 27, "{action}");
    }
    assert_eq!(granted(&Request::Rooms).await, 300);
}
