//! Breadth-first search of all reachable states of a model.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
};

/// A model to search.
pub trait Model {
    /// State of the model.
    type State: Copy + Eq + Hash + fmt::Debug;
    /// A step between two states.
    type Step: Copy + fmt::Debug;

    /// The initial state.
    fn start(&self) -> Self::State;

    /// Possible next steps, each with its resulting state.
    fn steps(&self, state: &Self::State) -> Vec<(Self::Step, Self::State)>;

    /// The violated invariant, if any.
    fn wrong(&self, state: &Self::State) -> Option<&'static str>;

    /// Whether all work is done.
    fn is_done(&self, state: &Self::State) -> bool;

    /// Whether the step is a fault: the end must be reachable without any.
    fn is_fault(&self, step: &Self::Step) -> bool;
}

/// Size of a search.
#[derive(Clone, Copy, Debug)]
pub struct Searched {
    /// Number of distinct states.
    pub states: usize,
    /// Number of steps between them.
    pub steps: usize,
}

/// A shortest path to a state that violates an invariant.
#[derive(Clone, Debug)]
pub struct Counterexample<M: Model> {
    /// The invariant that the last state violates.
    pub wrong: &'static str,
    /// The steps.
    pub steps: Vec<M::Step>,
    /// The last state.
    pub last: M::State,
}

impl<M: Model> fmt::Display for Counterexample<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:", self.wrong)?;
        self.steps.iter().enumerate().try_for_each(|(at, step)| writeln!(f, "{:3}. {step:?}", at + 1))?;
        write!(f, "{:?}", self.last)
    }
}

/// Searches all states: none violates an invariant, and from each the end is reachable without faults.
///
/// # Errors
/// The path to the first state that fails.
pub fn search<M: Model>(model: &M) -> Result<Searched, Box<Counterexample<M>>> {
    let mut reached = Reached::from(model.start());
    let (mut at, mut steps) = (0, 0);
    while at < reached.states.len() {
        let state = reached.states[at];
        if let Some(wrong) = model.wrong(&state) {
            return Err(reached.path_to::<M>(at, wrong));
        }
        for (step, next) in model.steps(&state) {
            reached.add(at, step, next, model.is_fault(&step));
            steps += 1;
        }
        at += 1;
    }
    match reached.stranded(|state| model.is_done(state)) {
        Some(at) => Err(reached.path_to::<M>(at, "from here there is no way to the end")),
        None => Ok(Searched { states: reached.states.len(), steps }),
    }
}

/// Hashes states: the standard hasher resists hostile input, and would take most of the time.
#[derive(Default)]
struct FastHasher(u64);

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

/// All states so far, in order of discovery.
struct Reached<State, Step> {
    states: Vec<State>,
    numbers: HashMap<State, usize, BuildHasherDefault<FastHasher>>,
    /// The predecessor and the step by which each state was found first.
    origins: Vec<Option<(usize, Step)>>,
    /// The states from which each is reachable without a fault.
    before: Vec<Vec<usize>>,
}

impl<State: Copy + Eq + Hash, Step: Copy> Reached<State, Step> {
    fn from(start: State) -> Self {
        Self {
            states: vec![start],
            numbers: HashMap::from_iter([(start, 0)]),
            origins: vec![None],
            before: vec![Vec::new()],
        }
    }

    fn add(&mut self, from: usize, step: Step, to: State, is_fault: bool) {
        let new = self.states.len();
        let number = *self.numbers.entry(to).or_insert(new);
        if number == new {
            self.states.push(to);
            self.origins.push(Some((from, step)));
            self.before.push(Vec::new());
        }
        if !is_fault {
            self.before[number].push(from);
        }
    }

    /// The first state from which the end is unreachable.
    fn stranded(&self, is_done: impl Fn(&State) -> bool) -> Option<usize> {
        let mut can_end: Vec<bool> = self.states.iter().map(is_done).collect();
        let mut to_visit: VecDeque<usize> = (0..self.states.len()).filter(|at| can_end[*at]).collect();
        while let Some(at) = to_visit.pop_front() {
            for before in &self.before[at] {
                if !std::mem::replace(&mut can_end[*before], true) {
                    to_visit.push_back(*before);
                }
            }
        }
        can_end.iter().position(|can_end| !can_end)
    }

    fn path_to<M: Model<State = State, Step = Step>>(&self, to: usize, wrong: &'static str) -> Box<Counterexample<M>> {
        let (mut steps, mut at) = (Vec::new(), to);
        while let Some((before, step)) = self.origins[at] {
            steps.push(step);
            at = before;
        }
        steps.reverse();
        Box::new(Counterexample { wrong, steps, last: self.states[to] })
    }
}
