//! Result of a run with faults.

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use kschat_load::{
    oracle::Outcome,
    plot::{self, Mark},
    timeline::Times,
};
use serde_json::{Value, json};

use super::{
    Mode, Options,
    faults::{Class, Fault},
};

/// How long after its end a fault may still affect latency.
const AFTEREFFECT_DURATION: Duration = Duration::from_secs(5);

/// A fault that was injected.
#[derive(Clone, Debug)]
pub struct InjectedFault {
    /// The fault.
    pub fault: Fault,
    /// When it began.
    pub from: Instant,
    /// When it was repaired.
    pub to: Instant,
}

impl InjectedFault {
    fn is_felt(&self, at: Instant) -> bool {
        // A timeline step lasts a second: the one in which the fault began counts.
        (self.from - Duration::from_secs(1)..self.to + AFTEREFFECT_DURATION).contains(&at)
    }
}

/// Result of a run.
pub struct Verdict {
    /// The parameters.
    pub options: Options,
    /// Result of the load.
    pub outcome: Outcome,
    /// The injected faults.
    pub strikes: Vec<InjectedFault>,
    /// Unexpected process exits.
    pub deaths: Vec<String>,
    /// The consumers' logs, if anything failed.
    pub logs: Option<PathBuf>,
}

/// Latency under a kind of fault, or without any.
struct Cost {
    name: String,
    strikes: usize,
    times: Times,
}

impl Verdict {
    /// Whether no message was lost, duplicated or out of order, and no process died unexpectedly.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.outcome.clean && self.deaths.is_empty()
    }

    /// How to reproduce the same faults.
    #[must_use]
    pub fn replay(&self) -> String {
        let Options { seed, classes, mode, pause, messages, users, rate, consumers, lambda } = &self.options;
        let list = classes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let (from, to) = (pause.start.as_millis(), pause.end.as_millis());
        let amount = match (messages, mode) {
            (Some(messages), _) => format!(" --messages {messages}"),
            (None, Mode::Mixed(Some(time))) => format!(" --duration {}s", time.as_secs()),
            (None, _) => String::new(),
        };
        let rate = rate.map(|rate| format!(" --rate {rate}")).unwrap_or_default();
        let alone = if matches!(mode, Mode::Alone) { " --alone" } else { "" };
        let functions = if *lambda { " --functions lambda" } else { "" };
        format!(
            "cargo run --release -p kschat-tests --example chaos -- --seed {seed}{amount} --users {users}{rate} \
             --consumers {consumers}{alone}{functions} --pause {from}..{to} --faults {list}"
        )
    }

    /// Latency in seconds without faults, and in those affected by each kind.
    fn costs(&self) -> Vec<Cost> {
        let timeline = &self.outcome.timeline;
        let quiet = timeline.times(|at| !self.strikes.iter().any(|strike| strike.is_felt(at)));
        let mut costs = vec![Cost { name: "quiet".to_owned(), strikes: 0, times: quiet }];
        for class in &self.options.classes {
            let of_class = || self.strikes.iter().filter(|strike| strike.fault.class == *class);
            let times = timeline.times(|at| of_class().any(|strike| strike.is_felt(at)));
            costs.push(Cost { name: class.to_string(), strikes: of_class().count(), times });
        }
        costs
    }

    /// All results, as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let began = self.outcome.timeline.began;
        let since = |at: Instant| at.saturating_duration_since(began).as_secs_f64();
        let strikes: Vec<Value> = self.strikes.iter().map(|strike| {
            json!({ "fault": strike.fault.class.to_string(), "from": since(strike.from), "to": since(strike.to) })
        }).collect();
        let costs: Vec<Value> = self
            .costs()
            .iter()
            .map(|Cost { name, strikes, times }| {
                json!({
                    "during": name, "strikes": strikes, "messages": times.count(),
                    "p50": times.quantile(0.5), "p99": times.quantile(0.99), "max": times.quantile(1.0),
                })
            })
            .collect();
        json!({
            "seed": self.options.seed,
            "clean": self.is_clean(),
            "replay": self.replay(),
            "endedByThemselves": self.deaths,
            "load": serde_json::to_value(&self.outcome).expect("figures can be written"),
            "faults": strikes,
            "latency": costs,
        })
    }

    /// A plot of latency over time, with the faults.
    #[must_use]
    pub fn svg(&self) -> String {
        let began = self.outcome.timeline.began;
        let since = |at: Instant| at.saturating_duration_since(began).as_secs_f64();
        let mark = |strike: &InjectedFault| {
            let (lane, from, to) = (strike.fault.class.to_string(), since(strike.from), since(strike.to));
            Mark { lane, from, to }
        };
        let mut marks: Vec<Mark> = self.strikes.iter().map(mark).collect();
        let order = |mark: &Mark| Class::all(true).iter().position(|class| class.to_string() == mark.lane);
        marks.sort_by_key(order);
        let Options { users, seed, .. } = &self.options;
        plot::draw(&self.outcome, &format!("kschat under faults: {users} users, seed {seed}"), &marks)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.outcome.report)?;
        let during = "messages due while";
        writeln!(
            f,
            "{during:18} {:>7} {:>9} {:>10} {:>10} {:>10}",
            "strikes", "messages", "p50 ms", "p99 ms", "max ms"
        )?;
        for Cost { name, strikes, times } in self.costs() {
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| times.quantile(share));
            writeln!(f, "{name:18} {strikes:7} {:9} {p50:10.1} {p99:10.1} {max:10.1}", times.count())?;
        }
        let seconds = AFTEREFFECT_DURATION.as_secs();
        writeln!(f, "(a fault counts until {seconds} s after its end; of faults that overlap, each counts)")?;
        for death in &self.deaths {
            writeln!(f, "{death}")?;
        }
        if let Some(logs) = &self.logs {
            writeln!(f, "the consumers' logs are in {}", logs.display())?;
        }
        writeln!(f, "again: {}", self.replay())
    }
}
