//! Operators of a program in the forward pass.

use std::sync::Arc;

use ryz_model::HookPattern;

use super::Engine;
use crate::error::EngineError;
use crate::operators::{Operator, OperatorEntry};

/// Most operators of an engine.
const MAX_OPERATORS: usize = 64;

impl Engine {
    /// Calls `operator` at `places` (such as `layers.*.ffn.output`) from the next step on.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`: a name that is empty or taken, a place that does not exist, too many operators.
    pub fn register_operator(
        &self,
        name: &str,
        places: &[String],
        operator: Arc<dyn Operator>,
    ) -> Result<(), EngineError> {
        let layers = self.inner.info.layers;
        let mut patterns = Vec::new();
        for place in places {
            let pattern: HookPattern = place.parse()?;
            if let Some(layer) = pattern.layer().filter(|&layer| layer >= layers) {
                let expected = format!("a layer below {layers}");
                return Err(EngineError::invalid("at", expected, layer));
            }
            patterns.push(pattern);
        }
        if patterns.is_empty() {
            return Err(EngineError::invalid("at", "at least one place", "none"));
        }
        if name.is_empty() {
            return Err(EngineError::invalid("name", "a non-empty string", "\"\""));
        }
        self.inner.state.operators.change(|list| {
            if list.iter().any(|registered| registered.name() == name) {
                let expected = "a name that is not registered yet";
                return Err(EngineError::invalid("name", expected, name));
            }
            if list.len() >= MAX_OPERATORS {
                let expected = format!("at most {MAX_OPERATORS} operators");
                return Err(EngineError::invalid("name", expected, list.len() + 1));
            }
            list.push(Arc::new(OperatorEntry {
                name: name.to_owned(),
                patterns,
                operator,
            }));
            Ok(())
        })
    }

    /// Removes an operator; a step that runs may still call it. Whether there was one of that name.
    pub fn unregister_operator(&self, name: &str) -> bool {
        self.inner.state.operators.change(|list| {
            let before = list.len();
            list.retain(|registered| registered.name() != name);
            list.len() < before
        })
    }
}
