//! Those who are connected, and have not said yet who they are.
//!
//! They have no queue and hear no messages: they are greeted, and waited for.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kschat_protocol::{ConnectionId, UserId, dialect::JOIN_WITHIN};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    audience::GRACE,
    backoff::Backoff,
    deliver::{Deps, End, Signals},
    ports::{PostError, Reachable},
};

/// Connections of one process whose users are not known yet, at most; one more takes the place of an older one.
pub(crate) const PLACES: usize = 1_000;

/// Waits between tries to greet.
const GREET: Backoff = Backoff { base: Duration::from_millis(20), cap: Duration::from_secs(1) };

/// Shares the places among the addresses that connections come from: whoever has the most gives up its oldest one.
#[derive(Debug, Default)]
pub struct Lobby {
    // A std mutex: no guard is held across an await.
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// By address, then by the order in which they came.
    sources: HashMap<String, BTreeMap<u64, CancellationToken>>,
    count: usize,
    next: u64,
}

/// A place in a [`Lobby`], until it is dropped.
struct Place {
    lobby: Arc<Lobby>,
    source: String,
    number: u64,
    /// Somebody else has got it.
    lost: CancellationToken,
}

impl Lobby {
    fn enter(self: &Arc<Self>, source: Option<&str>) -> Place {
        let (source, lost) = (network_of(source), CancellationToken::new());
        let mut waiting = self.waiting();
        if waiting.count >= PLACES {
            waiting.evict();
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.count += 1;
        waiting.sources.entry(source.clone()).or_default().insert(number, lost.clone());
        drop(waiting);
        Place { lobby: Arc::clone(self), source, number, lost }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn evict(&mut self) {
        let most = self
            .sources
            .iter()
            .max_by_key(|(_, places)| (places.len(), Reverse(places.keys().next())))
            .map(|(source, _)| source.clone());
        let oldest = most.and_then(|source| {
            let (number, lost) = self.sources.get(&source)?.first_key_value()?;
            lost.cancel();
            Some((source, *number))
        });
        if let Some((source, number)) = oldest {
            self.leave(&source, number);
        }
    }

    fn leave(&mut self, source: &str, number: u64) {
        let Some(places) = self.sources.get_mut(source) else { return };
        if places.remove(&number).is_some() {
            self.count -= 1;
        }
        if places.is_empty() {
            self.sources.remove(source);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lobby.waiting().leave(&self.source, self.number);
    }
}

/// Whoever has one address of IPv6 has its whole network of 64 bits.
fn network_of(source: Option<&str>) -> String {
    let source = source.unwrap_or_default();
    match source.parse().map(|address: IpAddr| address.to_canonical()) {
        Ok(IpAddr::V6(address)) => address.segments()[..4].iter().map(|part| format!("{part:x}:")).collect(),
        Ok(IpAddr::V4(address)) => address.to_string(),
        Err(_) => source.to_owned(),
    }
}

/// Greets the connection behind a nameless user, and ends it unless it has joined under a name in time.
pub(crate) async fn receive(deps: &Deps, nobody: &UserId, signals: &Signals) -> End {
    let (mut greeted, mut tries, seen) = (false, 0, Instant::now());
    let mut place: Option<Place> = None;
    loop {
        let now = deps.clock.now();
        let reachable = match deps.registry.connections(nobody, now).await {
            Ok(reachable) => reachable,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the lobby can't be looked into");
                return End::Stuck;
            }
        };
        let Some(Reachable { connection, session }) = reachable.into_iter().next() else { return End::Offline };
        let lost = place.get_or_insert_with(|| deps.lobby.enter(session.source.as_deref())).lost.clone();
        let left = session.connected.plus(JOIN_WITHIN).millis().saturating_sub(now.millis());
        if left == 0 || lost.is_cancelled() {
            return turn_away(deps, nobody, &connection).await;
        }
        let mut wait = Duration::from_millis(left);
        if !greeted {
            match greet(deps, &connection, &session.dialect.greeting(&connection, deps.heartbeat)).await {
                Ok(()) => greeted = true,
                Err(PostError::Gone) if seen.elapsed() >= GRACE => return turn_away(deps, nobody, &connection).await,
                Err(_) => {
                    tries += 1;
                    wait = wait.min(GREET.wait(tries));
                }
            }
        }
        tokio::select! {
            () = signals.stop.cancelled() => return End::Stopped,
            () = signals.closing.arrived() => return turn_away(deps, nobody, &connection).await,
            () = lost.cancelled() => {}
            () = signals.refresh.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn greet(deps: &Deps, connection: &ConnectionId, packets: &[String]) -> Result<(), PostError> {
    for packet in packets {
        deps.connections.post(connection, packet).await?;
    }
    Ok(())
}

/// Closes the connection first: as long as it may be open, it goes on to count.
async fn turn_away(deps: &Deps, nobody: &UserId, connection: &ConnectionId) -> End {
    tracing::info!("a connection that nobody has claimed is ended");
    if let Err(error) = deps.connections.close(connection).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "an unclaimed connection can't be closed");
        return End::Stuck;
    }
    if let Err(error) = deps.registry.remove(nobody, connection).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "an unclaimed connection stays registered for now");
    }
    End::Offline
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_lobby_evicts_oldest_of_the_address_with_the_most() {
        let lobby = Arc::new(Lobby::default());
        let honest = lobby.enter(Some("192.0.2.1"));
        let mut crowd: Vec<Place> = (0..PLACES - 1).map(|_| lobby.enter(Some("192.0.2.66"))).collect();
        let late = lobby.enter(Some("192.0.2.2"));
        assert!(crowd[0].lost.is_cancelled(), "the oldest of the crowd goes");
        assert!([&honest, &late, &crowd[1]].iter().all(|place| !place.lost.is_cancelled()));
        let more = lobby.enter(Some("192.0.2.66"));
        assert!(crowd[1].lost.is_cancelled() && !more.lost.is_cancelled());
        crowd.clear();
        drop((honest, late, more));
        let waiting = lobby.waiting();
        assert_eq!((waiting.count, waiting.sources.len()), (0, 0));
    }

    #[test]
    fn ipv6_addresses_of_one_network_count_together() {
        assert_eq!(network_of(Some("2001:db8:1:2::7")), network_of(Some("2001:db8:1:2:ffff::1")));
        assert_ne!(network_of(Some("2001:db8:1:2::7")), network_of(Some("2001:db8:1:3::7")));
        assert_eq!(network_of(Some("::ffff:192.0.2.1")), "192.0.2.1");
    }
}
