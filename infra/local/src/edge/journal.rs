//! What the edge has done: a line in the log, a row on the page, a number in the totals.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Duration,
};

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Rows that are kept.
const ROWS: usize = 500;

/// Characters of a frame that a row shows.
const SHOWN: usize = 400;

/// What kind of thing has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Connect,
    Message,
    Disconnect,
    Authorize,
    /// A frame to a client that is no push.
    Out,
    /// The connections API's POST, GET and DELETE.
    Push,
    Describe,
    Delete,
    /// A socket has ended.
    Close,
    Fault,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Message => "message",
            Self::Disconnect => "disconnect",
            Self::Authorize => "authorize",
            Self::Out => "out",
            Self::Push => "push",
            Self::Describe => "describe",
            Self::Delete => "delete",
            Self::Close => "close",
            Self::Fault => "fault",
        }
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    #[default]
    Ok,
    /// Somebody said no.
    Refused,
    /// Somebody did not answer as one should.
    Failed,
    /// It was taken, and went nowhere.
    Lost,
}

/// One thing that has happened.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    seq: u64,
    #[serde(serialize_with = "as_rfc3339")]
    at: OffsetDateTime,
    pub(super) kind: Kind,
    pub(super) connection_id: Option<String>,
    pub(super) route: Option<String>,
    /// The function, or `mock`.
    pub(super) target: Option<String>,
    pub(super) outcome: Outcome,
    pub(super) status: Option<u16>,
    pub(super) millis: Option<f64>,
    pub(super) bytes: Option<usize>,
    /// The frame's beginning. It is for the page, never for the log.
    pub(super) text: Option<String>,
    pub(super) note: Option<String>,
}

impl Entry {
    pub(super) fn new(kind: Kind, connection: &str) -> Self {
        Self { connection_id: Some(connection.to_owned()), ..Self::of_nobody(kind) }
    }

    /// What has happened before there was a connection.
    pub(super) fn of_nobody(kind: Kind) -> Self {
        Self {
            seq: 0,
            at: OffsetDateTime::now_utc(),
            kind,
            connection_id: None,
            route: None,
            target: None,
            outcome: Outcome::Ok,
            status: None,
            millis: None,
            bytes: None,
            text: None,
            note: None,
        }
    }

    pub(super) fn route(mut self, route: &str, target: &str) -> Self {
        (self.route, self.target) = (Some(route.to_owned()), Some(target.to_owned()));
        self
    }

    pub(super) fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    pub(super) fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    pub(super) fn took(mut self, time: Duration) -> Self {
        self.millis = Some((time.as_secs_f64() * 1e5).round() / 1e2);
        self
    }

    pub(super) fn text(mut self, text: &str) -> Self {
        self.bytes = Some(text.len());
        self.text = Some(shown(text));
        self
    }

    pub(super) fn note(mut self, note: impl AsRef<str>) -> Self {
        self.note = Some(shown(note.as_ref()));
        self
    }
}

/// The beginning of a text, unless it may hold a secret.
pub(super) fn shown(text: &str) -> String {
    let masked = if may_hold_a_secret(text) { "(not shown: it may hold a secret)" } else { text };
    masked.chars().take(SHOWN).collect()
}

/// Whether a frame has a field that people keep to themselves.
fn may_hold_a_secret(text: &str) -> bool {
    const NAMES: [&str; 8] = ["token", "secret", "password", "authorization", "bearer", "jwt", "apikey", "eyj"];
    let lower = text.get(..text.len().min(64 * 1024)).unwrap_or(text).to_ascii_lowercase();
    NAMES.iter().any(|name| lower.contains(name))
}

/// What has happened how often since the start.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) frames_in: AtomicU64,
    pub(super) frames_out: AtomicU64,
    pub(super) pushes: AtomicU64,
    pub(super) pushes_refused: AtomicU64,
    pub(super) invocations: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) in_flight: AtomicUsize,
}

#[derive(Default)]
struct Ring {
    last_seq: u64,
    rows: VecDeque<Entry>,
}

/// The last things that have happened, and the totals.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) totals: Totals,
    // A std mutex: no guard is held across an await.
    ring: Mutex<Ring>,
}

impl Journal {
    /// Notes what has happened.
    pub(super) fn record(&self, mut entry: Entry) {
        log(&entry);
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last_seq += 1;
        entry.seq = ring.last_seq;
        if ring.rows.len() == ROWS {
            ring.rows.pop_front();
        }
        ring.rows.push_back(entry);
    }

    /// What has happened after that one, and how much of it is forgotten already.
    pub(super) fn after(&self, seq: u64) -> (Vec<Entry>, u64) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = ring.last_seq - ring.rows.len() as u64;
        let rows = ring.rows.iter().filter(|entry| entry.seq > seq).cloned().collect();
        (rows, oldest.saturating_sub(seq))
    }
}

fn as_rfc3339<S: serde::Serializer>(moment: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*moment))
}

/// A moment to the millisecond, as ISO 8601 has it.
pub(super) fn rfc3339(moment: OffsetDateTime) -> String {
    let moment = moment.replace_millisecond(moment.millisecond()).unwrap_or(moment);
    moment.format(&Rfc3339).unwrap_or_default()
}

/// Never a frame's text: that is the users' own.
fn log(entry: &Entry) {
    let kind = entry.kind.name();
    let connection = entry.connection_id.as_deref();
    let [route, function, note] =
        [&entry.route, &entry.target, &entry.note].map(|text| text.as_deref().filter(|text| !text.is_empty()));
    let Entry { status, millis, bytes, .. } = *entry;
    macro_rules! line {
        ($level:ident, $went:literal) => {
            tracing::$level!(
                target: "edge", connection, route, function, status, millis, bytes, note, concat!("{}", $went), kind
            )
        };
    }
    match entry.outcome {
        Outcome::Ok => line!(info, ""),
        Outcome::Refused => line!(info, " refused"),
        Outcome::Lost => line!(warn, " lost"),
        Outcome::Failed => line!(warn, " failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rows_are_kept_and_the_lost_ones_counted() {
        let journal = Journal::default();
        for n in 0..ROWS + 10 {
            journal.record(Entry::new(Kind::Push, &n.to_string()));
        }
        let (rows, lost) = journal.after(0);
        assert_eq!((rows.len(), lost), (ROWS, 10));
        let last = rows.last().map(|entry| entry.seq).unwrap();
        assert_eq!(journal.after(last).0.len(), 0);
        assert_eq!(journal.after(last - 3).0.len(), 3);
    }

    #[test]
    fn a_frame_that_may_hold_a_secret_is_not_shown() {
        let entry = Entry::new(Kind::Message, "a").text(r#"{"action":"auth","Token":"hunter2"}"#);
        assert!(!entry.text.unwrap().contains("hunter2"));
        let long = Entry::new(Kind::Message, "a").text(&"ü".repeat(SHOWN + 1));
        assert_eq!((long.text.unwrap().chars().count(), long.bytes), (SHOWN, Some(2 * SHOWN + 2)));
    }
}
