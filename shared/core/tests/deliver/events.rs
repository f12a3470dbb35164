//! Ephemeral events.

use kschat_core::ports::OwnerMessage;
use std::time::Duration;

use kschat_protocol::{EphemeralEvent, JsonId};

use crate::fixture::Fixture;

fn typing(from: &str, on: bool) -> EphemeralEvent {
    EphemeralEvent::Typing { from: JsonId::Text(from.to_owned()), on }
}

#[tokio::test(start_paused = true)]
async fn event_burst_is_coalesced() {
    let fixture = Fixture::new().await;
    let (v1, device) = (fixture.device(vec![]).await, fixture.acking_device(vec![]).await);
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for n in 0..1_000 {
        fixture.signals.inbox.put(OwnerMessage::Event(typing("alice", n % 2 == 0)));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let heard = fixture.frames(&device);
    assert!((5..=12).contains(&heard.len()), "{} events in a second", heard.len());
    assert_eq!(heard.last(), Some(&typing("alice", false).to_frame().to_text()), "the newest event is pushed");
    assert!(fixture.frames(&v1).is_empty());
    fixture.stop(delivery).await;
}

#[tokio::test(start_paused = true)]
async fn refused_event_is_dropped() {
    let fixture = Fixture::new().await;
    // One is busy, one is gone.
    let (busy, gone) = (fixture.acking_device(vec![503]).await, fixture.acking_device(vec![]).await);
    let delivery = fixture.serve();
    tokio::time::sleep(Duration::from_secs(5)).await;
    fixture.edge.scripts.lock().expect("no test panics here").insert(gone.clone(), vec![410]);
    fixture.signals.inbox.put(OwnerMessage::Event(typing("alice", true)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.registered().await, std::slice::from_ref(&busy));
    fixture.queue(&["a message"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fixture.received_texts(&busy), [["a message"]]);
    assert_eq!(fixture.frames(&busy).len(), 1, "a missed event is not pushed later");
    fixture.stop(delivery).await;
}
