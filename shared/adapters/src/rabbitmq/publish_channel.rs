//! A channel on which many publishes are in flight at once.
//!
//! Callers share the list of what is in flight, behind a mutex: two concurrent publishers could swap the numbers by which
//! the broker confirms. Each caller polls its own confirm, so an answer takes no detour over another task. The list also
//! ties returned messages to their publishes, which lapin does not: it keeps returns in a queue, and hands the first of
//! them to whichever confirm completes next, of whatever publish. Two facts make up for that.
//!
//! - The broker returns a message before it confirms it. So when a confirm completes without a return, the queue was
//!   empty, and a return of its own publish went to a confirm that had completed before. Whoever polls all of them once
//!   more sees it.
//! - A confirm that completes with another publish's return leaves open whether its own is still in the queue. Each
//!   confirm takes one return and each publish causes one at most, so it is out of the queue as soon as all that was in
//!   flight at that moment is confirmed.
//!
//! Source: lapin 4.12, `acknowledgement.rs` and `returned_messages.rs`; RabbitMQ 3.10,
//! `rabbit_channel:process_routing_mandatory`.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::{future::BoxFuture, task::AtomicWaker};
use kschat_core::ports::BoxError;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};

/// An attempt that did not succeed.
#[derive(Debug)]
pub(super) struct AttemptError {
    /// Whether the broker may have accepted it all the same.
    pub(super) may_have_succeeded: bool,
    pub(super) source: BoxError,
}

impl AttemptError {
    pub(super) fn definite(source: impl Into<BoxError>) -> Self {
        Self { may_have_succeeded: false, source: source.into() }
    }

    pub(super) fn uncertain(source: impl Into<BoxError>) -> Self {
        Self { may_have_succeeded: true, source: source.into() }
    }
}

impl From<lapin::Error> for AttemptError {
    fn from(error: lapin::Error) -> Self {
        Self::uncertain(error)
    }
}

/// The content of a publish, the same on every attempt.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) exchange: &'static str,
    pub(super) routing_key: ShortString,
    /// Whether the broker reports that there is no queue for it.
    pub(super) mandatory: bool,
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
}

impl Publish {
    /// Writes it to a channel. Returns once it is written, with the future of the broker's confirm.
    pub(super) async fn write(&self, channel: &Channel) -> Result<lapin::PublisherConfirm, lapin::Error> {
        let options = BasicPublishOptions { mandatory: self.mandatory, ..BasicPublishOptions::default() };
        let (exchange, key) = (self.exchange.into(), self.routing_key.clone());
        channel.basic_publish(exchange, key, options, &self.body, self.properties.clone()).await
    }

    fn is_returned_by(&self, returned: &BasicReturnMessage) -> bool {
        let delivery = &returned.delivery;
        delivery.routing_key == self.routing_key
            && delivery.exchange.as_str() == self.exchange
            && delivery.properties.message_id() == self.properties.message_id()
    }
}

/// The broker's answer to a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PublishOutcome {
    /// The broker has it.
    Accepted,
    /// There is no queue for it.
    Unroutable,
    /// A queue is full.
    Rejected,
}

/// A channel with publisher confirms, shared by all publishes of a connection. It closes when this is dropped.
#[derive(Debug)]
pub(super) struct PublishChannel {
    channel: Channel,
    // A std mutex: no guard is held across an await.
    in_flight: Mutex<InFlight>,
}

impl PublishChannel {
    pub(super) async fn open(connection: &Connection) -> Result<Self, lapin::Error> {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { channel, in_flight: Mutex::default() })
    }

    /// Publishes, and waits for the broker's confirm. The caller bounds the number in flight and the wait: after a
    /// cancellation it is unknown whether the broker has it.
    pub(super) async fn publish(&self, publish: Arc<Publish>) -> Result<PublishOutcome, AttemptError> {
        let number = self.in_flight().add(&self.channel, publish);
        let call = Call { channel: self, number };
        poll_fn(|context| call.channel.in_flight().poll_outcome(call.number, context)).await
    }

    fn in_flight(&self) -> MutexGuard<'_, InFlight> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller that waits for the outcome of a publish.
