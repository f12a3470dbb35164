//! Kinds of faults, and their schedule from a seed.

use std::{fmt, ops::Range, str::FromStr, time::Duration};

use fastrand::Rng;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A consumer is killed as in a power cut, and restarted.
    ConsumerKill,
    /// A consumer is asked to stop, as in a deployment, and restarted.
    ConsumerStop,
    /// A consumer is frozen, shorter or longer than the broker's timeout, and thawed.
    ConsumerFreeze,
    /// All consumers are killed; for a while there is none.
    ConsumersGone,
    /// The broker is killed as in a power cut, and restarted on its data.
    BrokerKill,
    /// The broker is stopped gracefully, as for maintenance, and restarted.
    BrokerStop,
    /// The registry is killed, and restarted on its data.
    RegistryKill,
    /// The registry loses all data.
    RegistryFlush,
    /// Function processes are frozen during invocations, and thawed.
    FunctionFreeze,
    /// Function processes are killed during invocations, and replaced.
    FunctionKill,
    /// The edge reports clients as gone; soon they are.
    PostGone,
    /// The edge throttles pushes.
    PostBusy,
    /// The edge fails pushes.
    PostFail,
    /// Sockets are half open: pushes are accepted and lost.
    PostSwallow,
    /// Pushes are slow.
    PostSlow,
    /// Clients disconnect without an event.
    DisconnectLost,
    /// Invocations fail before the function receives the event.
    InvokeFail,
    /// Functions receive events late, some after the edge has timed out.
    InvokeFreeze,
    /// Functions receive events twice.
    InvokeTwice,
    /// Clients' connections are cut abruptly.
    ClientCut,
}

use Class::{
    BrokerKill, BrokerStop, ClientCut, ConsumerFreeze, ConsumerKill, ConsumerStop, ConsumersGone, DisconnectLost,
    FunctionFreeze, FunctionKill, InvokeFail, InvokeFreeze, InvokeTwice, PostBusy, PostFail, PostGone, PostSlow,
    PostSwallow, RegistryFlush, RegistryKill,
};

/// Every kind with its name.
const NAMES: [(Class, &str); 20] = [
    (ConsumerKill, "consumer-kill"),
    (ConsumerStop, "consumer-stop"),
    (ConsumerFreeze, "consumer-freeze"),
    (ConsumersGone, "consumers-gone"),
    (BrokerKill, "broker-kill"),
    (BrokerStop, "broker-stop"),
    (RegistryKill, "registry-kill"),
    (RegistryFlush, "registry-flush"),
    (FunctionFreeze, "function-freeze"),
    (FunctionKill, "function-kill"),
    (PostGone, "post-410"),
    (PostBusy, "post-429"),
    (PostFail, "post-500"),
    (PostSwallow, "post-swallow"),
    (PostSlow, "post-slow"),
    (DisconnectLost, "disconnect-lost"),
    (InvokeFail, "invoke-fail"),
    (InvokeFreeze, "invoke-freeze"),
    (InvokeTwice, "invoke-twice"),
    (ClientCut, "client-cut"),
];

/// Duration of a fault, in milliseconds: around the heartbeat and the edge's timeouts.
const FAULT_DURATION_MILLIS: Range<u64> = 500..6_000;

impl Class {
    /// Every kind that is possible: functions in this process neither freeze nor die.
    #[must_use]
    pub fn all(has_lambda: bool) -> Vec<Self> {
        let all = NAMES.iter().map(|(class, _)| *class);
        all.filter(|class| has_lambda || !class.needs_lambda()).collect()
    }

    /// Whether it needs function processes.
    #[must_use]
    pub fn needs_lambda(self) -> bool {
        matches!(self, FunctionFreeze | FunctionKill)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = NAMES.iter().find(|(class, _)| class == self).expect("every kind has a name");
        f.pad(name)
    }
}

impl FromStr for Class {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = NAMES.iter().find(|(_, name)| *name == text).map(|(class, _)| *class);
        found.ok_or_else(|| format!("must be one of {}", NAMES.map(|(_, name)| name).join(", ")))
    }
}

/// A fault with its random parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Kind of the fault.
    pub class: Class,
    /// Duration of the fault.
    pub lasts: Duration,
    /// Percentage of cases that it hits, where not all are.
    pub share: u64,
    /// Which of several targets it hits.
    pub which: usize,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, lasts, share, .. } = self;
        write!(f, "{class:16} {:.1} s", lasts.as_secs_f64())?;
        match class {
            ConsumerKill | ConsumerStop | ConsumerFreeze => write!(f, "  number {}", self.which),
            ConsumersGone | BrokerKill | BrokerStop | RegistryKill | RegistryFlush | FunctionFreeze | FunctionKill => {
                Ok(())
            }
            _ => write!(f, "  {share} %"),
        }
    }
}

/// Draws faults deterministically from a seed.
pub struct Schedule {
    random: Rng,
    classes: Vec<Class>,
    /// The rest of this round: each kind occurs once before any repeats.
    round: Vec<Class>,
    /// Pause between two faults, in milliseconds.
    pause: Range<u64>,
}

impl Schedule {
    /// Creates a schedule of those kinds of fault.
    #[must_use]
    pub fn new(seed: u64, classes: Vec<Class>, pause: &Range<Duration>) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).expect("a short time");
        let pause = millis(pause.start)..millis(pause.end);
        Self { random: Rng::with_seed(seed), classes, round: Vec::new(), pause }
    }

    /// The pause before the next fault, and the fault.
    pub fn draw(&mut self) -> (Duration, Fault) {
        if self.round.is_empty() {
            self.round.clone_from(&self.classes);
            self.random.shuffle(&mut self.round);
        }
        let class = self.round.pop().expect("there is a kind of fault");
        let pause = Duration::from_millis(self.random.u64(self.pause.clone()));
        let lasts = Duration::from_millis(self.random.u64(FAULT_DURATION_MILLIS));
        (pause, Fault { class, lasts, share: self.random.u64(5..50), which: self.random.usize(..1_000) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(seed: u64) -> Vec<(Duration, Fault)> {
        let pause = Duration::from_secs(1)..Duration::from_secs(5);
        let mut schedule = Schedule::new(seed, Class::all(true), &pause);
        (0..200).map(|_| schedule.draw()).collect()
    }

    #[test]
    fn fault_schedule_is_deterministic_per_seed() {
        assert_eq!(draws(42), draws(42));
        assert_ne!(draws(42), draws(43));
    }

    #[test]
    fn fault_schedule_covers_every_class() {
        let drawn = draws(1);
        for class in Class::all(true) {
            assert_eq!(drawn.iter().filter(|(_, fault)| fault.class == class).count(), 10, "{class}");
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        assert!(Class::all(false).iter().all(|class| !class.needs_lambda()));
    }
}
