//! What a process says about itself.

use std::{io::IsTerminal, str::FromStr};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    layer::{Identity, SubscriberExt},
    util::SubscriberInitExt,
};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For a person at a terminal.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be `text` or `json`".to_owned()),
        }
    }
}

/// Writes log lines to standard error from now on. A second call does nothing.
///
/// `filter` is in the syntax of `RUST_LOG`; what it does not name is at level `info`.
pub fn init(format: LogFormat, filter: Option<&str>) {
    init_with(format, filter, None::<Identity>);
}

/// The same, with a layer beside the log that has a filter of its own.
pub(crate) fn init_with(
    format: LogFormat,
    filter: Option<&str>,
    beside: Option<impl Layer<Registry> + Send + Sync + 'static>,
) {
    // lapin prints returned messages whole, with their text and receiver. What it reports of lost connections
    // we report where it is dealt with.
    let filter = EnvFilter::new(format!("{},lapin=off", filter.unwrap_or("info")));
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.compact().boxed(),
        // The spans from the outermost to the innermost: each id stands in one place only.
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    // An error only says that another one was first.
    let _ = tracing_subscriber::registry().with(beside).with(lines.with_filter(filter)).try_init();
}
