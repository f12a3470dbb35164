//! Slots for connections that have not authenticated yet.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// Maximum unauthenticated connections per process; a further one evicts an older one.
pub(crate) const MAX_UNAUTHENTICATED_CONNECTIONS: usize = 1_000;

/// Shares the slots among source addresses: the address with the most connections loses its oldest one.
#[derive(Debug, Default)]
pub struct PendingAuth {
    // A std mutex: no guard is held across an await.
    waiting: Mutex<PendingBySource>,
}

#[derive(Debug, Default)]
struct PendingBySource {
    /// By address, then by order of arrival.
    sources: HashMap<String, BTreeMap<u64, CancellationToken>>,
    count: usize,
    next: u64,
}

/// A slot in a [`PendingAuth`]; dropping it releases the slot.
pub(super) struct PendingAuthSlot {
    pool: Arc<PendingAuth>,
    source: String,
    number: u64,
    /// Another connection has taken the slot.
    pub(super) evicted: CancellationToken,
}

impl PendingAuth {
    pub(super) fn reserve(self: &Arc<Self>, source: Option<&str>) -> PendingAuthSlot {
        let (source, lost) = (network_of(source), CancellationToken::new());
        let mut waiting = self.waiting();
        if waiting.count >= MAX_UNAUTHENTICATED_CONNECTIONS {
            waiting.evict();
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.count += 1;
        waiting.sources.entry(source.clone()).or_default().insert(number, lost.clone());
        drop(waiting);
        PendingAuthSlot { pool: Arc::clone(self), source, number, evicted: lost }
    }

    fn waiting(&self) -> MutexGuard<'_, PendingBySource> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingBySource {
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

impl Drop for PendingAuthSlot {
    fn drop(&mut self) {
        self.pool.waiting().leave(&self.source, self.number);
    }
}

/// An IPv6 address stands for its whole /64 network.
fn network_of(source: Option<&str>) -> String {
    let source = source.unwrap_or_default();
    match source.parse().map(|address: IpAddr| address.to_canonical()) {
        Ok(IpAddr::V6(address)) => address.segments()[..4].iter().map(|part| format!("{part:x}:")).collect(),
        Ok(IpAddr::V4(address)) => address.to_string(),
        Err(_) => source.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_pending_auth_evicts_oldest_of_busiest_source() {
        let pending_auth = Arc::new(PendingAuth::default());
        let honest = pending_auth.reserve(Some("192.0.2.1"));
        let mut crowd: Vec<PendingAuthSlot> =
            (0..MAX_UNAUTHENTICATED_CONNECTIONS - 1).map(|_| pending_auth.reserve(Some("192.0.2.66"))).collect();
        let late = pending_auth.reserve(Some("192.0.2.2"));
        assert!(crowd[0].evicted.is_cancelled(), "the oldest of the crowd goes");
        assert!([&honest, &late, &crowd[1]].iter().all(|place| !place.evicted.is_cancelled()));
        let more = pending_auth.reserve(Some("192.0.2.66"));
        assert!(crowd[1].evicted.is_cancelled() && !more.evicted.is_cancelled());
        crowd.clear();
        drop((honest, late, more));
        let waiting = pending_auth.waiting();
        assert_eq!((waiting.count, waiting.sources.len()), (0, 0));
    }

    #[test]
    fn ipv6_addresses_share_network_limit() {
        assert_eq!(network_of(Some("2001:db8:1:2::7")), network_of(Some("2001:db8:1:2:ffff::1")));
        assert_ne!(network_of(Some("2001:db8:1:2::7")), network_of(Some("2001:db8:1:3::7")));
        assert_eq!(network_of(Some("::ffff:192.0.2.1")), "192.0.2.1");
    }
}