struct Call<'a> {
    channel: &'a PublishChannel,
    number: u64,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.channel.in_flight().abandon(self.number);
    }
}

/// What is in flight on a channel.
#[derive(Default)]
struct InFlight {
    /// The number of the last publish.
    last: u64,
    /// In the order of their numbers.
    entries: VecDeque<Entry>,
}

impl fmt::Debug for InFlight {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("InFlight").field("last", &self.last).field("entries", &self.entries.len()).finish()
    }
}

struct Entry {
    number: u64,
    publish: Arc<Publish>,
    news: Arc<News>,
    /// Wakes by way of `news`.
    waker: Waker,
    /// Whether its caller was cancelled: nobody waits for the outcome.
    is_abandoned: bool,
    /// Whether the broker has returned it.
    is_returned: bool,
    state: State,
}

/// Whether lapin has something new for a publish, and whom to wake for it.
///
/// Among hundreds in flight a look at a flag costs a fraction of a poll. lapin completes one confirm after another, and
/// wakes for each before the next, so the flag of an earlier one is set in time.
#[derive(Default)]
struct News {
    is_there: AtomicBool,
    caller: AtomicWaker,
}

impl Wake for News {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_there.store(true, Ordering::Release);
        self.caller.wake();
    }
}

enum State {
    Unconfirmed(BoxFuture<'static, Result<Confirmation, AttemptError>>),
    Confirmed {
        /// The outcome, unless the broker has returned the message.
        unless_returned: Result<PublishOutcome, AttemptError>,
        /// lapin may hold this publish's return until every publish up to this number is confirmed. `None` if it can't.
        return_known_after: Option<u64>,
    },
    /// Nothing can change the outcome any more.
    Resolved(Result<PublishOutcome, AttemptError>),
}

impl InFlight {
    /// Adds a publish, which is written at its first poll. Returns its number.
    fn add(&mut self, channel: &Channel, publish: Arc<Publish>) -> u64 {
        let (channel, written) = (channel.clone(), Arc::clone(&publish));
        let confirm = Box::pin(async move {
            // Until this has succeeded, it was not written completely: the broker can't have it.
            let confirm = written.write(&channel).await.map_err(AttemptError::definite)?;
            Ok(confirm.await?)
        });
        self.last += 1;
        let (number, state) = (self.last, State::Unconfirmed(confirm));
        // Its first poll writes it.
        let news = Arc::new(News { is_there: AtomicBool::new(true), caller: AtomicWaker::new() });
        let waker = Waker::from(Arc::clone(&news));
        let entry = Entry { number, publish, news, waker, is_abandoned: false, is_returned: false, state };
        self.entries.push_back(entry);
        number
    }

    fn position(&self, number: u64) -> Option<usize> {
        self.entries.binary_search_by_key(&number, |entry| entry.number).ok()
    }

    /// Ready when the outcome of this publish is certain; it is in the list no more then.
    fn poll_outcome(&mut self, number: u64, context: &Context<'_>) -> Poll<Result<PublishOutcome, AttemptError>> {
        let Some(at) = self.position(number) else {
            return Poll::Ready(Err(AttemptError::uncertain("its outcome was taken before")));
        };
        let entry = &self.entries[at];
        entry.news.caller.register(context.waker());
        if matches!(entry.state, State::Unconfirmed(_)) && !self.poll_confirm(at, context) {
            return Poll::Pending;
        }
        if !matches!(self.entries[at].state, State::Resolved(_)) {
            self.poll_confirms(context);
            self.resolve_completed(number);
        }
        self.take_outcome(number).map_or(Poll::Pending, Poll::Ready)
    }

    fn take_outcome(&mut self, number: u64) -> Option<Result<PublishOutcome, AttemptError>> {
        let at = self.position(number)?;
        if !matches!(self.entries[at].state, State::Resolved(_)) {
            return None;
        }
        match self.entries.remove(at)?.state {
            State::Resolved(outcome) => Some(outcome),
            State::Unconfirmed(_) | State::Confirmed { .. } => None,
        }
    }

