//! Wires the adapters of a deployed function.

use std::{sync::Arc, time::Duration};

use kschat_adapters::{
    config::{
        Backends, DEFAULT_RNO_WINDOW, Environment, Reported, SendSettings, read_connect_rate, read_jwt_verifier,
        read_limits, read_queue_settings, read_requires_token, read_room_policy,
    },
    rabbitmq::{QueueSettings, RabbitMqPublisher},
    redis::{OwnerRoutes, RedisRegistry},
};
use kschat_core::SystemClock;

use crate::{connect, dependencies::Services, disconnect, send};

fn publisher(backends: &Backends, queues: QueueSettings) -> Arc<RabbitMqPublisher> {
    Arc::new(RabbitMqPublisher::new(backends.broker.clone(), backends.partitions, queues))
}

fn registry(backends: Backends, window: Duration) -> RedisRegistry {
    RedisRegistry::new(backends.redis, backends.partitions, window)
}

pub(crate) fn connect(env: &mut Environment) -> Result<connect::Deps, Reported> {
    // All settings are read before the first `?`, so that all problems are reported at once.
    let backends = Backends::read(env);
    let queues = read_queue_settings(env);
    let verifier = read_jwt_verifier(env);
    let rate = read_connect_rate(env);
    let requires_token = read_requires_token(env);
    let backends = backends?;
    let broker = publisher(&backends, queues?);
    Ok(connect::Deps {
        verifier: Arc::new(verifier?),
        registry: Arc::new(registry(backends, DEFAULT_RNO_WINDOW)),
        queues: broker.clone(),
        owners: broker,
        clock: Arc::new(SystemClock),
        rate: rate?,
        requires_token: requires_token?,
    })
}

pub(crate) fn disconnect(env: &mut Environment) -> Result<disconnect::Deps, Reported> {
    let backends = Backends::read(env)?;
    // It creates no queues.
    let owners = publisher(&backends, QueueSettings::default());
    Ok(disconnect::Deps { registry: Arc::new(registry(backends, DEFAULT_RNO_WINDOW)), owners })
}

pub(crate) fn send(env: &mut Environment) -> Result<send::Deps, Reported> {
    let backends = Backends::read(env);
    let queues = read_queue_settings(env);
    let limits = read_limits(env, queues);
    let settings = SendSettings::read(env);
    let verifier = read_jwt_verifier(env);
    let room_policy = read_room_policy(env);
    let requires_token = read_requires_token(env);
    let (backends, queues) = (backends?, queues?);
    let settings = settings?;
    let broker = publisher(&backends, queues);
    let registry = registry(backends, settings.rno_window).keeping_receipts_for(queues.retention);
    let registry = Arc::new(registry);
    let services = Services {
        owners: Arc::new(OwnerRoutes::new(registry.clone(), broker.clone())),
        registry,
        broker,
        verifier: Arc::new(verifier?),
        hash: Arc::new(settings.message_id_key),
        room_policy,
        clock: Arc::new(SystemClock),
        limits: limits?,
        requires_token: requires_token?,
        unknown_recipients: settings.unknown_recipients,
    };
    Ok(services.send())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn send_reports_every_problem() {
        let variables = [("JWT_SECRET", "s"), ("MESSAGE_RETENTION", "5"), ("SEND_RATE", "0"), ("PARTITIONS", "0")];
        let mut env = Environment::from_variables(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let deps = send(&mut env);
        let report = env.finish(deps).err().unwrap().to_string();
        for part in
            ["MESSAGE_RETENTION: ", "SEND_RATE: ", "PARTITIONS: ", "AMQP_URL: ", "REDIS_URL: ", "MESSAGE_ID_KEY: "]
        {
            assert!(report.contains(part), "{part} is missing in: {report}");
        }
    }
}
