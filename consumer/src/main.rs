//! The `consumer` service.

use std::{process::ExitCode, sync::Arc};

use kschat_adapters::{
    api_gateway::ApiGateway,
    config::{Backends, ConsumerSettings, DEFAULT_RNO_WINDOW, EXIT_CONFIG, Environment, LogSettings, queues},
    install_crypto_provider, log,
    rabbitmq::{Consuming, QueueSettings},
    redis::RedisRegistry,
    signal::stop_requested,
};
use kschat_consumer::{health, run};
use kschat_core::{SystemClock, deliver};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    install_crypto_provider();
    let mut env = Environment::read();
    let settings = (LogSettings::read(&mut env), Backends::read(&mut env));
    let settings = (settings, queues(&mut env), ConsumerSettings::read(&mut env));
    let settings = match settings {
        ((Some(logging), Some(backends)), Some(queues), Some(settings)) => Some((logging, backends, queues, settings)),
        _ => None,
    };
    let (logging, backends, queues, settings) = match env.finish(settings) {
        Ok(settings) => settings,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "how to log is part of what could not be configured")]
            {
                eprintln!("{error}");
            }
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    log::init(logging.format, logging.filter.as_deref());
    match serve(backends, queues, settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the consumer can't start");
            ExitCode::FAILURE
        }
    }
}

async fn serve(backends: Backends, queues: QueueSettings, settings: ConsumerSettings) -> std::io::Result<()> {
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if let Err(error) = stop_requested().await {
            tracing::error!(%error, "signals can't be listened to");
            return;
        }
        tracing::info!("stopping: posts under way are finished first");
        stop.cancel();
    });
    let broker = Consuming::new(backends.broker, backends.partitions, settings.prefetch, queues);
    let registry = RedisRegistry::new(backends.redis, backends.partitions, DEFAULT_RNO_WINDOW);
    let connections = ApiGateway::new(&settings.callback_url).await;
    let asked = broker.clone();
    let listening =
        health::listen(settings.health_addr, Arc::new(move || asked.is_connected()), shutdown.clone()).await;
    listening.map_err(|error| {
        let text = format!("can't listen on {}, choose another HEALTH_ADDR: {error}", settings.health_addr);
        std::io::Error::new(error.kind(), text)
    })?;
    tracing::info!(health = %settings.health_addr, callback = %settings.callback_url, "the consumer starts");
    let ownership = broker.ownership();
    let (registry, clock) = (Arc::new(registry), Arc::new(SystemClock));
    let (mailbox, connections) = (Arc::new(broker), Arc::new(connections));
    let deps = deliver::Deps::new(registry.clone(), mailbox, registry, connections, clock, backends.partitions);
    run(deps, ownership, shutdown).await;
    tracing::info!("the consumer has stopped");
    Ok(())
}
