//! Trace context as W3C "Trace Context" defines it.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// The longest propagated `tracestate`, in bytes: the minimum that the recommendation requires.
///
/// Source: W3C Trace Context, section 3.3.1.5.
pub const MAX_TRACESTATE_BYTES: usize = 512;

/// Maximum entries of a `tracestate`.
///
/// Source: W3C Trace Context, section 3.3.1.1.
const MAX_TRACESTATE_MEMBERS: usize = 32;

/// Maximum bytes of an entry's key and of its value.
const MAX_TRACESTATE_PART_BYTES: usize = 256;

/// Length of a `traceparent` of version 00, the only version so far.
const TRACEPARENT_LENGTH: usize = 55;

/// The flag of a sampled trace.
const SAMPLED_FLAG: u8 = 0b01;

/// The defined flags: sampled, random.
const KNOWN_FLAGS: u8 = 0b11;

/// A position in a trace, from which spans continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    parent: u64,
    flags: u8,
    state: Option<String>,
}

impl TraceContext {
    /// Creates a context; `None` if an id is zero, which is invalid. Invalid vendor entries are dropped as a whole.
    #[must_use]
    pub fn new(trace: u128, parent: u64, flags: u8, state: Option<&str>) -> Option<Self> {
        let state = state.filter(|state| is_state(state)).map(str::to_owned);
        (trace != 0 && parent != 0).then_some(Self { trace, parent, flags: flags & KNOWN_FLAGS, state })
    }

    /// Parses the two fields; `None` unless the first is valid. An invalid second one is dropped.
    #[must_use]
    pub fn read(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let (known, rest) = traceparent.split_at_checked(TRACEPARENT_LENGTH)?;
        let mut parts = known.split('-');
        let mut hex = |length: usize| parts.next().filter(|part| part.len() == length && is_lower_hex(part));
        let (version, trace, parent, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        // A later version may append fields; version 00 may not.
        let is_sound = match version {
            "ff" => false,
            "00" => rest.is_empty(),
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        if !is_sound {
            return None;
        }
        let (trace, parent) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(parent, 16).ok()?);
        Self::new(trace, parent, u8::from_str_radix(flags, 16).ok()?, tracestate)
    }

    /// Reads the fields `traceparent` and `tracestate` of a client's frame and ignores the others.
    #[must_use]
    pub fn in_frame(text: &str) -> Option<Self> {
        let TraceFields { traceparent, tracestate } = serde_json::from_str(text).ok()?;
        Self::in_fields(traceparent, tracestate)
    }

    pub(crate) fn in_fields(traceparent: Option<&RawValue>, tracestate: Option<&RawValue>) -> Option<Self> {
        let text = |raw: &RawValue| serde_json::from_str::<String>(raw.get()).ok();
        Self::read(&text(traceparent?)?, tracestate.and_then(text).as_deref())
    }

    /// Parses Lambda's `X-Amzn-Trace-Id`, such as `Root=1-5759e988-bd86…;Parent=53995c3f42cd8ad8;Sampled=1`.
    ///
    /// Source: AWS X-Ray, "Tracing header"; its trace id has the parts of W3C's.
    #[must_use]
    pub fn read_xray(header: &str) -> Option<Self> {
        let field = |name: &str| {
            header.split(';').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        let root = field("Root").strip_prefix("1-")?.replace('-', "");
        let flags = if field("Sampled") == "1" { "01" } else { "00" };
        Self::read(&format!("00-{root}-{}-{flags}", field("Parent")), None)
    }

    /// The trace id.
    #[must_use]
    pub const fn trace_id(&self) -> u128 {
        self.trace
    }

    /// The parent span id.
    #[must_use]
    pub const fn parent_id(&self) -> u64 {
        self.parent
    }

    /// Whether the trace is sampled.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED_FLAG != 0
    }

    /// The trace flags: sampled, random id.
    #[must_use]
    pub const fn flags(&self) -> u8 {
        self.flags
    }

    /// The field `tracestate`.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The field `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> String {
        self.to_string()
    }
}

#[derive(Deserialize)]
struct TraceFields<'a> {
    #[serde(borrow)]
    traceparent: Option<&'a RawValue>,
    #[serde(borrow)]
    tracestate: Option<&'a RawValue>,
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.parent, self.flags)
    }
}

/// Serializes as its `traceparent`.
impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_state(state: &str) -> bool {
    let members: Vec<&str> = state.split(',').map(|member| member.trim_matches([' ', '\t'])).collect();
    let mut keys = Vec::new();
    let mut is_member = |member: &str| {
        let Some((key, value)) = member.split_once('=') else { return member.is_empty() };
        let is_new = !keys.contains(&key.to_owned());
        keys.push(key.to_owned());
        is_new && is_state_key(key) && is_state_value(value)
    };
    (1..=MAX_TRACESTATE_BYTES).contains(&state.len())
        && members.len() <= MAX_TRACESTATE_MEMBERS
        && members.into_iter().all(&mut is_member)
        && !keys.is_empty()
}

