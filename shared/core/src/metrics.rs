//! All metrics, each name in one place.
//!
//! Use-cases record through the facade crate `metrics`, as they log through `tracing`: the process chooses the
//! collector, and without one recording costs next to nothing. `shared/docs/METRICS.md` explains each name; a test
//! compares the two.
//!
//! A label has a few values that are known beforehand: never users, connections or messages.

use std::time::Duration;

use ::metrics::{Key, KeyName, Label, Level, Metadata, Unit as FacadeUnit, with_recorder};
use kschat_protocol::ErrorCode;

use crate::Timestamp;

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// The unit of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// A duration.
    Seconds,
}

impl Unit {
    /// The unit's name in CloudWatch.
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

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// The present value.
    Gauge,
    /// A distribution of values.
    Histogram,
}

/// The definition of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name, the same for every collector.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// The unit.
    pub unit: Unit,
    /// The label, if it has one.
    pub label: Option<&'static str>,
    /// A short description.
    pub meaning: &'static str,
}

/// A [`Metric`] that counts.
#[derive(Clone, Copy, Debug)]
pub struct Counter(Metric);

/// A [`Metric`] with a present value.
#[derive(Clone, Copy, Debug)]
pub struct Gauge(Metric);

/// A [`Metric`] that records a distribution.
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

    /// Adds to the counter.
    pub fn add(&self, count: usize) {
        self.register(None, count);
    }

    /// Adds one under that value of the label.
    pub fn add_to(&self, value: &'static str) {
        self.register(Some(value), 1);
    }

    /// Adds one under the code.
    pub fn add_code(&self, code: ErrorCode) {
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

    /// Sets the value.
    pub fn set(&self, count: usize) {
        self.register(None).set(count as f64);
    }

    /// Sets the value under that value of the label.
    pub fn set_for(&self, value: &'static str, count: usize) {
        self.register(Some(value)).set(count as f64);
    }

    /// Increments the gauge for as long as the returned guard lives.
    #[must_use]
    pub fn increment_guard(&self) -> GaugeGuard {
        GaugeGuard::new(self.register(None))
    }

    /// Increments the gauge under that value of the label for as long as the returned guard lives.
    #[must_use]
    pub fn increment_guard_for(&self, value: &'static str) -> GaugeGuard {
        GaugeGuard::new(self.register(Some(value)))
    }

    fn register(&self, value: Option<&'static str>) -> ::metrics::Gauge {
        let key = self.0.key(value);
        with_recorder(|recorder| recorder.register_gauge(&key, &METADATA))
    }
}

/// Decrements its [`Gauge`] when dropped.
pub struct GaugeGuard(::metrics::Gauge);

