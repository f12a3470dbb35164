//! The `consumer` service.

use std::{error::Error, io, process::ExitCode, sync::Arc, time::Duration};

use kschat_adapters::{
    api_gateway::ApiGateway,
    config::{
        Backends, ConfigError, ConsumerSettings, DEFAULT_RNO_WINDOW, EXIT_CONFIG, Environment, Telemetry, queues,
    },
    install_crypto_provider,
    metrics::{Collected, collect_for_service},
    rabbitmq::{Consuming, QueueSettings},
    redis::{RedisRegistry, is_cluster},
    signal::stop_requested,
    telemetry::{self, Traces},
};
use kschat_consumer::{health, run};
use kschat_core::{SystemClock, deliver, presence::Crier, receipts::Clerk};
use tokio_util::sync::CancellationToken;

/// How often spans go to the collector.
const FLUSH: Duration = Duration::from_secs(2);

/// Everything that the environment says.
struct Settings {
    backends: Backends,
    queues: QueueSettings,
    consumer: ConsumerSettings,
}

fn read() -> Result<(Telemetry, Settings), ConfigError> {
    let mut env = Environment::read();
    let telemetry = Telemetry::read(&mut env);
    let (backends, queues) = (Backends::read(&mut env), queues(&mut env));
    let consumer = ConsumerSettings::read(&mut env);
    let settings = match (backends, queues, consumer) {
        (Some(backends), Some(queues), Some(consumer)) => Some(Settings { backends, queues, consumer }),
        _ => None,
    };
    env.finish(telemetry.zip(settings))
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
        (Ok(traces), Ok(metrics)) => observed(settings, &traces, &metrics).await,
        (Err(error), _) => Err(io::Error::other(error)),
        (_, Err(error)) => Err(io::Error::other(error)),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "the consumer can't start");
            ExitCode::FAILURE
        }
    }
}

/// Serves, while metrics and spans go out; what is left of them goes last.
async fn observed(settings: Settings, traces: &Traces, metrics: &Collected) -> io::Result<()> {
    let flushing = async {
        loop {
            tokio::time::sleep(FLUSH).await;
            traces.flush().await;
        }
    };
    let served = tokio::select! {
        served = serve(settings, metrics) => served,
        () = metrics.keep() => Ok(()),
        () = flushing => Ok(()),
    };
    traces.flush().await;
    metrics.write();
    served
}

async fn serve(settings: Settings, metrics: &Collected) -> io::Result<()> {
    let Settings { backends, queues, consumer: settings } = settings;
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
    let registry = RedisRegistry::new(backends.redis, backends.partitions, DEFAULT_RNO_WINDOW)
        .keeping_receipts_for(queues.retention);
    // One that is away now may come back; one that can never do is told at once.
    if let Err(error) = registry.check().await
        && is_cluster(&error)
    {
        return Err(io::Error::other(error));
    }
    let connections = ApiGateway::new(&settings.callback_url).await;
    let asked = broker.clone();
    let (ready, scraped) = (Arc::new(move || asked.is_connected()), metrics.prometheus.clone());
    let scraped = Arc::new(move || scraped.render());
    let listening = health::listen(settings.health_addr, ready, scraped, shutdown.clone()).await;
    listening.map_err(|error| {
        let text = format!("can't listen on {}, choose another HEALTH_ADDR: {error}", settings.health_addr);
        io::Error::new(error.kind(), text)
    })?;
    tracing::info!(health = %settings.health_addr, callback = %settings.callback_url, "the consumer starts");
    let ownership = broker.ownership();
    let (registry, clock) = (Arc::new(registry), Arc::new(SystemClock));
    let (broker, connections) = (Arc::new(broker), Arc::new(connections));
    let clerk = settings.receipts.then(|| Arc::new(Clerk::new(registry.clone(), broker.clone())));
    let crier = Arc::new(Crier::new(registry.clone(), registry.clone(), broker.clone(), clock.clone()));
    let deps = deliver::Deps::new(registry.clone(), broker, registry.clone(), connections, clock, backends.partitions);
    let deps = deps.with_presence(crier).with_rooms(registry.clone()).with_shares(registry);
    let deps = match clerk {
        Some(clerk) => deps.with_receipts(clerk),
        None => deps,
    };
    run(deps, ownership, shutdown).await;
    tracing::info!("the consumer has stopped");
    Ok(())
}
