//! What every model is tested with: nothing wrong can happen, and every mistake is found.

use std::fmt::Debug;

use kschat_model::search::{Counterexample, Model, search};

/// Nothing wrong can happen. A fixture with hardly any states would say that, too: this one has more than so many.
pub(crate) fn holds<M: Model + Debug>(model: &M, few: usize) {
    match search(model) {
        Ok(searched) => assert!(searched.states > few, "{searched:?} of {model:?}"),
        Err(counterexample) => panic!("{model:?}\n{counterexample}"),
    }
}

/// Something wrong can happen, and this is a short way to it.
pub(crate) fn fails<M: Model + Debug>(model: &M) -> Box<Counterexample<M>> {
    search(model).expect_err("the search finds what is wrong")
}
