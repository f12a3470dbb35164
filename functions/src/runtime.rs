//! What the three binaries share: configuration, dependencies, then the Lambda runtime.

use std::process::ExitCode;

use kschat_adapters::{
    config::{ConfigError, EXIT_CONFIG, Environment, LogSettings},
    install_crypto_provider, log,
};
use lambda_runtime::{LambdaEvent, service_fn};

use crate::{Event, Response, connect, disconnect, send, wiring};

/// Runs the connect function until the platform ends the process.
#[must_use]
pub fn connect() -> ExitCode {
    serve(wiring::connect, &connect::handle)
}

/// Runs the disconnect function until the platform ends the process.
#[must_use]
pub fn disconnect() -> ExitCode {
    serve(wiring::disconnect, &disconnect::handle)
}

/// Runs the send function until the platform ends the process.
#[must_use]
pub fn send() -> ExitCode {
    serve(wiring::send, &send::handle)
}

#[tokio::main(flavor = "current_thread")]
async fn serve<D>(wire: fn(&mut Environment) -> Option<D>, handle: &impl AsyncFn(&D, Event) -> Response) -> ExitCode {
    install_crypto_provider();
    let deps = match configure(wire) {
        Ok(deps) => deps,
        Err(error) => return refuse(&error),
    };
    let deps = &deps;
    let answer =
        |event: LambdaEvent<Event>| async move { Ok::<_, std::convert::Infallible>(handle(deps, event.payload).await) };
    match lambda_runtime::run(service_fn(answer)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the Lambda runtime failed; run this under `cargo lambda watch` or on Lambda");
            ExitCode::FAILURE
        }
    }
}

fn configure<D>(wire: fn(&mut Environment) -> Option<D>) -> Result<D, ConfigError> {
    let mut env = Environment::read();
    let (logging, deps) = (LogSettings::read(&mut env), wire(&mut env));
    let (logging, deps) = env.finish(logging.zip(deps))?;
    log::init(logging.format, logging.filter.as_deref());
    Ok(deps)
}

#[expect(clippy::print_stderr, reason = "how to log is part of what could not be configured")]
fn refuse(error: &ConfigError) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(EXIT_CONFIG)
}
