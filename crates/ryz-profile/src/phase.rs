//! The parts of a step.

/// The activity of a thread. The order is that of a token's path through the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Phase {
    /// Tokenization of a prompt, on a separate thread in parallel with the steps.
    Tokenize,
    /// Handling commands, and selecting the sequences of a step.
    Schedule,
    /// Drafting by a draft model.
    Draft,
    /// Entering and leaving the parallel region.
    Dispatch,
    /// Embedding rows and rotary angles.
    Embed,
    /// RMS norms and residual additions.
    Norm,
    /// Quantization of activations to int8.
    Quantize,
    /// Query, key and value projections.
    Qkv,
    /// Rotation, and writing keys and values to the cache.
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
    /// Registered custom operators.
    Operator,
    /// Waiting for other workers.
    Barrier,
    /// Sampling the token.
    Sample,
    /// Detokenization and stop strings.
    Detokenize,
    /// Delivering the delta to the consumer's queue.
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

    /// The name used in snapshots and traces.
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

    /// Its index in arrays by phase.
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
