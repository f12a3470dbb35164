//! What a fresh token changes of a session.

#![expect(clippy::expect_used, reason = "what is not as expected fails the test")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kschat_core::{
    Partitions, Session, Timestamp,
    contract::{ManualClock, connection, register},
    inbound::Caller,
    memory::{MemoryBroker, MemoryOwnership, MemoryRegistry},
    ports::{ConnectionRegistry, Identity, TokenError, TokenVerifier, Verdict},
    request::{Deps, answer},
    rooms,
};
use kschat_protocol::{ConnectionId, Er, Request, UserId, Version, dialect::Dialect};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn alice() -> UserId {
    UserId::try_from("alice").expect("an id")
}

fn end(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

/// Believes a token such as `60 a b`: seconds, then rooms; `-` for no end.
struct Plain;

#[async_trait]
impl TokenVerifier for Plain {
    async fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        let mut words = token.split(' ');
        let expires = words.next().and_then(|seconds| seconds.parse().ok()).map(end);
        Ok(Identity { user: alice(), expires, rooms: Some(words.map(str::to_owned).collect()) })
    }
}

struct Setup {
    deps: Deps,
    registry: Arc<MemoryRegistry>,
    alice: ConnectionId,
    /// Refreshes go to it.
    _ownership: MemoryOwnership,
}

impl Setup {
    async fn new() -> Self {
        let (broker, ownership) = MemoryBroker::new(Partitions::default());
        let broker = Arc::new(broker);
        let registry = Arc::new(MemoryRegistry::new(Partitions::default()));
        let session = Session {
            user: alice(),
            version: Version::V2,
            connected: NOW,
            expires: Some(end(60)),
            dialect: Dialect::Raw,
            rooms: Some(vec!["a".to_owned()]),
            source: None,
        };
        let alice = connection();
        register(&*registry, &alice, &session).await.expect("memory");
        let rooms = rooms::Deps {
            memberships: registry.clone(),
            bindings: broker.clone(),
            queues: broker.clone(),
            policy: Arc::new(rooms::ListedInToken),
        };
        let deps = Deps {
            registry: registry.clone(),
            verifier: Arc::new(Plain),
            pokes: broker.clone(),
            receipts: registry.clone(),
            presences: registry.clone(),
            rooms,
            notices: broker,
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
            verdict: Verdict::Granted,
            counted: 0,
        }
    }

    async fn show(&self, caller: &Caller, token: &str) -> (Er, String) {
        let (code, frame) = answer(&self.deps, caller, &Request::Auth { token: token.to_owned() }).await;
        (code, frame.expect("it is answered"))
    }
}

#[tokio::test]
async fn end_and_rooms_come_from_the_token_that_ends_last() {
    let setup = Setup::new().await;
    let exp = |seconds: u64| format!(r#""EXP":{}"#, end(seconds).millis() / 1_000);
    for (token, ends, rooms) in
        [("120 b", 120, vec!["b"]), ("90 b c d", 120, vec!["b"]), ("120 e", 120, vec!["e"]), ("300", 300, vec![])]
    {
        let (code, frame) = setup.show(&setup.caller().await, token).await;
        assert_eq!(code, Er::Ok);
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
async fn renewal_that_races_with_another_one_keeps_the_longer_token() {
    let setup = Setup::new().await;
    let stale = setup.caller().await;
    setup.show(&stale, "300 a").await;
    let (code, _) = setup.show(&stale, "200 b").await;
    assert_eq!(code, Er::Ok);
    let session = setup.session().await.expect("a session");
    assert_eq!((session.expires, session.rooms), (Some(end(300)), Some(vec!["a".to_owned()])));
}

#[tokio::test]
async fn renewal_of_an_ended_connection_brings_nobody_back() {
    let setup = Setup::new().await;
    let caller = setup.caller().await;
    setup.registry.end(&setup.alice).await.expect("memory");
    let (code, _) = setup.show(&caller, "300 a").await;
    assert_eq!(code, Er::RegistryUnavailable);
    assert_eq!(setup.session().await, None);
}
