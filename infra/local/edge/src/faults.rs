//! Fault injection, for tests of how clients and back ends survive faults.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::sync::Notify;

/// Maximum number of rules.
pub const MAX_RULES: usize = 100;

/// Rule syntax, for error messages.
const RULE_SYNTAX_HINT: &str = "write WHAT=HOW and conditions: post=410|429|500|delay:2s|swallow, disconnect=drop, \
                       invoke=duplicate|reorder|fail|freeze|freeze:10s; share=10%, next=5, connection=ID, route=KEY";

/// A fault, and its conditions.
///
/// ```
/// use kschat_edge::Rule;
///
/// // Every tenth push is answered 410, though its connection is open.
/// let rule: Rule = "post=410 share=10%".parse()?;
/// assert_eq!(rule.to_string(), "post=410 share=10%");
/// assert!("post=418".parse::<Rule>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    fault: Fault,
    /// Percentage of matching cases.
    share: Option<f64>,
    /// Maximum number of hits.
    next: Option<u32>,
    connection: Option<String>,
    route: Option<String>,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Post(PostFault),
    DropDisconnect,
    Invoke(InvokeFault),
}

/// Fault of a post to a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum PostFault {
    /// Answers 410, though the connection is open.
    Gone,
    /// Answers 429.
    Throttled,
    /// Answers 500.
    Failed,
    /// Delays the post.
    Delay(Duration),
    /// Answers 200 without sending the frame: the socket is half open.
    Swallow,
}

/// Fault of an event for a function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum InvokeFault {
    /// The function receives it twice.
    Duplicate,
    /// It waits until a later event of the same connection has been answered.
    Reorder,
    /// The invocation fails before the function receives the event.
    Fail,
    /// The function receives it after this time, or once the rule is removed.
    Freeze(Option<Duration>),
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |part: &str| format!("`{part}` is not understood: {RULE_SYNTAX_HINT}");
        let mut parts = text.split_whitespace();
        let first = parts.next().unwrap_or_default();
        let fault = Fault::parse(first).ok_or_else(|| wrong(first))?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut rule = Self { fault, share: None, next: None, connection: None, route: None, text };
        for part in parts {
            match part.split_once('=') {
                Some(("share", share)) => rule.share = Some(percent(share).ok_or_else(|| wrong(part))?),
                Some(("next", count)) => {
                    rule.next = Some(count.parse().ok().filter(|n| *n > 0).ok_or_else(|| wrong(part))?);
                }
                Some(("connection", id)) if !id.is_empty() => rule.connection = Some(id.to_owned()),
                Some(("route", key)) if matches!(fault, Fault::Invoke(_)) => rule.route = Some(key.to_owned()),
                _ => return Err(wrong(part)),
            }
        }
        Ok(rule)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Fault {
    fn parse(text: &str) -> Option<Self> {
        let (what, how) = text.split_once('=')?;
        let (how, time) = how.split_once(':').map_or((how, None), |(how, time)| (how, Some(time)));
        let time = match time {
            Some(time) => Some(time.parse::<humantime::Duration>().ok()?.into()),
            None => None,
        };
        Some(match (what, how, time) {
            ("post", "410", None) => Self::Post(PostFault::Gone),
            ("post", "429", None) => Self::Post(PostFault::Throttled),
            ("post", "500", None) => Self::Post(PostFault::Failed),
            ("post", "delay", Some(time)) => Self::Post(PostFault::Delay(time)),
            ("post", "swallow", None) => Self::Post(PostFault::Swallow),
            ("disconnect", "drop", None) => Self::DropDisconnect,
            ("invoke", "duplicate", None) => Self::Invoke(InvokeFault::Duplicate),
            ("invoke", "reorder", None) => Self::Invoke(InvokeFault::Reorder),
            ("invoke", "fail", None) => Self::Invoke(InvokeFault::Fail),
            ("invoke", "freeze", time) => Self::Invoke(InvokeFault::Freeze(time)),
            _ => return None,
        })
    }
}

fn percent(text: &str) -> Option<f64> {
    let share: f64 = text.strip_suffix('%')?.parse().ok()?;
    (share > 0.0 && share <= 100.0).then_some(share / 100.0)
}

/// The active rules.
#[derive(Default)]
pub(super) struct Faults {
    // A std mutex: no guard is held across an await.
    rules: Mutex<Rules>,
    /// Whether there is any rule: the only check on the hot path.
    any: AtomicBool,
    changed: Notify,
}

#[derive(Default)]
struct Rules {
    last_id: u64,
    active: Vec<Active>,
}

struct Active {
    id: u64,
    rule: Rule,
    hits: u64,
}

/// A rule as the API describes it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Description {
    id: u64,
    rule: String,
    /// Number of hits so far.
    hits: u64,
    /// Number of remaining hits, if bounded.
    left: Option<u32>,
}

/// A fault that applies to a case.
pub(super) struct Hit<T> {
    pub(super) fault: T,
    pub(super) rule: String,
    id: u64,
}

