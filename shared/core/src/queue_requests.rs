//! Queues that senders ask for.
//!
//! Anybody may write to many who have no queue. Each such queue costs the broker some milliseconds, so few are made at once,
//! and those who ask take turns: whoever asks for a thousand waits for its own thousand.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kschat_protocol::UserId;
use tokio::sync::{Notify, oneshot};

/// Queues that are made at once for senders.
const AT_ONCE: usize = 4;

/// Queues that one sender waits for at most. Those beyond it are not made: they would come too late for whoever sends, who
/// asks again meanwhile.
const WAITING: usize = 512;

/// A user whose queue is wanted, as the owner of the user is told.
#[derive(Debug, Default)]
pub struct WantedBox {
    // A std mutex: no guard is held across an await.
    asked_by: Mutex<Option<Asker>>,
    arrived: Notify,
}

/// Who asks for a queue, if its function says so: one of an earlier release does not.
pub type Asker = Option<UserId>;

impl WantedBox {
    /// Somebody asks for the queue.
    pub fn put(&self, asker: Asker) {
        // Whoever asks later must not take the first one's turn.
        self.asked_by.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(asker);
        self.arrived.notify_one();
    }

    /// Who has asked first, if somebody has.
    pub(crate) fn asker(&self) -> Option<Asker> {
        self.asked_by.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The queue is there: nobody asks any more.
    pub(crate) fn forget(&self) {
        *self.asked_by.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Waits until somebody asks. Safe to drop while waiting.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

/// Gives turns to those who ask: a few at a time, one asker after the other.
#[derive(Debug)]
pub(crate) struct Turns(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    /// Who waits, in the order of its requests.
    waiting: HashMap<Asker, VecDeque<oneshot::Sender<Turn>>>,
    /// The keys of `waiting`, whoever is next first.
    round: VecDeque<Asker>,
}

/// Permission to make a queue, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(Option<Arc<Turns>>);

impl Turns {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { free: AT_ONCE, waiting: HashMap::new(), round: VecDeque::new() })))
    }

    /// Waits for a turn; `None` if too many of the same asker wait already. Safe to drop while waiting.
    pub(crate) async fn turn(self: &Arc<Self>, asker: Asker) -> Option<Turn> {
        let given = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Some(Turn(Some(Arc::clone(self))));
            }
            state.queue(asker)?
        };
        given.await.ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn is free: the next one gets it.
    fn pass_on(turns: Arc<Self>) {
        let mut turn = Turn(Some(turns));
        while let Some(turns) = &turn.0 {
            let next = turns.state().next();
            let Some(next) = next else {
                turn.0 = None;
                return;
            };
            // Whoever has given up waiting gives it back.
            match next.send(turn) {
                Ok(()) => return,
                Err(unused) => turn = unused,
            }
        }
    }
}

impl State {
    fn queue(&mut self, asker: Asker) -> Option<oneshot::Receiver<Turn>> {
        let (give, given) = oneshot::channel();
        let own = self.waiting.entry(asker.clone()).or_default();
        // Most of those who have given up are found here.
        if own.len() >= WAITING {
            own.retain(|waiting| !waiting.is_closed());
        }
        if own.len() >= WAITING {
            return None;
        }
        own.push_back(give);
        if own.len() == 1 && !self.round.contains(&asker) {
            self.round.push_back(asker);
        }
        Some(given)
    }

    /// Who gets the turn that is free; if nobody waits, it stays free.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        while let Some(asker) = self.round.pop_front() {
            let Some(own) = self.waiting.get_mut(&asker) else { continue };
            let next = own.pop_front();
            if own.is_empty() {
                self.waiting.remove(&asker);
            } else {
                self.round.push_back(asker);
            }
            if next.is_some() {
                return next;
            }
        }
        self.free += 1;
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            Turns::pass_on(turns);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};

    use super::*;

    fn user(name: &str) -> Asker {
        Some(UserId::try_from(name).unwrap())
    }

    #[tokio::test]
    async fn asker_of_one_does_not_wait_for_asker_of_many() {
        let turns = Turns::new();
        let mut busy = join_all((0..AT_ONCE).map(|_| turns.turn(user("many")))).await;
        let mut many: Vec<_> = (0..WAITING).map(|_| Box::pin(turns.turn(user("many")))).collect();
        assert!(many.iter_mut().all(|one| one.now_or_never().is_none()));
        assert!(turns.turn(user("many")).await.is_none(), "so many wait at most");
        let mut one = Box::pin(turns.turn(user("one")));
        assert!((&mut one).now_or_never().is_none());
        for _ in 0..2 {
            busy.pop();
        }
        assert!((&mut one).now_or_never().is_some(), "it is the second in the round");
        drop((one, busy));
        // Those who wait get all of them, also when many give up.
        let rest = many.split_off(WAITING / 2);
        drop(many);
        for turn in rest {
            assert!(turn.await.is_some());
        }
        assert_eq!(turns.state().free, AT_ONCE);
        assert!(turns.state().waiting.is_empty() && turns.state().round.is_empty());
    }
}
