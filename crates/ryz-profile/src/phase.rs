//! The parts of a step.

/// What a thread was doing. The order is that of a token's way through the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Phase {
    /// A prompt's text to tokens; on a thread of its own, beside the steps.
    Tokenize,
    /// Commands taken, and what runs in the step.
    Schedule,
    /// Proposals of a draft model.
    Draft,
    /// Entering and leaving the parallel region.
    Dispatch,
    /// Embedding rows and rotary angles.
    Embed,
    /// RMS norms and residual additions.
    Norm,
    /// Activations to int8.
    Quantize,
    /// Query, key and value projections.
    Qkv,
    /// Rotation, and keys and values into the cache.
    Rope,
    /// Attention over the cache.
    Attention,
    /// The attention's output projection.
    Output,
    /// Gate and up projections and the activation between them.
    GateUp,
    /// The down projection.
    Down,
    /// Logits.
    Head,
    /// The program's own operators, where some are registered.
    Operator,
    /// Waiting for the other workers.
    Barrier,
    /// Choosing the token.
    Sample,
    /// Token to text, stop strings.
    Detokenize,
    /// Handing the delta to the consumer's queue.
    Deliver,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 19] = [
        Self::Tokenize,
        Self::Schedule,
        Self::Draft,
        Self::Dispatch,
        Self::Embed,
        Self::Norm,
        Self::Quantize,
        Self::Qkv,
        Self::Rope,
        Self::Attention,
        Self::Output,
        Self::GateUp,
        Self::Down,
        Self::Head,
        Self::Operator,
        Self::Barrier,
        Self::Sample,
        Self::Detokenize,
        Self::Deliver,
    ];

    /// Number of phases.
    pub const COUNT: usize = Self::ALL.len();

    /// Its name in snapshots and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokenize => "tokenize",
            Self::Schedule => "schedule",
            Self::Draft => "draft",
            Self::Dispatch => "dispatch",
            Self::Embed => "embed",
            Self::Norm => "norm",
            Self::Quantize => "quantize",
            Self::Qkv => "qkv",
            Self::Rope => "rope",
            Self::Attention => "attention",
            Self::Output => "output",
            Self::GateUp => "gate-up",
            Self::Down => "down",
            Self::Head => "head",
            Self::Operator => "operator",
            Self::Barrier => "barrier",
            Self::Sample => "sample",
            Self::Detokenize => "detokenize",
            Self::Deliver => "deliver",
        }
    }

    /// Its place in arrays by phase.
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_is_at_its_own_index_under_its_own_name() {
        let names: std::collections::BTreeSet<_> = Phase::ALL.iter().map(|p| p.name()).collect();
        assert_eq!(names.len(), Phase::COUNT);
        for (index, phase) in Phase::ALL.into_iter().enumerate() {
            assert_eq!(phase.index(), index);
        }
    }
}
