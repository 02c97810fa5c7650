//! Blocks ranked by the program: which of the older ones stay.

use std::sync::{Arc, Mutex, PoisonError};

/// Code that is asked between steps, on the engine's thread, which older blocks of a request with
/// [`Eviction::Ranked`](crate::Eviction::Ranked) matter most.
///
/// A sequence that had to give its memory back is computed again, and asks again: to the same blocks belongs the same answer,
/// or else the text is another.
pub trait BlockRanker: Send + Sync {
    /// A number for each of `blocks`; those with the least go. It should return soon once `cancelled` says true.
    ///
    /// # Errors
    /// A message: the request fails with `RANKER_FAILED`, the others go on.
    fn rank(
        &self,
        blocks: &[RankedBlock],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<f64>, String>;
}

/// A block of 16 positions that may go.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct RankedBlock {
    /// Its first position.
    pub position: usize,
    /// The weights that the softmax gave to its positions so far, added up over layers, heads and queries.
    pub attention: f64,
}

/// The ranker of an engine.
#[derive(Default)]
pub(crate) struct Ranker(Mutex<Option<Arc<dyn BlockRanker>>>);

impl Ranker {
    pub fn set(&self, ranker: Option<Arc<dyn BlockRanker>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ranker;
    }

    pub fn get(&self) -> Option<Arc<dyn BlockRanker>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.clone()
    }
}

/// One number for each of `blocks`.
pub(crate) fn checked(scores: Vec<f64>, blocks: usize) -> Result<Vec<f64>, String> {
    if scores.len() != blocks {
        let got = scores.len();
        return Err(format!("expected {blocks} numbers, one a block, got {got}"));
    }
    match scores.iter().position(|score| score.is_nan()) {
        Some(index) => Err(format!("number {index} is NaN")),
        None => Ok(scores),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked() {
        assert_eq!(checked(vec![1.0, f64::NEG_INFINITY], 2).unwrap().len(), 2);
        assert!(checked(vec![1.0], 2).unwrap_err().contains("expected 2"));
        let nan = checked(vec![1.0, f64::NAN], 2).unwrap_err();
        assert!(nan.contains("number 1 is NaN"), "{nan}");
    }
}
