//! Socket.IO clients: handshake packets, a namespace, heartbeats, and everything else as for raw clients.

use kschat_core::ports::OwnerMessage;
use std::time::Duration;

use kschat_core::{
    Session,
    contract::{register, session, unique_connection},
    delivery::{DEFAULT_HEARTBEAT, DeliveryEnd},
    ports::ConnectionRegistry,
};
use kschat_protocol::{
    AckFrame, ConnectionId, Position, ProtocolVersion, ServerFrame, UserId,
    dialect::{Dialect, Kind, Packet},
};

use tokio::{task::JoinHandle, time::timeout};

use crate::fixture::{Fixture, HOUR, NOW, Script};

impl Fixture {
    /// A v1 client, in the dialect of that code.
    async fn speaking(&self, code: &str, script: Script) -> ConnectionId {
        let id = unique_connection();
        self.edge.scripts.lock().expect("no test panics here").insert(id.clone(), script);
        self.joins(&id, code, ProtocolVersion::V1).await;
        id
    }

    /// The client joins in the dialect of that code.
    pub(crate) async fn joins(&self, id: &ConnectionId, code: &str, version: ProtocolVersion) {
        let dialect = Dialect::from_code(code).expect("a code");
        let session = Session { dialect, version, ..session(&self.user, NOW, HOUR) };
        self.registry.remove(&self.user, id).await.expect("memory");
        register(&*self.registry, id, &session).await.expect("memory");
        self.signals.inbox.put(OwnerMessage::Refresh);
    }

    fn taken_by(&self, id: &ConnectionId) -> Vec<String> {
        let taken = self.edge.taken.lock().expect("no test panics here");
        taken.iter().filter(|(to, _)| to == id).map(|(_, text)| text.clone()).collect()
    }

    /// Its frames without heartbeats, as the time of the first one is random.
    fn texts_for(&self, id: &ConnectionId) -> Vec<String> {
        self.taken_by(id).into_iter().filter(|text| text != "2").collect()
    }

    fn closed(&self) -> Vec<ConnectionId> {
        self.edge.closed.lock().expect("no test panics here").clone()
    }
}

