//! Token renewal.

#![expect(clippy::expect_used, reason = "an unmet expectation fails the test")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kschat_core::{
    Partitions, Session, Timestamp,
    contract::{ManualClock, register, unique_connection},
    inbound::caller::Caller,
    inbound::request::{Deps, handle_request},
    memory::{MemoryBroker, MemoryOwnership, MemoryRegistry},
    ports::{ChargeVerdict, ConnectionRegistry, Identity, TokenError, TokenVerifier},
    rooms,
};
use kschat_protocol::{ConnectionId, ErrorCode, ProtocolVersion, Request, UserId, dialect::Dialect};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn alice() -> UserId {
    UserId::try_from("alice").expect("an id")
}

fn end(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

/// Accepts a token such as `60 a b`: seconds, then rooms; `-` for no expiry.
struct PlainTokenVerifier;

#[async_trait]
impl TokenVerifier for PlainTokenVerifier {
    async fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        let mut words = token.split(' ');
        let expires = words.next().and_then(|seconds| seconds.parse().ok()).map(end);
        Ok(Identity { user: alice(), expires, rooms: Some(words.map(str::to_owned).collect()) })
    }
}

struct Fixture {
    deps: Deps,
    registry: Arc<MemoryRegistry>,
    alice: ConnectionId,
    /// Receives the refreshes.
    _ownership: MemoryOwnership,
}

impl Fixture {
    async fn new() -> Self {
        let (broker, ownership) = MemoryBroker::new(Partitions::default());
        let broker = Arc::new(broker);
        let registry = Arc::new(MemoryRegistry::new(Partitions::default()));
        let session = Session {
            user: alice(),
            version: ProtocolVersion::V2,
            connected: NOW,
            expires: Some(end(60)),
            dialect: Dialect::Raw,
            rooms: Some(vec!["a".to_owned()]),
            source: None,
        };
        let alice = unique_connection();
        register(&*registry, &alice, &session).await.expect("memory");
        let rooms = rooms::Deps {
            memberships: registry.clone(),
            bindings: broker.clone(),
            queues: broker.clone(),
            policy: Arc::new(rooms::RoomsListedInToken),
        };
        let deps = Deps {
            registry: registry.clone(),
            verifier: Arc::new(PlainTokenVerifier),
            owners: broker,
            receipts: registry.clone(),
            presences: registry.clone(),
            rooms,
            clock: Arc::new(ManualClock::new(NOW)),
        };
        Self { deps, registry, alice, _ownership: ownership }
    }

    async fn session(&self) -> Option<Session> {
        self.registry.session(&self.alice).await.expect("memory")
    }

    async fn caller(&self) -> Caller {
        let session = self.session().await.expect("a session");
        Caller {
            connection: self.alice.clone(),
            session,
            has_other_devices: false,
            verdict: ChargeVerdict::Granted,
            share_weight: 0,
        }
    }

    async fn show(&self, caller: &Caller, token: &str) -> (ErrorCode, String) {
        let (code, frame) = handle_request(&self.deps, caller, &Request::Auth { token: token.to_owned() }).await;
        (code, frame.expect("a reply").to_text())
    }
}

#[tokio::test]
async fn renewal_uses_latest_expiring_token() {
    let setup = Fixture::new().await;
    let exp = |seconds: u64| format!(r#""EXP":{}"#, end(seconds).millis() / 1_000);
    for (token, ends, rooms) in
        [("120 b", 120, vec!["b"]), ("90 b c d", 120, vec!["b"]), ("120 e", 120, vec!["e"]), ("300", 300, vec![])]
    {
        let (code, frame) = setup.show(&setup.caller().await, token).await;
        assert_eq!(code, ErrorCode::Ok);
        assert!(frame.contains(&exp(ends)), "{token}: {frame}");
        let session = setup.session().await.expect("a session");
        let listed = session.rooms.expect("rooms");
        assert_eq!((session.expires, listed), (Some(end(ends)), rooms.into_iter().map(str::to_owned).collect()));
    }
    let (_, frame) = setup.show(&setup.caller().await, "-").await;
    assert!(!frame.contains("EXP"), "{frame}");
    let (_, frame) = setup.show(&setup.caller().await, "900 a").await;
    assert!(!frame.contains("EXP"), "it ends sooner than never: {frame}");
}

#[tokio::test]
async fn concurrent_renewal_keeps_longer_token() {
    let setup = Fixture::new().await;
    let stale = setup.caller().await;
    setup.show(&stale, "300 a").await;
    let (code, _) = setup.show(&stale, "200 b").await;
    assert_eq!(code, ErrorCode::Ok);
    let session = setup.session().await.expect("a session");
    assert_eq!((session.expires, session.rooms), (Some(end(300)), Some(vec!["a".to_owned()])));
}

#[tokio::test]
async fn renewal_after_disconnect_restores_nothing() {
    let setup = Fixture::new().await;
    let caller = setup.caller().await;
    setup.registry.end_connection(&setup.alice).await.expect("memory");
    let (code, _) = setup.show(&caller, "300 a").await;
    assert_eq!(code, ErrorCode::RegistryUnavailable);
    assert_eq!(setup.session().await, None);
}
