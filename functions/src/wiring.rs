//! Which adapters a deployed function has.

use std::{sync::Arc, time::Duration};

use kschat_adapters::{
    config::{
        Backends, DEFAULT_RNO_WINDOW, Environment, SendSettings, connects, jwt, limits, queues, requires_token,
        room_policy,
    },
    rabbitmq::{Publishing, QueueSettings},
    redis::RedisRegistry,
};
use kschat_core::{SystemClock, inbound};

use crate::{connect, disconnect, send};

fn publishing(backends: &Backends, queues: QueueSettings) -> Arc<Publishing> {
    Arc::new(Publishing::new(backends.broker.clone(), backends.partitions, queues))
}

fn registry(backends: Backends, window: Duration) -> RedisRegistry {
    RedisRegistry::new(backends.redis, backends.partitions, window)
}

pub(crate) fn connect(env: &mut Environment) -> Option<connect::Deps> {
    let (backends, queues, verifier) = (Backends::read(env), queues(env), jwt(env));
    let (backends, verifier) = (backends?, Arc::new(verifier?));
    let (rate, requires_token) = (connects(env), requires_token(env));
    let broker = publishing(&backends, queues?);
    Some(connect::Deps {
        verifier,
        registry: Arc::new(registry(backends, DEFAULT_RNO_WINDOW)),
        queues: broker.clone(),
        pokes: broker.clone(),
        supervision: broker,
        clock: Arc::new(SystemClock),
        rate: rate?,
        requires_token: requires_token?,
    })
}

pub(crate) fn disconnect(env: &mut Environment) -> Option<disconnect::Deps> {
    let backends = Backends::read(env)?;
    // It makes no queues.
    let pokes = publishing(&backends, QueueSettings::default());
    Some(disconnect::Deps { registry: Arc::new(registry(backends, DEFAULT_RNO_WINDOW)), pokes })
}

pub(crate) fn send(env: &mut Environment) -> Option<send::Deps> {
    let (backends, queues, settings) = (Backends::read(env), queues(env), SendSettings::read(env));
    let (verifier, policy) = (jwt(env), room_policy(env));
    let (backends, settings, verifier) = (backends?, settings?, Arc::new(verifier?));
    let queues = queues?;
    let (limits, requires_token) = (limits(env, &queues), requires_token(env));
    let (limits, requires_token) = (limits?, requires_token?);
    let broker = publishing(&backends, queues);
    let registry = registry(backends, settings.rno_window).keeping_receipts_for(queues.retention);
    let registry = Arc::new(registry);
    let clock = Arc::new(SystemClock);
    let rooms = kschat_core::rooms::Deps {
        memberships: registry.clone(),
        bindings: broker.clone(),
        queues: broker.clone(),
        policy,
    };
    Some(send::Deps {
        inbound: inbound::Deps {
            registry: registry.clone(),
            supervision: broker.clone(),
            clock: clock.clone(),
            limits,
        },
        send: kschat_core::send::Deps {
            idempotency: registry.clone(),
            backlogs: registry.clone(),
            hash: Arc::new(settings.message_id_key),
            publisher: broker.clone(),
            queues: broker.clone(),
            shares: Some(registry.clone()),
            clock: clock.clone(),
            rooms: rooms.clone(),
            strangers: settings.strangers,
        },
        ack: kschat_core::ack::Deps { acks: broker.clone(), clock: clock.clone() },
        request: kschat_core::request::Deps {
            registry: registry.clone(),
            receipts: registry.clone(),
            presences: registry.clone(),
            rooms,
            verifier: verifier.clone(),
            pokes: broker.clone(),
            notices: broker.clone(),
            clock: clock.clone(),
        },
        join: connect::Deps {
            verifier,
            registry,
            queues: broker.clone(),
            pokes: broker.clone(),
            supervision: broker.clone(),
            clock,
            rate: limits.connects,
            requires_token,
        },
        replies: broker.clone(),
        supervision: broker,
    })
}
