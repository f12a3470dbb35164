//! Clients of Socket.IO: a first word, a namespace, heartbeats, and everything else as for raw clients.

use std::time::Duration;

use kschat_core::{
    Session,
    contract::{connection, register, session},
    deliver::{End, HEARTBEAT},
    ports::ConnectionRegistry,
};
use kschat_protocol::{
    AckFrame, ConnectionId, Position, UserId, Version,
    dialect::{Dialect, Kind, Packet},
};

use tokio::{task::JoinHandle, time::timeout};

use crate::scene::{HOUR, NOW, Scene, Script};

impl Scene {
    /// A client of the seed's kind, in the dialect of that code.
    async fn speaking(&self, code: &str, script: Script) -> ConnectionId {
        let id = connection();
        self.edge.scripts.lock().expect("no test panics here").insert(id.clone(), script);
        self.joins(&id, code, Version::Seed).await;
        id
    }

    /// A client is from now on where that code says.
    pub(crate) async fn joins(&self, id: &ConnectionId, code: &str, version: Version) {
        let dialect = Dialect::from_code(code).expect("a code");
        let session = Session { dialect, version, ..session(&self.user, NOW, HOUR) };
        self.registry.remove(&self.user, id).await.expect("memory");
        register(&*self.registry, id, &session).await.expect("memory");
        self.signals.refresh.notify_one();
    }

    fn taken_by(&self, id: &ConnectionId) -> Vec<String> {
        let taken = self.edge.taken.lock().expect("no test panics here");
        taken.iter().filter(|(to, _)| to == id).map(|(_, text)| text.clone()).collect()
    }

    /// The same without heartbeats, the first of which comes at a time that is drawn.
    fn told(&self, id: &ConnectionId) -> Vec<String> {
        self.taken_by(id).into_iter().filter(|text| text != "2").collect()
    }

    fn closed(&self) -> Vec<ConnectionId> {
        self.edge.closed.lock().expect("no test panics here").clone()
    }
}

