//! What is counted and timed, each name in one place.
//!
//! A use-case records through the facade crate `metrics`, as it logs through `tracing`: who collects the figures is
//! up to the process, and where nobody does, recording costs next to nothing. `shared/docs/METRICS.md` explains each
//! name; a test compares the two.
//!
//! A label has a few values that are known beforehand. Users, connections and messages are never one.

use std::time::Duration;

use ::metrics::{Key, KeyName, Label, Level, Metadata, Unit as FacadeUnit, with_recorder};
use kschat_protocol::Er;

use crate::Timestamp;

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// What a figure is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// How many.
    Count,
    /// How long.
    Seconds,
}

impl Unit {
    /// Its name, as CloudWatch has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "Count",
            Self::Seconds => "Seconds",
        }
    }

    const fn facade(self) -> FacadeUnit {
        match self {
            Self::Count => FacadeUnit::Count,
            Self::Seconds => FacadeUnit::Seconds,
        }
    }
}

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// How it is just now.
    Gauge,
    /// How single values are spread.
    Histogram,
}

/// What is known of a metric before anything is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, wherever it is collected.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What it is measured in.
    pub unit: Unit,
    /// The label that divides it, if one does.
    pub label: Option<&'static str>,
    /// What it says, in a few words.
    pub meaning: &'static str,
}

/// A [`Metric`] that counts.
#[derive(Clone, Copy, Debug)]
pub struct Counter(Metric);

/// A [`Metric`] that tells the present state.
#[derive(Clone, Copy, Debug)]
pub struct Gauge(Metric);

/// A [`Metric`] that takes single values.
#[derive(Clone, Copy, Debug)]
pub struct Histogram(Metric);

impl Metric {
    const fn new(
        kind: Kind,
        name: &'static str,
        unit: Unit,
        label: Option<&'static str>,
        meaning: &'static str,
    ) -> Self {
        Self { name, kind, unit, label, meaning }
    }

    fn key(&self, value: Option<&'static str>) -> Key {
        match self.label.zip(value) {
            Some((label, value)) => Key::from_parts(self.name, vec![Label::from_static_parts(label, value)]),
            None => Key::from_static_name(self.name),
        }
    }
}

impl Counter {
    const fn new(name: &'static str, label: Option<&'static str>, meaning: &'static str) -> Self {
        Self(Metric::new(Kind::Counter, name, Unit::Count, label, meaning))
    }

    /// Counts so many more.
    pub fn add(&self, count: usize) {
        self.register(None, count);
    }

    /// Counts one more, under that value of its label.
    pub fn add_to(&self, value: &'static str) {
        self.register(Some(value), 1);
    }

    /// Counts one more, under the code.
    pub fn add_code(&self, code: Er) {
        self.register(Some(code_label(code)), 1);
    }

    fn register(&self, value: Option<&'static str>, count: usize) {
        let key = self.0.key(value);
        with_recorder(|recorder| recorder.register_counter(&key, &METADATA)).increment(count as u64);
    }
}

impl Gauge {
    const fn new(name: &'static str, label: Option<&'static str>, meaning: &'static str) -> Self {
        Self(Metric::new(Kind::Gauge, name, Unit::Count, label, meaning))
    }

    /// It is this now.
    pub fn set(&self, count: usize) {
        self.register(None).set(count as f64);
    }

    /// It is this now, under that value of its label.
    pub fn set_for(&self, value: &'static str, count: usize) {
        self.register(Some(value)).set(count as f64);
    }

    /// There is one more, for as long as what is returned lives.
    #[must_use]
    pub fn one_more(&self) -> Present {
        Present::new(self.register(None))
    }

    /// There is one more, under that value of its label, for as long as what is returned lives.
    #[must_use]
    pub fn one_more_for(&self, value: &'static str) -> Present {
        Present::new(self.register(Some(value)))
    }

    fn register(&self, value: Option<&'static str>) -> ::metrics::Gauge {
        let key = self.0.key(value);
        with_recorder(|recorder| recorder.register_gauge(&key, &METADATA))
    }
}