impl Faults {
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        let faults = Self::default();
        for rule in rules {
            // Rules beyond the limit are ignored.
            let _ = faults.add(rule);
        }
        faults
    }

    /// Activates a rule.
    pub(super) fn add(&self, rule: Rule) -> Result<Description, String> {
        let mut rules = self.lock();
        if rules.active.len() >= MAX_RULES {
            return Err(format!("the limit of {MAX_RULES} rules is reached: remove some first"));
        }
        rules.last_id += 1;
        let active = Active { id: rules.last_id, rule, hits: 0 };
        let description = active.describe();
        rules.active.push(active);
        self.any.store(true, Ordering::Release);
        Ok(description)
    }

    /// Removes a rule, if it exists.
    pub(super) fn remove(&self, id: u64) {
        self.keep(|active| active.id != id);
    }

    /// Removes all rules.
    pub(super) fn clear(&self) {
        self.keep(|_| false);
    }

    fn keep(&self, keep: impl FnMut(&Active) -> bool) {
        let mut rules = self.lock();
        rules.active.retain(keep);
        self.any.store(!rules.active.is_empty(), Ordering::Release);
        drop(rules);
        self.changed.notify_waiters();
    }

    pub(super) fn list(&self) -> Vec<Description> {
        self.lock().active.iter().map(Active::describe).collect()
    }

    pub(super) fn on_post(&self, connection: &str) -> Option<Hit<PostFault>> {
        self.hit(connection, None, |fault| if let Fault::Post(post) = fault { Some(post) } else { None })
    }

    pub(super) fn on_disconnect(&self, connection: &str) -> Option<Hit<()>> {
        self.hit(connection, None, |fault| (fault == Fault::DropDisconnect).then_some(()))
    }

    pub(super) fn on_invoke(&self, connection: &str, route: &str) -> Option<Hit<InvokeFault>> {
        self.hit(connection, Some(route), |fault| if let Fault::Invoke(invoke) = fault { Some(invoke) } else { None })
    }

    /// The first rule that matches and is due.
    fn hit<T>(&self, connection: &str, route: Option<&str>, pick: impl Fn(Fault) -> Option<T>) -> Option<Hit<T>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let mut rules = self.lock();
        rules.active.iter_mut().find_map(|active| {
            let fault = pick(active.rule.fault)?;
            active.matches_and_counts(connection, route).then(|| Hit {
                fault,
                rule: active.rule.text.clone(),
                id: active.id,
            })
        })
    }

    /// Waits for this time, or without one until the rule is removed.
    pub(super) async fn wait_until_thawed<T>(&self, hit: &Hit<T>, time: Option<Duration>) {
        let thawed = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if !self.lock().active.iter().any(|active| active.id == hit.id) {
                    return;
                }
                changed.await;
            }
        };
        match time {
            Some(time) => drop(tokio::time::timeout(time, thawed).await),
            None => thawed.await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Active {
    fn matches_and_counts(&mut self, connection: &str, route: Option<&str>) -> bool {
        let rule = &mut self.rule;
        let fits = rule.connection.as_deref().is_none_or(|id| id == connection)
            && rule.route.as_deref().is_none_or(|key| Some(key) == route)
            && rule.next != Some(0)
            && rule.share.is_none_or(|share| fastrand::f64() < share);
        if fits {
            self.hits += 1;
            rule.next = rule.next.map(|left| left - 1);
        }
        fits
    }

    fn describe(&self) -> Description {
        Description { id: self.id, rule: self.rule.to_string(), hits: self.hits, left: self.rule.next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    #[test]
    fn every_rule_of_the_manual_is_understood() {
        for text in [
            "post=410 share=10%",
            "post=429 next=5",
            "post=500 connection=L0SM9cOFvHcCIhw=",
            "post=delay:250ms",
            "post=swallow share=0.5% next=3",
            "disconnect=drop",
            "invoke=duplicate route=send",
            "invoke=reorder",
            "invoke=fail",
            "invoke=freeze",
            "invoke=freeze:10s",
        ] {
            assert_eq!(rule(text).to_string(), text);
        }
    }

    #[test]
    fn invalid_fault_rule_error_shows_syntax() {
        for text in
            ["", "post", "post=411", "post=delay", "post=410 share=0%", "post=410 share=101%", "post=410 share=10"]
                .into_iter()
                .chain([
                    "post=410 next=0",
                    "post=410 route=send",
                    "post=410 once",
                    "invoke=freeze:soon",
                    "disconnect=drop:1s",
                ])
        {
            assert!(text.parse::<Rule>().unwrap_err().contains("post=410|429|500"), "{text}");
        }
    }

    #[test]
    fn next_counts_down_and_conditions_are_kept() {
        let faults = Faults::new(vec![rule("post=410 next=2 connection=a")]);
        assert!(faults.on_post("b").is_none());
        assert!(faults.on_post("a").is_some() && faults.on_post("a").is_some());
        assert!(faults.on_post("a").is_none());
        assert_eq!((faults.list()[0].hits, faults.list()[0].left), (2, Some(0)));
        faults.clear();
        assert!(faults.list().is_empty());
    }

    #[test]
    fn a_share_is_about_that_share() {
        let faults = Faults::new(vec![rule("post=410 share=25%")]);
        let hits = (0..10_000).filter(|_| faults.on_post("a").is_some()).count();
        assert!((2_000..3_000).contains(&hits), "{hits}");
    }

    #[tokio::test(start_paused = true)]
    async fn frozen_invocation_thaws_when_rule_ends() {
        let faults = Faults::new(vec![rule("invoke=freeze")]);
        let hit = faults.on_invoke("a", "send").unwrap();
        let thaw = async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            faults.remove(1);
        };
        let began = tokio::time::Instant::now();
        tokio::join!(faults.wait_until_thawed(&hit, None), thaw);
        assert_eq!(began.elapsed(), Duration::from_secs(3600));
    }
}
