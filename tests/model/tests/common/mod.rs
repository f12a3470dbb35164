//! Checks for every model: no invariant is violated, and every mistake is found.

use std::fmt::Debug;

use kschat_model::search::{Counterexample, Model, search};

/// Checks that no invariant is violated, over more than this many states: a tiny fixture would prove nothing.
pub(crate) fn holds<M: Model + Debug>(model: &M, few: usize) {
    match search(model) {
        Ok(searched) => assert!(searched.states > few, "{searched:?} of {model:?}"),
        Err(counterexample) => panic!("{model:?}\n{counterexample}"),
    }
}

/// Checks that an invariant is violated, and returns a short path to it.
pub(crate) fn fails<M: Model + Debug>(model: &M) -> Box<Counterexample<M>> {
    search(model).expect_err("the search finds what is wrong")
}