    /// Nobody waits for its outcome any more. It remains until it is confirmed: its confirm may bring another's return.
    /// Who waits for that polls again, as the wake-up would go to the caller that has left.
    fn abandon(&mut self, number: u64) {
        if self.take_outcome(number).is_some() {
            return;
        }
        let Some(at) = self.position(number) else { return };
        self.entries[at].is_abandoned = true;
        for entry in self.entries.iter().filter(|entry| matches!(entry.state, State::Confirmed { .. })) {
            entry.wake();
        }
    }

    /// Polls all confirms until nothing new is found: a return may be with a confirm that was polled before it completed.
    fn poll_confirms(&mut self, context: &Context<'_>) {
        let mut is_new = true;
        while is_new {
            is_new = false;
            for at in 0..self.entries.len() {
                is_new |= self.poll_confirm(at, context);
            }
        }
    }

    /// Returns whether it has just been confirmed. Otherwise its own caller is woken when it is, or the one who asks if
    /// nobody else waits.
    fn poll_confirm(&mut self, at: usize, context: &Context<'_>) -> bool {
        let entry = &mut self.entries[at];
        let State::Unconfirmed(confirm) = &mut entry.state else { return false };
        if entry.is_abandoned {
            entry.news.caller.register(context.waker());
        }
        if !entry.news.is_there.swap(false, Ordering::AcqRel) {
            return false;
        }
        match confirm.as_mut().poll(&mut Context::from_waker(&entry.waker)) {
            Poll::Ready(confirmed) => {
                self.record_confirm(at, confirmed);
                true
            }
            Poll::Pending => false,
        }
    }

    fn record_confirm(&mut self, at: usize, confirmed: Result<Confirmation, AttemptError>) {
        let (unless_returned, returned) = match confirmed {
            Ok(Confirmation::Ack(returned)) => (Ok(PublishOutcome::Accepted), returned),
            Ok(Confirmation::Nack(returned)) => (Ok(PublishOutcome::Rejected), returned),
            Ok(Confirmation::NotRequested) => (Err(AttemptError::uncertain("the channel does not confirm")), None),
            Err(failure) => (Err(failure), None),
        };
        let return_known_after = returned.and_then(|returned| {
            let owner =
                self.entries.iter().position(|entry| !entry.is_returned && entry.publish.is_returned_by(&returned));
            if let Some(owner) = owner {
                self.entries[owner].is_returned = true;
            }
            (owner != Some(at)).then_some(self.last)
        });
        self.entries[at].state = State::Confirmed { unless_returned, return_known_after };
    }

    /// Resolves every publish whose outcome is certain, and wakes its caller, except for the one that asks.
    fn resolve_completed(&mut self, asking: u64) {
        let oldest = self.entries.iter().find(|entry| matches!(entry.state, State::Unconfirmed(_)));
        let oldest = oldest.map_or(u64::MAX, |entry| entry.number);
        self.entries.retain_mut(|entry| {
            if !entry.resolve(oldest) {
                return true;
            }
            if entry.number != asking {
                entry.wake();
            }
            !entry.is_abandoned
        });
    }
}

impl Entry {
    fn wake(&self) {
        self.news.caller.wake();
    }

    /// Returns whether this made the outcome certain. All before the publish number `oldest` are confirmed.
    fn resolve(&mut self, oldest: u64) -> bool {
        let State::Confirmed { unless_returned, return_known_after } = &mut self.state else { return false };
        if !self.is_returned && return_known_after.is_some_and(|number| number >= oldest) {
            return false;
        }
        let outcome = std::mem::replace(unless_returned, Ok(PublishOutcome::Accepted));
        let outcome = if self.is_returned { outcome.map(|_| PublishOutcome::Unroutable) } else { outcome };
        self.state = State::Resolved(outcome);
        true
    }
}
