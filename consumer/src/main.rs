//! The `consumer` service.

use std::{error::Error, io, process::ExitCode, sync::Arc, time::Duration};

use kschat_adapters::{
    api_gateway::ApiGateway,
    config::{
        Backends, ConfigError, ConsumerSettings, DEFAULT_RNO_WINDOW, EXIT_CONFIG, Environment, TelemetrySettings,
        read_queue_settings,
    },
    install_crypto_provider,
    metrics::{ServiceMetrics, collect_for_service},
    rabbitmq::{QueueSettings, RabbitMqConsumer, RabbitMqPublisher},
    redis::{OwnerRoutes, RedisRegistry, SubscribedOwnership, is_final},
    signal::stop_requested,
    telemetry::{self, Traces},
};
use kschat_consumer::{
    health, run,
    watch::{RegistryHealth, watch_edge},
    wiring::Services,
};
use kschat_core::SystemClock;
use tokio_util::sync::CancellationToken;

/// How often spans go to the collector.
const SPAN_FLUSH_INTERVAL: Duration = Duration::from_secs(2);

/// All settings of this process.
struct Settings {
    backends: Backends,
    queues: QueueSettings,
    consumer: ConsumerSettings,
}

fn read() -> Result<(TelemetrySettings, Settings), ConfigError> {
    let mut env = Environment::read();
    let telemetry = TelemetrySettings::read(&mut env);
    let (backends, queues) = (Backends::read(&mut env), read_queue_settings(&mut env));
    let consumer = ConsumerSettings::read(&mut env);
    let settings = || Ok((telemetry?, Settings { backends: backends?, queues: queues?, consumer: consumer? }));
    env.finish(settings())
}

#[tokio::main]
async fn main() -> ExitCode {
    install_crypto_provider();
    let (telemetry, settings) = match read() {
        Ok(settings) => settings,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "how to log is part of what could not be configured")]
            {
                eprintln!("{error}");
            }
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let served = match (telemetry::start("kschat-consumer", &telemetry), collect_for_service(telemetry.metrics)) {
        (Ok(traces), Ok(metrics)) => serve_with_telemetry(settings, &traces, &metrics).await,
        (Err(error), _) => Err(io::Error::other(error)),
        (_, Err(error)) => Err(io::Error::other(error)),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "the consumer failed to start");
            ExitCode::FAILURE
        }
    }
}

/// Serves, while metrics and spans are exported; the rest of them is exported last.
async fn serve_with_telemetry(settings: Settings, traces: &Traces, metrics: &ServiceMetrics) -> io::Result<()> {
    let flushing = async {
        loop {
            tokio::time::sleep(SPAN_FLUSH_INTERVAL).await;
            traces.flush().await;
        }
    };
    let served = tokio::select! {
        served = serve(settings, metrics) => served,
        () = metrics.run_upkeep() => Ok(()),
        () = flushing => Ok(()),
    };
    traces.flush().await;
    metrics.write();
    served
}

async fn serve(settings: Settings, metrics: &ServiceMetrics) -> io::Result<()> {
    let Settings { backends, queues, consumer: settings } = settings;
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone()));
    let registry = RedisRegistry::new(backends.redis.clone(), backends.partitions, DEFAULT_RNO_WINDOW)
        .keeping_receipts_for(queues.retention);
    // An unavailable registry may come back; one that can never work is reported at once.
    if let Err(error) = registry.check().await
        && is_final(&error)
    {
        return Err(io::Error::other(error));
    }
    let registry = Arc::new(registry);
    let broker = RabbitMqConsumer::new(backends.broker.clone(), backends.partitions, settings.prefetch, queues);
    let edge = ApiGateway::new(&settings.callback_url).await.map_err(io::Error::other)?;
    let registry_health = RegistryHealth::default();
    answer_health_requests(&settings, &broker, &registry_health, metrics, shutdown.clone()).await?;
    tracing::info!(health = %settings.health_addr, callback = %settings.callback_url, "the consumer starts");
    watch_services(registry_health, &registry, &edge);
    let ownership = SubscribedOwnership::new(backends.redis, broker.ownership());
    let publisher = RabbitMqPublisher::new(backends.broker, backends.partitions, queues);
    let services = Services {
        owners: Arc::new(OwnerRoutes::new(registry.clone(), Arc::new(publisher))),
        registry,
        queues: Arc::new(broker),
        edge: Arc::new(edge),
        clock: Arc::new(SystemClock),
        partitions: backends.partitions,
        sends_receipts: settings.receipts,
    };
    run(services.delivery(), ownership, shutdown).await;
    tracing::info!("the consumer has stopped");
    Ok(())
}

async fn cancel_on_signal(shutdown: CancellationToken) {
    if let Err(error) = stop_requested().await {
        tracing::error!(%error, "installing the signal handlers failed");
        return;
    }
    tracing::info!("shutting down: finishing posts in flight");
    shutdown.cancel();
}

/// Answers health checks and scrapes until `shutdown`.
async fn answer_health_requests(
    settings: &ConsumerSettings,
    broker: &RabbitMqConsumer,
    registry_health: &RegistryHealth,
    metrics: &ServiceMetrics,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let ready = {
        let (broker, registry) = (broker.clone(), registry_health.clone());
        Arc::new(move || broker.is_connected() && registry.is_up())
    };
    let has_broker = {
        let broker = broker.clone();
        Arc::new(move || broker.is_connected())
    };
    let scraped = {
        let prometheus = metrics.prometheus.clone();
        Arc::new(move || prometheus.render())
    };
    let listening = health::listen(settings.health_addr, ready, has_broker, scraped, shutdown).await;
    listening.map_err(|error| {
        let text = format!("can't listen on {}, choose another HEALTH_ADDR: {error}", settings.health_addr);
        io::Error::new(error.kind(), text)
    })
}

/// Reports from now on whether Redis and the edge are available.
fn watch_services(registry_health: RegistryHealth, registry: &Arc<RedisRegistry>, edge: &ApiGateway) {
    let registry = Arc::clone(registry);
    tokio::spawn(registry_health.watch(move || {
        let registry = Arc::clone(&registry);
        async move { registry.check().await }
    }));
    let edge = edge.clone();
    tokio::spawn(watch_edge(move || {
        let edge = edge.clone();
        async move { edge.check().await }
    }));
}
