//! Rate limits of requests.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::sync::Arc;

use async_trait::async_trait;
use kschat_core::{
    Partitions, Session, Timestamp,
    contract::{ManualClock, register, unique_connection},
    inbound::caller::{self, identify_caller},
    inbound::cost::charge_for,
    inbound::request::{Deps, handle_request},
    limits::Limits,
    memory::{MemoryBroker, MemoryRegistry},
    ports::{Identity, TokenError, TokenVerifier},
    rooms,
};
use kschat_protocol::{ClientFrame, ConnectionId, ErrorCode, ProtocolVersion, Request, UserId, dialect::Dialect};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// Rejects every token.
struct RejectingVerifier;

#[async_trait]
impl TokenVerifier for RejectingVerifier {
    async fn verify(&self, _token: &str) -> Result<Identity, TokenError> {
        Err(TokenError::Invalid)
    }
}

/// A connection of alice, and its dependencies.
async fn fixture() -> (caller::Deps, Deps, ConnectionId) {
    let broker = Arc::new(MemoryBroker::new(Partitions::default()).0);
    let registry = Arc::new(MemoryRegistry::new(Partitions::default()));
    let session = Session {
        user: UserId::try_from("alice").expect("an id"),
        version: ProtocolVersion::V2,
        connected: NOW,
        expires: None,
        dialect: Dialect::Raw,
        rooms: None,
        source: None,
    };
    let alice = unique_connection();
    register(&*registry, &alice, &session).await.expect("memory");
    let rooms = rooms::Deps {
        memberships: registry.clone(),
        bindings: broker.clone(),
        queues: broker.clone(),
        policy: Arc::new(rooms::AllowAllRooms),
    };
    let clock = Arc::new(ManualClock::new(NOW));
    let inbound = caller::Deps {
        registry: registry.clone(),
        owners: broker.clone(),
        clock: clock.clone(),
        limits: Limits::default(),
    };
    let deps = Deps {
        registry: registry.clone(),
        verifier: Arc::new(RejectingVerifier),
        owners: broker,
        receipts: registry.clone(),
        presences: registry,
        rooms,
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

/// How often the request is granted until the rate limit is exceeded.
async fn granted(request: &Request) -> usize {
    let (inbound, deps, alice) = fixture().await;
    let said = Ok(ClientFrame::Request(request.clone()));
    for count in 0..1_000 {
        let caller =
            identify_caller(&inbound, &alice, &charge_for(&inbound.limits, Some(&said))).await.expect("a session");
        match handle_request(&deps, &caller, request).await {
            (ErrorCode::Ok, _) => (),
            (ErrorCode::RateLimited, Some(frame)) => {
                assert!(frame.fields().contains(r#""RETRY":"#), "{frame:?}");
                return count;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("nothing bounds it");
}

#[tokio::test(start_paused = true)]
async fn bulk_requests_cost_more_rate() {
    for (action, field) in [("presence", "uIds"), ("status", "pIds")] {
        assert_eq!(granted(&asking(action, field, 1)).await, 300, "{action}");
        assert_eq!(granted(&asking(action, field, 10)).await, 150, "{action}");
        assert_eq!(granted(&asking(action, field, 100)).await, 27, "{action}");
    }
    assert_eq!(granted(&Request::Rooms).await, 300);
}
