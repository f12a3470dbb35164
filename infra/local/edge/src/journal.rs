//! Journal of the edge: log lines, rows of the edge view, and totals.

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

/// Maximum number of entries.
const MAX_JOURNAL_ENTRIES: usize = 500;

/// Characters of a frame that an entry shows.
const MAX_SHOWN_CHARACTERS: usize = 400;

/// Longer texts are shortened when they are recorded, in bytes.
const MAX_RAW_TEXT_BYTES: usize = 2_048;

/// Kind of a journal entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Connect,
    Message,
    Disconnect,
    Authorize,
    /// A frame to a client other than a push.
    Out,
    /// The connections API's POST, GET and DELETE.
    Push,
    Describe,
    Delete,
    /// A socket was closed.
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

/// Outcome of a journal entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    #[default]
    Ok,
    /// It was refused.
    Refused,
    /// It failed.
    Failed,
    /// It was accepted, and did not arrive.
    Lost,
}

/// A journal entry.
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
    /// Start of the frame. It is shown in the edge view, never logged.
    pub(super) text: Option<FrameText>,
    pub(super) note: Option<String>,
}

impl Entry {
    pub(super) fn new(kind: Kind, connection: &str) -> Self {
        Self { connection_id: Some(connection.to_owned()), ..Self::without_connection(kind) }
    }

    /// An entry from before the connection was open.
    pub(super) fn without_connection(kind: Kind) -> Self {
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
        self.text = Some(FrameText::new(text));
        self
    }

    pub(super) fn note(mut self, note: impl AsRef<str>) -> Self {
        self.note = Some(shown(note.as_ref()));
        self
    }
}

/// A frame's text. What may be shown of it is decided when somebody looks.
#[derive(Clone)]
pub(super) struct FrameText(String);

impl std::fmt::Debug for FrameText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

impl FrameText {
    fn new(text: &str) -> Self {
        Self(if text.len() <= MAX_RAW_TEXT_BYTES { text.to_owned() } else { shown(text) })
    }
}

impl Serialize for FrameText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&shown(&self.0))
    }
}

/// The start of a text, masked if it may contain a secret.
pub(super) fn shown(text: &str) -> String {
    let masked = if may_contain_secret(text) { "(hidden: may contain a secret)" } else { text };
    masked.chars().take(MAX_SHOWN_CHARACTERS).collect()
}

/// Whether a frame has a field that usually holds a secret.
fn may_contain_secret(text: &str) -> bool {
    const NAMES: [&str; 8] = ["token", "secret", "password", "authorization", "bearer", "jwt", "apikey", "eyj"];
    let lower = text.get(..text.len().min(64 * 1024)).unwrap_or(text).to_ascii_lowercase();
    NAMES.iter().any(|name| lower.contains(name))
}

/// Counts since the start.
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

/// The latest entries, and the totals.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) totals: Totals,
    // A std mutex: no guard is held across an await.
    ring: Mutex<Ring>,
}

impl Journal {
    /// Records an entry.
    pub(super) fn record(&self, mut entry: Entry) {
        log(&entry);
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last_seq += 1;
        entry.seq = ring.last_seq;
        if ring.rows.len() == MAX_JOURNAL_ENTRIES {
            ring.rows.pop_front();
        }
        ring.rows.push_back(entry);
    }

    /// The entries after that sequence number, and how many of them have been evicted.
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

/// A time in ISO 8601, to the millisecond.
pub(super) fn rfc3339(moment: OffsetDateTime) -> String {
    let moment = moment.replace_millisecond(moment.millisecond()).unwrap_or(moment);
    moment.format(&Rfc3339).unwrap_or_default()
}

/// Logs an entry without the frame's text, which is private.
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
    fn journal_keeps_last_rows_and_counts_dropped() {
        let journal = Journal::default();
        for n in 0..MAX_JOURNAL_ENTRIES + 10 {
            journal.record(Entry::new(Kind::Push, &n.to_string()));
        }
        let (rows, lost) = journal.after(0);
        assert_eq!((rows.len(), lost), (MAX_JOURNAL_ENTRIES, 10));
        let last = rows.last().map(|entry| entry.seq).unwrap();
        assert_eq!(journal.after(last).0.len(), 0);
        assert_eq!(journal.after(last - 3).0.len(), 3);
    }

    #[test]
    fn frame_with_possible_secret_is_hidden() {
        let entry = Entry::new(Kind::Message, "a").text(r#"{"action":"auth","Token":"hunter2"}"#);
        let seen = |entry: &Entry| serde_json::to_value(entry).unwrap()["text"].as_str().unwrap().to_owned();
        assert!(!seen(&entry).contains("hunter2"));
        for characters in [MAX_SHOWN_CHARACTERS + 1, MAX_RAW_TEXT_BYTES] {
            let long = Entry::new(Kind::Message, "a").text(&"ü".repeat(characters));
            assert_eq!((seen(&long).chars().count(), long.bytes), (MAX_SHOWN_CHARACTERS, Some(2 * characters)));
        }
        let secret = format!("{{\"x\":\"{}\",\"token\":\"hunter2\"}}", "y".repeat(MAX_RAW_TEXT_BYTES));
        assert!(seen(&Entry::new(Kind::Message, "a").text(&secret)).starts_with("(hidden"));
    }
}
