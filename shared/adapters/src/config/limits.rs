//! Settings of users' queues, and the limits of one user.

use std::{fmt, num::NonZero, ops::RangeInclusive, str::FromStr, time::Duration};

use kschat_core::{
    inbound::send::UnknownRecipientPolicy,
    limits::{Limits, Rate, Share},
};

use super::{
    environment::{Environment, Reported},
    read_unknown_recipients,
};
use crate::rabbitmq::{QueueKind, QueueSettings};

/// The default of `SENDER_SHARE`, the same as in [`Limits::default`].
const DEFAULT_SENDER_SHARE_PERCENT: u8 = 25;

/// Reads the settings of users' queues: `QUEUE_TYPE`, `MESSAGE_RETENTION`, `QUEUE_MAX_MESSAGES`, `QUEUE_MAX_BYTES` and
/// `UNKNOWN_RECIPIENT`.
pub fn read_queue_settings(env: &mut Environment) -> Result<QueueSettings, Reported> {
    let default = QueueSettings::default();
    let kind: Result<QueueKind, _> = env.optional("QUEUE_TYPE", default.kind);
    let retention = read_retention(env, default.retention);
    let max_messages = env.number("QUEUE_MAX_MESSAGES", default.max_messages, "from 1 to 4294967295");
    let max_bytes = env.number("QUEUE_MAX_BYTES", default.max_bytes, "of bytes, from 1");
    let keeps_empty = read_unknown_recipients(env)? == UnknownRecipientPolicy::Reject;
    let (max_messages, max_bytes) = (max_messages?, max_bytes?);
    Ok(QueueSettings { kind: kind?, retention: retention?, max_messages, max_bytes, keeps_empty })
}

fn read_retention(env: &mut Environment, default: Duration) -> Result<Duration, Reported> {
    let (shortest, longest) = (QueueSettings::MIN_RETENTION, QueueSettings::MAX_RETENTION);
    let range = format!("of seconds from {} to {}", shortest.as_secs(), longest.as_secs());
    let retention = env.number("MESSAGE_RETENTION", default.as_secs(), &range).map(Duration::from_secs)?;
    if !(shortest..=longest).contains(&retention) {
        return Err(env.problem("MESSAGE_RETENTION", format_args!("must be a number {range}")));
    }
    Ok(retention)
}

/// Reads the limits of one user: `SEND_RATE` and `SEND_BURST`, the same of `ACK`, `REQUEST` and `CONNECT`,
/// `NEW_RECIPIENTS`, and `SENDER_SHARE` of these queues. Wrong limits are reported even if the queues' settings are
/// wrong, too.
pub fn read_limits(env: &mut Environment, queues: Result<QueueSettings, Reported>) -> Result<Limits, Reported> {
    let default = Limits::default();
    let sends = read_rate(env, ["SEND_RATE", "SEND_BURST"], default.sends);
    let acks = read_rate(env, ["ACK_RATE", "ACK_BURST"], default.acks);
    let requests = read_rate(env, ["REQUEST_RATE", "REQUEST_BURST"], default.requests);
    let connects = read_connect_rate(env);
    let new_recipients = read_new_recipients(env, default.new_recipients);
    let share = read_count(env, "SENDER_SHARE", DEFAULT_SENDER_SHARE_PERCENT, 1..=100);
    let queues = queues?;
    let share = share?
        .map(|percent| Share::of_queue(percent, queues.max_bytes.get(), queues.max_messages.get(), queues.retention));
    let (new_recipients, connects) = (new_recipients?, connects?);
    Ok(Limits { sends: sends?, acks: acks?, requests: requests?, connects, new_recipients, share })
}

/// Reads how often a user may connect: `CONNECT_RATE` and `CONNECT_BURST`; `None` is no limit.
pub fn read_connect_rate(env: &mut Environment) -> Result<Option<Rate>, Reported> {
    read_rate(env, ["CONNECT_RATE", "CONNECT_BURST"], Limits::default().connects)
}

/// New recipients per hour, of which all may be at once; `None` for `off`.
fn read_new_recipients(env: &mut Environment, default: Option<Rate>) -> Result<Option<Rate>, Reported> {
    let count = read_count(env, "NEW_RECIPIENTS", default.map_or(1, |rate| rate.burst), 1..=u32::MAX)?;
    Ok(count.map(|count| Rate::new(count, Duration::from_secs(60 * 60), count)))
}

/// A rate per second and a burst; `None` for `off`.
fn read_rate(
    env: &mut Environment,
    [rate, at_once]: [&str; 2],
    default: Option<Rate>,
) -> Result<Option<Rate>, Reported> {
    let default = default.unwrap_or(Rate::new(1, Duration::from_secs(1), 1));
    let usual = (1.0 / default.interval.as_secs_f64()).round() as u32;
    let per_second = read_count(env, rate, usual, 1..=u32::MAX);
    let burst = NonZero::new(default.burst).unwrap_or(NonZero::<u32>::MIN);
    let burst = env.number(at_once, burst, "from 1 to 4294967295");
    let (per_second, burst) = (per_second?, burst?.get());
    Ok(per_second.map(|count| Rate::new(count, Duration::from_secs(1), burst)))
}

/// A whole number; `None` for `off`.
fn read_count<T: FromStr + PartialOrd + fmt::Display>(
    env: &mut Environment,
    name: &str,
    default: T,
    range: RangeInclusive<T>,
) -> Result<Option<T>, Reported> {
    match env.text(name) {
        None => return Ok(Some(default)),
        Some("off") => return Ok(None),
        Some(text) => {
            if let Some(number) = text.parse().ok().filter(|number| range.contains(number)) {
                return Ok(Some(number));
            }
        }
    }
    let (least, most) = (range.start(), range.end());
    Err(env.problem(name, format_args!("must be a whole number from {least} to {most}, or `off`")))
}
