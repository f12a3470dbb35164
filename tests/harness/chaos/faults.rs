//! What can go wrong, and when: drawn from a seed.

use std::{fmt, ops::Range, str::FromStr, time::Duration};

use fastrand::Rng;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A consumer dies as in a power cut, and is started again.
    ConsumerKill,
    /// A consumer is asked to stop, as in a deployment, and is started again.
    ConsumerStop,
    /// A consumer stands still, for longer than the broker waits or not, and goes on.
    ConsumerFreeze,
    /// All consumers die; for a while there is none.
    ConsumersGone,
    /// The broker dies as in a power cut, and comes back on its data.
    BrokerKill,
    /// The broker is stopped in good order, as for maintenance, and comes back.
    BrokerStop,
    /// The registry dies, and comes back on its data.
    RegistryKill,
    /// The registry loses everything.
    RegistryFlush,
    /// Function processes stand still with events in their hands, and go on.
    FunctionFreeze,
    /// Function processes die with events in their hands; others take their place.
    FunctionKill,
    /// The edge says that clients are gone; soon they are.
    PostGone,
    /// The edge is too busy for pushes.
    PostBusy,
    /// The edge fails.
    PostFail,
    /// Sockets are half open: pushes are taken, and never seen.
    PostSwallow,
    /// Pushes take long.
    PostSlow,
    /// Clients leave, and nobody is told.
    DisconnectLost,
    /// Functions fail without having seen the event.
    InvokeFail,
    /// Functions get the event late, some after the edge has given up on them.
    InvokeFreeze,
    /// Functions get the event twice.
    InvokeTwice,
    /// Clients' connections break off without a word.
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

/// How long a fault lasts, in milliseconds: shorter and longer than the heartbeat and the edge's patience.
const LASTS: Range<u64> = 500..6_000;

impl Class {
    /// Every kind that can happen: functions in this process neither freeze nor die.
    #[must_use]
    pub fn all(has_lambda: bool) -> Vec<Self> {
        let all = NAMES.iter().map(|(class, _)| *class);
        all.filter(|class| has_lambda || !class.needs_lambda()).collect()
    }

    /// Whether it takes function processes.
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

/// One fault, with all that chance decides about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// What it is.
    pub class: Class,
    /// How long it lasts.
    pub lasts: Duration,
    /// How many per cent of the cases are hit, where not all are.
    pub share: u64,
    /// Which of several is hit.
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

/// Draws faults: from one seed always the same ones.
pub struct Schedule {
    random: Rng,
    classes: Vec<Class>,
    /// What is left of this round: each kind has its turn before one comes again.
    round: Vec<Class>,
    /// How long it is quiet between two faults, in milliseconds.
    pause: Range<u64>,
}

impl Schedule {
    /// A schedule of those kinds of fault.
    #[must_use]
    pub fn new(seed: u64, classes: Vec<Class>, pause: &Range<Duration>) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).expect("a short time");
        let pause = millis(pause.start)..millis(pause.end);
        Self { random: Rng::with_seed(seed), classes, round: Vec::new(), pause }
    }

    /// The next fault, and how long it is quiet before.
    pub fn draw(&mut self) -> (Duration, Fault) {
        if self.round.is_empty() {
            self.round.clone_from(&self.classes);
            self.random.shuffle(&mut self.round);
        }
        let class = self.round.pop().expect("there is a kind of fault");
        let pause = Duration::from_millis(self.random.u64(self.pause.clone()));
        let lasts = Duration::from_millis(self.random.u64(LASTS));
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
    fn a_seed_draws_the_same_faults_again_and_another_one_others() {
        assert_eq!(draws(42), draws(42));
        assert_ne!(draws(42), draws(43));
    }

    #[test]
    fn every_kind_has_its_turn_and_its_name() {
        let drawn = draws(1);
        for class in Class::all(true) {
            assert_eq!(drawn.iter().filter(|(_, fault)| fault.class == class).count(), 10, "{class}");
            assert_eq!(class.to_string().parse(), Ok(class));
        }
        assert!(Class::all(false).iter().all(|class| !class.needs_lambda()));
    }
}