fn is_state_key(key: &str) -> bool {
    let (tenant, system) = key.split_once('@').map_or((None, key), |(tenant, system)| (Some(tenant), system));
    let is_part = |part: &str| {
        let is_inner = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/');
        part.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
            && part.bytes().all(is_inner)
    };
    key.len() <= MAX_TRACESTATE_PART_BYTES && is_part(system) && tenant.is_none_or(is_part)
}

fn is_state_value(value: &str) -> bool {
    let is_inner = |byte| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    (1..=MAX_TRACESTATE_PART_BYTES).contains(&value.len()) && value.bytes().all(is_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn valid_traceparent_round_trips() {
        let context = TraceContext::read(PARENT, Some("congo=t61rcWkgMzE,rojo@v1=00f0 67")).unwrap();
        assert_eq!(context.traceparent(), PARENT);
        assert_eq!(context.tracestate(), Some("congo=t61rcWkgMzE,rojo@v1=00f0 67"));
        assert_eq!(context.trace_id(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
    }

    #[test]
    fn newer_traceparent_version_is_read_leniently() {
        let later = PARENT.replacen("00-", "cc-", 1);
        for text in [later.clone(), format!("{later}-what-the-future-will-bring")] {
            assert_eq!(TraceContext::read(&text, None).unwrap().traceparent(), PARENT);
        }
        let flags = format!("{}ff", &PARENT[..53]);
        assert_eq!(TraceContext::read(&flags, None).unwrap().flags(), 3);
    }

    #[test]
    fn invalid_traceparent_is_ignored() {
        let zeros = |from: usize, to: usize| format!("{}{}{}", &PARENT[..from], "0".repeat(to - from), &PARENT[to..]);
        for wrong in [
            String::new(),
            "x".repeat(TRACEPARENT_LENGTH),
            "ü".repeat(40),
            PARENT.to_uppercase(),
            PARENT.replace('-', "_"),
            PARENT.replacen("00-", "ff-", 1),
            format!("{PARENT}-more"),
            format!("{}.", PARENT.replacen("00-", "cc-", 1)),
            PARENT[..54].to_owned(),
            zeros(3, 35),
            zeros(36, 52),
        ] {
            assert_eq!(TraceContext::read(&wrong, None), None, "{wrong}");
        }
    }

    #[test]
    fn invalid_tracestate_keeps_traceparent() {
        let long = format!("a={}", "v".repeat(MAX_TRACESTATE_BYTES));
        let many = (0..33).map(|key| format!("k{key}=v")).collect::<Vec<_>>().join(",");
        for wrong in ["", ",", "a", "a=", "A=1", "=1", "a=1,a=2", "a=b=c", "a@=1", "a=\u{7f}", "ü=1", &long, &many] {
            let context = TraceContext::read(PARENT, Some(wrong)).unwrap();
            assert_eq!(context.tracestate(), None, "{wrong}");
        }
    }

    #[test]
    fn trace_context_is_read_from_frame() {
        let frame = |fields: &str| TraceContext::in_frame(&format!(r#"{{"action":"send",{fields}}}"#));
        let valid = frame(&format!(r#""traceparent":"{PARENT}","tracestate":"a=1""#)).unwrap();
        assert_eq!((valid.traceparent().as_str(), valid.tracestate()), (PARENT, Some("a=1")));
        let alone = frame(&format!(r#""traceparent":"{PARENT}","tracestate":7"#)).unwrap();
        assert_eq!(alone.tracestate(), None);
        for wrong in [r#""traceparent":7"#, r#""tracestate":"a=1""#, r#""traceparent":null"#] {
            assert_eq!(frame(wrong), None, "{wrong}");
        }
        assert_eq!(TraceContext::in_frame("garbage"), None);
    }

    #[test]
    fn xray_header_is_parsed() {
        let header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1;Lineage=1:2:3";
        let context = TraceContext::read_xray(header).unwrap();
        assert_eq!(context.traceparent(), "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01");
        assert!(context.is_sampled());
        let idle = TraceContext::read_xray(&header.replace("Sampled=1", "Sampled=0"));
        assert!(idle.is_some_and(|context| !context.is_sampled()));
        for wrong in ["", "Root=1-5759e988-bd862e3fe1be46a994272793", "Root=2-x;Parent=y", "Sampled=1"] {
            assert_eq!(TraceContext::read_xray(wrong), None, "{wrong}");
        }
    }
}
