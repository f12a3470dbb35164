//! Settings of logs, metrics and traces.

use super::environment::{Environment, Reported};
use crate::log::LogFormat;

/// Log settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The format of a line.
    pub format: LogFormat,
    /// The filter, in the syntax of `RUST_LOG`.
    pub filter: Option<String>,
}

impl LogSettings {
    /// Reads `LOG_FORMAT` and `RUST_LOG`.
    pub fn read(env: &mut Environment) -> Result<Self, Reported> {
        let default = if is_on_lambda(env) { LogFormat::Json } else { LogFormat::Text };
        let filter = env.text("RUST_LOG").map(str::to_owned);
        Ok(Self { format: env.optional("LOG_FORMAT", default)?, filter })
    }
}

/// Metrics settings, besides the scrape endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsSettings {
    /// CloudWatch's namespace, if metrics are written for it.
    pub emf: Option<String>,
}

impl MetricsSettings {
    /// Reads `METRICS_EMF` and `METRICS_NAMESPACE`.
    pub fn read(env: &mut Environment) -> Result<Self, Reported> {
        let default = is_on_lambda(env);
        let is_wanted = env.flag("METRICS_EMF", default)?;
        let namespace = env.text("METRICS_NAMESPACE").unwrap_or("kschat").to_owned();
        // Source: Amazon CloudWatch, "Specification: Embedded metric format", MetricDirective.
        if namespace.len() > 1_024 {
            return Err(env.problem("METRICS_NAMESPACE", "must be at most 1024 bytes"));
        }
        Ok(Self { emf: is_wanted.then_some(namespace) })
    }
}

/// Trace settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// The OpenTelemetry collector, if there is one.
    pub endpoint: Option<TraceEndpoint>,
}

/// An OpenTelemetry collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEndpoint {
    /// Its address, without the path of a signal.
    pub url: String,
    /// The service name, if it differs from the default.
    pub service: Option<String>,
}

impl TraceSettings {
    /// Reads `OTEL_EXPORTER_OTLP_ENDPOINT` and `OTEL_SERVICE_NAME`. OpenTelemetry's library reads the rest of its
    /// variables.
    pub fn read(env: &mut Environment) -> Result<Self, Reported> {
        let Some(url) = env.text("OTEL_EXPORTER_OTLP_ENDPOINT") else { return Ok(Self { endpoint: None }) };
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        if rest.is_none_or(|rest| rest.is_empty() || rest.contains(char::is_whitespace)) {
            let problem = "must be an http or https URL such as http://127.0.0.1:4318";
            return Err(env.problem("OTEL_EXPORTER_OTLP_ENDPOINT", problem));
        }
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { endpoint: Some(TraceEndpoint { url, service: env.text("OTEL_SERVICE_NAME").map(str::to_owned) }) })
    }
}

/// Telemetry settings: logs, metrics and traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// Log lines.
    pub logs: LogSettings,
    /// Metrics.
    pub metrics: MetricsSettings,
    /// Traces.
    pub traces: TraceSettings,
}

impl TelemetrySettings {
    /// Reads all of them.
    pub fn read(env: &mut Environment) -> Result<Self, Reported> {
        let (logs, metrics, traces) = (LogSettings::read(env), MetricsSettings::read(env), TraceSettings::read(env));
        Ok(Self { logs: logs?, metrics: metrics?, traces: traces? })
    }
}

/// Whether this is a function that the Lambda service runs. Only the service sets that variable: `cargo lambda watch`,
/// with a person reading along, leaves out the initialization type.
///
/// Source: AWS Lambda, "Defined runtime environment variables".
fn is_on_lambda(env: &Environment) -> bool {
    env.is_set("AWS_LAMBDA_INITIALIZATION_TYPE")
}
