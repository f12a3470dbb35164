//! Logging.

use std::{io::IsTerminal, str::FromStr};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    layer::{Identity, SubscriberExt},
    util::SubscriberInitExt,
};

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For a person at a terminal.
    #[default]
    Text,
    /// One JSON object per line, for machines.
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
/// `filter` is in the syntax of `RUST_LOG`; targets that it does not name log at level `info`.
pub fn init(format: LogFormat, filter: Option<&str>) {
    init_with(format, filter, None::<Identity>);
}

/// The same, with an additional layer that has its own filter.
pub(crate) fn init_with(
    format: LogFormat,
    filter: Option<&str>,
    beside: Option<impl Layer<Registry> + Send + Sync + 'static>,
) {
    // lapin logs returned messages in full, with their text and recipient. Lost connections are logged where they are
    // handled.
    let filter = EnvFilter::new(format!("{},lapin=off", filter.unwrap_or("info")));
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.compact().boxed(),
        // Only the span list, from the outermost to the innermost, so that each id appears once.
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    // An error only means that another call was first.
    let _ = tracing_subscriber::registry().with(beside).with(lines.with_filter(filter)).try_init();
}