/// The end of delivery, which may take no more than a minute.
async fn ends(delivery: JoinHandle<DeliveryEnd>) -> DeliveryEnd {
    timeout(Duration::from_secs(60), delivery).await.expect("delivery ends").expect("the task does not panic")
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn eio_four_client_gets_messages_after_join() {
    let fixture = Fixture::new().await;
    // `$connect` has not returned yet.
    let client = fixture.speaking("4", vec![410, 410]).await;
    fixture.queue(&["one"]).await;
    let delivery = fixture.serve();
    a_moment().await;
    let open = fixture.taken_by(&client);
    assert!(open.len() == 1 && open[0].starts_with(r#"0{"sid":"#), "{open:?}");
    fixture.joins(&client, "4/kschat", ProtocolVersion::V1).await;
    a_moment().await;
    let taken = fixture.taken_by(&client);
    assert_eq!(taken.len(), 2, "nothing was said before it had joined");
    assert!(taken[1].starts_with("42/kschat,") && taken[1].contains(r#"["RESPRECEIVER",{"RC":1,"ER":0,"MSG":["#));
    fixture.stop(delivery).await;
    assert!(fixture.queued_texts().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn unjoined_client_does_not_block_others() {
    let fixture = Fixture::new().await;
    let (raw, waiting) = (fixture.device(vec![]).await, fixture.speaking("4", vec![]).await);
    fixture.queue(&["one"]).await;
    let delivery = fixture.serve();
    a_moment().await;
    assert_eq!(fixture.received_texts(&raw), [["one"]]);
    assert_eq!(fixture.taken_by(&waiting).len(), 1);
    fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn eio_three_client_defaults_to_main_namespace() {
    let fixture = Fixture::new().await;
    let (main, named) = (fixture.speaking("3", vec![]).await, fixture.speaking("3", vec![]).await);
    let delivery = fixture.serve();
    a_moment().await;
    for client in [&main, &named] {
        let taken = fixture.taken_by(client);
        assert!(taken.len() == 2 && taken[0].starts_with("0{") && taken[1] == "40", "{taken:?}");
    }
    fixture.joins(&named, "3/kschat", ProtocolVersion::V1).await;
    fixture.queue(&["one"]).await;
    a_moment().await;
    assert!(fixture.taken_by(&named)[2].starts_with("42/kschat,"));
    assert_eq!(fixture.taken_by(&main).len(), 2, "the client may still join a namespace");
    fixture.clock.set(NOW.plus(Duration::from_secs(5)));
    fixture.wait_a_minute().await;
    fixture.queue(&["two"]).await;
    a_moment().await;
    let taken = fixture.taken_by(&main);
    assert!(taken.len() == 3 && taken[2].starts_with("42") && taken[2].contains(r#"["RESPRECEIVER""#), "{taken:?}");
    fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn unjoined_client_is_disconnected_after_timeout() {
    let fixture = Fixture::new().await;
    let client = fixture.speaking("4", vec![]).await;
    let delivery = fixture.serve();
    a_moment().await;
    assert!(fixture.closed().is_empty());
    fixture.clock.set(NOW.plus(Duration::from_secs(20)));
    assert_eq!(ends(delivery).await, DeliveryEnd::Offline);
    assert_eq!(fixture.closed(), [client]);
}

#[tokio::test(start_paused = true)]
async fn failed_handshake_packet_disconnects_client() {
    let fixture = Fixture::new().await;
    let client = fixture.speaking("4", vec![500; 20]).await;
    let delivery = fixture.serve();
    assert_eq!(ends(delivery).await, DeliveryEnd::Offline);
    assert_eq!(fixture.closed(), [client]);
}

#[tokio::test(start_paused = true)]
async fn eio_four_heartbeat_follows_takeover_soon() {
    let fixture = Fixture::new().await;
    let (four, three) = (fixture.speaking("4/kschat", vec![]).await, fixture.speaking("3/kschat", vec![]).await);
    let delivery = fixture.serve();
    tokio::time::sleep(DEFAULT_HEARTBEAT.timeout / 4 + Duration::from_secs(1)).await;
    assert_eq!(fixture.taken_by(&four), ["2"], "the handshake is not repeated");
    tokio::time::sleep(DEFAULT_HEARTBEAT.interval).await;
    assert_eq!(fixture.taken_by(&four), ["2", "2"]);
    assert!(fixture.taken_by(&three).is_empty(), "its client sends them");
    fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn new_client_is_pinged_after_interval() {
    let fixture = Fixture::new().await;
    let client = fixture.speaking("4", vec![]).await;
    let delivery = fixture.serve();
    a_moment().await;
    fixture.joins(&client, "4/kschat", ProtocolVersion::V1).await;
    tokio::time::sleep(DEFAULT_HEARTBEAT.interval - Duration::from_secs(5)).await;
    assert_eq!(fixture.taken_by(&client).len(), 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(fixture.taken_by(&client)[1], "2");
    fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn reply_reaches_only_its_connection() {
    let fixture = Fixture::new().await;
    let (client, other) = (fixture.speaking("4/kschat", vec![429]).await, fixture.device(vec![]).await);
    let delivery = fixture.serve();
    a_moment().await;
    let frame = ServerFrame::from_text(r#"{"event":"RESPSEND","RC":1,"ER":0}"#).expect("a frame");
    fixture.signals.inbox.put(OwnerMessage::Reply { connection: client.clone(), frame: frame.clone() });
    fixture.signals.inbox.put(OwnerMessage::Reply { connection: unique_connection(), frame });
    a_moment().await;
    assert_eq!(fixture.texts_for(&client), [r#"42/kschat,0["RESPSEND",{"RC":1,"ER":0}]"#]);
    assert!(fixture.taken_by(&other).is_empty());
    fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn v2_callback_acknowledges() {
    let fixture = Fixture::new().await;
    let client = fixture.speaking("4/kschat", vec![]).await;
    fixture.joins(&client, "4/kschat", ProtocolVersion::V2).await;
    fixture.queue(&["one", "two"]).await;
    let delivery = fixture.serve();
    a_moment().await;
    let text = fixture.texts_for(&client).pop().expect("a pushed frame");
    let id = match Packet::parse(&text) {
        Ok(Packet::Message(packet)) if matches!(packet.kind, Kind::Event(..)) => packet.id,
        other => panic!("{other:?}"),
    };
    fixture.queue(&["three"]).await;
    a_moment().await;
    let position = id.and_then(Position::from_packet_id);
    fixture.signals.inbox.put(OwnerMessage::Ack(AckFrame { message: None, position, redelivery_requested: false }));
    a_moment().await;
    fixture.stop(delivery).await;
    assert_eq!(fixture.queued_texts().await, ["three"]);
}

#[tokio::test(start_paused = true)]
async fn unauthenticated_connection_is_closed_after_timeout() {
    let mut fixture = Fixture::new().await;
    let client = unique_connection();
    fixture.user = UserId::provisional(&client);
    fixture.edge.scripts.lock().expect("no test panics here").insert(client.clone(), vec![410, 429]);
    fixture.joins(&client, "4", ProtocolVersion::V1).await;
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(fixture.taken_by(&client)[0].starts_with("0{"));
    assert!(fixture.closed().is_empty());
    fixture.clock.set(NOW.plus(Duration::from_secs(20)));
    assert_eq!(ends(delivery).await, DeliveryEnd::Offline);
    assert_eq!(fixture.closed(), [client]);
}

#[tokio::test(start_paused = true)]
async fn join_ends_pending_authentication() {
    let mut fixture = Fixture::new().await;
    let client = unique_connection();
    fixture.user = UserId::provisional(&client);
    fixture.joins(&client, "4", ProtocolVersion::V1).await;
    let delivery = fixture.serve();
    a_moment().await;
    fixture.leave(&client).await;
    assert_eq!(ends(delivery).await, DeliveryEnd::Offline);
    assert!(fixture.closed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn unread_messages_are_requeued_for_unjoined_client() {
    let fixture = Fixture::new().await;
    // The clock stands still, so the client never becomes overdue.
    fixture.speaking("4", vec![]).await;
    fixture.queue(&["one"]).await;
    let delivery = timeout(Duration::from_secs(15 * 60), fixture.serve()).await.expect("delivery ends and requeues");
    assert_eq!(delivery.expect("the task does not panic"), DeliveryEnd::Failed);
    assert_eq!(fixture.queued_texts().await, ["one"]);
}
