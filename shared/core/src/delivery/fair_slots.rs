//! Queues that senders request.
//!
//! Any user may write to many users who have no queue. Each new queue costs the broker some milliseconds, so few are
//! made at once and requesters take turns: one that requests a thousand waits for its own thousand.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::inbox::Requester;

/// Queues that are created for senders at the same time.
const MAX_CONCURRENT_QUEUE_CREATIONS: usize = 4;

/// Maximum pending queue requests per sender. Further ones are dropped: they would come too late for the sender, who
/// asks again meanwhile.
const MAX_QUEUE_REQUESTS_PER_SENDER: usize = 512;

/// Hands out a few slots at a time, round robin over the requesters.
#[derive(Debug)]
pub(crate) struct FairSlots(Mutex<FairSlotsState>);

#[derive(Debug)]
struct FairSlotsState {
    free: usize,
    /// Pending requests in the order of each requester.
    waiting: HashMap<Requester, VecDeque<oneshot::Sender<FairSlot>>>,
    /// The keys of `waiting`; the first is next.
    round_robin: VecDeque<Requester>,
}

/// Permission to create a queue; dropping it releases the slot.
#[derive(Debug)]
pub(crate) struct FairSlot(Option<Arc<FairSlots>>);

impl FairSlots {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(FairSlotsState {
            free: MAX_CONCURRENT_QUEUE_CREATIONS,
            waiting: HashMap::new(),
            round_robin: VecDeque::new(),
        })))
    }

    /// Waits for a slot; `None` if too many requests of the same requester wait already. Cancellation-safe.
    pub(crate) async fn acquire(self: &Arc<Self>, requester: Requester) -> Option<FairSlot> {
        let given = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Some(FairSlot(Some(Arc::clone(self))));
            }
            state.queue(requester)?
        };
        given.await.ok()
    }

    fn state(&self) -> MutexGuard<'_, FairSlotsState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a free slot to the next request.
    fn hand_over(slots: Arc<Self>) {
        let mut slot = FairSlot(Some(slots));
        while let Some(slots) = &slot.0 {
            let next = slots.state().next();
            let Some(next) = next else {
                slot.0 = None;
                return;
            };
            // A cancelled waiter gives the slot back.
            match next.send(slot) {
                Ok(()) => return,
                Err(unused) => slot = unused,
            }
        }
    }
}

impl FairSlotsState {
    fn queue(&mut self, requester: Requester) -> Option<oneshot::Receiver<FairSlot>> {
        let (give, given) = oneshot::channel();
        let own = self.waiting.entry(requester.clone()).or_default();
        // Most cancelled waiters are found here.
        if own.len() >= MAX_QUEUE_REQUESTS_PER_SENDER {
            own.retain(|waiting| !waiting.is_closed());
        }
        if own.len() >= MAX_QUEUE_REQUESTS_PER_SENDER {
            return None;
        }
        own.push_back(give);
        if own.len() == 1 && !self.round_robin.contains(&requester) {
            self.round_robin.push_back(requester);
        }
        Some(given)
    }

    /// The request that gets the free slot; without one it stays free.
    fn next(&mut self) -> Option<oneshot::Sender<FairSlot>> {
        while let Some(requester) = self.round_robin.pop_front() {
            let Some(own) = self.waiting.get_mut(&requester) else { continue };
            let next = own.pop_front();
            if own.is_empty() {
                self.waiting.remove(&requester);
            } else {
                self.round_robin.push_back(requester);
            }
            if next.is_some() {
                return next;
            }
        }
        self.free += 1;
        None
    }
}

impl Drop for FairSlot {
    fn drop(&mut self) {
        if let Some(slots) = self.0.take() {
            FairSlots::hand_over(slots);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};

    use kschat_protocol::UserId;

    use super::*;

    fn user(name: &str) -> Requester {
        Requester::User(UserId::try_from(name).unwrap())
    }

    #[tokio::test]
    async fn single_queue_request_overtakes_bulk_requester() {
        let slots = FairSlots::new();
        let mut busy = join_all((0..MAX_CONCURRENT_QUEUE_CREATIONS).map(|_| slots.acquire(user("many")))).await;
        let mut many: Vec<_> =
            (0..MAX_QUEUE_REQUESTS_PER_SENDER).map(|_| Box::pin(slots.acquire(user("many")))).collect();
        assert!(many.iter_mut().all(|one| one.now_or_never().is_none()));
        assert!(slots.acquire(user("many")).await.is_none(), "so many wait at most");
        let mut one = Box::pin(slots.acquire(user("one")));
        assert!((&mut one).now_or_never().is_none());
        for _ in 0..2 {
            busy.pop();
        }
        assert!((&mut one).now_or_never().is_some(), "it is the second in the round");
        drop((one, busy));
        // Pending requests get all slots, even when many are cancelled.
        let rest = many.split_off(MAX_QUEUE_REQUESTS_PER_SENDER / 2);
        drop(many);
        for slot in rest {
            assert!(slot.await.is_some());
        }
        assert_eq!(slots.state().free, MAX_CONCURRENT_QUEUE_CREATIONS);
        assert!(slots.state().waiting.is_empty() && slots.state().round_robin.is_empty());
    }
}