/// How it ends, which may take no more than a minute.
async fn ends(courier: JoinHandle<End>) -> End {
    timeout(Duration::from_secs(60), courier).await.expect("it ends").expect("it does not panic")
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_of_revision_4_hears_the_first_word_at_once_and_messages_once_it_has_joined() {
    let scene = Scene::new().await;
    // `$connect` has not returned yet.
    let client = scene.speaking("4", vec![410, 410]).await;
    scene.queue(&["one"]).await;
    let courier = scene.serve();
    a_moment().await;
    let open = scene.taken_by(&client);
    assert!(open.len() == 1 && open[0].starts_with(r#"0{"sid":"#), "{open:?}");
    scene.joins(&client, "4/kschat", Version::Seed).await;
    a_moment().await;
    let taken = scene.taken_by(&client);
    assert_eq!(taken.len(), 2, "nothing was said before it had joined");
    assert!(taken[1].starts_with("42/kschat,") && taken[1].contains(r#"["RESPRECEIVER",{"RC":1,"ER":0,"MSG":["#));
    scene.stop(courier).await;
    assert!(scene.left().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_its_namespace_holds_up_no_other_device() {
    let scene = Scene::new().await;
    let (raw, waiting) = (scene.device(vec![]).await, scene.speaking("4", vec![]).await);
    scene.queue(&["one"]).await;
    let courier = scene.serve();
    a_moment().await;
    assert_eq!(scene.heard(&raw), [["one"]]);
    assert_eq!(scene.taken_by(&waiting).len(), 1);
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_of_revision_3_is_in_the_main_namespace_unless_it_names_another() {
    let scene = Scene::new().await;
    let (main, named) = (scene.speaking("3", vec![]).await, scene.speaking("3", vec![]).await);
    let courier = scene.serve();
    a_moment().await;
    for client in [&main, &named] {
        let taken = scene.taken_by(client);
        assert!(taken.len() == 2 && taken[0].starts_with("0{") && taken[1] == "40", "{taken:?}");
    }
    scene.joins(&named, "3/kschat", Version::Seed).await;
    scene.queue(&["one"]).await;
    a_moment().await;
    assert!(scene.taken_by(&named)[2].starts_with("42/kschat,"));
    assert_eq!(scene.taken_by(&main).len(), 2, "it might still name a namespace");
    scene.clock.set(NOW.plus(Duration::from_secs(5)));
    scene.quiet().await;
    scene.queue(&["two"]).await;
    a_moment().await;
    let taken = scene.taken_by(&main);
    assert!(taken.len() == 3 && taken[2].starts_with("42") && taken[2].contains(r#"["RESPRECEIVER""#), "{taken:?}");
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_joins_is_cut_off() {
    let scene = Scene::new().await;
    let client = scene.speaking("4", vec![]).await;
    let courier = scene.serve();
    a_moment().await;
    assert!(scene.closed().is_empty());
    scene.clock.set(NOW.plus(Duration::from_secs(20)));
    assert_eq!(ends(courier).await, End::Offline);
    assert_eq!(scene.closed(), [client]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_can_not_be_greeted_is_cut_off() {
    let scene = Scene::new().await;
    let client = scene.speaking("4", vec![500; 20]).await;
    let courier = scene.serve();
    assert_eq!(ends(courier).await, End::Offline);
    assert_eq!(scene.closed(), [client]);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_of_revision_4_come_from_us_soon_after_a_fail_over_and_then_rarely() {
    let scene = Scene::new().await;
    let (four, three) = (scene.speaking("4/kschat", vec![]).await, scene.speaking("3/kschat", vec![]).await);
    let courier = scene.serve();
    tokio::time::sleep(HEARTBEAT.timeout / 4 + Duration::from_secs(1)).await;
    assert_eq!(scene.taken_by(&four), ["2"], "and it was not greeted again");
    tokio::time::sleep(HEARTBEAT.interval).await;
    assert_eq!(scene.taken_by(&four), ["2", "2"]);
    assert!(scene.taken_by(&three).is_empty(), "its client sends them");
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_was_there_from_the_beginning_is_pinged_in_its_time() {
    let scene = Scene::new().await;
    let client = scene.speaking("4", vec![]).await;
    let courier = scene.serve();
    a_moment().await;
    scene.joins(&client, "4/kschat", Version::Seed).await;
    tokio::time::sleep(HEARTBEAT.interval - Duration::from_secs(5)).await;
    assert_eq!(scene.taken_by(&client).len(), 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(scene.taken_by(&client)[1], "2");
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_function_has_left_goes_to_that_connection_only() {
    let scene = Scene::new().await;
    let (client, other) = (scene.speaking("4/kschat", vec![429]).await, scene.device(vec![]).await);
    let courier = scene.serve();
    a_moment().await;
    scene.signals.replies.put(client.clone(), r#"{"event":"RESPSEND","RC":1,"ER":0}"#.to_owned());
    scene.signals.replies.put(connection(), "nobody's".to_owned());
    a_moment().await;
    assert_eq!(scene.told(&client), [r#"42/kschat,0["RESPSEND",{"RC":1,"ER":0}]"#]);
    assert!(scene.taken_by(&other).is_empty());
    scene.stop(courier).await;
}

#[tokio::test(start_paused = true)]
async fn the_callback_of_a_version_2_client_acknowledges() {
    let scene = Scene::new().await;
    let client = scene.speaking("4/kschat", vec![]).await;
    scene.joins(&client, "4/kschat", Version::V2).await;
    scene.queue(&["one", "two"]).await;
    let courier = scene.serve();
    a_moment().await;
    let text = scene.told(&client).pop().expect("it was pushed");
    let id = match Packet::parse(&text) {
        Ok(Packet::Message(packet)) if matches!(packet.kind, Kind::Event(..)) => packet.id,
        other => panic!("{other:?}"),
    };
    scene.queue(&["three"]).await;
    a_moment().await;
    let position = id.and_then(Position::from_packet_id);
    scene.signals.acks.put(AckFrame { message: None, position, again: false });
    a_moment().await;
    scene.stop(courier).await;
    assert_eq!(scene.left().await, ["three"]);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_say_who_it_is_is_greeted_waited_for_and_cut_off() {
    let mut scene = Scene::new().await;
    let client = connection();
    scene.user = UserId::nameless(&client);
    scene.edge.scripts.lock().expect("no test panics here").insert(client.clone(), vec![410, 429]);
    scene.joins(&client, "4", Version::Seed).await;
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(scene.taken_by(&client)[0].starts_with("0{"));
    assert!(scene.closed().is_empty());
    scene.clock.set(NOW.plus(Duration::from_secs(20)));
    assert_eq!(ends(courier).await, End::Offline);
    assert_eq!(scene.closed(), [client]);
}

#[tokio::test(start_paused = true)]
async fn who_joins_leaves_the_lobby() {
    let mut scene = Scene::new().await;
    let client = connection();
    scene.user = UserId::nameless(&client);
    scene.joins(&client, "4", Version::Seed).await;
    let courier = scene.serve();
    a_moment().await;
    scene.leave(&client).await;
    assert_eq!(ends(courier).await, End::Offline);
    assert!(scene.closed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_waits_unread_for_a_client_that_never_joins_goes_back_in_time() {
    let scene = Scene::new().await;
    // The clock stands still, so the client is waited for without end.
    scene.speaking("4", vec![]).await;
    scene.queue(&["one"]).await;
    let courier = timeout(Duration::from_secs(15 * 60), scene.serve()).await.expect("it gives back");
    assert_eq!(courier.expect("it does not panic"), End::Stuck);
    assert_eq!(scene.left().await, ["one"]);
}
