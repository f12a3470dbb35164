//! What a client hears when its token ends, and how it goes on.

use std::time::Duration;

use kschat_core::{Session, contract::session, deliver::End, ports::ConnectionRegistry};

use crate::scene::{HOUR, NOW, Scene};

const ENDED: &str = r#"{"event":"RESPCTRL","RC":1,"ER":4,"OP":"reconnect","AFTER":0,"WHY":"the token has expired"}"#;

#[tokio::test(start_paused = true)]
async fn who_has_no_good_token_any_more_is_told_and_cut_off_after_a_while() {
    let scene = Scene::new().await;
    let (seed, device) = (scene.device(vec![]).await, scene.acking(vec![]).await);
    let courier = scene.serve();
    tokio::time::sleep(HOUR / 2).await;
    scene.clock.set(NOW.plus(HOUR));
    // Nothing happens meanwhile: it must wake by itself.
    tokio::time::sleep(HOUR / 2 + Duration::from_secs(1)).await;
    assert_eq!((scene.frames(&device), scene.frames(&seed)), (vec![ENDED.to_owned()], vec![]));
    let closed = || scene.edge.closed.lock().expect("no test panics here").clone();
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(closed().is_empty(), "there is time for a fresh token");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut closed = closed();
    closed.sort();
    let mut both = [seed, device];
    both.sort();
    assert_eq!(closed, both);
    assert_eq!(courier.await.expect("it does not panic"), End::Offline);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_token_in_time_lets_a_connection_go_on() {
    let scene = Scene::new().await;
    let (early, late) = (scene.acking(vec![]).await, scene.acking(vec![]).await);
    let old = session(&scene.user, NOW, HOUR);
    let renewed = Session { expires: Some(NOW.plus(HOUR + HOUR / 2)), ..old.clone() };
    scene.registry.update(&early, &old, &renewed).await.expect("memory");
    scene.signals.refresh.notify_one();
    let courier = scene.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.clock.set(NOW.plus(HOUR));
    tokio::time::sleep(HOUR).await;
    assert_eq!((scene.frames(&early), scene.frames(&late)), (vec![], vec![ENDED.to_owned()]));
    scene.registry.update(&late, &old, &renewed).await.expect("memory");
    scene.signals.refresh.notify_one();
    scene.quiet().await;
    assert!(scene.edge.closed.lock().expect("no test panics here").is_empty());
    scene.queue(&["still here"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.heard(&early).concat(), ["still here"]);
    assert_eq!(scene.heard(&late).concat(), ["still here"]);
    scene.stop(courier).await;
}
