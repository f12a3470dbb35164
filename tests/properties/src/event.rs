//! A function answers any event; nobody connects without a token, or sends as another user.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use kschat_adapters::jwt::{JwtSettings, JwtVerifier, sign_v1_token};
use kschat_core::{
    Clock, Partitions, SystemClock,
    inbound::send::UnknownRecipientPolicy,
    limits::Limits,
    memory::{MemoryBroker, MemoryHash, MemoryOwnership, MemoryRegistry},
    ports::{ConnectionRegistry, QueueManager},
    rooms,
};
use kschat_functions::{Event, Response, connect, dependencies::Services, disconnect, send};
use kschat_protocol::{
    ClientFrame, ConnectionId, Message, Recipient, UserId,
    dialect::{Packet, RECONNECT_PACKET},
    limits::MAX_FRAME_BYTES,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const SECRET: &str = "a secret that only the fuzzer knows";
const USER: &str = "alice";
/// Placeholder for a token of [`USER`] in an input: no fuzzer guesses one.
const TOKEN: &str = "TOKEN";

static VERIFIER: LazyLock<Arc<JwtVerifier>> =
    LazyLock::new(|| Arc::new(JwtVerifier::new(&JwtSettings::v1(SECRET.to_owned())).expect("a secret fits HS256")));
static GENUINE: LazyLock<String> = LazyLock::new(|| {
    let (user, now) = (UserId::try_from(USER).expect("an id"), SystemClock.now());
    sign_v1_token(SECRET, &user, now, now.plus(Duration::from_secs(30 * 24 * 60 * 60))).expect("the secret signs")
});
thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// Checks one input; panics if it violates a property.
pub fn check(text: &str) {
    let genuine = text.contains(TOKEN);
    let text = text.replace(TOKEN, &GENUINE);
    let Ok(event) = serde_json::from_str::<Event>(&text) else { return };
    RUNTIME.with(|runtime| runtime.block_on(Fixture::new().check(event, genuine)));
}

struct Fixture {
    connect: connect::Deps,
    disconnect: disconnect::Deps,
    send: send::Deps,
    broker: MemoryBroker,
    registry: Arc<MemoryRegistry>,
    /// Receives refreshes and acks.
    _ownership: MemoryOwnership,
}

impl Fixture {
    fn new() -> Self {
        let (broker, ownership) = MemoryBroker::new(Partitions::default());
        let registry = Arc::new(MemoryRegistry::new(Partitions::default()));
        let services = Services {
            registry: registry.clone(),
            broker: Arc::new(broker.clone()),
            owners: Arc::new(broker.clone()),
            verifier: VERIFIER.clone(),
            hash: Arc::new(MemoryHash::new()),
            room_policy: Arc::new(rooms::AllowAllRooms),
            clock: Arc::new(SystemClock),
            limits: Limits::default(),
            requires_token: false,
            unknown_recipients: UnknownRecipientPolicy::Queue,
        };
        let (connect, disconnect, send) = (services.connect(), services.disconnect(), services.send());
        Self { connect, disconnect, send, broker, registry, _ownership: ownership }
    }

    /// Invokes each function; a send comes once from an unknown connection and once from a known one.
    async fn check(&self, event: Event, genuine: bool) {
        let id = event.request_context.connection_id.clone().and_then(|id| ConnectionId::try_from(id).ok());
        let Some(id) = id else { return self.check_nobody(event).await };
        let (status, reply) = read(&send::handle(&self.send, event.clone()).await);
        assert!(
            status == 200 && reply.as_ref().is_none_or(|reply| reply["ER"] != 0),
            "an unknown connection could send"
        );

        let response = connect::handle(&self.connect, event.clone()).await;
        assert!(response.headers.values().all(|value| value == "kschat.v2"));
        let (status, _) = read(&response);
        assert!([200, 400, 401, 403].contains(&status), "{status}");
        let session = self.registry.session(&id).await.expect("memory");
        assert_eq!(session.is_some(), status == 200);
        match session {
            // It may still authenticate, and may do nothing until then.
            Some(session) if session.user.is_provisional() => {
                let (_, reply) = read(&send::handle(&self.send, event.clone()).await);
                assert!(reply.is_none_or(|reply| reply["ER"] != 0), "an unauthenticated connection could send");
            }
            Some(session) => {
                assert!(genuine, "connected without a token");
                assert_eq!(session.user.as_str(), USER);
                self.check_send(event.clone()).await;
            }
            None => {}
        }
        for _ in 0..2 {
            assert_eq!(disconnect::handle(&self.disconnect, event.clone()).await.status_code, 200);
            assert_eq!(self.registry.session(&id).await.expect("memory"), None);
        }
    }

    async fn check_nobody(&self, event: Event) {
        assert_eq!(send::handle(&self.send, event.clone()).await.status_code, 400);
        assert_eq!(connect::handle(&self.connect, event.clone()).await.status_code, 400);
        assert_eq!(disconnect::handle(&self.disconnect, event).await.status_code, 400);
    }

    /// An accepted message is in its receiver's queue, once, and names its true sender.
    async fn check_send(&self, event: Event) {
        let body = if event.is_base64_encoded { None } else { event.body.clone() };
        let frame = ClientFrame::parse(body.as_deref().unwrap_or_default());
        let (status, reply) = read(&send::handle(&self.send, event).await);
        assert_eq!(status, 200);
        let Ok(ClientFrame::Send(frame)) = frame else { return };
        let reply = reply.expect("a send is answered");
        assert_eq!(reply["event"], "RESPSEND");
        let mut queued = Vec::new();
        // There are no room members.
        let Recipient::User(recipient) = &frame.recipient else {
            assert_ne!(reply["ER"], 0);
            return;
        };
        let mut deliveries = self.broker.open(recipient).await.expect("memory");
        while let Some(delivery) = deliveries.try_next() {
            queued.push(Message::from_slice(&delivery.body).expect("a message"));
        }
        match (reply["ER"].as_u64(), queued.as_slice()) {
            (Some(0), [message]) => {
                assert_eq!((frame.claimed_sender.as_str(), message.msg.as_str()), (USER, frame.msg.as_str()));
                assert_eq!(reply["MID"], message.id.as_str());
            }
            (Some(1..), []) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Status and frame; other bodies are Socket.IO packets, or the one that makes such a client reconnect.
fn read(response: &Response) -> (i64, Option<Value>) {
    let body = json!(response)["body"].as_str().map(str::to_owned);
    let frame = body.and_then(|body| {
        assert!(body.len() <= MAX_FRAME_BYTES);
        let is_packet = Packet::parse(&body).is_ok() || body == RECONNECT_PACKET;
        assert!(is_packet || body.starts_with('{') || response.status_code == 400, "{body}");
        (!is_packet).then(|| serde_json::from_str::<Value>(&body).ok()).flatten()
    });
    (response.status_code, frame)
}