impl GaugeGuard {
    fn new(gauge: ::metrics::Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Histogram {
    const fn new(name: &'static str, unit: Unit, meaning: &'static str) -> Self {
        Self(Metric::new(Kind::Histogram, name, unit, None, meaning))
    }

    /// Records a duration.
    pub fn record_duration(&self, span: Duration) {
        self.record(span.as_secs_f64());
    }

    /// Records the time between two moments. Clocks of two machines differ a little, so the minimum is zero.
    pub fn record_between(&self, from: Timestamp, until: Timestamp) {
        self.record_duration(Duration::from_millis(until.millis().saturating_sub(from.millis())));
    }

    /// Records a number.
    pub fn record_count(&self, count: usize) {
        self.record(count as f64);
    }

    fn record(&self, value: f64) {
        let key = self.0.key(None);
        with_recorder(|recorder| recorder.register_histogram(&key, &METADATA)).record(value);
    }
}

/// Sends, by the `ER` of their reply.
pub const SENDS: Counter = Counter::new("kschat_sends_total", Some("er"), "sends answered, by code");

/// The time of an accepted send, from its identified caller to its reply: the broker's confirm, the record of its `rno`
/// and the copy for other devices.
pub const ACCEPT: Histogram =
    Histogram::new("kschat_accept_seconds", Unit::Seconds, "from a send's identified caller to its reply");

/// Handshakes, by the code of their outcome.
pub const CONNECTS: Counter = Counter::new("kschat_connects_total", Some("er"), "handshakes answered, by code");

/// Acks of clients, by the code of their outcome.
pub const ACKS: Counter = Counter::new("kschat_acks_total", Some("er"), "client acks forwarded, by code");

/// Other requests of clients, by the code of their outcome.
pub const REQUESTS: Counter =
    Counter::new("kschat_requests_total", Some("er"), "other client requests and unreadable frames, by code");

/// The time from the acceptance of a message until the consumer took it from its queue. For an offline user it includes
/// the time offline.
pub const QUEUE_WAIT: Histogram =
    Histogram::new("kschat_queue_wait_seconds", Unit::Seconds, "from accepted to consumed from the queue");

/// The time from the first post of a frame until the edge took it.
pub const PUSH: Histogram =
    Histogram::new("kschat_push_seconds", Unit::Seconds, "from the first post of a frame to accepted by the edge");

/// The time from the first push of a message until its client acknowledged it.
pub const ACK: Histogram = Histogram::new("kschat_ack_seconds", Unit::Seconds, "from pushed to acknowledged");

/// Posts to the edge, by outcome: `reached`, `gone`, `early`, `busy` or `refused`.
pub const PUSHES: Counter = Counter::new("kschat_pushes_total", Some("outcome"), "posts to the edge, by outcome");

/// Messages in a frame at its first push.
pub const FRAME_MESSAGES: Histogram =
    Histogram::new("kschat_frame_messages", Unit::Count, "messages in one pushed frame");

/// Messages that the broker delivered before.
pub const REDELIVERIES: Counter = Counter::new("kschat_redeliveries_total", None, "messages redelivered by the broker");

/// Frames pushed again because no ack came, or to a connection that came later.
pub const REPETITIONS: Counter = Counter::new("kschat_repetitions_total", None, "frames redelivered to clients");

/// Ephemeral events pushed to users, by kind.
pub const NOTICES: Counter = Counter::new("kschat_notices_total", Some("kind"), "ephemeral events pushed, by kind");

/// Dead-lettered messages.
pub const DEAD_LETTERS: Counter = Counter::new("kschat_dead_letters_total", None, "messages dead-lettered");

/// Users with a delivery task: online ones, and offline ones while their queues are created, checked or removed.
pub const ONLINE_USERS: Gauge = Gauge::new("kschat_online_users", None, "users with a delivery task");

/// Connections to which this process pushes.
pub const CONNECTIONS: Gauge = Gauge::new("kschat_connections", None, "connections pushed to");

/// Messages that await an ack.
pub const UNACKED_MESSAGES: Gauge = Gauge::new("kschat_unacked_messages", None, "messages pushed, not acknowledged");

/// Users whose delivery pauses before a retry: `lost` after a lost queue, `stuck` after another failure that lasted too
/// long, `panicked` after a bug.
pub const RESTING_USERS: Gauge =
    Gauge::new("kschat_resting_users", Some("cause"), "users waiting for a retry, by cause");

/// Partitions that this process owns.
pub const PARTITIONS_OWNED: Gauge = Gauge::new("kschat_partitions_owned", None, "partitions owned");

/// Consumer processes that share the partitions, as seen by this one.
pub const MEMBERS: Gauge = Gauge::new("kschat_members", None, "consumer processes");

/// Queues of users: `online` are being drained by this process, `backlog` are kept for offline users.
pub const QUEUES: Gauge = Gauge::new("kschat_queues", Some("kind"), "queues of users, by kind");

/// Broker connections made again after a loss.
pub const BROKER_RECONNECTS: Counter = Counter::new("kschat_broker_reconnects_total", None, "reconnects to the broker");

/// Whether the last check of the registry succeeded: 1, or 0.
pub const REGISTRY_UP: Gauge = Gauge::new("kschat_registry_up", None, "whether the registry answers");

/// Partitions restored to a registry that had lost its data.
pub const REGISTRY_RESTORES: Counter =
    Counter::new("kschat_registry_restores_total", None, "partitions restored to a registry that lost its data");

/// Panics of single tasks, by job: each is a bug.
pub const PANICS: Counter = Counter::new("kschat_panics_total", Some("job"), "panics of single tasks, by job");

/// All metrics.
pub const ALL: [Metric; 25] = [
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
    REGISTRY_UP.0,
    REGISTRY_RESTORES.0,
    PANICS.0,
];

/// Describes each metric to the collector of this process.
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
const fn code_label(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Ok => "0",
        ErrorCode::Internal => "1",
        ErrorCode::BrokerUnavailable => "2",
        ErrorCode::TokenInvalid => "3",
        ErrorCode::TokenExpired => "4",
        ErrorCode::UserMismatch => "5",
        ErrorCode::Malformed => "6",
        ErrorCode::InvalidField => "7",
        ErrorCode::TooLarge => "8",
        ErrorCode::RateLimited => "9",
        ErrorCode::RecipientUnknown => "10",
        ErrorCode::BacklogFull => "11",
        ErrorCode::Expired => "12",
        ErrorCode::RnoReused => "13",
        ErrorCode::Forbidden => "14",
        ErrorCode::UnknownAction => "15",
        ErrorCode::RegistryUnavailable => "17",
        ErrorCode::Unconfirmed => "18",
        ErrorCode::Kicked => "19",
        ErrorCode::Draining => "20",
        ErrorCode::TooManyConnections => "21",
        ErrorCode::TooManyRooms => "22",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_code_labels_match_numbers() {
        for code in ErrorCode::ALL {
            assert_eq!(code_label(code), code.number().to_string());
        }
    }
}
