//! The common part of the three binaries: configuration, dependencies, then the Lambda runtime.

use std::{process::ExitCode, sync::Arc};

use kschat_adapters::{
    config::{ConfigError, EXIT_CONFIG, Environment, Reported, TelemetrySettings},
    install_crypto_provider,
    metrics::{self, Emf},
    telemetry::{self, Traces},
};
use kschat_core::{ports::BoxError, trace};
use kschat_protocol::TraceContext;
use lambda_runtime::{LambdaEvent, Runtime, service_fn};
use tracing::{Instrument, Span, field::Empty, info_span};

use crate::{Event, Response, connect, disconnect, event, send, wiring};

/// A new span for one invocation. Its ids are those in the logs of Lambda and the edge; use-cases add the message's.
macro_rules! invocation {
    ($name:literal) => {
        |request: &str, event: &Event| {
            let (edge, route) = (&event.request_context.request_id, &event.request_context.route_key);
            info_span!(
                $name,
                request_id = request,
                api_request_id = edge.as_deref(),
                route = route.as_deref(),
                mId = Empty
            )
        }
    };
}

type Invocation = fn(&str, &Event) -> Span;

/// Runs the connect function until the platform ends the process.
#[must_use]
pub fn connect() -> ExitCode {
    serve("kschat-connect", invocation!("connect"), wiring::connect, &connect::handle)
}

/// Runs the disconnect function until the platform ends the process.
#[must_use]
pub fn disconnect() -> ExitCode {
    serve("kschat-disconnect", invocation!("disconnect"), wiring::disconnect, &disconnect::handle)
}

/// Runs the send function until the platform ends the process.
#[must_use]
pub fn send() -> ExitCode {
    serve("kschat-send", invocation!("send"), wiring::send, &send::handle)
}

#[tokio::main(flavor = "current_thread")]
async fn serve<D>(
    service: &'static str,
    invocation: Invocation,
    wire: fn(&mut Environment) -> Result<D, Reported>,
    handle: &impl AsyncFn(&D, Event) -> Response,
) -> ExitCode {
    install_crypto_provider();
    let (settings, deps) = match configure(wire) {
        Ok(configured) => configured,
        Err(error) => return report_config_error(&error),
    };
    let served = match Telemetry::start(service, &settings) {
        Ok(telemetry) => run(&telemetry, invocation, &deps, handle).await,
        Err(error) => Err(error),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &*error, "the function failed; run it under `cargo lambda watch` or on Lambda");
            ExitCode::FAILURE
        }
    }
}

async fn run<D>(
    telemetry: &Telemetry,
    invocation: Invocation,
    deps: &D,
    handle: &impl AsyncFn(&D, Event) -> Response,
) -> Result<(), BoxError> {
    let answer = |LambdaEvent { payload, context }: LambdaEvent<Event>| async move {
        let span = invocation(&context.request_id, &payload);
        trace::continue_from(&span, || {
            event::trace(&payload).or_else(|| sampled_xray_context(context.xray_trace_id.as_deref()?))
        });
        let response = handle(deps, payload).instrument(span).await;
        telemetry.flush().await;
        Ok::<_, std::convert::Infallible>(response)
    };
    // Without the runtime's own span: ours has the same fields, and more.
    Runtime::new(service_fn(answer)).run().await
}

/// The trace that Lambda names with every event, if X-Ray samples it. An unsampled one would keep our spans from being
/// recorded.
fn sampled_xray_context(header: &str) -> Option<TraceContext> {
    TraceContext::read_xray(header).filter(TraceContext::is_sampled)
}

/// Exports metrics and spans. The platform may freeze a function once it has responded, so this happens before that.
struct Telemetry {
    emf: Option<Arc<Emf>>,
    traces: Traces,
}

impl Telemetry {
    fn start(service: &'static str, settings: &TelemetrySettings) -> Result<Self, BoxError> {
        let traces = telemetry::start(service, settings)?;
        Ok(Self { emf: metrics::collect(settings.metrics.clone())?, traces })
    }

    async fn flush(&self) {
        if let Some(Err(error)) = self.emf.as_ref().map(|emf| emf.write(&mut std::io::stdout())) {
            tracing::warn!(%error, "writing metrics failed");
        }
        self.traces.flush().await;
    }
}

fn configure<D>(wire: fn(&mut Environment) -> Result<D, Reported>) -> Result<(TelemetrySettings, D), ConfigError> {
    let mut env = Environment::read();
    let settings = TelemetrySettings::read(&mut env);
    let deps = wire(&mut env);
    env.finish(settings.and_then(|settings| Ok((settings, deps?))))
}

#[expect(clippy::print_stderr, reason = "how to log is part of what could not be configured")]
fn report_config_error(error: &ConfigError) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(EXIT_CONFIG)
}
