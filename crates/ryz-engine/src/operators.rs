//! Operators of the program: code that looks at values inside the forward pass, or changes them.

use std::sync::{Arc, Mutex, PoisonError};

use ryz_model::{HookPattern, HookPoint, Hooks};

use crate::error::EngineError;
use crate::sequence::SequenceId;

/// Code called inside the forward pass, on the engine's thread, while no other thread computes.
///
/// It is called for each sequence of a step by itself. A sequence that had to give its memory back is computed again, and
/// its operators are called again.
pub trait Operator: Send + Sync {
    /// May change `values`: `call.rows` rows of `call.cols`. It should return soon once `cancelled` says true.
    ///
    /// # Errors
    /// A message: the request fails with `OPERATOR_FAILED`, the others go on.
    fn forward(
        &self,
        call: &OperatorCall,
        values: &mut [f32],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), String>;
}

/// What an operator is called with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperatorCall {
    /// The place.
    pub point: HookPoint,
    /// Tokens of one sequence; at the final norm and the logits, those whose logits are wanted.
    pub rows: usize,
    /// Values of each.
    pub cols: usize,
    /// Position of the first row in its sequence.
    pub position: usize,
}

/// An operator with its name and its places.
pub(crate) struct OperatorEntry {
    pub name: String,
    pub patterns: Vec<HookPattern>,
    pub operator: Arc<dyn Operator>,
}

/// The operators of an engine, in the order in which they were registered.
#[derive(Default)]
pub(crate) struct Operators(Mutex<Arc<[Arc<OperatorEntry>]>>);

impl Operators {
    /// Those there are now; a step keeps to what it began with.
    pub fn snapshot(&self) -> Arc<[Arc<OperatorEntry>]> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut Vec<Arc<OperatorEntry>>) -> T) -> T {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list = held.to_vec();
        let result = change(&mut list);
        *held = list.into();
        result
    }
}

/// The operators during one step.
pub(crate) struct StepOperators<'a> {
    pub operators: &'a [Arc<OperatorEntry>],
    /// The sequences of the batch, in its order.
    pub ids: &'a [SequenceId],
    /// Whether a request has been cancelled.
    pub cancelled: &'a dyn Fn(SequenceId) -> bool,
    /// Requests whose operator failed: it is not called for them again.
    pub failed: Vec<(SequenceId, EngineError)>,
}

impl Hooks for StepOperators<'_> {
    fn wants(&self, point: HookPoint) -> bool {
        self.operators.iter().any(|o| o.wants(point))
    }

    fn call(
        &mut self,
        point: HookPoint,
        sequence: usize,
        position: usize,
        cols: usize,
        values: &mut [f32],
    ) -> bool {
        let id = self.ids[sequence];
        let call = OperatorCall {
            point,
            rows: values.len() / cols,
            cols,
            position,
        };
        for registered in self.operators.iter().filter(|o| o.wants(point)) {
            if self.failed.iter().any(|(failed, _)| *failed == id) {
                break;
            }
            let cancelled = || (self.cancelled)(id);
            let was_finite = first_unusable(point, values).is_none();
            let done = registered.operator.forward(&call, values, &cancelled);
            let done = done.and_then(|()| match first_unusable(point, values) {
                Some(at) if was_finite => Err(format!(
                    "expected finite values, got {} at {at}",
                    values[at]
                )),
                _ => Ok(()),
            });
            if let Err(message) = done {
                let error = EngineError::Operator {
                    name: registered.name.clone(),
                    point,
                    message,
                };
                self.failed.push((id, error));
            }
        }
        true
    }
}

/// The first value that no pass can go on with. A logit may be −infinity: its token cannot come then.
fn first_unusable(point: HookPoint, values: &[f32]) -> Option<usize> {
    let banned = |value: f32| point == HookPoint::Logits && value == f32::NEG_INFINITY;
    let mut values = values.iter();
    values.position(|&value| !value.is_finite() && !banned(value))
}

impl OperatorEntry {
    /// Its name, for errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn wants(&self, point: HookPoint) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(point))
    }
}