/// Something that a [`Gauge`] counts while it is there.
pub struct Present(::metrics::Gauge);

impl Present {
    fn new(gauge: ::metrics::Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Histogram {
    const fn new(name: &'static str, unit: Unit, meaning: &'static str) -> Self {
        Self(Metric::new(Kind::Histogram, name, unit, None, meaning))
    }

    /// It took so long.
    pub fn took(&self, span: Duration) {
        self.record(span.as_secs_f64());
    }

    /// It took from one moment to another. Clocks of two machines differ a little, so the least is nothing.
    pub fn took_between(&self, from: Timestamp, until: Timestamp) {
        self.took(Duration::from_millis(until.millis().saturating_sub(from.millis())));
    }

    /// There were so many.
    pub fn counted(&self, count: usize) {
        self.record(count as f64);
    }

    fn record(&self, value: f64) {
        let key = self.0.key(None);
        with_recorder(|recorder| recorder.register_histogram(&key, &METADATA)).record(value);
    }
}

/// Sends, by the `ER` of their reply.
pub const SENDS: Counter = Counter::new("kschat_sends_total", Some("er"), "sends answered, by code");

/// From the event of an accepted send to the broker's confirm.
pub const ACCEPT: Histogram =
    Histogram::new("kschat_accept_seconds", Unit::Seconds, "from a send's event to the broker's confirm");

/// Handshakes, by the code of their outcome.
pub const CONNECTS: Counter = Counter::new("kschat_connects_total", Some("er"), "handshakes answered, by code");

/// Acks of clients, by the code of their outcome.
pub const ACKS: Counter = Counter::new("kschat_acks_total", Some("er"), "acks of clients passed on, by code");

/// Other requests of clients, by the code of their outcome.
pub const REQUESTS: Counter = Counter::new("kschat_requests_total", Some("er"), "other requests of clients, by code");

/// From the moment a message was accepted until the consumer took it from its queue. Of a user who was away it is
/// the time away.
pub const QUEUE_WAIT: Histogram =
    Histogram::new("kschat_queue_wait_seconds", Unit::Seconds, "from accepted to taken from the queue");

/// From the moment the first message of a frame was taken from its queue until the edge took the frame.
pub const PUSH: Histogram =
    Histogram::new("kschat_push_seconds", Unit::Seconds, "from taken from the queue to taken by the edge");

/// From the first push of a message until its client acknowledged it.
pub const ACK: Histogram = Histogram::new("kschat_ack_seconds", Unit::Seconds, "from pushed to acknowledged");

/// Posts to the edge, by what it answered: `reached`, `gone`, `early`, `busy` or `refused`.
pub const PUSHES: Counter = Counter::new("kschat_pushes_total", Some("outcome"), "posts to the edge, by outcome");

/// Messages that share a frame when they are pushed first.
pub const FRAME_MESSAGES: Histogram =
    Histogram::new("kschat_frame_messages", Unit::Count, "messages in one pushed frame");

/// Messages taken from a queue that had been on loan before.
pub const REDELIVERIES: Counter =
    Counter::new("kschat_redeliveries_total", None, "messages taken again after a loan that ended");

/// Frames pushed again because nobody had acknowledged them, or to somebody who came later.
pub const REPETITIONS: Counter = Counter::new("kschat_repetitions_total", None, "frames pushed again");

/// Notices pushed to users, by what they tell.
pub const NOTICES: Counter = Counter::new("kschat_notices_total", Some("kind"), "notices pushed, by kind");

/// Messages set aside in the dead-letter queue.
pub const DEAD_LETTERS: Counter = Counter::new("kschat_dead_letters_total", None, "messages that can't be delivered");

/// Users whom this process serves.
pub const ONLINE_USERS: Gauge = Gauge::new("kschat_online_users", None, "users served");

/// Connections to which this process pushes.
pub const CONNECTIONS: Gauge = Gauge::new("kschat_connections", None, "connections pushed to");

/// Messages that wait for an ack.
pub const UNACKED_MESSAGES: Gauge = Gauge::new("kschat_unacked_messages", None, "messages pushed, not acknowledged");

/// Users who rest before they are tried again: `lost` is a queue that went, `stuck` whatever else failed too long, `panicked` a mistake of ours.
pub const RESTING_USERS: Gauge = Gauge::new("kschat_resting_users", Some("cause"), "users waiting to be tried again");

/// Partitions that this process owns.
pub const PARTITIONS_OWNED: Gauge = Gauge::new("kschat_partitions_owned", None, "partitions owned");

/// Consumer processes that share the partitions, as this one sees it.
pub const MEMBERS: Gauge = Gauge::new("kschat_members", None, "consumer processes");

/// Queues of users: `online` are being drained by this process, `backlog` stay for somebody who is away.
pub const QUEUES: Gauge = Gauge::new("kschat_queues", Some("kind"), "queues of users, by kind");

/// Connections to the broker made anew after one was lost.
pub const BROKER_RECONNECTS: Counter =
    Counter::new("kschat_broker_reconnects_total", None, "connections to the broker made anew");

/// Partitions told again to a registry that had lost everything.
pub const REGISTRY_RESTORES: Counter =
    Counter::new("kschat_registry_restores_total", None, "partitions told again to a registry that lost everything");

/// Panics of single tasks, by the job: each is a mistake in the program.
pub const PANICS: Counter = Counter::new("kschat_panics_total", Some("job"), "panics of single tasks, by job");

/// Every metric there is.
pub const ALL: [Metric; 24] = [
    SENDS.0,
    ACCEPT.0,
    CONNECTS.0,
    ACKS.0,
    REQUESTS.0,
    QUEUE_WAIT.0,
    PUSH.0,
    ACK.0,
    PUSHES.0,
    FRAME_MESSAGES.0,
    REDELIVERIES.0,
    REPETITIONS.0,
    NOTICES.0,
    DEAD_LETTERS.0,
    ONLINE_USERS.0,
    CONNECTIONS.0,
    UNACKED_MESSAGES.0,
    RESTING_USERS.0,
    PARTITIONS_OWNED.0,
    MEMBERS.0,
    QUEUES.0,
    BROKER_RECONNECTS.0,
    REGISTRY_RESTORES.0,
    PANICS.0,
];

/// Tells the collector of this process what each metric means.
pub fn describe() {
    for metric in ALL {
        let (name, unit) = (KeyName::from_const_str(metric.name), Some(metric.unit.facade()));
        with_recorder(|recorder| match metric.kind {
            Kind::Counter => recorder.describe_counter(name, unit, metric.meaning.into()),
            Kind::Gauge => recorder.describe_gauge(name, unit, metric.meaning.into()),
            Kind::Histogram => recorder.describe_histogram(name, unit, metric.meaning.into()),
        });
    }
}

/// The number of a code, as a label.
const fn code_label(code: Er) -> &'static str {
    match code {
        Er::Ok => "0",
        Er::Internal => "1",
        Er::BrokerUnavailable => "2",
        Er::TokenInvalid => "3",
        Er::TokenExpired => "4",
        Er::NotYou => "5",
        Er::Malformed => "6",
        Er::InvalidField => "7",
        Er::TooLarge => "8",
        Er::RateLimited => "9",
        Er::RecipientUnknown => "10",
        Er::BacklogFull => "11",
        Er::Expired => "12",
        Er::RnoReused => "13",
        Er::Forbidden => "14",
        Er::UnknownAction => "15",
        Er::RegistryUnavailable => "17",
        Er::Unconfirmed => "18",
        Er::Kicked => "19",
        Er::Draining => "20",
        Er::TooManyDevices => "21",
        Er::TooManyRooms => "22",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_number_as_label() {
        for code in Er::ALL {
            assert_eq!(code_label(code), code.number().to_string());
        }
    }
}
